"""D4RL's AntMaze recipe: an ant walks along the shortest path of cells to one goal after another."""

from collections import deque
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array

from cepnb.datasets.agents import BATCH, collect_rows, step_together
from cepnb.datasets.ant import Walker, shipped_walker, upright
from cepnb.datasets.waypoint import Cell, next_cells
from cepnb.envs.antmaze import REACHED, AntMazeEnv, middle_of
from cepnb.errors import CepnbError

NOISE = 0.2  # standard deviation of the action noise
NEAR = 1.0  # a waypoint counts as reached within this distance, in metres
FALLEN = 50  # steps on its back after which an episode is cut
MOVING = 0.3  # metres a second
# Goals of "play", as row and column: D4RL's, but with the goal cell (6, 6) instead of its neighbour.
PLAY_GOALS = {
    "antmaze-medium-play": ((2, 6), (5, 1), (6, 6)),
    "antmaze-large-play": ((1, 6), (3, 5), (3, 10), (5, 2), (7, 4), (7, 6), (7, 9)),
}


class Planner:
    """Lead one ant through a maze from goal to goal.

    A waypoint is a place in the next cell. An ant at its goal gets another one. In the cell of the
    environment's goal, `target`, that goal is taken.
    """

    def __init__(
        self, maze: "Maze", target: Float[Array, "2"], random: np.random.Generator
    ) -> None:
        self._maze, self._target, self._random = maze, target, random
        self._path: deque[Array] = deque()

    def towards(self, position: Float[Array, "2"]) -> Float[Array, "2"]:
        """Return the waypoint relative to the ant at `position`."""
        if self._path:
            near = NEAR if len(self._path) > 1 else REACHED
            if np.linalg.norm(self._path[0] - position) < near:
                self._path.popleft()
        if not self._path:
            self._plan(self._maze.cell(position))
        return self._path[0] - position

    def _plan(self, cell: Cell) -> None:
        goals = [goal for goal in self._maze.goals if goal != cell] or self._maze.goals
        goal = goals[self._random.integers(len(goals))]
        while cell != goal:
            cell = self._maze.next[goal][cell]
            self._path.append(self._maze.place_in(cell, self._random))
        if goal == self._maze.target_cell:
            self._path = deque([*list(self._path)[:-1], self._target])


class Maze:
    """The cells of an AntMaze, and the cells where episodes of its data start and lead to."""

    def __init__(self, name: str, tiles: list[list[int | str]], size: float) -> None:
        cells = [(i, j) for i, row in enumerate(tiles) for j, tile in enumerate(row) if tile != 1]
        (self._start,) = [cell for cell in cells if tiles[cell[0]][cell[1]] == "r"]
        (self.target_cell,) = [cell for cell in cells if tiles[cell[0]][cell[1]] == "g"]
        self._size = size
        self.goals: list[Cell] = list(PLAY_GOALS.get(name, [self.target_cell]))
        self.starts: list[Cell] = [self._start]
        if name != "antmaze-umaze":
            self.starts = [cell for cell in cells if cell not in self.goals]
        if name.endswith("diverse"):
            self.starts = self.goals = cells
        self._cells = np.array(cells)
        self.next = {goal: next_cells(cells, goal) for goal in self.goals}

    def middle(self, cell: Cell) -> Float[Array, "2"]:
        return middle_of(np.array(cell), np.array(self._start), self._size)

    def place_in(self, cell: Cell, random: np.random.Generator) -> Float[Array, "2"]:
        """Draw D4RL's place in a cell: its middle plus a draw from [0, 1)², in metres."""
        return self.middle(cell) + random.random(2)

    def cell(self, position: Float[Array, "2"]) -> Cell:
        """Return the free cell with the nearest middle."""
        at = position[::-1] / self._size + self._start
        return tuple(self._cells[np.square(self._cells - at).sum(axis=1).argmin()].tolist())


