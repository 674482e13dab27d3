"""Environments by name. To add one: a subclass of `Episodes`, its names here, and `episodes_of`."""

from cepnb.envs.antmaze import ANTMAZES, AntMazeEnv
from cepnb.envs.base import Episodes
from cepnb.envs.locomotion import TASKS, LocomotionEnv
from cepnb.envs.maze import LAYOUTS, MazeEnv
from cepnb.errors import CepnbError

ENVIRONMENTS = (*(f"maze2d-{maze}" for maze in LAYOUTS), *TASKS, *ANTMAZES)


def episodes_of(environment: str, count: int, seed: int, copies: int = 1) -> Episodes:
    """Create `copies` episodes from each of `count` start states; raises on unknown names."""
    families = {"maze2d": MazeEnv, "locomotion": LocomotionEnv, "antmaze": AntMazeEnv}
    name = environment.removeprefix("maze2d-")
    return families[family_of(environment)](name, count, seed, copies)


def family_of(environment: str) -> str:
    """Return "maze2d", "locomotion" or "antmaze"; raises `CepnbError` on unknown environments."""
    if environment not in ENVIRONMENTS:
        raise CepnbError(f"environment '{environment}': use one of {', '.join(ENVIRONMENTS)}")
    return "locomotion" if environment in TASKS else environment.partition("-")[0]
