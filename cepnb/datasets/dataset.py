"""Offline transitions (s, a, r, s'): the one type that every source loads into."""

import hashlib
import re
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array
from torch import Tensor

from cepnb.errors import CepnbError

COLUMNS = ("observations", "actions", "rewards", "next_observations", "terminals")
FLAGS = ("terminals", "timeouts", "truncations", "truncated")  # of ends; the last three are cuts
OVERSHOOT = 0.01  # rounding or slight noise; actions in other units leave [-1, 1] by far


@dataclass(frozen=True)
class OfflineDataset:
    """Transitions whose next state s' is recorded, in the order of the source.

    Arrays and tensors of any number type become float32 tensors on the CPU, terminals bool. Raises
    `CepnbError` on other shapes (rewards of shape (n, 1) would broadcast to (n, n)), without rows
    or episode returns, on values that are not finite, and on terminals other than 0 and 1.
    """

    name: str
    observations: Float[Tensor, "n ds"]
    actions: Float[Tensor, "n da"]
    rewards: Float[Tensor, "n"]
    next_observations: Float[Tensor, "n ds"]
    terminals: Bool[Tensor, "n"]  # no value follows a terminal; timeouts are not terminals
    episode_returns: Float[Tensor, "episodes"]  # undiscounted, over all rows of complete episodes
    has_goal: bool = False  # observations include a goal, as in Minari's goal tasks

    def __post_init__(self) -> None:
        arrays = {key: _as_array(getattr(self, key)) for key in (*COLUMNS, "episode_returns")}
        check_shapes(self.name, arrays)
        tensors = {key: _as_tensor(key, array) for key, array in arrays.items()}
        check_values(self.name, {key: tensor.numpy() for key, tensor in tensors.items()})
        vars(self).update(tensors)


def dataset_of(name: str, columns: dict[str, Array], has_goal: bool = False) -> OfflineDataset:
    """Convert columns, named as the fields, to tensors."""
    tensors = {key: _as_tensor(key, column) for key, column in columns.items()}
    return OfflineDataset(name, **tensors, has_goal=has_goal)


def _as_tensor(key: str, column: Array) -> Tensor:
    """Convert a column to bool (terminals) or float32; a number too large becomes infinite."""
    with np.errstate(over="ignore"):
        kind = bool if key == "terminals" else np.float32
        return torch.from_numpy(np.require(column, kind, ["C", "W"]))


def _as_array(value: Array | Tensor) -> Array:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value  # NumPy has no bfloat16
    return np.asarray(value)


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
    """Return the first 16 hex digits of SHA-256 over all transitions.

    Episode returns count only for a reader's own data: a file can change them in rows that are not
    transitions. Stored results have the digests of other sources without them.
    """
    result = hashlib.sha256()
    states, actions = dataset.observations, dataset.actions
    values = [states, actions, dataset.rewards, dataset.next_observations, dataset.terminals]
    if not re.fullmatch(r"(local|d4rl|minari)/.*(?<!\.hdf5)", dataset.name):
        values.append(dataset.episode_returns)
    for value in values:
        result.update(value.numpy())
    return result.hexdigest()[:16]


def check_actions(dataset: OfflineDataset) -> None:
    """Raise `CepnbError` on actions outside [-1, 1], the range of all environments and policies."""
    largest = dataset.actions.abs().max().item()
    if largest > 1 + OVERSHOOT:
        problem = f"actions reach {largest:g}, but environments take [-1, 1]"
        raise CepnbError(f"dataset '{dataset.name}': {problem}; rescale them")


def check_rewards_vary(dataset: OfflineDataset) -> None:
    """Raise `CepnbError` if all rewards are equal: nothing can be learned from them."""
    first = dataset.rewards[0]
    if (dataset.rewards == first).all():
        problem = f"all rewards are {first:g}"
        local = dataset.name.startswith("local/")
        remedy = "raise the setting transitions" if local else "use data with rewards that differ"
        raise CepnbError(f"{dataset.name}: {problem}; {remedy}")


def check_shapes(source: str, columns: dict[str, Array]) -> None:
    """Check shapes, types and flags of a dataset's columns; `source` begins the messages.

    Raises `CepnbError` unless the columns fit together, hold numbers, and flags are 0 or 1.
    """
    rows = len(columns["observations"]) if columns["observations"].ndim else 0
    for key, value in columns.items():
        shape = "(rows, size)" if key.endswith("observations") or key == "actions" else "(rows,)"
        if value.ndim != len(shape.split()) or not all(value.shape[1:]):
            raise CepnbError(f"{source}: '{key}' has shape {tuple(value.shape)}; store {shape}")
        if len(value) != rows and key != "episode_returns":
            problem = f"'{key}' has {len(value)} rows but 'observations' has {rows}"
            raise CepnbError(f"{source}: {problem}; re-export the file")
        if not len(value):
            raise CepnbError(f"{source}: '{key}' has no rows; store at least one")
        if value.dtype.kind not in "biuf":
            raise CepnbError(f"{source}: '{key}' has type {value.dtype}; store numbers")
        if key in FLAGS and not ((value == 0) | (value == 1)).all():
            raise CepnbError(f"{source}: '{key}' has values other than 0 and 1; store 0 or 1")
    after = columns.get("next_observations", columns["observations"])
    if after.shape != columns["observations"].shape:
        problem = f"'next_observations' has shape {tuple(after.shape)}"
        raise CepnbError(f"{source}: {problem}; store that of 'observations'")


def check_values(source: str, columns: dict[str, Array]) -> None:
    """Raise `CepnbError` on columns with values that float32 cannot hold or that are not finite."""
    for key, value in columns.items():
        with np.errstate(over="ignore"):
            single = value.astype(np.float32, copy=False)
        if not np.isfinite(single).all():
            raise CepnbError(f"{source}: '{key}' has values that are not finite; remove them")
