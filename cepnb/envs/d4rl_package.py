"""The d4rl package without MuJoCo 2.1: its environments, reference scores and episode limits."""

import importlib
import os
import re
import sys
from functools import cache
from types import ModuleType

from cepnb.envs.quiet import quiet
from cepnb.errors import CepnbError, in_a_line
from cepnb.storage.files import cache_dir

# Episode limits of d4rl's environments, by the first pattern that matches a dataset's name.
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


@cache
def d4rl() -> ModuleType:
    """Import the d4rl package at first use.

    Without MuJoCo 2.1, `mujoco_py` fails to compile and `import d4rl` raises. `mujoco_py` is then
    marked as absent, and d4rl skips the environments that need it. This entry of `sys.modules` and
    d4rl itself stay; all else that the import changes is restored.
    """
    if not mujoco_21_present():
        sys.modules.setdefault("mujoco_py", None)  # `import mujoco_py` raises ImportError
    if "d4rl" in sys.modules:
        return sys.modules["d4rl"]
    folder = os.path.expanduser(os.environ.get("D4RL_DATASET_DIR") or "~/.d4rl/datasets")
    with quiet():
        os.environ["D4RL_DATASET_DIR"] = "."  # d4rl creates its folder, which may be impossible
        package = importlib.import_module("d4rl")
    if folder.startswith("~"):  # there is no home
        folder = str(cache_dir() / "d4rl")
    importlib.import_module("d4rl.offline_env").DATASET_PATH = folder
    return package


@cache
def mujoco_21_present() -> bool:
    """Return whether MuJoCo 2.1 is installed in `mujoco_py`'s folder and `mujoco_py` imports.

    If the folder exists but the import fails, a line on standard error gives the reason.
    """
    folder = os.environ.get("MUJOCO_PY_MUJOCO_PATH") or "~/.mujoco/mujoco210"
    folder = os.path.expanduser(folder)  # unlike pathlib's, it accepts that there is no home
    if not os.path.isdir(folder):
        return False
    try:
        with quiet():
            importlib.import_module("mujoco_py")
    except Exception as error:  # mujoco_py raises bare exceptions, its compiler any
        for name in [name for name in sys.modules if name.partition(".")[0] == "mujoco_py"]:
            del sys.modules[name]  # the stand-in must not mix with imported parts
        reason = f"mujoco_py cannot be imported ({in_a_line(error)})"
        print(f"cepnb: {folder} is not used: {reason}", file=sys.stderr)
        return False
    return True


def prepare_environments() -> None:
    """Register D4RL's environments; without MuJoCo 2.1 they run on the modern `mujoco` package."""
    if not mujoco_21_present() and sys.modules.get("mujoco_py") is None:
        sys.modules["mujoco_py"] = importlib.import_module("cepnb.envs.mujoco_py_standin")
    d4rl()
    with quiet():  # separately, because d4rl stops at the first part that fails to import
        for part in ("locomotion", "pointmaze", "gym_mujoco"):
            importlib.import_module(f"d4rl.{part}")


def episode_limit(name: str) -> int | None:
    """Return the steps after which episodes of a dataset end, or None if `name` is unknown."""
    limits = (limit for pattern, limit in EPISODE_LIMITS.items() if re.match(pattern, name))
    return next(limits, None)


def reference_scores(name: str) -> tuple[float, float]:
    """Return the returns of a random and of an expert policy, the 0 and 100 of D4RL's score.

    `name` is a d4rl dataset (maze2d-umaze-v1), a local dataset (local/hopper-medium) or a local
    environment (local/hopper). Raises `CepnbError` on a name without reference scores.
    """
    d4rl()
    infos, published = importlib.import_module("d4rl.infos"), name
    if name.startswith("local/"):
        stem = name.removeprefix("local/").removesuffix("-noisy")
        body = re.match(r"(hopper|halfcheetah|walker2d)\b", stem)
        version = "v2" if stem.startswith("antmaze-") else "v1"
        published = f"{body[1]}-medium-v2" if body else f"{stem}-{version}"
    if published not in infos.REF_MIN_SCORE:
        problem = f"d4rl has no reference scores for '{published}'"
        raise CepnbError(f"dataset '{name}': {problem}; name an environment that has them")
    return infos.REF_MIN_SCORE[published], infos.REF_MAX_SCORE[published]


def normalised_score(name: str, episode_return: float) -> float:
    """Return D4RL's score 100 (return − random)/(expert − random)."""
    random, expert = reference_scores(name)
    return 100 * (episode_return - random) / (expert - random)
