"""Environments by name. To add one: a subclass of `Episodes`, its names here, and `episodes_of`.

The names need no numpy, so that commands refuse a wrong one at once.
"""

from cepnb.errors import CepnbError

MAZES = ("umaze", "medium", "large")  # of maze2d; their walls are in `cepnb.envs.maze`
# gymnasium's "v4" equal gym's "v2", on which D4RL's data was made: bodies, rewards, terminations.
TASKS = {"hopper": "Hopper-v4", "halfcheetah": "HalfCheetah-v4", "walker2d": "Walker2d-v4"}
ANTMAZES = (
    "antmaze-umaze",
    "antmaze-umaze-diverse",
    "antmaze-medium-play",
    "antmaze-medium-diverse",
    "antmaze-large-play",
    "antmaze-large-diverse",
)
AGENTS = (*TASKS, "ant")  # agents that make local data; the ant walks in AntMaze
ENVIRONMENTS = (*(f"maze2d-{maze}" for maze in MAZES), *TASKS, *ANTMAZES)


def episodes_of(
    environment: str, count: int, seed: int, copies: int = 1
) -> "cepnb.envs.base.Episodes":
    """Create `copies` episodes from each of `count` start states; raises on unknown names."""
    from cepnb.envs.antmaze import AntMazeEnv
    from cepnb.envs.locomotion import LocomotionEnv
    from cepnb.envs.maze import MazeEnv

    families = {"maze2d": MazeEnv, "locomotion": LocomotionEnv, "antmaze": AntMazeEnv}
    name = environment.removeprefix("maze2d-")
    return families[family_of(environment)](name, count, seed, copies)


def family_of(environment: str) -> str:
    """Return "maze2d", "locomotion" or "antmaze"; raises `CepnbError` on unknown environments."""
    if environment not in ENVIRONMENTS:
        raise CepnbError(f"environment '{environment}': use one of {', '.join(ENVIRONMENTS)}")
    return "locomotion" if environment in TASKS else environment.partition("-")[0]


def task(name: str) -> str:
    """Return gymnasium's name of a locomotion task; raises `CepnbError` on an unknown one."""
    if name not in tuple(TASKS):  # a tuple also answers for a name that has no hash
        raise CepnbError(f"environment '{name}': use one of {', '.join(TASKS)}")
    return TASKS[name]
