"""D4RL's maze2d: a point mass in a maze on the modern `mujoco` package, many stepped together."""

from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array

from cepnb.envs.base import Advance, Episodes, check_stable
from cepnb.errors import CepnbError
from cepnb.storage.validation import check_finite

MAX_SPEED = 5.0  # velocities are clipped to ±5 before every step
REACH = 0.6  # largest offset of a mass from the centre of its cell, with some penetration
GOAL_RADIUS = 0.5  # distance to the target within which the reward is 1


@dataclass(frozen=True)
class Layout:
    """A maze: rows of '#' for a wall, 'O' for a free cell, 'G' for the free cell with the target.

    The position (i, j) is in cell (i, j), 0.2 off its centre on both axes (see `maze_model`).
    """

    rows: tuple[str, ...]
    max_steps: int  # length of an episode

    @property
    def walls(self) -> Bool[Array, "rows columns"]:
        return np.array([list(row) for row in self.rows]) == "#"

    @property
    def cells(self) -> list[tuple[int, int]]:
        """Free cells in D4RL's order of drawing: empty ones sorted, then the goal."""
        tiles = np.array([list(row) for row in self.rows])
        return [tuple(cell) for tile in "OG" for cell in np.argwhere(tiles == tile).tolist()]

    def in_walls(self, positions: Float[Array, "n 2"]) -> Bool[Array, "n"]:
        """Return which positions no mass can reach: a centre comes `REACH` from that of a free cell."""
        offset = np.abs(positions[:, None] - np.array(self.cells, dtype=float))
        return offset.max(axis=2).min(axis=1) > REACH

    @property
    def target(self) -> Float[Array, "2"]:
        return np.array(self.cells[-1], dtype=float)


# Mazes and time limits of maze2d-{umaze,medium,large}-v1; `cepnb.envs.registry.MAZES` has the names.
LAYOUTS = {
    "umaze": Layout(("#####", "#GOO#", "###O#", "#OOO#", "#####"), 300),
    "medium": Layout(
        (
            "########",
            "#OO##OO#",
            "#OO#OOO#",
            "##OOO###",
            "#OO#OOO#",
            "#O#OO#O#",
            "#OOO#OG#",
            "########",
        ),
        600,
    ),
    "large": Layout(
        (
            "############",
            "#OOOO#OOOOO#",
            "#O##O#O#O#O#",
            "#OOOOOO#OOO#",
            "#O####O###O#",
            "#OO#O#OOOOO#",
            "##O#O#O#O###",
            "#OO#OOO#OGO#",
            "############",
        ),
        800,
    ),
}


