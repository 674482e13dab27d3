"""The environments in which policies are evaluated, by name."""

from cepnb.envs.antmaze import ANTMAZES, AntMazeEnv
from cepnb.envs.base import Episodes
from cepnb.envs.locomotion import TASKS, LocomotionEnv
from cepnb.envs.maze import LAYOUTS, MazeEnv, maze_of
from cepnb.errors import CepnbError

ENVIRONMENTS = (*(f"maze2d-{maze}" for maze in LAYOUTS), *TASKS, *ANTMAZES)


def episodes_of(environment: str, count: int, seed: int, copies: int = 1) -> Episodes:
    """`count` start states of an environment, and `copies` episodes from each. Raises `CepnbError` on another name."""
    family = family_of(environment)
    if family == "maze2d":
        return MazeEnv(maze_of(environment), count, seed, copies)
    return (AntMazeEnv if family == "antmaze" else LocomotionEnv)(environment, count, seed, copies)


def family_of(environment: str) -> str:
    """ "maze2d", "locomotion" or "antmaze". Raises `CepnbError` on an environment that is none of them."""
    if environment not in ENVIRONMENTS:
        raise CepnbError(f"environment '{environment}': expected one of {', '.join(ENVIRONMENTS)}")
    return "locomotion" if environment in TASKS else environment.partition("-")[0]
