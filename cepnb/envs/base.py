"""The interface of all environments: many episodes stepped together."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array

from cepnb.errors import CepnbError, in_a_line
from cepnb.storage.validation import check_finite, check_shape

# Observations, rewards, terminated.
Advance = tuple[Float[Array, "count ds"], Float[Array, "count"], Bool[Array, "count"]]
# The same and truncated.
StepResult = tuple[
    Float[Array, "count ds"], Float[Array, "count"], Bool[Array, "count"], Bool[Array, "count"]
]


class Episodes(ABC):
    """`copies` episodes from each of `count` start states drawn with `seed`, one episode a row.

    Row r starts from state r mod `count`. The attribute `starts` is the argument `count`; the
    attribute `count` is the number of rows. An episode ends when it terminates, or is truncated
    after `max_steps`. Environments with the same `count` and `seed` have the same start states.
    A subclass sets the attributes below and implements `_start` and `_advance`.
    """

    name: str
    max_steps: int
    state_dim: int
    action_dim: int

    def __init__(self, count: int, seed: int, copies: int = 1) -> None:
        for label, value, least in (
            ("episodes", count, 1),
            ("copies", copies, 1),
            ("seed", seed, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise CepnbError(f"{label} {value!r}: use an integer")
            if value < least:
                raise CepnbError(f"{label} {value}: use at least {least}")
        self.starts, self.copies, self.count, self.seed = count, copies, count * copies, seed
        self._elapsed = 0

    @abstractmethod
    def _start(self) -> Float[Array, "count ds"]:
        """Move all episodes to their start states and return the observations."""

    @abstractmethod
    def _advance(self, actions: Float[Array, "count da"]) -> Advance:
        """Step all episodes that have not terminated; their actions are in [-1, 1]."""

    def reset(self) -> Float[Array, "count ds"]:
        """Restart all episodes and return their observations."""
        self._elapsed = 0
        with self.simulating("reset"):
            return self._start()

    def step(self, actions: Float[Array, "..."]) -> StepResult:
        """Clip actions to [-1, 1] and step all episodes.

        Raises `CepnbError` on actions of another shape, on actions, observations or rewards that
        are not finite, and if the simulator fails or warns.
        """
        shape = (self.count, self.action_dim)
        if actions.shape != shape:
            problem = f"actions have shape {actions.shape}"
            raise CepnbError(f"{self.name}: {problem}; the environment takes {shape}")
        if not np.isfinite(actions).all():
            raise CepnbError(f"{self.name}: actions are not finite; check the policy")
        self._elapsed += 1
        with self.simulating(f"step {self._elapsed}"):
            result = self._advance(np.clip(actions, -1.0, 1.0))
        for what, values in zip(("observations", "rewards"), result):
            if not np.isfinite(values).all():
                problem = f"step {self._elapsed} gives {what} that are not finite"
                raise CepnbError(f"{self.name}: {problem}; fix its simulator")
        return *result, np.full(self.count, self._elapsed >= self.max_steps)

    def set_state(self, observations: Float[Array, "count ds"]) -> None:
        """Set the states of all episodes and their elapsed steps to 0.

        Raises `CepnbError` on another shape, on values that are not finite, and where observations
        do not determine the state.
        """
        check_shape(f"{self.name}: states", observations, self.count, self.state_dim)
        check_finite(f"{self.name}: states", observations, "use finite states")
        self._elapsed = 0
        self._place(observations)

    def _place(self, observations: Float[Array, "count ds"]) -> None:
        """Move all episodes to the states of valid observations, where these determine a state."""
        raise CepnbError(f"{self.name}: its observations do not determine the state; use reset")

    @contextlib.contextmanager
    def simulating(self, action: str) -> Iterator[None]:
        """Convert any exception of the simulator into a `CepnbError` that names `action`."""
        try:
            yield
        except Exception as error:
            raise CepnbError(f"{self.name}: {action} failed ({in_a_line(error)})") from error


def check_stable(data: "mujoco.MjData") -> None:
    """Raise `RuntimeError` if MuJoCo warned since the last reset: the state is wrong or was reset."""
    counts = data.warning.number
    if counts.any():
        import mujoco

        kinds = [mujoco.mjtWarning(kind).name for kind in np.flatnonzero(counts)]
        raise RuntimeError(f"MuJoCo warns of {', '.join(kinds)}")


SPHERE, CAPSULE = 2, 3  # MuJoCo's mjGEOM_SPHERE and mjGEOM_CAPSULE


def capsules(
    model: "mujoco.MjModel", data: "mujoco.MjData"
) -> tuple[Float[Array, "parts 2 3"], Float[Array, "parts"]]:
    """Return a body's capsules and spheres in metres: both ends, equal for a sphere, and the radii."""
    parts = np.flatnonzero(np.isin(model.geom_type, (SPHERE, CAPSULE)))
    axes = data.geom_xmat[parts].reshape(-1, 3, 3)[:, :, 2]
    half = axes * np.where(model.geom_type[parts] == CAPSULE, model.geom_size[parts, 1], 0)[:, None]
    centre = data.geom_xpos[parts]
    return np.stack([centre - half, centre + half], axis=1), model.geom_size[parts, 0].copy()


class SimulatorEpisodes(Episodes):
    """Episodes with one simulator each, which follows gymnasium's `reset(seed=...)` and `step`.

    The simulators draw the start states, one seed each. Terminated episodes are not stepped.
    """

    def use(self, simulators: list) -> None:
        """Set the simulators, one a row."""
        self._simulators = simulators
        (self.state_dim,) = simulators[0].observation_space.shape
        (self.action_dim,) = simulators[0].action_space.shape
        self._observations = np.empty((self.count, self.state_dim))
        self._terminated = np.zeros(self.count, dtype=bool)

    def _start(self) -> Float[Array, "count ds"]:
        seeds = np.random.SeedSequence(self.seed).generate_state(self.starts).tolist()
        for row, simulator in enumerate(self._simulators):
            self._observations[row] = simulator.reset(seed=seeds[row % self.starts])[0]
        self._terminated[:] = False
        return self._observations.copy()

    def _advance(self, actions: Float[Array, "count da"]) -> Advance:
        rewards, states = np.zeros(self.count), self._observations
        for row in np.flatnonzero(~self._terminated):
            step = self._simulators[row].step(actions[row])
            states[row], rewards[row], self._terminated[row] = step[:3]
        return states.copy(), rewards, self._terminated.copy()
