"""The one place that imports d4rl: its table of published files and its reference scores, without MuJoCo 2.1."""

import contextlib
import importlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

from cepnb.errors import CepnbError, in_a_line

# Time limits under which d4rl registers its environments, by the first pattern that fits the name of a dataset.
EPISODE_LIMITS = {
    r"maze2d-open": 150,
    r"maze2d-(eval-)?umaze": 300,
    r"maze2d-(eval-)?medium": 600,
    r"maze2d-(eval-)?large": 800,
    r"antmaze-umaze": 700,
    r"antmaze": 1000,
    r"halfcheetah|hopper|walker2d|ant-": 1000,
    r"kitchen": 280,
    r"pen": 100,
    r"door|hammer|relocate": 200,
}
PARTS = (
    "d4rl.locomotion",
    "d4rl.pointmaze",
    "d4rl.gym_mujoco",
)  # of d4rl, each of which registers its environments


@cache
def d4rl() -> ModuleType:
    """The d4rl package, imported at first use.

    `import d4rl` alone raises where MuJoCo 2.1 does not work, since it imports `mujoco_py`, which tries to build against
    it. There, and only there, `mujoco_py` is marked as absent; d4rl then skips its old environments and keeps the rest.
    """
    if not mujoco_21_present():
        sys.modules.setdefault(
            "mujoco_py", None
        )  # makes `import mujoco_py` raise ImportError, which d4rl expects
    with contextlib.suppress(ImportError):
        importlib.import_module(
            "absl.logging"
        )  # takes hold of standard error, so not while that goes nowhere
    with warnings.catch_warnings(), silence():
        warnings.simplefilter("ignore")
        return importlib.import_module("d4rl")


@cache
def mujoco_21_present() -> bool:
    """Whether MuJoCo 2.1 is installed where `mujoco_py` looks for it, and `mujoco_py` can be imported there.

    That is tried once a process. A folder with which it cannot (what an older installation has left) counts as none,
    and a line on standard error says why.
    """
    place = Path(os.environ.get("MUJOCO_PY_MUJOCO_PATH") or "~/.mujoco/mujoco210").expanduser()
    if not place.is_dir():
        return False
    try:
        with warnings.catch_warnings(), silence():
            warnings.simplefilter("ignore")
            importlib.import_module("mujoco_py")
    except Exception as error:  # its own are bare, and those of a compiler are any
        for name in [name for name in sys.modules if name.partition(".")[0] == "mujoco_py"]:
            del sys.modules[
                name
            ]  # parts that could be imported would pass for parts of what takes its place
        print(
            f"cepnb: {place} is not used: mujoco_py cannot be imported ({in_a_line(error)})",
            file=sys.stderr,
        )
        return False
    return True


def prepare_environments() -> None:
    """Make D4RL's own environments work: import them on the modern `mujoco` package where MuJoCo 2.1 does not work.

    A second call does nothing.
    """
    if not mujoco_21_present() and sys.modules.get("mujoco_py") is None:
        sys.modules["mujoco_py"] = importlib.import_module("cepnb.envs.mujoco_py_standin")
    d4rl()
    with warnings.catch_warnings(), silence():
        warnings.simplefilter("ignore")
        for (
            part
        ) in PARTS:  # d4rl gives up at the first part that cannot be imported, though others can
            importlib.import_module(part)


def episode_limit(name: str) -> int | None:
    """Steps after which an episode of a dataset's environment ends; None where the table above does not know it."""
    return next(
        (limit for pattern, limit in EPISODE_LIMITS.items() if re.match(pattern, name)), None
    )


def reference_scores(name: str) -> tuple[float, float]:
    """Returns of a random and of an expert policy, the 0 and 100 of the normalised score.

    `name` is a dataset of d4rl (`maze2d-umaze-v1`), or a local one or its environment (`local/maze2d-umaze[-noisy]`,
    `local/hopper[-medium]`), which has the scores of the environment that it copies. Raises `CepnbError` on a name without
    reference scores.
    """
    d4rl()
    infos = importlib.import_module("d4rl.infos")
    known = name
    if name.startswith("local/"):
        body = re.match(r"local/(hopper|halfcheetah|walker2d)\b", name)
        version = "v2" if name.startswith("local/antmaze-") else "v1"
        known = (
            f"{body[1]}-medium-v2"
            if body
            else f"{name.removeprefix('local/').removesuffix('-noisy')}-{version}"
        )
    if known not in infos.REF_MIN_SCORE:
        raise CepnbError(f"dataset '{name}': d4rl has no reference scores for '{known}'")
    return infos.REF_MIN_SCORE[known], infos.REF_MAX_SCORE[known]


def normalised_score(name: str, episode_return: float) -> float:
    """D4RL's score 100 (return − random)/(expert − random)."""
    random, expert = reference_scores(name)
    return 100 * (episode_return - random) / (expert - random)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Send standard output and error nowhere, both Python's streams (which Jupyter replaces) and the file descriptors
    below them (some of d4rl's imports print from C)."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    try:
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            for descriptor in (1, 2):
                os.dup2(nowhere.fileno(), descriptor)
            yield
    finally:
        for descriptor, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
