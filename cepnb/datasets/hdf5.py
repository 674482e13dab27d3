"""D4RL HDF5 files, local or published, read as d4rl reads them, but vectorised."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from numpy import ndarray as Array

from cepnb.datasets.dataset import OfflineDataset
from cepnb.errors import CepnbError, in_a_line
from cepnb.storage.files import HDF5_DAMAGE

KEYS = ("observations", "actions", "rewards", "terminals")


def load_hdf5(
    path: Path, name: str | None = None, episode_limit: int | None = None, remedy: str = ""
) -> OfflineDataset:
    """Read a D4RL HDF5 file; the transitions equal `d4rl.qlearning_dataset` on it, row for row.

    A row whose `timeouts` is set is dropped: the next row begins another episode. Older files have no `timeouts`; an
    episode then ends after `episode_limit` rows, counted as d4rl counts them. Returns are those of whole episodes, which end by
    a terminal or by time: what the end of a collection has cut, without a flag or before `episode_limit` if that is given, counts
    for nothing unless there is nothing else. Raises `CepnbError` naming file, key and fault on anything missing, damaged, of
    unequal length or not finite; of a damaged file it says `remedy`, too.
    """
    arrays = _read(path, remedy)
    observations, actions, rewards = (
        arrays[key].astype(np.float32, copy=False) for key in KEYS[:3]
    )
    terminals = arrays["terminals"].astype(bool)
    if "timeouts" in arrays:
        timeouts = arrays["timeouts"].astype(bool)
    elif episode_limit is not None:
        timeouts = _counted_timeouts(terminals, episode_limit)
    else:
        raise CepnbError(f"{path}: has no 'timeouts', expected them or a limit of steps an episode")
    kept = ~timeouts[:-1]
    if not kept.any():
        raise CepnbError(f"{path}: no transition is left, expected two rows of one episode")
    columns = (
        observations[:-1][kept],
        actions[:-1][kept],
        rewards[:-1][kept],
        observations[1:][kept],
        terminals[:-1][kept],
    )
    returns = _episode_returns(rewards, terminals, arrays.get("timeouts"), episode_limit)
    return OfflineDataset(
        name or str(path),
        *(torch.from_numpy(np.ascontiguousarray(c)) for c in columns),
        torch.from_numpy(returns.astype(np.float32)),
    )


def _episode_returns(
    rewards: Float[Array, "n"],
    terminals: Bool[Array, "n"],
    timeouts: Shaped[Array, "n"] | None,
    limit: int | None,
) -> Float[Array, "episodes"]:
    """Of whole episodes, every row counted; of all pieces if none is whole. An end by time may be a row short of the limit."""
    if timeouts is None:
        rows, begun = np.arange(len(rewards)), np.concatenate([[True], terminals[:-1]])
        timed = (rows - np.maximum.accumulate(np.where(begun, rows, 0))) % limit == limit - 1
    else:
        timed = timeouts.astype(bool)
    last = np.nonzero(terminals | timed)[0]
    if not len(last) or last[-1] != len(rewards) - 1:
        last = np.append(last, len(rewards) - 1)
    starts = np.concatenate([[0], last[:-1] + 1])
    returns, lengths = np.add.reduceat(rewards.astype(np.float64), starts), last - starts + 1
    whole = terminals[last] | (timed[last] & (lengths >= (limit or 1) - 1))
    return returns[whole] if whole.any() else returns


def _read(path: Path, remedy: str) -> dict[str, Array]:
    if not path.is_file():
        raise CepnbError(
            f"{path}: {'is a folder' if path.is_dir() else 'no such file'}, expected a D4RL HDF5 file"
        )
    import h5py  # here, so that all who may read a file import this quickly

    try:
        with h5py.File(path) as file:
            missing = [key for key in KEYS if key not in file]
            if missing:
                raise CepnbError(f"{path}: '{missing[0]}' is missing, expected {', '.join(KEYS)}")
            arrays = {}
            for key in (*KEYS, "timeouts"):
                if key in file:
                    if not isinstance(file[key], h5py.Dataset) or file[key].shape is None:
                        raise CepnbError(f"{path}: '{key}' is no array, expected numbers")
                    arrays[key] = np.asarray(
                        file[key][()]
                    )  # of one text or reference it is no array
    except CepnbError:
        raise
    except HDF5_DAMAGE as error:
        raise CepnbError(f"{path}: not a whole HDF5 file ({in_a_line(error)}){remedy}") from error
    for key in ("rewards", "terminals", "timeouts"):
        if key in arrays and arrays[key].ndim == 2 and arrays[key].shape[1] == 1:
            arrays[key] = arrays[key][:, 0]  # some published files store columns
    rows = len(arrays["observations"]) if arrays["observations"].ndim else 0
    for key, value in arrays.items():
        axes = 2 if key in ("observations", "actions") else 1
        if value.ndim != axes:
            raise CepnbError(f"{path}: '{key}' has {value.ndim} axes, expected {axes}")
        if len(value) != rows:
            raise CepnbError(f"{path}: '{key}' has {len(value)} rows, 'observations' {rows}")
        if not all(value.shape[1:]):
            raise CepnbError(f"{path}: '{key}' has no columns, expected at least one")
        if value.dtype.kind not in "biuf":
            raise CepnbError(f"{path}: '{key}' is of type {value.dtype}, expected numbers")
        with np.errstate(over="ignore"):
            finite = np.isfinite(value.astype(np.float32, copy=False)).all()
        if not finite:
            raise CepnbError(
                f"{path}: '{key}' has values that are not finite, expected finite numbers"
            )
    if rows < 2:
        raise CepnbError(f"{path}: has {rows} rows, expected at least 2")
    return arrays


def _counted_timeouts(terminals: Bool[Array, "n"], limit: int) -> Bool[Array, "n"]:
    """Where d4rl's counter stands at limit − 1. It restarts at 0 behind a timeout, but at 1 behind a terminal."""
    if limit < 2:
        raise CepnbError(f"episode limit {limit}: expected at least 2 steps")
    timeouts, start, counter = np.zeros(len(terminals), dtype=bool), 0, 0
    for end in (
        *np.nonzero(terminals)[0].tolist(),
        len(terminals) - 1,
    ):  # one turn an episode, not a row
        if end < start:
            break
        timeouts[start + limit - 1 - counter : end + 1 : limit] = True
        start, counter = end + 1, 0 if timeouts[end] else 1
    return timeouts
