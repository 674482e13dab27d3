"""D4RL's maze2d recipe: a waypoint controller runs from one random goal to the next."""

from collections import deque

import numpy as np
from numpy import ndarray as Array

from cepnb.envs.maze import Layout, PointMass, goal_reward, layout
from cepnb.errors import CepnbError
from cepnb.progress import progress_bar

NOISE = 0.5  # standard deviation of the action noise of the noisy variant
ARRIVED = 0.1  # a waypoint or goal counts as reached within this distance

Cell = tuple[int, int]
Place = tuple[float | int, float | int]  # cells are places


class WaypointController:
    """Steer along the shortest path of cells: a = clip(10 (w − x) − v, −1, 1) to waypoint w.

    Each waypoint is a cell minus a uniform draw from [0, 0.2)²; the last one is the goal cell.
    Gains, thresholds and draws are D4RL's. `act` returns the action and whether it is at the goal.
    """

    def __init__(self, maze: Layout, random: np.random.Generator) -> None:
        self._maze, self._random = maze, random
        self._steps_to: dict[Cell, dict[Cell, Cell]] = {}  # next cells by goal, for reuse
        self._goal: Cell | None = None

    def act(
        self, x: float, y: float, vx: float, vy: float, target: tuple[float, float]
    ) -> tuple[float, float, bool]:
        goal = (round(target[0]), round(target[1]))
        if goal != self._goal:
            self._plan((round(x), round(y)), goal)
        reached = _near(x, y, goal)
        wx, wy = goal if reached else self._waypoints[0]
        ax, ay = 10 * (wx - x) - vx, 10 * (wy - y) - vy
        if not reached and len(self._waypoints) > 1 and _near(x, y, (wx, wy)):
            self._waypoints.popleft()
        return max(-1.0, min(1.0, ax)), max(-1.0, min(1.0, ay)), reached

    def _plan(self, cell: Cell, goal: Cell) -> None:
        if goal not in self._steps_to:
            self._steps_to[goal] = next_cells(self._maze.cells, goal)
        self._goal, self._waypoints = goal, deque()
        while (cell := self._steps_to[goal][cell]) != goal:
            dx, dy = (0.2 * self._random.random(2)).tolist()
            self._waypoints.append((cell[0] - dx, cell[1] - dy))
        self._waypoints.append(goal)


def collect_maze(
    name: str, transitions: int, seed: int, noisy: bool = False, progress: bool = True
) -> dict[str, Array]:
    """Collect `transitions` rows of maze2d-{name} as arrays in D4RL's layout.

    The data is one trajectory without terminals. When the goal is reached, or after a time limit,
    the row is marked as a timeout and a new goal is drawn (a free cell ± 0.1). Rewards are those of
    the environment's fixed target at the row's observation. Unlike in D4RL's script, the row after
    a timeout stores the current state. `noisy` adds N(0, 0.5²) to the actions. Raises `CepnbError`
    on fewer than two rows and on an unknown maze.
    """
    if transitions < 2:
        raise CepnbError(f"transitions {transitions}: use at least 2")
    maze, random = layout(name), np.random.default_rng(seed)
    controller, mass, cells = WaypointController(maze, random), PointMass(name), maze.cells

    def draw_cell() -> tuple[float, float]:
        i, j = cells[random.integers(len(cells))]
        dx, dy = random.uniform(-0.1, 0.1, size=2).tolist()
        return i + dx, j + dy

    state = (*draw_cell(), *(0.1 * random.standard_normal(2)).tolist())
    mass.set_state(*state)
    target, elapsed = draw_cell(), 0
    observations, actions, goals = (
        np.empty((transitions, size), dtype=np.float32) for size in (4, 2, 2)
    )
    timeouts = np.zeros(transitions, dtype=bool)
    noise = NOISE * random.standard_normal((transitions, 2)) if noisy else None
    bar = dict(desc=f"maze2d-{name}", disable=not progress, leave=False, mininterval=0.5)
    for i in progress_bar(range(transitions), **bar):
        ax, ay, done = controller.act(*state, target)
        if noisy:
            ax, ay = np.clip(noise[i] + (ax, ay), -1.0, 1.0).tolist()
        done = done or elapsed >= maze.max_steps
        observations[i], actions[i], goals[i], timeouts[i] = state, (ax, ay), target, done
        state = mass.step(ax, ay)
        elapsed += 1
        if done:
            target, elapsed = draw_cell(), 0
    return {
        "observations": observations,
        "actions": actions,
        "rewards": goal_reward(maze, observations).astype(np.float32),
        "terminals": np.zeros(transitions, dtype=bool),
        "timeouts": timeouts,
        "infos/goal": goals,
        "infos/qpos": observations[:, :2],
        "infos/qvel": observations[:, 2:],
    }


def _near(x: float, y: float, place: Place) -> bool:
    return (x - place[0]) ** 2 + (y - place[1]) ** 2 < ARRIVED**2


def next_cells(cells: list[Cell], goal: Cell) -> dict[Cell, Cell]:
    """Return each free cell's next cell on a shortest path to `goal`, by breadth-first search."""
    free, step, queue = set(cells), {goal: goal}, deque([goal])
    while queue:
        i, j = queue.popleft()
        for cell in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
            if cell in free and cell not in step:
                step[cell] = (i, j)
                queue.append(cell)
    return step
