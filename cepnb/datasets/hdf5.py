"""Read D4RL HDF5 files, local or published, as d4rl reads them, but vectorised."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Shaped
from numpy import ndarray as Array

from cepnb.datasets.dataset import OfflineDataset, as_vector, check_arrays, dataset_of
from cepnb.errors import CepnbError, in_a_line
from cepnb.storage.files import HDF5_DAMAGE, not_read

KEYS = ("observations", "actions", "rewards", "terminals")


def load_hdf5(
    path: Path, name: str | None = None, episode_limit: int | None = None, own: bool = False
) -> OfflineDataset:
    """Load a D4RL HDF5 file; the transitions equal `d4rl.qlearning_dataset`, row for row.

    A row whose `timeouts` is set is dropped, because the next row starts another episode. Older
    files have no `timeouts`; their episodes end after `episode_limit` rows. A file that is `own`,
    neither D4RL's nor local data, is read by what it states instead: each of its timeouts completes
    an episode, a terminal row is kept even with a timeout, and its `next_observations` are checked.
    Raises `CepnbError` with file and key if an array is missing, damaged, of unequal length or not
    finite, and if `next_observations` are not the next rows.
    """
    arrays = _read(path, (*KEYS, "timeouts", *(["next_observations"] if own else [])), own)
    check_arrays(str(path), arrays)
    rows, terminals = len(arrays["rewards"]), arrays["terminals"].astype(bool)
    if rows < 2:
        raise CepnbError(f"{path}: has {rows} rows; store at least 2")
    if "timeouts" in arrays:
        timed_out = arrays["timeouts"].astype(bool)
        dropped = timed_out & ~terminals if own else timed_out
    elif episode_limit is None:
        remedy = "add it or name an environment with a time limit (--environment)"
        raise CepnbError(f"{path}: 'timeouts' is missing; {remedy}")
    else:
        dropped, timed_out = _counted_timeouts(terminals, episode_limit)
    kept = np.flatnonzero(~dropped[:-1])
    if not len(kept):
        raise CepnbError(f"{path}: no transition is left; store episodes of at least two rows")
    columns = {key: arrays[key][kept] for key in KEYS}
    columns["next_observations"] = arrays["observations"][kept + 1]
    if "next_observations" in arrays:
        stated = arrays["next_observations"][kept][~terminals[kept]]
        _check_order(path, stated, columns["next_observations"][~terminals[kept]])
    shortest = None if own else episode_limit
    returns = _episode_returns(arrays["rewards"], terminals, timed_out, shortest)
    return dataset_of(name or str(path), columns | {"episode_returns": returns})


def recorded_name(path: Path) -> str:
    """Return the dataset's name that a local file states in its attributes, else ""."""
    import h5py

    with h5py.File(path) as file:
        return str(file.attrs.get("name", ""))


def _check_order(path: Path, stated: Shaped[Array, "n ds"], found: Shaped[Array, "n ds"]) -> None:
    """Raise `CepnbError` if stated next states differ from the next rows by more than rounding."""
    rounding = 1e-3 * np.std(found, axis=0) + 1e-6
    wrong = int((np.abs(stated - found) > rounding).any(axis=1).sum())
    if wrong:
        problem = f"'next_observations' is not the next row in {wrong} of {len(found)} rows"
        remedy = "store rows in order of time and set 'timeouts' where an episode is cut"
        raise CepnbError(f"{path}: {problem}; {remedy}")


def _episode_returns(
    rewards: Shaped[Array, "n"],
    terminals: Bool[Array, "n"],
    timed_out: Bool[Array, "n"],
    limit: int | None,
) -> Float[Array, "episodes"]:
    """Sum the rewards of complete episodes, or of all pieces if none is complete.

    A complete episode ends by a terminal, or by time after at least `limit` − 1 rows. Pieces that
    the end of the file or an earlier timeout cuts are incomplete.
    """
    last = np.flatnonzero(np.append((terminals | timed_out)[:-1], True))
    first = np.concatenate([[0], last[:-1] + 1])
    returns = np.add.reduceat(rewards.astype(np.float32).astype(np.float64), first)
    lengths = last - first + 1
    complete = terminals[last] | (timed_out[last] & (lengths >= (limit or 1) - 1))
    return returns[complete] if complete.any() else returns


def _read(path: Path, keys: tuple[str, ...], own: bool) -> dict[str, Array]:
    """Read arrays of a file, columns as vectors where d4rl expects vectors."""
    import h5py

    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "no such file"
        raise CepnbError(f"{path}: {problem}; give the path of a D4RL HDF5 file")

    def array(item: object) -> Array | None:  # h5py reads a single text as no array
        stored = isinstance(item, h5py.Dataset) and item.shape is not None
        return np.asarray(item[()]) if stored else None

    try:
        with h5py.File(path) as file:
            arrays = {key: array(file[key]) for key in keys if key in file}
    except HDF5_DAMAGE as error:
        problem = f"not a whole HDF5 file ({in_a_line(error)})"
        remedy = f"{'restore' if own else 'delete it, then download'} or export it again"
        if "signature not found" in str(error):
            remedy = "give an HDF5 file"
        damage = CepnbError(f"{path}: {problem}; {remedy}")
        raise not_read(path, error) or damage from error
    for key in KEYS:
        if key not in arrays:
            raise CepnbError(f"{path}: '{key}' is missing; store {', '.join(KEYS)}")
    for key, value in arrays.items():
        if value is None:
            raise CepnbError(f"{path}: '{key}' is not an array; store numbers")
        if key in ("rewards", "terminals", "timeouts"):
            arrays[key] = as_vector(value)  # some published files store columns
    return arrays


def _counted_timeouts(
    terminals: Bool[Array, "n"], limit: int
) -> tuple[Bool[Array, "n"], Bool[Array, "n"]]:
    """Return the rows that d4rl drops as timeouts, and the rows that end an episode by time.

    An episode ends by time after `limit` rows. d4rl drops the row where its step counter reaches
    `limit` − 1; the counter restarts at 0 after a timeout, but at 1 after a terminal.
    """
    if limit < 2:
        raise CepnbError(f"episode limit {limit}: use at least 2 steps")
    dropped, timed_out = np.zeros_like(terminals), np.zeros_like(terminals)
    start, counter = 0, 0
    for end in np.append(np.flatnonzero(terminals[:-1]), len(terminals) - 1).tolist():
        dropped[start + limit - 1 - counter : end + 1 : limit] = True
        timed_out[start + limit - 1 : end + 1 : limit] = True
        start, counter = end + 1, 0 if dropped[end] else 1
    return dropped, timed_out
