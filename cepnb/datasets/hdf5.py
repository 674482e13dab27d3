"""Read D4RL HDF5 files, local or published, as d4rl reads them, but vectorised."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Shaped
from numpy import ndarray as Array

from cepnb.datasets.dataset import (
    FLAGS,
    OfflineDataset,
    as_vector,
    check_shapes,
    check_values,
    dataset_of,
)
from cepnb.errors import CepnbError, in_a_line
from cepnb.storage.files import HDF5_DAMAGE, not_read

KEYS = ("observations", "actions", "rewards", "terminals")
CUTS = FLAGS[1:]  # names of the flags of cut episodes in a reader's own file


def load_hdf5(
    path: Path, name: str | None = None, episode_limit: int | None = None, own: bool = False
) -> OfflineDataset:
    """Load a D4RL HDF5 file; the transitions equal `d4rl.qlearning_dataset`, row for row.

    A row whose `timeouts` is set is dropped, because the next row starts another episode. Older
    files have no `timeouts`; their episodes end after `episode_limit` rows. A file that is `own`,
    neither D4RL's nor local data, is read by what it states instead: each of its timeouts completes
    an episode, and terminal rows are kept, also with a timeout or at the end of the file. Its
    `next_observations` are checked, and give s' where an episode is cut. Raises `CepnbError` with
    file and key if an array is missing, damaged, of unequal length or not finite, and if
    `next_observations` are not the next rows.
    """
    arrays = _read(path, own)
    check_shapes(str(path), arrays)
    stated = arrays.pop("next_observations", None)  # not all of them are used
    check_values(str(path), arrays)
    rows, terminals = len(arrays["rewards"]), arrays["terminals"].astype(bool)
    if rows < 2:
        raise CepnbError(f"{path}: has {rows} rows; store at least 2")
    if cuts := [key for key in CUTS if key in arrays]:
        dropped = timed_out = arrays[cuts[0]].astype(bool)
    elif episode_limit is None:
        remedy = "add it or name an environment with a time limit (--environment)"
        raise CepnbError(f"{path}: 'timeouts' is missing; {remedy}")
    else:
        dropped, timed_out = _counted_timeouts(terminals, episode_limit)
    usable = ~dropped
    usable[-1] = False
    if own:
        usable |= terminals  # whatever their s' is
    cut = np.zeros_like(dropped)  # rows whose s' is the stated one
    if stated is not None:
        follows = _follows(stated, arrays["observations"])
        cut = ~follows & timed_out | dropped
        cut &= ~terminals
        _check_order(path, follows[usable & ~terminals & ~cut])
        cut &= ~follows & np.isfinite(stated).all(axis=1)
        usable |= cut
    kept = np.flatnonzero(usable)
    if not len(kept):
        raise CepnbError(f"{path}: no transition is left; store episodes of at least two rows")
    columns = {key: arrays[key][kept] for key in KEYS}
    after = arrays["observations"][(kept + 1) % rows].astype(np.float32, copy=False)
    if cut.any():
        after[cut[kept]] = stated[cut]
    columns["next_observations"] = after
    every, left = arrays["rewards"], columns["rewards"]
    if own and (every != every[0]).any() and (left == left[0]).all():
        problem = "rewards differ only in the last rows of episodes, which have no next state"
        raise CepnbError(f"{path}: {problem}; store 'next_observations'")
    shortest = None if own else episode_limit
    returns = _episode_returns(arrays["rewards"], terminals, timed_out, shortest)
    return dataset_of(name or str(path), columns | {"episode_returns": returns})


def recorded_name(path: Path) -> str:
    """Return the dataset's name that a local file states in its attributes, else ""."""
    import h5py

    with h5py.File(path) as file:
        return str(file.attrs.get("name", ""))


def _follows(
    stated: Shaped[Array, "n ds"], observations: Shaped[Array, "n ds"]
) -> Bool[Array, "n"]:
    """Compare stated next states with the next rows, up to rounding of the coarser type."""
    kinds = (np.result_type(kind, np.float16) for kind in (stated, observations, np.float32))
    eps = max(float(np.finfo(kind).eps) for kind in kinds)
    rounding = 1e-3 * np.std(observations, axis=0, dtype=np.float64) + 1e-6
    rounding += eps * np.abs(observations).max(axis=0)
    difference = np.subtract(stated, np.roll(observations, -1, axis=0), dtype=np.float64)
    return (np.abs(difference) <= rounding).all(axis=1)


def _check_order(path: Path, follows: Bool[Array, "n"]) -> None:
    """Raise `CepnbError` if next states inside of episodes are not the next rows."""
    if wrong := int((~follows).sum()):
        problem = f"'next_observations' is not the next row in {wrong} of {len(follows)} rows"
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


def _read(path: Path, own: bool) -> dict[str, Array]:
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
            keys = (*KEYS, *CUTS, "next_observations") if own else (*KEYS, "timeouts")
            arrays = {key: array(file[key]) for key in keys if key in file}
            vectors = [key for key in file if own and key not in arrays and _is_vector(file, key)]
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
        if key == "rewards" or key in FLAGS:
            arrays[key] = as_vector(value)  # some published files store columns
    if vectors and not arrays.keys() & set(CUTS):
        problem = f"'timeouts' is missing, and '{vectors[0]}' is not read"
        raise CepnbError(f"{path}: {problem}; store 'timeouts', 1 where an episode is cut")
    return arrays


def _is_vector(file: "h5py.File", key: str) -> bool:
    """Return whether an array could tell where episodes end, as 'dones' and 'steps' do."""
    item = file.get(key)
    shape = getattr(item, "shape", None) or (0,)
    return shape[0] > 1 and all(n == 1 for n in shape[1:]) and item.dtype.kind in "biuf"


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
