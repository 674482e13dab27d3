"""Offline data made here by D4RL's recipes, in files that say so and that are whole or absent."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy import ndarray as Array

from cepnb import __version__
from cepnb.datasets.agents import (
    QUALITIES,
    SHIPPED,
    collect_locomotion,
    shipped_agents,
    shipped_digest,
)
from cepnb.datasets.waypoint import NOISE, collect_maze
from cepnb.envs.maze import LAYOUTS
from cepnb.errors import CepnbError
from cepnb.storage.files import HDF5_DAMAGE, atomic_path, cache_dir

ORIGIN = "made locally by cepnb after D4RL's {} recipe; this is not the published D4RL file"
MAZES = tuple(f"local/maze2d-{maze}{noise}" for maze in LAYOUTS for noise in ("", "-noisy"))
BODIES = tuple(f"local/{task}-{quality}" for task in SHIPPED for quality in QUALITIES)
NAMES = MAZES + BODIES
# Of the code that makes them: the waypoint controller, the rollouts. To be raised whenever the same layout or agents, size
# and seed give other arrays, so that no file of before is used. Files of the first may not say it.
RECIPES = {"maze2d": 1, "locomotion": 1}


def local_dataset(name: str, transitions: int, seed: int, progress: bool = True) -> Path:
    """Path of a local dataset such as `local/maze2d-large-noisy` or `local/halfcheetah-medium`, made if it is not there.

    The file lies in the cache folder under a name that holds size and seed, and carries recipe, versions and a
    checksum. A file of another recipe than the present one, where it says so, is made anew, the old one staying until the
    new one is whole. Raises `CepnbError` on an unknown name, on fewer than two rows, and on a file whose arrays do not match
    its checksum, which is neither used nor replaced.
    """
    if name not in NAMES:
        raise CepnbError(
            f"dataset '{name}': expected one of {', '.join(NAMES)}, or the path of a file"
        )
    path = cache_dir() / "local" / f"{name.removeprefix('local/')}-{transitions}-seed{seed}.hdf5"
    recipe = _recipe(name)
    if not path.exists() or not _same(verify(path), recipe):
        write_dataset(
            path,
            _made(name, transitions, seed, progress),
            recipe
            | {
                "origin": ORIGIN.format("maze2d" if name in MAZES else "locomotion"),
                "name": name,
                "seed": seed,
                "mujoco": version("mujoco"),
                "numpy": np.__version__,
                "cepnb": __version__,
            },
        )
        verify(path)
    return path


def _made(name: str, transitions: int, seed: int, progress: bool) -> dict[str, Array]:
    family, variant, noisy = _parts(name)
    if family == "maze2d":
        return collect_maze(variant, transitions, seed, noisy, progress)
    return collect_locomotion(family, variant, transitions, seed, progress)


def _recipe(name: str) -> dict[str, object]:
    """What a dataset is made by, beside its size and seed, as its file carries it."""
    family, variant, noisy = _parts(name)
    if family == "maze2d":
        maze = LAYOUTS[variant]
        return {
            "recipe": RECIPES["maze2d"],
            "noise": NOISE if noisy else 0.0,
            "layout": "/".join(maze.rows),
            "steps": maze.max_steps,
        }
    return {
        "recipe": RECIPES["locomotion"],
        "agents": json.dumps(shipped_agents(family).recipe),
        "agents_sha256": shipped_digest(family),
    }


def _parts(name: str) -> tuple[str, str, bool]:
    """Family, maze or quality, and whether noisy: of local/maze2d-umaze-noisy, ("maze2d", "umaze", True)."""
    family, _, variant = name.removeprefix("local/").partition("-")
    return family, variant.removesuffix("-noisy"), variant.endswith("-noisy")


def _same(stored: dict[str, object], recipe: dict[str, object]) -> bool:
    """Whether a file is of a recipe, as far as it tells: files of before all of it was recorded lack parts."""
    return all(
        stored.get(key, 1 if key == "recipe" else value) == value for key, value in recipe.items()
    )


def write_dataset(path: Path, arrays: dict[str, Array], attributes: dict[str, object]) -> None:
    """Write arrays as a D4RL HDF5 file, atomically, with attributes and a SHA-256 over names and contents."""
    import h5py  # here, like all that is large and not always needed

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for key, value in arrays.items():
            file.create_dataset(key, data=value, compression="gzip", compression_opts=1)
        file.attrs.update(attributes | {"sha256": checksum(arrays)})


def verify(path: Path) -> dict[str, object]:
    """The file's attributes. Raises `CepnbError` unless its arrays have the checksum that it carries."""
    import h5py

    names: list[str] = []
    try:
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
            )
            attributes = dict(file.attrs)
            whole = checksum({n: file[n][()] for n in names}) == attributes.get("sha256")
    except HDF5_DAMAGE as error:
        raise CepnbError(
            f"{path}: not a whole HDF5 file; delete it to have it made again"
        ) from error
    if not whole:
        raise CepnbError(
            f"{path}: its arrays do not match its checksum; delete it to have it made again"
        )
    return attributes


def checksum(arrays: dict[str, Array]) -> str:
    """SHA-256 over the names, types, shapes and bytes of the arrays, in order of name."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        value = np.ascontiguousarray(arrays[key])
        digest.update(f"{key} {value.dtype.str} {value.shape} ".encode())
        digest.update(value)
    return digest.hexdigest()
