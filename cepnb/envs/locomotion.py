"""D4RL's hopper, halfcheetah and walker2d on gymnasium's environments, many stepped together."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from cepnb.envs.base import Advance, SimulatorEpisodes, capsules, check_stable
from cepnb.envs.quiet import quiet
from cepnb.envs.registry import task


class LocomotionEnv(SimulatorEpisodes):
    """Episodes of a locomotion task: reward for forward speed and survival, less an action cost.

    Hopper and walker2d terminate when they fall. Episodes are truncated after 1000 steps.
    """

    max_steps = 1000

    def __init__(self, name: str, count: int, seed: int, copies: int = 1) -> None:
        super().__init__(count, seed, copies)
        self.name = name
        with quiet():  # also the import: it adds a filter of warnings and an environment variable
            import gymnasium

            self.use([gymnasium.make(task(name)).unwrapped for _ in range(self.count)])

    def __getstate__(self) -> dict:
        """Return all attributes; gymnasium's own pickles lose the state of a simulation."""
        kinds_and_states = [(type(simulator), vars(simulator)) for simulator in self._simulators]
        return vars(self) | {"_simulators": kinds_and_states}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._simulators = [kind.__new__(kind) for kind, _ in state["_simulators"]]
        for simulator, (_, attributes) in zip(self._simulators, state["_simulators"]):
            vars(simulator).update(attributes)

    def _advance(self, actions: Float[Array, "count da"]) -> Advance:
        result = super()._advance(actions)
        for simulator in self._simulators:
            check_stable(simulator.data)
        return result

    def _place(self, observations: Float[Array, "count ds"]) -> None:
        self._terminated[:] = False
        self._observations[:] = observations
        for simulator, state in zip(self._simulators, observations):
            simulator.reset()  # also the solver's history, so that a state determines its future
            positions = simulator.model.nq - 1  # the first one, along the track, is not observed
            simulator.set_state(np.r_[0.0, state[:positions]], state[positions:])

    def body(self, row: int) -> tuple[Float[Array, "parts 2 2"], Float[Array, "parts"]]:
        """Return the capsules of one episode, in metres: both ends as (x, z), and the radii."""
        ends, radii = capsules(self._simulators[row].model, self._simulators[row].data)
        return ends[..., [0, 2]], radii
