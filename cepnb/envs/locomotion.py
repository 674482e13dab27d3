"""Hopper, halfcheetah and walker2d as D4RL has them, on gymnasium's environments, many stepped together."""

import contextlib
import warnings
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from cepnb.envs.base import Bodies
from cepnb.errors import CepnbError

CAPSULE = 3  # MuJoCo's mjGEOM_CAPSULE
# gymnasium's "v4" are the "v2" of gym on which D4RL's data was made: same bodies, observations, rewards and ends.
TASKS = {"hopper": "Hopper-v4", "halfcheetah": "HalfCheetah-v4", "walker2d": "Walker2d-v4"}


class LocomotionEnv(Bodies):
    """Episodes of a locomotion task: reward for running forward, less for large actions, and for not falling.

    Hopper and walker2d terminate when they fall. Start states are drawn by gymnasium, one seed each.
    """

    max_steps = 1000

    def __init__(self, name: str, count: int, seed: int, copies: int = 1) -> None:
        super().__init__(count, seed, copies)
        self.name = name
        import gymnasium  # here, since it takes long; and before warnings are silenced, since it sets how they are shown

        with _quiet():
            self.take([gymnasium.make(task(name)).unwrapped for _ in range(self.count)])

    def body(self, row: int) -> tuple[Float[Array, "parts 2 2"], Float[Array, "parts"]]:
        """The body of one episode as it stands: both ends of each of its capsules as (x, z), and their radii, in metres."""
        model, data = self._bodies[row].model, self._bodies[row].data
        parts = [part for part in range(model.ngeom) if model.geom_type[part] == CAPSULE]
        along = np.stack(
            [data.geom_xmat[part].reshape(3, 3)[:, 2] * model.geom_size[part, 1] for part in parts]
        )
        centre = data.geom_xpos[parts]
        return np.stack([centre - along, centre + along], axis=1)[..., [0, 2]], model.geom_size[
            parts, 0
        ].copy()


def task(name: str) -> str:
    """gymnasium's name of a task; raises `CepnbError` on an unknown one."""
    if name not in TASKS:
        raise CepnbError(f"environment '{name}': expected one of {', '.join(TASKS)}")
    return TASKS[name]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without gymnasium's warnings of its older versions, which are wanted here, and MuJoCo's of an outdated attribute in
    their models, which it would also write into a file in the working folder."""
    import mujoco

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        mujoco.set_mju_user_warning(before)
