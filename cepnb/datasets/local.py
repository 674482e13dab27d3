"""Local data: datasets made on this machine by D4RL's recipes, in files that state their recipe."""

import hashlib
import json
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy import ndarray as Array

from cepnb import __version__
from cepnb.datasets.agents import collect_locomotion, shipped_agents
from cepnb.datasets.ant import shipped_walker
from cepnb.datasets.antmaze import NOISE as ANT_NOISE
from cepnb.datasets.antmaze import collect_antmaze, facts
from cepnb.datasets.registry import check_local
from cepnb.datasets.waypoint import NOISE, collect_maze
from cepnb.envs.maze import LAYOUTS
from cepnb.errors import CepnbError
from cepnb.storage.files import HDF5_DAMAGE, atomic_path, cache_dir, check_writable, not_read

ORIGIN = "made locally by cepnb after D4RL's {} recipe; this is not the published D4RL file"
ROW_BYTES = 400  # more than a row takes in the file
# Versions of the collecting code; raise one when the same settings give other arrays.
RECIPES = {"maze2d": 1, "locomotion": 1, "antmaze": 1}


def local_dataset(name: str, transitions: int, seed: int) -> Path:
    """Return the path of a local dataset such as `local/maze2d-large-noisy`, made at first use.

    The file is in the cache folder and stores its recipe, versions and a checksum. A file with an
    outdated recipe is replaced once the new one is complete. Raises `CepnbError` on an unknown
    name, fewer than two rows, and a damaged file, which stays unchanged.
    """
    check_local(name)
    stem = name.removeprefix("local/")
    path = cache_dir() / "local" / f"{stem}-{transitions}-seed{seed}.hdf5"
    family, _, variant = stem.partition("-")
    if family == "maze2d":
        maze, noisy, kind = variant.removesuffix("-noisy"), variant.endswith("-noisy"), "maze2d"
        rows, steps = "/".join(LAYOUTS[maze].rows), LAYOUTS[maze].max_steps
        recipe = {"noise": NOISE if noisy else 0.0, "layout": rows, "steps": steps}
        collect = lambda: collect_maze(maze, transitions, seed, noisy)
    elif family == "antmaze":
        walker, kind = shipped_walker(), "antmaze"
        recipe = {"ant": json.dumps(walker.recipe), "ant_sha256": walker.sha256, "noise": ANT_NOISE}
        collect = lambda: collect_antmaze(stem, transitions, seed, parts)
    else:
        history, kind = shipped_agents(family), "locomotion"
        recipe = {"agents": json.dumps(history.recipe), "agents_sha256": history.sha256}
        collect = lambda: collect_locomotion(family, variant, transitions, seed)
    recipe["recipe"] = RECIPES[kind]
    if path.exists():
        # Early files lack some entries: their recipe is version 1, the others have today's values.
        stored = recipe | {"recipe": 1} | verify(path)
        if all(stored[key] == value for key, value in recipe.items()):
            return path
    check_writable(path, ROW_BYTES * transitions)
    about = {"origin": ORIGIN.format(kind), "name": name, "seed": seed}
    versions = {"mujoco": version("mujoco"), "numpy": np.__version__, "cepnb": __version__}
    made_by = hashlib.sha256(json.dumps(recipe | versions).encode()).hexdigest()[:8]
    parts = path.with_suffix(f".{made_by}.parts")  # finished episodes, to resume
    arrays = collect()
    found = facts(arrays) if kind == "antmaze" else {}
    write_dataset(path, arrays, recipe | about | versions | found)
    shutil.rmtree(parts, ignore_errors=True)
    verify(path)
    return path


def write_dataset(path: Path, arrays: dict[str, Array], attributes: dict[str, object]) -> None:
    """Write arrays as a D4RL HDF5 file, atomically, with attributes and the arrays' checksum."""
    import h5py

    with atomic_path(path) as temporary:
        # In memory first: when a disk is full, h5py cannot close a file and crashes at exit.
        with h5py.File(temporary, "w", driver="core", backing_store=False) as file:
            for key, value in arrays.items():
                file.create_dataset(key, data=value, compression="gzip", compression_opts=1)
            file.attrs.update(attributes | {"sha256": checksum(arrays)})
            file.flush()
            image = file.id.get_file_image()
        temporary.write_bytes(image)


def verify(path: Path) -> dict[str, object]:
    """Return a file's attributes; raises `CepnbError` if its arrays do not match its checksum."""
    import h5py

    arrays: dict[str, Array] = {}

    def read(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    try:
        with h5py.File(path) as file:
            file.visititems(read)
            attributes = dict(file.attrs)
            whole = checksum(arrays) == attributes.get("sha256")
    except HDF5_DAMAGE as error:
        damage = CepnbError(f"{path}: not a whole HDF5 file; delete it to make it again")
        raise not_read(path, error) or damage from error
    if not whole:
        raise CepnbError(f"{path}: arrays do not match the checksum; delete it to make it again")
    return attributes


def checksum(arrays: dict[str, Array]) -> str:
    """Return SHA-256 over names, types, shapes and bytes of arrays, in order of name."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        value = np.ascontiguousarray(arrays[key])
        digest.update(f"{key} {value.dtype.str} {value.shape} ".encode())
        digest.update(value)
    return digest.hexdigest()
