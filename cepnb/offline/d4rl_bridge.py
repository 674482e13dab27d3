"""The one place that imports d4rl: its dataset table, its reference scores and its own reader, without MuJoCo 2.1."""

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

from cepnb.errors import CepnbError


@cache
def d4rl() -> ModuleType:
    """The d4rl package, imported at first use.

    `import d4rl` alone raises where MuJoCo 2.1 is missing, since it imports `mujoco_py`, which tries to build against
    it. There, and only there, `mujoco_py` is marked as absent; d4rl then skips its old environments and keeps the rest.
    """
    if not mujoco_21_present():
        sys.modules.setdefault("mujoco_py", None)  # makes `import mujoco_py` raise ImportError, which d4rl expects
    with warnings.catch_warnings(), _silence():
        warnings.simplefilter("ignore")
        return importlib.import_module("d4rl")


def mujoco_21_present() -> bool:
    """Whether the MuJoCo 2.1 that `mujoco_py` builds against is installed where it looks for it."""
    place = os.environ.get("MUJOCO_PY_MUJOCO_PATH") or "~/.mujoco/mujoco210"
    return Path(place).expanduser().is_dir()


def dataset_urls() -> dict[str, str]:
    """d4rl's table of published files: dataset name → address."""
    d4rl()
    return dict(importlib.import_module("d4rl.infos").DATASET_URLS)


def reference_scores(name: str) -> tuple[float, float]:
    """Returns of a random and of an expert policy, the 0 and 100 of the normalised score.

    `name` is a dataset of d4rl (`maze2d-umaze-v1`) or a local one (`local/maze2d-umaze[-noisy]`), which has the scores
    of the environment that it copies. Raises `CepnbError` on a name without reference scores.
    """
    d4rl()
    infos = importlib.import_module("d4rl.infos")
    known = f"{name.removeprefix('local/').removesuffix('-noisy')}-v1" if name.startswith("local/") else name
    if known not in infos.REF_MIN_SCORE:
        raise CepnbError(f"dataset '{name}': d4rl has no reference scores for '{known}'")
    return infos.REF_MIN_SCORE[known], infos.REF_MAX_SCORE[known]


def normalised_score(name: str, episode_return: float) -> float:
    """D4RL's score 100 (return − random)/(expert − random)."""
    random, expert = reference_scores(name)
    return 100 * (episode_return - random) / (expert - random)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Send standard output and error nowhere, both Python's streams (which Jupyter replaces) and the file descriptors
    below them (some of d4rl's imports print from C)."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            for descriptor in (1, 2):
                os.dup2(nowhere.fileno(), descriptor)
            yield
    finally:
        for descriptor, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)