def collect_antmaze(name: str, transitions: int, seed: int, folder: Path) -> dict[str, Array]:
    """Collect `transitions` rows of an AntMaze dataset as arrays in D4RL's layout.

    Episodes run in the environment that scores policies, with its rewards and ends: reward 1 and a
    terminal within 0.5 of its goal, a timeout after 700 (umaze) or 1000 steps. The ant also walks to
    other goals, and to the next one after each:

    - umaze: from the start to the goal
    - -play: from random free cells to hand-picked cells
    - -diverse: from random free cells to random free cells

    Actions have noise N(0, 0.2²). An ant on its back does not get up again, so its episode is cut
    after `FALLEN` steps, in D4RL at the time limit. Finished episodes are kept in `folder`, so that
    a later call resumes, bit for bit. Raises `CepnbError` on an unknown maze and on fewer than two
    rows.
    """
    if transitions < 2:
        raise CepnbError(f"transitions {transitions}: use at least 2")
    walker = shipped_walker()

    def batch(i: int, rows: int) -> list[dict[str, Array]]:
        file = folder / f"{i:04d}.safetensors"
        if not file.exists():
            _save(file, _episodes(name, walker, np.random.SeedSequence((seed, i)), rows))
        return _load(file)

    arrays = collect_rows(name, transitions, batch)
    return arrays | {
        "infos/qpos": arrays["observations"][:, :15],
        "infos/qvel": arrays["observations"][:, 15:],
    }


def facts(arrays: dict[str, Array]) -> dict[str, int | float]:
    """Count episodes and goals reached, and return the shares of rows that move and of fallen ants.

    A row moves if the ant is faster than `MOVING`, in m/s.
    """
    states, ends = arrays["observations"], arrays["terminals"] | arrays["timeouts"]
    speeds = np.linalg.norm(states[:, 15:17], axis=1)
    return {
        "episodes": int(ends.sum()),
        "reached": int(arrays["terminals"].sum()),
        "moving": float((speeds > MOVING).mean()),
        "fallen": float((~upright(states)).mean()),
    }


def _episodes(
    name: str, walker: Walker, seeds: np.random.SeedSequence, rows: int
) -> list[dict[str, Array]]:
    """Step `BATCH` ants together; stop early once there are `rows` rows (`step_together`)."""
    start, noise = seeds.spawn(2)
    env = AntMazeEnv(name, BATCH, int(start.generate_state(1)[0]))
    random, states = np.random.default_rng(noise), env.reset()
    maze = Maze(name, *env.tiles())
    if len(maze.starts) > 1:
        cells = random.integers(len(maze.starts), size=BATCH)
        states = env.move(np.array([maze.place_in(maze.starts[i], random) for i in cells]))
    goals = env.goals()
    planners = [Planner(maze, goal, random) for goal in goals]
    fallen = np.zeros(BATCH, dtype=int)  # steps on the back

    def act(states: Float[Array, "n 29"], alive: Bool[Array, "n"]) -> Float[Array, "n 8"]:
        towards = np.ones((BATCH, 2))
        for row in np.flatnonzero(alive):
            towards[row] = planners[row].towards(states[row, :2])
        actions = walker(states, towards, random)
        return np.clip(actions + NOISE * random.standard_normal(actions.shape), -1, 1)

    def cut(states: Float[Array, "n 29"]) -> Bool[Array, "n"]:
        fallen[:] = np.where(upright(states), 0, fallen + 1)
        return fallen >= FALLEN

    episodes = step_together(env, states, act, rows, cut)
    for episode, goal in zip(episodes, goals):
        del episode["next_observations"]  # as in D4RL's files
        episode["infos/goal"] = np.tile(goal.astype(np.float32), (len(episode["rewards"]), 1))
    return episodes


def _save(path: Path, episodes: list[dict[str, Array]]) -> None:
    import torch  # slow to import

    from cepnb.storage.tensors import save_tensors

    named = {f"{i}/{key}": v for i, episode in enumerate(episodes) for key, v in episode.items()}
    save_tensors(path, {name: torch.from_numpy(value.copy()) for name, value in named.items()})


def _load(path: Path) -> list[dict[str, Array]]:
    from cepnb.storage.tensors import load_tensors, under

    tensors = load_tensors(path, "delete it to make it again")[0]
    count = len({name.partition("/")[0] for name in tensors})
    episodes = [under(tensors, f"{i}/") for i in range(count)]
    return [{key: value.numpy() for key, value in episode.items()} for episode in episodes]
