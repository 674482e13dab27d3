"""`import cepnb.d4rl_compat` before `import d4rl` lets code written for D4RL run on a machine without MuJoCo 2.1.

D4RL's own environments (maze2d, antmaze, hopper, halfcheetah, walker2d, ant) then work through gym 0.23 as they did: `gym.make`,
`env.seed`, `env.reset()`, the 4-tuple `env.step`, `env.get_dataset()`, `d4rl.qlearning_dataset(env)`,
`env.get_normalized_score`. Where MuJoCo 2.1 is missing they are stepped by the modern `mujoco` package, in the place of
`mujoco_py`; where it is installed, nothing is replaced. Published names download the published files (and go on where a
download broke); beside them there are names for the data made here, which say so:

    maze2d-umaze-local-v1, maze2d-medium-local-v1, maze2d-large-local-v1, each also as maze2d-umaze-local-noisy-v1

To have the original engine, make an environment of its own with Python 3.10 (free-mujoco-py admits no newer one, cepnb no older
than 3.11) and `pip install free-mujoco-py d4rl` there; its wheel carries MuJoCo 2.1 and compiles a binding at first import,
for which it needs a C compiler and the headers of OpenGL and GLFW. Leave this import out there.
"""

import importlib
import sys
import warnings
from pathlib import Path

import h5py

from cepnb.offline import d4rl_bridge
from cepnb.offline.collect import MAZES, local_dataset
from cepnb.offline.download import download
from cepnb.profiles import settings

PARTS = ("d4rl.locomotion", "d4rl.pointmaze", "d4rl.gym_mujoco")  # of d4rl, each of which registers its environments


def install() -> None:
    """Make D4RL's environments work and register those of the local data. A second call does nothing."""
    if not d4rl_bridge.mujoco_21_present() and sys.modules.get("mujoco_py") is None:
        sys.modules["mujoco_py"] = importlib.import_module("cepnb.offline.mujoco_py_standin")
    d4rl_bridge.d4rl()
    with warnings.catch_warnings(), d4rl_bridge.silence():
        warnings.simplefilter("ignore")
        for part in PARTS:  # d4rl gives up at the first part that cannot be imported, though others can
            importlib.import_module(part)
    importlib.import_module("d4rl.offline_env").download_dataset_from_url = _downloaded
    _register_local()


def _downloaded(url: str) -> str:
    """d4rl's download, made to resume and never to leave half a file."""
    return str(download(url, Path(importlib.import_module("d4rl.offline_env").filepath_from_url(url)), h5py.is_hdf5))


def _register_local() -> None:
    from d4rl.pointmaze import maze_model
    from gym.envs.registration import register, registry

    class LocalMazeEnv(maze_model.MazeEnv):
        """D4RL's maze with the data that cepnb makes for it (of the size that `$CEPNB_PROFILE` has)."""

        def __init__(self, local_name: str, **kwargs: object) -> None:
            self.local_name = local_name
            super().__init__(**kwargs)

        def get_dataset(self, h5path: str | None = None) -> dict:
            if h5path is None:
                chosen = settings()
                h5path = str(local_dataset(self.local_name, chosen.transitions, chosen.data_seed))
            return super().get_dataset(h5path)

    for name in MAZES:
        maze, _, noisy = name.removeprefix("local/maze2d-").partition("-")
        identity = f"maze2d-{maze}-local{noisy and '-noisy'}-v1"
        if identity in registry.env_specs:
            continue
        low, high = d4rl_bridge.reference_scores(name)
        register(id=identity, entry_point=LocalMazeEnv, max_episode_steps=d4rl_bridge.episode_limit(f"maze2d-{maze}"), kwargs={
            "local_name": name, "maze_spec": {"umaze": maze_model.U_MAZE, "medium": maze_model.MEDIUM_MAZE,
                                              "large": maze_model.LARGE_MAZE}[maze],
            "reward_type": "sparse", "reset_target": False, "ref_min_score": low, "ref_max_score": high})


install()
