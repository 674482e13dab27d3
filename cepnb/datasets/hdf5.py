"""Read D4RL HDF5 files, local or published, as d4rl reads them, but vectorised."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from numpy import ndarray as Array

from cepnb.datasets.dataset import OfflineDataset, check_arrays
from cepnb.errors import CepnbError, in_a_line
from cepnb.storage.files import HDF5_DAMAGE

KEYS = ("observations", "actions", "rewards", "terminals")


def load_hdf5(
    path: Path, name: str | None = None, episode_limit: int | None = None, remedy: str = ""
) -> OfflineDataset:
    """Load a D4RL HDF5 file; the transitions equal `d4rl.qlearning_dataset`, row for row.

    A row whose `timeouts` is set is dropped, because the next row starts another episode. Older
    files have no `timeouts`; their episodes end after `episode_limit` rows, counted as d4rl does.
    `episode_returns` counts complete episodes, which end by a terminal or by time. Episodes cut by
    the end of the file, or by a timeout before `episode_limit`, count only if none is complete.
    Raises `CepnbError` naming file and key if something is missing, damaged, of unequal length or
    not finite. For a damaged file the message ends with `remedy`.
    """
    arrays = _read(path, remedy)
    check_arrays(str(path), arrays)
    rows = len(arrays["rewards"])
    if rows < 2:
        raise CepnbError(f"{path}: has {rows} rows; expected at least 2")
    observations, actions, rewards = (
        arrays[key].astype(np.float32, copy=False) for key in KEYS[:3]
    )
    terminals = arrays["terminals"].astype(bool)
    if "timeouts" in arrays:
        timeouts = arrays["timeouts"].astype(bool)
    elif episode_limit is not None:
        timeouts = _counted_timeouts(terminals, episode_limit)
    else:
        raise CepnbError(f"{path}: 'timeouts' is missing; add it or give a limit of steps")
    same_episode = ~timeouts[:-1]
    if not same_episode.any():
        raise CepnbError(f"{path}: no transition is left; an episode needs two rows")
    before = [column[:-1][same_episode] for column in (observations, actions, rewards)]
    columns = (*before, observations[1:][same_episode], terminals[:-1][same_episode])
    returns = _episode_returns(rewards, terminals, arrays.get("timeouts"), episode_limit)
    return OfflineDataset(
        name or str(path),
        *(torch.from_numpy(np.ascontiguousarray(column)) for column in columns),
        torch.from_numpy(returns.astype(np.float32)),
    )


def _episode_returns(
    rewards: Float[Array, "n"],
    terminals: Bool[Array, "n"],
    timeouts: Shaped[Array, "n"] | None,
    limit: int | None,
) -> Float[Array, "episodes"]:
    """Sum the rewards of complete episodes, or of all pieces if none is complete.

    An episode that ends by time may be one row shorter than the limit.
    """
    if timeouts is None:
        rows, is_start = np.arange(len(rewards)), np.concatenate([[True], terminals[:-1]])
        starts = np.maximum.accumulate(np.where(is_start, rows, 0))
        timed_out = (rows - starts) % limit == limit - 1
    else:
        timed_out = timeouts.astype(bool)
    last = np.nonzero(terminals | timed_out)[0]
    if not len(last) or last[-1] != len(rewards) - 1:
        last = np.append(last, len(rewards) - 1)
    first = np.concatenate([[0], last[:-1] + 1])
    returns, lengths = np.add.reduceat(rewards.astype(np.float64), first), last - first + 1
    complete = terminals[last] | (timed_out[last] & (lengths >= (limit or 1) - 1))
    return returns[complete] if complete.any() else returns


def _read(path: Path, remedy: str) -> dict[str, Array]:
    """Read the arrays of a file, columns as vectors where d4rl expects vectors."""
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "no such file"
        raise CepnbError(f"{path}: {problem}; give the path of a D4RL HDF5 file")
    import h5py

    arrays = {}
    try:
        with h5py.File(path) as file:
            for key in (*KEYS, "timeouts"):
                if key in file:
                    item = file[key]
                    if not isinstance(item, h5py.Dataset) or item.shape is None:
                        raise CepnbError(f"{path}: '{key}' is not an array; store numbers")
                    arrays[key] = np.asarray(item[()])  # h5py reads a single text as no array
                elif key in KEYS:
                    raise CepnbError(f"{path}: '{key}' is missing; expected {', '.join(KEYS)}")
    except CepnbError:
        raise
    except HDF5_DAMAGE as error:
        raise CepnbError(f"{path}: not a whole HDF5 file ({in_a_line(error)}){remedy}") from error
    for key in ("rewards", "terminals", "timeouts"):
        if key in arrays and arrays[key].ndim == 2 and arrays[key].shape[1] == 1:
            arrays[key] = arrays[key][:, 0]  # some published files store columns
    return arrays


def _counted_timeouts(terminals: Bool[Array, "n"], limit: int) -> Bool[Array, "n"]:
    """Mark the rows where d4rl's step counter reaches limit − 1.

    The counter restarts at 0 after a timeout, but at 1 after a terminal.
    """
    if limit < 2:
        raise CepnbError(f"episode limit {limit}: expected at least 2 steps")
    timeouts, start, counter = np.zeros(len(terminals), dtype=bool), 0, 0
    for end in np.append(np.nonzero(terminals)[0], len(terminals) - 1).tolist():
        if end < start:
            break
        timeouts[start + limit - 1 - counter : end + 1 : limit] = True
        start, counter = end + 1, 0 if timeouts[end] else 1
    return timeouts
