"""The maze2d environments of D4RL (a point mass in a maze) on the modern `mujoco` package, many stepped together."""

from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array

from cepnb.envs.base import Episodes
from cepnb.errors import CepnbError

MAX_SPEED = 5.0  # velocities are clipped to ±5 before every step
GOAL_RADIUS = 0.5  # reward 1 within this distance of the target, else 0


@dataclass(frozen=True)
class Layout:
    """A maze: rows of '#' wall, 'O' free, 'G' the free cell with the target. Cell (i, j) is named by the position (i, j),
    which lies 0.2 off its centre in both directions (see `maze_model`)."""

    rows: tuple[str, ...]
    max_steps: int  # length of an episode

    @property
    def walls(self) -> Bool[Array, "rows columns"]:
        return np.array([[tile == "#" for tile in row] for row in self.rows])

    @property
    def cells(self) -> list[tuple[int, int]]:
        """Free cells in the order in which D4RL draws from them: empty ones sorted, then the goal."""
        found = {
            tile: [
                (i, j) for i, row in enumerate(self.rows) for j, t in enumerate(row) if t == tile
            ]
            for tile in "OG"
        }
        return found["O"] + found["G"]

    @property
    def target(self) -> Float[Array, "2"]:
        return np.array(self.cells[-1], dtype=float)


# Mazes and time limits of maze2d-{umaze,medium,large}-v1.
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
    """The layout of that name; raises `CepnbError` on an unknown one."""
    if name not in LAYOUTS:
        raise CepnbError(f"maze '{name}': expected one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def maze_of(environment: str) -> str:
    """The maze of an environment such as maze2d-umaze; raises `CepnbError` on another."""
    maze = environment.removeprefix("maze2d-")
    if maze not in LAYOUTS or maze == environment:
        raise CepnbError(
            f"environment '{environment}': expected one of {', '.join(f'maze2d-{m}' for m in LAYOUTS)}"
        )
    return maze


@cache
def maze_model(name: str) -> "mujoco.MjModel":
    """The MuJoCo model with D4RL's constants: a sphere of radius 0.1 and density 1000 on two slides of damping 1,
    motors of gear 100 limited to [-1, 1], Euler steps of 0.01 s, box walls of side 1, no gravity.

    The body rests at (1.2, 1.2) and walls stand at cell + 1, so that the free cell (i, j) spans the positions
    i − 0.7 < x < i + 0.3 and likewise in y; this is D4RL's geometry, kept as it is.
    """
    import mujoco  # here, since it takes half a second

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
    """One point mass: `set_state(x, y, vx, vy)` and `step(ax, ay)`, the latter returning the new (x, y, vx, vy)."""

    def __init__(self, name: str) -> None:
        import mujoco

        self.model = maze_model(name)
        self.data = mujoco.MjData(self.model)
        self._clear, self._advance = (
            partial(f, self.model, self.data) for f in (mujoco.mj_resetData, mujoco.mj_step)
        )
        self._position, self._velocity, self._force = (
            self.data.qpos,
            self.data.qvel,
            self.data.ctrl,
        )  # live views

    def set_state(self, x: float, y: float, vx: float, vy: float) -> None:
        self._clear()  # solver history too, so that a state has one future
        self._position[:], self._velocity[:] = (x, y), (vx, vy)

    def step(self, ax: float, ay: float) -> tuple[float, float, float, float]:
        vx, vy = self._velocity.tolist()
        if not (-MAX_SPEED <= vx <= MAX_SPEED and -MAX_SPEED <= vy <= MAX_SPEED):
            self._velocity[:] = (
                max(-MAX_SPEED, min(MAX_SPEED, vx)),
                max(-MAX_SPEED, min(MAX_SPEED, vy)),
            )
        self._force[0], self._force[1] = ax, ay
        self._advance()
        return *self._position.tolist(), *self._velocity.tolist()


class MazeEnv(Episodes):
    """Episodes of maze2d-{name}-v1: observations (x, y, vx, vy), actions in [-1, 1]², sparse reward.

    An episode starts in a random free cell (± 0.1, velocity N(0, 0.1²)), never terminates, and is truncated after
    `max_steps`. The target stays in the goal cell: a good policy reaches it and then remains.
    """

    state_dim, action_dim = 4, 2

    def __init__(self, name: str, count: int, seed: int, copies: int = 1) -> None:
        super().__init__(count, seed, copies)
        self.name, self.layout = f"maze2d-{name}", layout(name)
        self.max_steps = self.layout.max_steps
        self._random = np.random.default_rng(seed)
        self._masses = [PointMass(name) for _ in range(self.count)]
        self._elapsed = 0

    def reset(self) -> Float[Array, "count 4"]:
        cells = np.array(self.layout.cells, dtype=float)
        place = cells[self._random.integers(len(cells), size=self.starts)]
        position = place + self._random.uniform(-0.1, 0.1, size=(self.starts, 2))
        start = np.concatenate(
            [position, 0.1 * self._random.standard_normal((self.starts, 2))], axis=1
        )
        return self.set_state(np.tile(start, (self.copies, 1)))

    def set_state(self, observations: Float[Array, "count 4"]) -> Float[Array, "count 4"]:
        """Put the episodes into given states at step 0."""
        self._elapsed = 0
        with self.engine("reset"):
            for mass, row in zip(self._masses, observations.tolist(), strict=True):
                mass.set_state(*row)
        return observations

    def step(
        self, actions: Float[Array, "count 2"]
    ) -> tuple[
        Float[Array, "count 4"], Float[Array, "count"], Bool[Array, "count"], Bool[Array, "count"]
    ]:
        moves = self.clipped(actions).tolist()  # a step is 0.01 s
        with self.engine(f"step {self._elapsed + 1}"):
            observations = np.array([mass.step(*move) for mass, move in zip(self._masses, moves)])
        self._elapsed += 1
        rewards = goal_reward(self.layout, observations)
        over = np.full(self.count, self._elapsed >= self.max_steps)
        return observations, rewards, np.zeros(self.count, dtype=bool), over


def goal_reward(maze: Layout, observations: Float[Array, "n 4"]) -> Float[Array, "n"]:
    """1 where the position is within 0.5 of the target, else 0 (the "sparse" reward of maze2d)."""
    return (np.linalg.norm(observations[:, :2] - maze.target, axis=1) <= GOAL_RADIUS).astype(float)