def layout(name: str) -> Layout:
    """Return a maze's layout; raises `CepnbError` on an unknown name."""
    if name not in tuple(LAYOUTS):  # a tuple also answers for a name that has no hash
        raise CepnbError(f"maze '{name}': use one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


@cache
def maze_model(name: str) -> "mujoco.MjModel":
    """Compile the MuJoCo model of a maze with D4RL's constants.

    A sphere moves on two slides with motors, in Euler steps of 0.01 s without gravity. Its position
    (0, 0) is at (1.2, 1.2) in MuJoCo's coordinates, and wall (i, j) is a box of side 1 centred at
    (i + 1, j + 1). Cell (i, j) thus spans i − 0.7 < x < i + 0.3, and the same for y.
    """
    import mujoco

    boxes = "".join(
        f'<geom type="box" conaffinity="1" pos="{i + 1} {j + 1} 0" size="0.5 0.5 0.2"/>'
        for i, j in zip(*np.nonzero(layout(name).walls))
    )
    return mujoco.MjModel.from_xml_string(f"""
    <mujoco model="point_maze">
      <compiler inertiafromgeom="true" angle="radian"/>
      <option timestep="0.01" gravity="0 0 0" iterations="20" integrator="Euler"/>
      <default>
        <joint damping="1" limited="false"/>
        <geom friction="0.5 0.1 0.1" density="1000" margin="0.002" condim="1" contype="2" conaffinity="1"/>
      </default>
      <worldbody>
        <geom type="plane" size="40 40 0.25" pos="0 0 -0.1" contype="1" conaffinity="0"/>
        <body pos="1.2 1.2 0">
          <geom type="sphere" size="0.1" contype="1"/>
          <joint name="x" type="slide" axis="1 0 0"/>
          <joint name="y" type="slide" axis="0 1 0"/>
        </body>
        {boxes}
      </worldbody>
      <actuator>
        <motor joint="x" ctrlrange="-1 1" ctrllimited="true" gear="100"/>
        <motor joint="y" ctrlrange="-1 1" ctrllimited="true" gear="100"/>
      </actuator>
    </mujoco>""")


class PointMass:
    """One point mass with state (x, y, vx, vy) and action (ax, ay); a step takes 0.01 s.

    A copy or pickle continues as the original does. Raises `RuntimeError` if MuJoCo warns.
    """

    def __init__(self, name: str) -> None:
        import mujoco

        self._use(name, mujoco.MjData(maze_model(name)))

    def __getstate__(self) -> tuple[str, "mujoco.MjData"]:
        return self.name, self.data

    def __setstate__(self, state: tuple[str, "mujoco.MjData"]) -> None:
        self._use(*state)

    def _use(self, name: str, data: "mujoco.MjData") -> None:
        import mujoco

        self.name, self.model, self.data = name, maze_model(name), data
        self._clear = partial(mujoco.mj_resetData, self.model, self.data)
        self._advance = partial(mujoco.mj_step, self.model, self.data)
        # Views of MuJoCo's own arrays: reading them from `data` each time is slower.
        self._position, self._velocity, self._force = self.data.qpos, self.data.qvel, self.data.ctrl
        self._warnings = self.data.warning.number
        self._no_warnings = bytes(self._warnings.nbytes)

    def set_state(self, x: float, y: float, vx: float, vy: float) -> None:
        self._clear()  # also the solver's history, so that a state determines its future
        self._position[:], self._velocity[:] = (x, y), (vx, vy)

    def step(self, ax: float, ay: float) -> tuple[float, float, float, float]:
        vx, vy = self._velocity.tolist()
        if not (-MAX_SPEED <= vx <= MAX_SPEED and -MAX_SPEED <= vy <= MAX_SPEED):
            self._velocity[0] = max(min(vx, MAX_SPEED), -MAX_SPEED)  # in this order NaN stays NaN
            self._velocity[1] = max(min(vy, MAX_SPEED), -MAX_SPEED)
        self._force[0], self._force[1] = ax, ay
        self._advance()
        if self._warnings.tobytes() != self._no_warnings:  # faster than the array's `any`
            check_stable(self.data)
        return *self._position.tolist(), *self._velocity.tolist()


class MazeEnv(Episodes):
    """Episodes of maze2d-{name}-v1: states (x, y, vx, vy), actions in [-1, 1]², sparse reward.

    An episode starts in a random free cell (± 0.1, velocity N(0, 0.1²)). It never terminates and is
    truncated after `max_steps`. A good policy reaches the fixed target and stays there.
    """

    state_dim, action_dim = 4, 2

    def __init__(self, name: str, count: int, seed: int, copies: int = 1) -> None:
        super().__init__(count, seed, copies)
        self.name, self.layout = f"maze2d-{name}", layout(name)
        self.max_steps = self.layout.max_steps
        self._random = np.random.default_rng(seed)
        self._masses = [PointMass(name) for _ in range(self.count)]

    def _start(self) -> Float[Array, "count 4"]:
        cells = np.array(self.layout.cells, dtype=float)
        centres = cells[self._random.integers(len(cells), size=self.starts)]
        position = centres + self._random.uniform(-0.1, 0.1, size=(self.starts, 2))
        velocity = 0.1 * self._random.standard_normal((self.starts, 2))
        observations = np.tile(np.concatenate([position, velocity], axis=1), (self.copies, 1))
        self.set_state(observations)
        return observations

    def _place(self, observations: Float[Array, "count 4"]) -> None:
        for mass, state in zip(self._masses, observations.tolist(), strict=True):
            mass.set_state(*state)

    def _advance(self, actions: Float[Array, "count 2"]) -> Advance:
        steps = zip(self._masses, actions.tolist())
        observations = np.array([mass.step(ax, ay) for mass, (ax, ay) in steps])
        rewards = goal_reward(self.layout, observations)
        return observations, rewards, np.zeros(self.count, dtype=bool)


def goal_reward(maze: Layout, observations: Float[Array, "n 4"]) -> Float[Array, "n"]:
    """Return 1 within `GOAL_RADIUS` of the target, else 0: maze2d's "sparse" reward.

    Raises `CepnbError` on positions that are not finite.
    """
    distances = np.linalg.norm(observations[:, :2] - maze.target, axis=1)
    check_finite("positions in the maze", distances, "use finite observations")
    return (distances <= GOAL_RADIUS).astype(float)
