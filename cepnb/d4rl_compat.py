"""Import this before d4rl: code written for D4RL then runs without MuJoCo 2.1.

D4RL's maze2d, antmaze, hopper, halfcheetah, walker2d and ant then work through gym 0.23:
`gym.make`, `env.seed`, `env.reset()`, the 4-tuple `env.step`, `env.get_dataset()`,
`d4rl.qlearning_dataset(env)` and `env.get_normalized_score`. If MuJoCo 2.1 does not work, the modern
`mujoco` package replaces `mujoco_py`. Downloads of published files resume. Additional names select
the local data:

    maze2d-{umaze,medium,large}-local-v1 and -local-noisy-v1, such as maze2d-umaze-local-noisy-v1
    {hopper,halfcheetah,walker2d}-{medium,medium-replay,medium-expert}-local-v2

To compare with the original engine, make a second environment without cepnb: `pip install
free-mujoco-py d4rl` needs Python 3.10 or older, cepnb 3.11 or newer. The wheel contains MuJoCo 2.1
and compiles a binding at first import, with a C compiler and the headers of OpenGL and GLFW.
"""

import importlib
from pathlib import Path

from cepnb.datasets.d4rl import is_whole_hdf5
from cepnb.datasets.download import download
from cepnb.datasets.local import NAMES, local_dataset
from cepnb.envs.d4rl_package import episode_limit, prepare_environments, reference_scores
from cepnb.envs.locomotion import TASKS
from cepnb.qgpo.settings import qgpo_settings


def install() -> None:
    """Prepare D4RL's environments, replace its download and register the local data."""
    prepare_environments()
    importlib.import_module("d4rl.offline_env").download_dataset_from_url = _download
    for name in NAMES:
        _register(name)


def _download(url: str) -> str:
    """Replace d4rl's download, which leaves half a file when the connection breaks."""
    path = Path(importlib.import_module("d4rl.offline_env").filepath_from_url(url))
    return str(download(url, path, is_whole_hdf5))


def _register(name: str) -> None:
    """Register the environment of a local dataset with gym as d4rl registers its own."""
    from d4rl.gym_mujoco import gym_envs
    from d4rl.pointmaze import maze_model
    from gym.envs.registration import register

    stem = name.removeprefix("local/")
    family, _, variant = stem.partition("-")
    low, high = reference_scores(name)
    kwargs = {"ref_min_score": low, "ref_max_score": high}
    if family == "maze2d":
        maze, _, noisy = variant.partition("-")
        identity = f"maze2d-{maze}-local-noisy-v1" if noisy else f"maze2d-{maze}-local-v1"
        entry_point = _with_local_data(maze_model.MazeEnv, name)
        layout = {"umaze": "U_MAZE", "medium": "MEDIUM_MAZE", "large": "LARGE_MAZE"}[maze]
        kwargs |= {"maze_spec": getattr(maze_model, layout)}
        kwargs |= {"reward_type": "sparse", "reset_target": False}
    else:
        identity = f"{stem}-local-v2"
        body = TASKS[family].removesuffix("-v4")  # such as HalfCheetah
        local = _with_local_data(getattr(gym_envs, f"Offline{body}Env"), name)
        entry_point = lambda **options: gym_envs.NormalizedBoxEnv(local(**options))
    limit = episode_limit(stem)
    register(id=identity, entry_point=entry_point, kwargs=kwargs, max_episode_steps=limit)


def _with_local_data(environment: type, name: str) -> type:
    """Subclass a d4rl environment; its dataset is local, with the size of `$CEPNB_PROFILE`."""

    class Local(environment):
        def get_dataset(self, h5path: str | None = None) -> dict:
            if h5path is None:
                settings = qgpo_settings()
                h5path = str(local_dataset(name, settings.transitions, settings.data_seed))
            return super().get_dataset(h5path)

    return Local


install()
