"""`import cepnb.d4rl_compat` before `import d4rl` lets code written for D4RL run on a machine without MuJoCo 2.1.

D4RL's own environments (maze2d, antmaze, hopper, halfcheetah, walker2d, ant) then work through gym 0.23 as they did: `gym.make`,
`env.seed`, `env.reset()`, the 4-tuple `env.step`, `env.get_dataset()`, `d4rl.qlearning_dataset(env)`,
`env.get_normalized_score`. Where MuJoCo 2.1 is missing (or `mujoco_py` cannot use it) they are stepped by the modern
`mujoco` package, in the place of `mujoco_py`; where it works, nothing is replaced. Published names download the published files
(and go on where a download broke); beside them there are names for the data made here, which say so:

    maze2d-umaze-local-v1, maze2d-medium-local-v1, maze2d-large-local-v1, each also as maze2d-umaze-local-noisy-v1;
    hopper-medium-local-v2, hopper-medium-replay-local-v2, hopper-medium-expert-local-v2, and so halfcheetah and walker2d

To have the original engine, make an environment of its own with Python 3.10 (free-mujoco-py admits no newer one, cepnb no older
than 3.11) and `pip install free-mujoco-py d4rl` there; its wheel carries MuJoCo 2.1 and compiles a binding at first import,
for which it needs a C compiler and the headers of OpenGL and GLFW. Leave this import out there.
"""

import importlib
from pathlib import Path

from cepnb.datasets.d4rl import is_whole_hdf5
from cepnb.datasets.download import download
from cepnb.datasets.local import NAMES, local_dataset
from cepnb.envs import d4rl_package
from cepnb.qgpo.settings import qgpo_settings


def install() -> None:
    """Make D4RL's environments work and register those of the local data. A second call does nothing."""
    d4rl_package.prepare_environments()
    importlib.import_module("d4rl.offline_env").download_dataset_from_url = _downloaded
    _register_local()


def _downloaded(url: str) -> str:
    """d4rl's download, made to resume and never to leave half a file."""
    return str(
        download(
            url,
            Path(importlib.import_module("d4rl.offline_env").filepath_from_url(url)),
            is_whole_hdf5,
        )
    )


def _register_local() -> None:
    from d4rl.gym_mujoco import gym_envs
    from d4rl.pointmaze import maze_model
    from gym.envs.registration import register, registry

    layouts = {
        "umaze": maze_model.U_MAZE,
        "medium": maze_model.MEDIUM_MAZE,
        "large": maze_model.LARGE_MAZE,
    }
    bodies = {
        "hopper": gym_envs.OfflineHopperEnv,
        "halfcheetah": gym_envs.OfflineHalfCheetahEnv,
        "walker2d": gym_envs.OfflineWalker2dEnv,
    }
    for name in NAMES:
        family, _, variant = name.removeprefix("local/").partition("-")
        low, high = d4rl_package.reference_scores(name)
        kwargs = {"ref_min_score": low, "ref_max_score": high}
        if family == "maze2d":
            maze, _, noisy = variant.partition("-")
            identity = f"maze2d-{maze}-local{noisy and '-noisy'}-v1"
            entry = _with_local_data(maze_model.MazeEnv, name)
            kwargs |= {"maze_spec": layouts[maze], "reward_type": "sparse", "reset_target": False}
        else:
            identity, local = f"{family}-{variant}-local-v2", _with_local_data(bodies[family], name)
            entry = lambda local=local, **kwargs: gym_envs.NormalizedBoxEnv(
                local(**kwargs)
            )  # as d4rl has them
        if identity not in registry.env_specs:
            register(
                id=identity,
                entry_point=entry,
                kwargs=kwargs,
                max_episode_steps=d4rl_package.episode_limit(name.removeprefix("local/")),
            )


def _with_local_data(environment: type, name: str) -> type:
    """A class of d4rl's whose dataset is the one that cepnb makes (of the size that `$CEPNB_PROFILE` has)."""

    class Local(environment):
        def get_dataset(self, h5path: str | None = None) -> dict:
            if h5path is None:
                chosen = qgpo_settings()
                h5path = str(local_dataset(name, chosen.transitions, chosen.data_seed))
            return super().get_dataset(h5path)

    return Local


install()
