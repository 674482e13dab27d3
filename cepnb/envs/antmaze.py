"""AntMaze as D4RL has it: an ant of eight motors on its way to a goal in a maze, many stepped together.

These are D4RL's own environments, as `d4rl_package.prepare_environments` makes them run; d4rl is therefore imported with the first of them. No policy
has been scored in them so far: D4RL's data of them was not at hand, and there is none made here.
"""

import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from cepnb.envs.base import Bodies
from cepnb.envs.d4rl_package import prepare_environments
from cepnb.errors import CepnbError

MAZES = ("umaze", "umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")
ANTMAZES = tuple(f"antmaze-{maze}" for maze in MAZES)


class AntMazeEnv(Bodies):
    """Episodes of {name}-v2: observations of 29 (place, posture, velocities), actions in [-1, 1]⁸, sparse reward.

    An episode starts near the one corner where the maze lets begin (± 0.1, every velocity N(0, 0.1²)). It terminates within 0.5
    of its goal, with a reward of 1, and is truncated after 700 steps (umaze) or 1000: it is solved if its return is 1, and else
    that is 0. A goal is drawn in the goal cell with every start, as in D4RL's -v2; -v0 and -v1 have the same mazes and ends, but
    one goal for as long as an environment lives. -play and -diverse are one environment each: they differ in their data.
    """

    def __init__(self, name: str, count: int, seed: int, copies: int = 1) -> None:
        super().__init__(count, seed, copies)
        if name not in ANTMAZES:
            raise CepnbError(f"environment '{name}': expected one of {', '.join(ANTMAZES)}")
        self.name = name
        with self.engine("making it"):
            maze, self.max_steps = _made(f"{name}-v2")
            self.take([Ant(maze) for _ in range(self.count)])


class Ant:
    """One ant: a simulation and a goal. D4RL's environment, of which one holds many ants, is handed both when it is used."""

    def __init__(self, maze: "d4rl.locomotion.wrappers.NormalizedBoxEnv") -> None:
        self._maze, self._inner = maze, maze.wrapped_env
        self.observation_space, self.action_space = maze.observation_space, maze.action_space
        self._sim = type(self._inner.sim)(self._inner.model)
        self.goal: tuple[float, float] | None = None

    def reset(self, seed: int) -> tuple[Float[Array, "29"], dict]:
        """A start and a goal by the seed: D4RL draws one by the environment's generator, the other by numpy's global one."""
        with _aside():
            np.random.seed(seed)
            self._inner.seed(seed)  # the wrapper would keep it for itself
            state = self._used().reset()
        self.goal = self._inner.target_goal
        return state, {}

    def step(self, action: Float[Array, "8"]) -> tuple[Float[Array, "29"], float, bool, dict]:
        return self._used().step(action)

    def _used(self) -> "d4rl.locomotion.wrappers.NormalizedBoxEnv":
        self._inner.sim, self._inner.data, self._inner.target_goal = (
            self._sim,
            self._sim.data,
            self.goal,
        )
        return self._maze


def _made(identity: str) -> tuple["d4rl.locomotion.wrappers.NormalizedBoxEnv", int]:
    """A registered environment of D4RL's without gym's wrappers, and the steps after which these end an episode.

    D4RL writes the model of a maze into a temporary file that it leaves behind, and open; here it goes.
    """
    prepare_environments()
    import gym
    from d4rl.locomotion import maze_env

    with tempfile.TemporaryDirectory() as folder, _aside():
        maze_env.tempfile = SimpleNamespace(
            mkstemp=lambda **_: (None, str(Path(folder) / "maze.xml"))
        )
        try:
            return gym.make(identity).unwrapped, gym.spec(identity).max_episode_steps
        finally:
            maze_env.tempfile = tempfile


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """numpy's global generator is put back behind this, and neither D4RL's prints nor gym's warnings are seen."""
    before = np.random.get_state()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        np.random.set_state(before)
