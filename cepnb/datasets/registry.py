"""Datasets by name: the name's prefix selects the source. Add a source in `load_dataset`."""

import re
from pathlib import Path

from cepnb.datasets.d4rl import load_published
from cepnb.datasets.dataset import OfflineDataset
from cepnb.datasets.hdf5 import load_hdf5
from cepnb.datasets.local import load_local
from cepnb.datasets.minari import load_minari
from cepnb.envs.d4rl_package import episode_limit as published_limit
from cepnb.envs.registry import family_of
from cepnb.errors import CepnbError

OVERSHOOT = (
    0.01  # actions may leave [-1, 1] by rounding or slight noise; other units leave it by far
)


def load_dataset(
    name: str, transitions: int, seed: int, episode_limit: int | None = None
) -> OfflineDataset:
    """Load a dataset by name; the prefix selects the source.

    - `local/maze2d-umaze`: made here at first use, `transitions` rows with `seed`
    - `d4rl/hopper-medium-v2`: D4RL's published file, downloaded at first use
    - `minari/mujoco/hopper/medium-v0`: a Minari dataset, downloaded at first use
    - any other name is the path of a D4RL HDF5 file, and so is an existing file that ends in .hdf5;
      its episodes end after `episode_limit` rows if it has no timeouts

    In D4RL's and local maze2d data, the reward of a row belongs to its state s_t, as D4RL
    relabelled them; the environment rewards s_{t+1}. Raises `CepnbError` on an unknown name or a
    bad file.
    """
    path = Path(name)
    source, _, rest = name.partition("/")
    if path.suffix == ".hdf5" and path.is_file():  # also in a folder with the name of a source
        return load_hdf5(path, name, episode_limit)
    if source == "local":
        return load_local(name, transitions, seed)
    if source == "d4rl":
        return load_published(rest)
    if source == "minari":
        return load_minari(rest)
    if not name or not path.exists():
        problem = f"dataset '{name}': not found" if name else "dataset name is empty"
        raise CepnbError(f"{problem}; use local/…, d4rl/…, minari/… or the path of an HDF5 file")
    return load_hdf5(path, name, episode_limit)


def environment_of(name: str) -> str | None:
    """Return the environment in the name of a local or D4RL dataset, such as hopper; else None.

    Minari's datasets belong to gymnasium's newer environments with other rewards: None for them.
    """
    environment = r"(maze2d-[a-z]+|antmaze-[a-z-]+|[a-z0-9]+)"
    match = re.fullmatch(rf"(?:local|d4rl)/{environment}(-[a-z-]+)?(-v\d+)?", name)
    return match and match[1]


def evaluated_in(name: str, environment: str | None = None) -> str:
    """Return the environment that scores a dataset's policies: `environment`, else the name's.

    Raises `CepnbError` without either and on an unknown environment. Also raises on a dataset with
    dense rewards if `environment` is None: the environments here have sparse rewards.
    """
    if environment is None and re.match(r"(local|d4rl)/maze2d-[a-z]+-dense", name):
        raise CepnbError(
            f"dataset '{name}': rewards are dense, but environments have sparse rewards; "
            "name an environment to evaluate in it anyway"
        )
    environment = environment or environment_of(name)
    if environment is None:
        raise CepnbError(f"dataset '{name}': the name gives no environment; add one")
    family_of(environment)
    return environment


def load_task(name: str, environment: str, transitions: int, data_seed: int) -> OfflineDataset:
    """Load the dataset of a run; a local one has `transitions` rows made with `data_seed`.

    Raises `CepnbError` as `load_dataset` does, and on actions outside [-1, 1]: environments take no
    others, but some of Minari's datasets have other units.
    """
    dataset = load_dataset(name, transitions, data_seed, published_limit(environment))
    largest = dataset.actions.abs().max().item()
    if largest > 1 + OVERSHOOT:
        raise CepnbError(
            f"dataset '{name}': actions reach {largest:g}, "
            f"but '{environment}' takes [-1, 1]; rescale them"
        )
    return dataset
