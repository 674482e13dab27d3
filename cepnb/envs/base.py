"""What every environment is to the evaluation: many episodes stepped together, each from a start state of its own."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array

from cepnb.errors import CepnbError, in_a_line


class Episodes(ABC):
    """`count` start states drawn with `seed`, and `copies` episodes from each of them: rows count · copies, copy by copy.

    An episode ends when it terminates, or is truncated after `max_steps`; the rows of ended ones stay as they are. A
    second environment of the same count and seed has the same start states.
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
        """Start all episodes afresh; returns the observations."""

    @abstractmethod
    def step(
        self, actions: Float[Array, "count da"]
    ) -> tuple[
        Float[Array, "count ds"], Float[Array, "count"], Bool[Array, "count"], Bool[Array, "count"]
    ]:
        """One step of all: (observations, rewards, terminated, truncated). Actions are clipped to [-1, 1].

        Raises `CepnbError` on actions that are not finite or of another shape.
        """

    @contextlib.contextmanager
    def engine(self, doing: str) -> Iterator[None]:
        """Around what the simulator does: an exception of it, of whatever kind, becomes a `CepnbError` that names this."""
        try:
            yield
        except CepnbError:
            raise
        except Exception as error:
            raise CepnbError(f"{self.name}: {doing} failed ({in_a_line(error)})") from error

    def clipped(self, actions: Float[Array, "..."]) -> Float[Array, "count da"]:
        """Actions in [-1, 1]; raises `CepnbError` if they cannot be taken."""
        wanted = (self.count, self.action_dim)
        if actions.shape != wanted or not np.isfinite(actions).all():
            found = (
                f"shape {actions.shape}"
                if actions.shape != wanted
                else "values that are not finite"
            )
            raise CepnbError(
                f"{self.name}: actions of {found}, expected finite numbers of shape {wanted}"
            )
        return np.clip(actions, -1.0, 1.0)


class Bodies(Episodes):
    """Episodes of which each has a simulator of its own, with gymnasium's `reset(seed=...)`, `step(action)` and spaces.

    Start states are drawn by the simulators, one seed each. Those of ended episodes are not stepped any more.
    """

    def take(self, bodies: list) -> None:
        """The simulators, one a row."""
        self._bodies = bodies
        (self.state_dim,), (self.action_dim,) = (
            bodies[0].observation_space.shape,
            bodies[0].action_space.shape,
        )
        self._observations = np.empty((self.count, self.state_dim))
        self._ended, self._elapsed = np.zeros(self.count, dtype=bool), 0

    def reset(self) -> Float[Array, "count ds"]:
        seeds = np.random.SeedSequence(self.seed).generate_state(self.starts).tolist()
        with self.engine("reset"):
            for row, body in enumerate(self._bodies):
                self._observations[row] = body.reset(seed=seeds[row % self.starts])[0]
        self._ended[:], self._elapsed = False, 0
        return self._observations.copy()

    def step(
        self, actions: Float[Array, "count da"]
    ) -> tuple[
        Float[Array, "count ds"], Float[Array, "count"], Bool[Array, "count"], Bool[Array, "count"]
    ]:
        moves, rewards, terminated = self.clipped(actions), np.zeros(self.count), self._ended.copy()
        with self.engine(f"step {self._elapsed + 1}"):
            for row in np.flatnonzero(~self._ended):
                self._observations[row], rewards[row], terminated[row], *_ = self._bodies[row].step(
                    moves[row]
                )
        self._elapsed += 1
        self._ended |= terminated
        return (
            self._observations.copy(),
            rewards,
            terminated,
            np.full(self.count, self._elapsed >= self.max_steps),
        )
