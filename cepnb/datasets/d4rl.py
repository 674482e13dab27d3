"""D4RL's published files: find one by name and download it."""

import difflib
import importlib.util
import runpy
import sys
from pathlib import Path

from cepnb.datasets.download import download
from cepnb.envs.d4rl_package import d4rl
from cepnb.errors import CepnbError
from cepnb.storage.files import HDF5_DAMAGE, cache_dir, not_read

EXAMPLES = ("maze2d-umaze-v1", "hopper-medium-v2", "antmaze-umaze-v2")


def dataset_urls() -> dict[str, str]:
    """Return d4rl's table of published files: dataset name → address.

    Runs the file that holds it, because the import of d4rl takes a second.
    """
    if "d4rl" in sys.modules:
        return dict(importlib.import_module("d4rl.infos").DATASET_URLS)
    (folder,) = importlib.util.find_spec("d4rl").submodule_search_locations
    return runpy.run_path(f"{folder}/infos.py")["DATASET_URLS"]


def published_url(name: str) -> str:
    """Return the address of a published dataset; raise `CepnbError` on an unknown name."""
    urls = dataset_urls()
    if name not in urls:
        close = ", ".join(difflib.get_close_matches(name, urls, n=3) or EXAMPLES)
        raise CepnbError(f"dataset 'd4rl/{name}': not in d4rl's table; use a name such as {close}")
    return urls[name]


def published_file(name: str) -> Path:
    """Return the file of a published dataset such as hopper-medium-v2, downloaded at first use.

    Searches d4rl's own folder (`$D4RL_DATASET_DIR`, else ~/.d4rl/datasets), then the cache folder,
    which receives downloads. d4rl publishes no checksums: a file counts as complete if it has the
    announced size and is complete HDF5. Raises `CepnbError` on an unknown name and as `download`.
    """
    url = published_url(name)
    d4rl()
    file_name = url.rpartition("/")[2]
    path = Path(importlib.import_module("d4rl.offline_env").DATASET_PATH) / file_name
    if not path.exists():
        path = cache_dir() / "d4rl" / file_name
    return download(url, path, is_whole_hdf5)


def is_whole_hdf5(path: Path) -> bool:
    """Return whether a file is HDF5 and has the length that its header states.

    Raises `CepnbError` if the file cannot be opened: it may be complete.
    """
    import h5py

    try:
        with h5py.File(path):
            return True
    except HDF5_DAMAGE as error:
        if refusal := not_read(path, error):
            raise refusal from error
        return False
