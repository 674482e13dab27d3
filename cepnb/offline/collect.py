"""Offline data made here by D4RL's recipes, in files that say so and that are whole or absent."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy import ndarray as Array

from cepnb import __version__
from cepnb.errors import CepnbError
from cepnb.files import HDF5_DAMAGE, atomic_path, cache_dir
from cepnb.offline.agents import QUALITIES, SHIPPED, collect_locomotion, shipped_agents
from cepnb.offline.maze import LAYOUTS
from cepnb.offline.waypoint import NOISE, collect_maze

ORIGIN = "made locally by cepnb after D4RL's {} recipe; this is not the published D4RL file"
MAZES = tuple(f"local/maze2d-{maze}{noise}" for maze in LAYOUTS for noise in ("", "-noisy"))
BODIES = tuple(f"local/{task}-{quality}" for task in SHIPPED for quality in QUALITIES)
NAMES = MAZES + BODIES


def local_dataset(name: str, transitions: int, seed: int, progress: bool = True) -> Path:
    """Path of a local dataset such as `local/maze2d-large-noisy` or `local/halfcheetah-medium`, made if it is not there.

    The file lies in the cache folder under a name that holds size and seed, and carries recipe, versions and a
    checksum. A file whose arrays do not match its checksum is refused with `CepnbError`, not used and not replaced.
    """
    if name not in NAMES:
        raise CepnbError(f"dataset '{name}': expected one of {', '.join(NAMES)}, or the path of a file")
    path = cache_dir() / "local" / f"{name.removeprefix('local/')}-{transitions}-seed{seed}.hdf5"
    if not path.exists():
        arrays, about = _made(name, transitions, seed, progress)
        write_dataset(path, arrays, about | {"name": name, "seed": seed, "mujoco": version("mujoco"),
                                             "numpy": np.__version__, "cepnb": __version__})
    verify(path)
    return path


def _made(name: str, transitions: int, seed: int, progress: bool) -> tuple[dict[str, Array], dict[str, object]]:
    """The arrays of a dataset, and what they were made by."""
    family, _, variant = name.removeprefix("local/").partition("-")
    if family == "maze2d":
        maze, _, noisy = variant.partition("-")
        return collect_maze(maze, transitions, seed, bool(noisy), progress), {
            "origin": ORIGIN.format("maze2d"), "noise": NOISE if noisy else 0.0}
    return collect_locomotion(family, variant, transitions, seed, progress), {
        "origin": ORIGIN.format("locomotion"), "agents": json.dumps(shipped_agents(family).recipe)}


def write_dataset(path: Path, arrays: dict[str, Array], attributes: dict[str, object]) -> None:
    """Write arrays as a D4RL HDF5 file, atomically, with attributes and a SHA-256 over names and contents."""
    import h5py  # here, like all that is large and not always needed

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for key, value in arrays.items():
            file.create_dataset(key, data=value, compression="gzip", compression_opts=1)
        file.attrs.update(attributes | {"sha256": checksum(arrays)})


def verify(path: Path) -> None:
    """Raises `CepnbError` unless the arrays in the file have the checksum that the file carries."""
    import h5py

    names: list[str] = []
    try:
        with h5py.File(path) as file:
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            whole = checksum({n: file[n][()] for n in names}) == file.attrs.get("sha256")
    except HDF5_DAMAGE as error:
        raise CepnbError(f"{path}: not a whole HDF5 file; delete it to have it made again") from error
    if not whole:
        raise CepnbError(f"{path}: its arrays do not match its checksum; delete it to have it made again")


def checksum(arrays: dict[str, Array]) -> str:
    """SHA-256 over the names, types, shapes and bytes of the arrays, in order of name."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        value = np.ascontiguousarray(arrays[key])
        digest.update(f"{key} {value.dtype.str} {value.shape} ".encode())
        digest.update(value)
    return digest.hexdigest()
