"""Import this before d4rl: code written for D4RL then runs without MuJoCo 2.1.

D4RL's maze2d, antmaze, hopper, halfcheetah, walker2d and ant then work through gym 0.23:
`gym.make`, `env.seed`, `env.reset()`, the 4-tuple `env.step`, `env.get_dataset()`,
`d4rl.qlearning_dataset(env)` and `env.get_normalized_score`. If MuJoCo 2.1 does not work, the modern
`mujoco` package replaces `mujoco_py`. Downloads of published files resume. Additional names select
the local data:

    maze2d-{umaze,medium,large}-local-v1 and -local-noisy-v1, such as maze2d-umaze-local-noisy-v1
    {hopper,halfcheetah,walker2d}-{medium,medium-replay,medium-expert,expert}-local-v2
    antmaze-{umaze,umaze-diverse,medium-play,medium-diverse,large-play,large-diverse}-local-v2

To compare with the original engine, make a second environment without cepnb: `pip install
free-mujoco-py d4rl` needs Python 3.10 or older, cepnb 3.11 or newer. The wheel contains MuJoCo 2.1
and compiles a binding at first import, with a C compiler and the headers of OpenGL and GLFW.
"""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cepnb.datasets.d4rl import is_whole_hdf5
from cepnb.datasets.download import download
from cepnb.datasets.local import local_dataset
from cepnb.datasets.registry import LOCAL
from cepnb.envs.d4rl_package import (
    episode_limit,
    mujoco_21_present,
    prepare_environments,
    reference_scores,
)
from cepnb.qgpo.settings import qgpo_settings


def install() -> None:
    """Prepare D4RL's environments, replace its download and register the local data."""
    prepare_environments()
    importlib.import_module("d4rl.offline_env").download_dataset_from_url = _download
    _repair_copies()
    for name in LOCAL:
        _register(name)


def _download(url: str) -> str:
    """Replace d4rl's download, which leaves half a file when the connection breaks."""
    path = Path(importlib.import_module("d4rl.offline_env").filepath_from_url(url))
    return str(download(url, path, is_whole_hdf5))


def _register(name: str) -> None:
    """Register the environment of a local dataset with gym as d4rl registers its own."""
    import gym
    from d4rl.gym_mujoco import gym_envs
    from d4rl.locomotion.ant import make_ant_maze_env
    from d4rl.pointmaze import maze_model
    from gym.envs.registration import register

    stem = name.removeprefix("local/")
    family, _, variant = stem.partition("-")
    low, high = reference_scores(name)
    kwargs = {"ref_min_score": low, "ref_max_score": high}
    if family == "maze2d":
        maze, _, noisy = variant.partition("-")
        identity = f"maze2d-{maze}-local-noisy-v1" if noisy else f"maze2d-{maze}-local-v1"
        make = maze_model.MazeEnv
        layout = {"umaze": "U_MAZE", "medium": "MEDIUM_MAZE", "large": "LARGE_MAZE"}[maze]
        kwargs |= {"maze_spec": getattr(maze_model, layout)}
        kwargs |= {"reward_type": "sparse", "reset_target": False}
    elif family == "antmaze":
        identity, make = f"{stem}-local-v2", make_ant_maze_env
        kwargs |= gym.spec(f"{stem}-v2").kwargs
    else:
        identity = f"{stem}-local-v2"
        make = getattr(gym_envs, f"get_{family.removesuffix('2d').removeprefix('half')}_env")
    entry_point, limit = partial(_with_local_data, make, name), episode_limit(stem)
    register(id=identity, entry_point=entry_point, kwargs=kwargs, max_episode_steps=limit)


def _with_local_data(make: Callable[..., "gym.Env"], name: str, **options: object) -> "gym.Env":
    """Create a d4rl environment; its dataset is local, with the size of `$CEPNB_PROFILE`."""
    env = make(**options)
    wrapped = getattr(env, "wrapped_env", env)
    wrapped.get_dataset = partial(_local_data, wrapped, name)
    return env


def _local_data(env: "gym.Env", name: str, h5path: str | None = None) -> dict:
    if h5path is None:
        settings = qgpo_settings()
        h5path = str(local_dataset(name, settings.transitions, settings.data_seed))
    return type(env).get_dataset(env, h5path)


def _repair_copies() -> None:
    """Make copies and pickles of environments and spaces exact.

    Under NumPy 2, gym's random generators cannot be copied. d4rl's pickles of an environment store
    neither its arguments nor its state: a large maze would become a small one.
    """
    from gym.envs.mujoco.mujoco_env import MujocoEnv
    from gym.utils.seeding import RandomNumberGenerator

    RandomNumberGenerator._generator_ctor = staticmethod(RandomNumberGenerator)
    if not mujoco_21_present():  # mujoco_py's simulations have no pickles
        MujocoEnv.__getstate__ = lambda env: vars(env) | {"viewer": None, "_viewers": {}}
        MujocoEnv.__setstate__ = lambda env, state: vars(env).update(state)


install()
