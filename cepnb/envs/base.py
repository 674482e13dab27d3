"""The interface of all environments: many episodes stepped together."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array

from cepnb.errors import CepnbError, in_a_line

# Observations, rewards, terminated, truncated.
StepResult = tuple[
    Float[Array, "count ds"], Float[Array, "count"], Bool[Array, "count"], Bool[Array, "count"]
]


class Episodes(ABC):
    """Episodes from `count` start states drawn with `seed`, `copies` episodes from each.

    Row r starts from state r mod `count`; the attribute `count` is the number of rows. An episode
    ends when it terminates, or is truncated after `max_steps`; then its row no longer changes.
    Environments with the same `count` and `seed` have the same start states. Raises `CepnbError` if
    `count` or `copies` is below 1.
    """

    name: str
    max_steps: int
    state_dim: int
    action_dim: int

    def __init__(self, count: int, seed: int, copies: int = 1) -> None:
        for label, value in (("episodes", count), ("copies", copies)):
            if value < 1:
                raise CepnbError(f"{label} {value}: expected at least 1")
        self.starts, self.copies, self.count, self.seed = count, copies, count * copies, seed

    @abstractmethod
    def reset(self) -> Float[Array, "count ds"]:
        """Restart all episodes and return their observations."""

    @abstractmethod
    def step(self, actions: Float[Array, "count da"]) -> StepResult:
        """Step all episodes: (observations, rewards, terminated, truncated).

        Actions are clipped to [-1, 1]. Raises `CepnbError` on actions of another shape or that are
        not finite, and if the simulator fails.
        """

    @contextlib.contextmanager
    def engine(self, action: str) -> Iterator[None]:
        """Convert any exception of the simulator into a `CepnbError` that names `action`."""
        try:
            yield
        except CepnbError:
            raise
        except Exception as error:
            raise CepnbError(f"{self.name}: {action} failed ({in_a_line(error)})") from error

    def clipped(self, actions: Float[Array, "..."]) -> Float[Array, "count da"]:
        """Clip actions to [-1, 1]; raises `CepnbError` on another shape or values not finite."""
        shape = (self.count, self.action_dim)
        if actions.shape != shape:
            raise CepnbError(f"{self.name}: actions have shape {actions.shape}, expected {shape}")
        if not np.isfinite(actions).all():
            raise CepnbError(f"{self.name}: actions are not finite; check the policy")
        return np.clip(actions, -1.0, 1.0)


class SimulatorEpisodes(Episodes):
    """Episodes with one simulator each, which follows gymnasium's `reset(seed=...)` and `step`.

    The simulators draw the start states, one seed each. Ended episodes are not stepped.
    """

    def use(self, simulators: list) -> None:
        """Set the simulators, one a row."""
        self._simulators = simulators
        (self.state_dim,) = simulators[0].observation_space.shape
        (self.action_dim,) = simulators[0].action_space.shape
        self._observations = np.empty((self.count, self.state_dim))
        self._ended, self._elapsed = np.zeros(self.count, dtype=bool), 0

    def reset(self) -> Float[Array, "count ds"]:
        seeds = np.random.SeedSequence(self.seed).generate_state(self.starts).tolist()
        with self.engine("reset"):
            for row, simulator in enumerate(self._simulators):
                self._observations[row] = simulator.reset(seed=seeds[row % self.starts])[0]
        self._ended[:], self._elapsed = False, 0
        return self._observations.copy()

    def step(self, actions: Float[Array, "count da"]) -> StepResult:
        actions = self.clipped(actions)
        rewards, terminated = np.zeros(self.count), self._ended.copy()
        with self.engine(f"step {self._elapsed + 1}"):
            for row in np.flatnonzero(~self._ended):
                state, reward, terminal, *_ = self._simulators[row].step(actions[row])
                self._observations[row], rewards[row], terminated[row] = state, reward, terminal
        self._elapsed += 1
        self._ended |= terminated
        truncated = np.full(self.count, self._elapsed >= self.max_steps)
        return self._observations.copy(), rewards, terminated, truncated
