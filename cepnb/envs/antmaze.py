"""D4RL's AntMaze: an ant with eight motors walks to a goal in a maze, many stepped together."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from cepnb.envs.base import SimulatorEpisodes, capsules
from cepnb.envs.d4rl_package import episode_limit, prepare_environments
from cepnb.envs.quiet import quiet
from cepnb.envs.registry import ANTMAZES
from cepnb.errors import CepnbError
from cepnb.storage.validation import check_shape

REACHED = 0.5  # distance to the goal, in metres, that counts as reaching it


@dataclass(frozen=True)
class Floor:
    """The plan of a maze, in metres."""

    walls: Float[Array, "walls 4"]  # x and y of the lower left corner, then of the upper right
    goal: Float[Array, "2"]


def middle_of(
    cell: Int[Array, "*cells 2"], start: Int[Array, "2"], size: float
) -> Float[Array, "*cells 2"]:
    """Return the middle of a cell: x grows with columns, y with rows, and 0 is D4RL's start."""
    return size * (cell - start)[..., ::-1].astype(float)


class AntMazeEnv(SimulatorEpisodes):
    """Episodes of {name}-v2: observations of size 29, actions in [-1, 1]⁸, sparse reward.

    Observations are position, posture and velocities. An episode starts near one corner (± 0.1,
    velocities N(0, 0.1²)). It terminates with reward 1 within `REACHED` of its goal, and is truncated
    after 700 steps (umaze) or 1000, so its return is 1 or 0. As in D4RL's -v2, every reset draws a
    goal in the goal cell. -play and -diverse are the same environment: only their data differs.
    """

    def __init__(self, name: str, count: int, seed: int, copies: int = 1) -> None:
        super().__init__(count, seed, copies)
        if name not in ANTMAZES:
            raise CepnbError(f"environment '{name}': use one of {', '.join(ANTMAZES)}")
        self.name, self.max_steps = name, episode_limit(name)
        with self.simulating("creation"):
            maze = _make(f"{name}-v2")
            self.use([Ant(maze) for _ in range(self.count)])

    def goals(self) -> Float[Array, "count 2"]:
        """Return the goals of the episodes, in metres."""
        return np.array([ant.goal for ant in self._simulators], dtype=float)

    def move(self, positions: Float[Array, "count 2"]) -> Float[Array, "count 29"]:
        """Move the ants to other positions without a step, and return the observations."""
        check_shape(f"{self.name}: positions", positions, self.count, 2)
        with self.simulating("move"):
            for row, ant in enumerate(self._simulators):
                self._observations[row] = ant.move(positions[row])
        return self._observations.copy()

    def tiles(self) -> tuple[list[list[int | str]], float]:
        """Return D4RL's rows of cells (1 a wall, "r" the start, "g" the goal), and a cell's size."""
        return self._simulators[0].tiles()

    def floor(self, row: int) -> Floor:
        """Return the walls, and the goal of one episode."""
        tiles, size = self.tiles()
        kinds = np.array(tiles, dtype=str)
        (start,) = np.argwhere(kinds == "r")
        middles = middle_of(np.argwhere(kinds == "1"), start, size)
        corners = np.concatenate([middles - size / 2, middles + size / 2], axis=1)
        return Floor(corners, self.goals()[row])

    def body(self, row: int) -> tuple[Float[Array, "parts 2 3"], Float[Array, "parts"]]:
        """Return torso and legs of one episode's ant, as `cepnb.envs.base.capsules`."""
        data = self._simulators[row].data
        return capsules(data.model, data)

    def __getstate__(self) -> dict:
        """Return all attributes; of each ant its simulation and goal: D4RL's maze has no pickle."""
        return vars(self) | {"_simulators": [(ant.data, ant.goal) for ant in self._simulators]}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        maze, self._simulators = _make(f"{self.name}-v2"), []
        for data, goal in state["_simulators"]:
            ant = Ant(maze)
            ant.data.raw, ant.goal = data.raw, goal
            self._simulators.append(ant)


class Ant:
    """One ant with its own simulation and goal; all ants share one D4RL environment, `maze`."""

    def __init__(self, maze: "d4rl.locomotion.wrappers.NormalizedBoxEnv") -> None:
        self._maze, self._inner = maze, maze.wrapped_env
        self.observation_space, self.action_space = maze.observation_space, maze.action_space
        self._sim = type(self._inner.sim)(self._inner.model)
        self.data = self._sim.data
        self.goal: tuple[float, float] | None = None

    def reset(self, seed: int) -> tuple[Float[Array, "29"], dict]:
        """Draw the start from the environment's generator and the goal from numpy's global one."""
        with quiet():
            np.random.seed(seed)
            self._inner.seed(seed)  # D4RL's wrapper does not pass the seed on
            self._insert()
            state = self._maze.reset()
        self.goal = self._inner.target_goal
        return state, {}

    def step(self, action: Float[Array, "8"]) -> tuple[Float[Array, "29"], float, bool, dict]:
        self._insert()
        return self._maze.step(action)

    def move(self, position: Float[Array, "2"]) -> Float[Array, "29"]:
        self._insert()
        self._inner.set_xy(position)
        return self._inner._get_obs()

    def tiles(self) -> tuple[list[list[int | str]], float]:
        return self._inner._maze_map, self._inner._maze_size_scaling

    def _insert(self) -> None:
        """Put this ant's simulation and goal into the shared environment."""
        self._inner.sim, self._inner.data = self._sim, self._sim.data
        self._inner.target_goal = self.goal


def _make(identity: str) -> "d4rl.locomotion.wrappers.NormalizedBoxEnv":
    """Create a D4RL environment without gym's wrappers."""
    prepare_environments()
    import gym
    from d4rl.locomotion import maze_env

    with tempfile.TemporaryDirectory() as folder, quiet():
        model_path = str(Path(folder) / "maze.xml")
        # D4RL never deletes or closes the temporary file of the maze's model.
        maze_env.tempfile = SimpleNamespace(mkstemp=lambda **_: (None, model_path))
        try:
            return gym.make(identity).unwrapped
        finally:
            maze_env.tempfile = tempfile
