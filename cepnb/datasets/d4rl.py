"""D4RL's published files: the table of their addresses, and the download of one by name."""

import difflib
import importlib
from pathlib import Path

from cepnb.datasets.download import download
from cepnb.envs.d4rl_package import d4rl
from cepnb.errors import CepnbError
from cepnb.storage.files import HDF5_DAMAGE, cache_dir


def dataset_urls() -> dict[str, str]:
    """d4rl's table of published files: dataset name → address."""
    d4rl()
    return dict(importlib.import_module("d4rl.infos").DATASET_URLS)


def published_file(name: str, progress: bool = True) -> Path:
    """The file of a dataset in d4rl's table, such as hopper-medium-v2, downloaded if it is not there.

    A file in d4rl's own folder (`$D4RL_DATASET_DIR`, else ~/.d4rl/datasets) is used where it lies; a new one is kept in
    the cache folder. d4rl publishes no checksums: what arrives must have the announced size and be a whole HDF5 file.
    Raises `CepnbError` on a name that the table has not, if the file cannot be had, or if one is there that is not whole.
    """
    urls = dataset_urls()
    if name not in urls:
        near = difflib.get_close_matches(name, urls, n=3) or [
            "maze2d-umaze-v1",
            "hopper-medium-v2",
            "antmaze-umaze-v2",
        ]
        raise CepnbError(
            f"dataset 'd4rl/{name}': not in d4rl's table, expected a name such as {', '.join(near)}"
        )
    url = urls[name]
    file = url.rpartition("/")[2]
    own = Path(importlib.import_module("d4rl.offline_env").DATASET_PATH) / file
    return download(
        url, own if own.exists() else cache_dir() / "d4rl" / file, is_whole_hdf5, progress
    )


def is_whole_hdf5(path: Path) -> bool:
    """Whether a file is HDF5 and as long as it says itself."""
    import h5py

    try:
        with h5py.File(path):
            return True
    except HDF5_DAMAGE:
        return False
