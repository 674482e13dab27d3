"""Datasets by name: the name's prefix selects the source. Add a source in `load_dataset`.

The names need neither torch nor numpy, so that commands refuse a wrong one at once.
"""

import re
from pathlib import Path

from cepnb.envs.registry import ANTMAZES, MAZES, TASKS, family_of
from cepnb.errors import CepnbError

QUALITIES = ("medium", "medium-replay", "medium-expert", "expert")  # of local locomotion data
LOCAL = (
    *(f"local/maze2d-{maze}{noise}" for maze in MAZES for noise in ("", "-noisy")),
    *(f"local/{task}-{quality}" for task in TASKS for quality in QUALITIES),
    *(f"local/{maze}" for maze in ANTMAZES),
)
MINARI = r"([-\w]+/)*[-\w]+-v\d+"  # with a version; a name without one is a folder of datasets


def load_dataset(
    name: str, transitions: int, seed: int, episode_limit: int | None = None
) -> "cepnb.datasets.dataset.OfflineDataset":
    """Load a dataset by name; the prefix selects the source.

    - `local/maze2d-umaze`: made here at first use, `transitions` rows with `seed`
    - `d4rl/hopper-medium-v2`: D4RL's published file, downloaded at first use
    - `minari/mujoco/hopper/medium-v0`: a Minari dataset, downloaded at first use
    - the path of a D4RL HDF5 file; without timeouts its episodes end after `episode_limit` rows

    In D4RL's and local maze2d data, the reward of a row is that of its state s_t, whereas the
    environment rewards s_{t+1}. Raises `CepnbError` on an unknown name or a bad file.
    """
    from cepnb.datasets.d4rl import published_file
    from cepnb.datasets.hdf5 import load_hdf5
    from cepnb.datasets.local import local_dataset
    from cepnb.datasets.minari import load_minari
    from cepnb.envs.d4rl_package import episode_limit as published_limit

    check_dataset(name)
    rest = name.partition("/")[2]
    match source_of(name):
        case "minari":
            return load_minari(rest)
        case "d4rl":
            return load_hdf5(published_file(rest), name, published_limit(rest))
        case "local":
            # Episodes of a local maze end at each goal; a locomotion file may cut its last episode.
            limit = None if rest.startswith("maze2d") else published_limit(rest)
            return load_hdf5(local_dataset(name, transitions, seed), name, limit)
    return load_hdf5(Path(name), name, episode_limit, own=True)


def source_of(name: str) -> str:
    """Return "local", "d4rl", "minari" or "file"; raises `CepnbError` if there is no such file."""
    path, source = Path(name), name.partition("/")[0]
    if path.suffix == ".hdf5" and path.is_file():  # also in a folder named like a source
        return "file"
    if source in ("local", "d4rl", "minari"):
        return source
    if not name or not path.exists():
        problem = f"dataset '{name}': not found" if name else "dataset name is empty"
        raise CepnbError(f"{problem}; use local/…, d4rl/…, minari/… or the path of an HDF5 file")
    return "file"


def check_dataset(name: str) -> None:
    """Raise `CepnbError` on a name that its source does not have; Minari's server is not asked."""
    rest = name.partition("/")[2]
    match source_of(name):
        case "local":
            check_local(name)
        case "d4rl":
            from cepnb.datasets.d4rl import published_url

            published_url(rest)
        case "minari" if not re.fullmatch(MINARI, rest):
            fix = "use a name such as minari/mujoco/hopper/medium-v0"
            raise CepnbError(f"dataset '{name}': the name has no version; {fix}")


def check_local(name: str) -> None:
    """Raise `CepnbError` unless `name` is a local dataset."""
    if name not in LOCAL:
        raise CepnbError(f"dataset '{name}': use one of {', '.join(LOCAL)}")


def check_used(name: str, changes: dict[str, object]) -> None:
    """Raise `CepnbError` if `changes` set how local data is made, but the dataset is not local."""
    for setting in ("transitions", "data_seed"):
        if setting in changes and source_of(name) != "local":
            problem = f"dataset '{name}' does not use it"
            raise CepnbError(f"{setting} {changes[setting]}: {problem}; remove the setting")


def environment_of(name: str) -> str | None:
    """Return the environment in the name of a local or D4RL dataset, such as hopper; else None.

    Minari's datasets belong to gymnasium's newer environments with other rewards: None for them.
    """
    environment = r"(maze2d-[a-z]+|antmaze-[a-z-]+|[a-z0-9]+)"
    match = re.fullmatch(rf"(?:local|d4rl)/{environment}(-[a-z-]+)?(-v\d+)?", name)
    return match and match[1]


def evaluated_in(name: str, environment: str | None = None) -> str:
    """Return the environment that scores a dataset's policies: `environment`, else the name's.

    Raises `CepnbError` on an unknown environment. If `environment` is None, also on a dataset that
    does not exist, on a name without environment, and on dense rewards: the environments here have
    sparse rewards.
    """
    if environment is None and re.match(r"(local|d4rl)/maze2d-[a-z]+-dense", name):
        problem = "rewards are dense, but environments have sparse rewards"
        raise CepnbError(f"dataset '{name}': {problem}; name an environment to evaluate in")
    if environment is None and source_of(name) == "local":
        check_local(name)
    environment = environment or environment_of(name)
    if environment is None:
        raise CepnbError(f"dataset '{name}': the name gives no environment; add --environment")
    family_of(environment)
    return environment


def load_task(
    name: str, environment: str | None, transitions: int, data_seed: int
) -> "cepnb.datasets.dataset.OfflineDataset":
    """Load the dataset of a run; a local one has `transitions` rows made with `data_seed`.

    Raises `CepnbError` as `load_dataset` does, on actions outside the environments' [-1, 1], as in
    some of Minari's datasets, on observations with other coordinates than the environment's, and on
    a copy of local data made in another environment.
    """
    from cepnb.datasets.coordinates import check_coordinates
    from cepnb.datasets.dataset import check_actions
    from cepnb.datasets.hdf5 import recorded_name
    from cepnb.envs.d4rl_package import episode_limit as published_limit

    dataset = load_dataset(
        name, transitions, data_seed, environment and published_limit(environment)
    )
    check_actions(dataset)
    stated = recorded_name(Path(name)) if source_of(name) == "file" else ""
    if environment and environment_of(stated) not in (None, environment):
        made_in = environment_of(stated)
        problem = f"was made in {made_in}, not {environment}"
        raise CepnbError(f"dataset '{name}': {problem}; use --environment {made_in}")
    if environment is not None:
        check_coordinates(dataset, environment)
    return dataset
