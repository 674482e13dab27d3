"""Datasets by name: made here, published by D4RL, from Minari, or a file of one's own."""

import re
from pathlib import Path

from cepnb.datasets.d4rl import published_file
from cepnb.datasets.dataset import OfflineDataset
from cepnb.datasets.hdf5 import load_hdf5
from cepnb.datasets.local import BODIES, local_dataset
from cepnb.datasets.minari import load_minari
from cepnb.envs.d4rl_package import episode_limit as published_limit
from cepnb.envs.registry import family_of
from cepnb.errors import CepnbError

# Of actions beyond 1: rounding or a little noise. D4RL's, of bounded policies, have none; another unit has far more.
OVERSHOOT = 0.01


def load_dataset(
    name: str, transitions: int, seed: int, episode_limit: int | None = None
) -> OfflineDataset:
    """A dataset by one of its doors.

    - `local/maze2d-umaze`: made here at first use, `transitions` rows with this seed;
    - `d4rl/hopper-medium-v2`: the published file, downloaded at first use;
    - `minari/mujoco/hopper/medium-v0`: a Minari dataset, likewise;
    - anything else, and an existing file whose name ends in .hdf5, is the path of a D4RL HDF5 file, whose episodes end
      after `episode_limit` rows if it has no timeouts.

    In maze2d, d4rl's and local alike, the reward of a row is that of its own state s_t, as D4RL relabelled them; the
    environment gives that of s_{t+1}. Raises `CepnbError` naming what is wrong with the name or the file.
    """
    door, _, rest = name.partition("/")
    if Path(name).suffix == ".hdf5" and Path(name).is_file():
        return load_hdf5(Path(name), name, episode_limit)
    if door == "local":
        # Of the bodies' files the last row of each agent is marked as a timeout, where it may be the collection that ends.
        return load_hdf5(
            local_dataset(name, transitions, seed),
            name,
            published_limit(environment_of(name)) if name in BODIES else None,
        )
    if door == "d4rl":
        return load_hdf5(
            published_file(rest),
            name,
            published_limit(rest),
            "; delete it to have it downloaded again",
        )
    if door == "minari":
        return load_minari(rest)
    if not name or not Path(name).exists():
        found = "not found" if name else "an empty name"
        raise CepnbError(
            f"dataset '{name}': {found}, expected a name that begins with local/, d4rl/ or minari/, or the path of "
            "an existing HDF5 file"
        )
    return load_hdf5(Path(name), name, episode_limit)


def environment_of(name: str) -> str | None:
    """The environment that the name of a local or published dataset speaks of: maze2d-umaze, hopper, antmaze-large-play; None if none.

    Minari's datasets are of gymnasium's newer environments, whose rewards differ from D4RL's: none is guessed for them.
    """
    match = re.fullmatch(
        r"(?:local|d4rl)/(maze2d-[a-z]+|antmaze-[a-z-]+|[a-z0-9]+)(-[a-z-]+)?(-v\d+)?", name
    )
    return match and match[1]


def evaluated_in(name: str, environment: str | None = None) -> str:
    """The environment in which policies learned from a dataset are evaluated: the given one, else the one its name speaks of.

    Raises `CepnbError` if neither says it, on one that is not to be had, and on the name of a dataset of dense rewards, since policies
    are scored by sparse ones here.
    """
    if environment is None and re.match(r"(local|d4rl)/maze2d-[a-z]+-dense", name):
        raise CepnbError(
            f"dataset '{name}': of dense rewards, expected an environment with it, in which rewards are sparse"
        )
    environment = environment or environment_of(name)
    if environment is None:
        raise CepnbError(
            f"dataset '{name}': the name does not say where to evaluate, expected an environment with it"
        )
    family_of(environment)
    return environment


def load_task(name: str, environment: str, transitions: int, data_seed: int) -> OfflineDataset:
    """The dataset of a run: of `transitions` rows if it is made here.

    Raises `CepnbError` as `load_dataset`, and if actions leave [-1, 1], which is all that the environments take: of another
    unit, say, as those of some of Minari's datasets.
    """
    dataset = load_dataset(name, transitions, data_seed, published_limit(environment))
    largest = dataset.actions.abs().max().item()
    if largest > 1 + OVERSHOOT:
        raise CepnbError(
            f"dataset '{name}': has actions of size {largest:g}, expected them in [-1, 1], as "
            f"'{environment}' takes them"
        )
    return dataset
