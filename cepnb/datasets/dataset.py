"""Offline transitions (s, a, r, s'): the one type that every source loads into."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array
from torch import Tensor

from cepnb.errors import CepnbError


@dataclass(frozen=True)
class OfflineDataset:
    """Transitions whose next state s' is recorded, in the order of the source."""

    name: str
    observations: Float[Tensor, "n ds"]
    actions: Float[Tensor, "n da"]
    rewards: Float[Tensor, "n"]
    next_observations: Float[Tensor, "n ds"]
    terminals: Bool[Tensor, "n"]  # no value follows a terminal; timeouts are not terminals
    episode_returns: Float[Tensor, "episodes"]  # undiscounted, over all rows of complete episodes


def distinct_states(dataset: OfflineDataset) -> tuple[Float[Tensor, "m ds"], Int[Tensor, "n"]]:
    """Collect the states that need support actions; return them and the row of each next state.

    The first n rows are the observations. If a next state equals the following observation bit for
    bit, that row serves both. Other next states (at the ends of episodes) are appended.
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
        problem = f"{dataset.name}: all rewards are {first.item():g}"
        raise CepnbError(f"{problem}; use data with rewards that differ")


def check_arrays(source: str, arrays: dict[str, Array]) -> None:
    """Check the columns of a dataset before they become tensors; `source` begins the messages.

    Raises `CepnbError` on arrays of wrong axes, type or length, and on values that are not finite.
    """
    rows = len(arrays["observations"]) if arrays["observations"].ndim else 0
    for key, value in arrays.items():
        axes = 2 if key.endswith("observations") or key == "actions" else 1
        if value.ndim != axes:
            raise CepnbError(f"{source}: '{key}' has {value.ndim} axes; expected {axes}")
        if len(value) != rows:
            problem = f"'{key}' has {len(value)} rows but 'observations' has {rows}"
            raise CepnbError(f"{source}: {problem}; re-export the file")
        if not all(value.shape[1:]):
            raise CepnbError(f"{source}: '{key}' has no columns; expected at least one")
        if value.dtype.kind not in "biuf":
            raise CepnbError(f"{source}: '{key}' has type {value.dtype}; store numbers")
        with np.errstate(over="ignore"):
            finite = np.isfinite(value.astype(np.float32, copy=False)).all()
        if not finite:
            raise CepnbError(f"{source}: '{key}' has values that are not finite; remove them")
