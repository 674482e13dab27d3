"""Offline transitions (s, a, r, s'): the one type that every source loads into."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array
from torch import Tensor

from cepnb.errors import CepnbError

COLUMNS = ("observations", "actions", "rewards", "next_observations", "terminals")


@dataclass(frozen=True)
class OfflineDataset:
    """Transitions whose next state s' is recorded, in the order of the source.

    Raises `CepnbError` on other shapes: rewards of shape (n, 1) would broadcast to (n, n).
    """

    name: str
    observations: Float[Tensor, "n ds"]
    actions: Float[Tensor, "n da"]
    rewards: Float[Tensor, "n"]
    next_observations: Float[Tensor, "n ds"]
    terminals: Bool[Tensor, "n"]  # no value follows a terminal; timeouts are not terminals
    episode_returns: Float[Tensor, "episodes"]  # undiscounted, over all rows of complete episodes
    has_goal: bool = False  # observations end with a desired goal, as in Minari's goal tasks

    def __post_init__(self) -> None:
        check_shapes(self.name, {key: getattr(self, key) for key in COLUMNS})


def dataset_of(name: str, columns: dict[str, Array], has_goal: bool = False) -> OfflineDataset:
    """Convert columns, named as the fields, to tensors: terminals to bool, others to float32."""
    kinds = {key: bool if key == "terminals" else np.float32 for key in columns}
    arrays = {key: column.astype(kinds[key], copy=False) for key, column in columns.items()}
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    return OfflineDataset(name, **tensors, has_goal=has_goal)


def as_vector(column: Array) -> Array:
    """Drop the second axis of rewards or ends of episodes that are stored as (rows, 1)."""
    return column[:, 0] if column.shape[1:] == (1,) else column


def distinct_states(dataset: OfflineDataset) -> tuple[Float[Tensor, "m ds"], Int[Tensor, "n"]]:
    """Return all observations and next states without repeats, and the row of each next state.

    The first n rows are the observations. A next state that equals the following observation bit
    for bit shares its row. Other next states (at the ends of episodes) are appended.
    """
    now, after = dataset.observations, dataset.next_observations
    follows = torch.zeros(len(now), dtype=torch.bool)
    follows[:-1] = (after[:-1] == now[1:]).all(dim=1)
    rows = torch.arange(1, len(now) + 1)
    rows[~follows] = len(now) + torch.arange(int((~follows).sum()))
    return torch.cat([now, after[~follows]]), rows


def digest(dataset: OfflineDataset) -> str:
    """Return the first 16 hex digits of SHA-256 over all transitions."""
    result = hashlib.sha256()
    states, actions = dataset.observations, dataset.actions
    for value in (states, actions, dataset.rewards, dataset.next_observations, dataset.terminals):
        result.update(value.contiguous().numpy())
    return result.hexdigest()[:16]


def check_rewards_vary(dataset: OfflineDataset) -> None:
    """Raise `CepnbError` if all rewards are equal: nothing can be learned from them."""
    first = dataset.rewards[0]
    if (dataset.rewards == first).all():
        problem = f"all rewards are {first:g}"
        local = dataset.name.startswith("local/")
        remedy = "raise the setting transitions" if local else "use data with rewards that differ"
        raise CepnbError(f"{dataset.name}: {problem}; {remedy}")


def check_shapes(source: str, columns: dict[str, Array | Tensor]) -> None:
    """Raise `CepnbError` unless the columns of a dataset fit together; `source` begins the messages."""
    rows = len(columns["observations"]) if columns["observations"].ndim else 0
    for key, value in columns.items():
        shape = "(rows, size)" if key.endswith("observations") or key == "actions" else "(rows,)"
        if value.ndim != len(shape.split()) or not all(value.shape[1:]):
            raise CepnbError(f"{source}: '{key}' has shape {tuple(value.shape)}; store {shape}")
        if len(value) != rows:
            problem = f"'{key}' has {len(value)} rows but 'observations' has {rows}"
            raise CepnbError(f"{source}: {problem}; re-export the file")
    after = columns.get("next_observations", columns["observations"])
    if after.shape != columns["observations"].shape:
        problem = f"'next_observations' has shape {tuple(after.shape)}"
        raise CepnbError(f"{source}: {problem}; store that of 'observations'")


def check_arrays(source: str, arrays: dict[str, Array]) -> None:
    """Check the columns of a dataset before they become tensors; `source` begins the messages.

    Raises `CepnbError` on arrays of wrong shape or type, and on values that are not finite.
    """
    check_shapes(source, arrays)
    for key, value in arrays.items():
        if value.dtype.kind not in "biuf":
            raise CepnbError(f"{source}: '{key}' has type {value.dtype}; store numbers")
        with np.errstate(over="ignore"):
            single = value.astype(np.float32, copy=False)
        if not np.isfinite(single).all():
            raise CepnbError(f"{source}: '{key}' has values that are not finite; remove them")
