"""Offline transitions (s, a, r, s'): the one type that every source of data is read into."""

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cepnb.errors import CepnbError


@dataclass(frozen=True)
class OfflineDataset:
    """Transitions in the order of the file, those alone whose s' is recorded."""

    name: str
    observations: Float[Tensor, "n ds"]
    actions: Float[Tensor, "n da"]
    rewards: Float[Tensor, "n"]
    next_observations: Float[Tensor, "n ds"]
    terminals: Bool[Tensor, "n"]  # true ends, behind which there is no value; a timeout is not one
    episode_returns: Float[Tensor, "episodes"]  # undiscounted, of whole episodes, every row counted


def distinct_states(dataset: OfflineDataset) -> tuple[Float[Tensor, "m ds"], Int[Tensor, "n"]]:
    """All states that need support actions, each once, and for every transition the row of its next state.

    The first n rows are the observations; a next state that is, to the bit, the observation of the following row is
    that row, and only the others (at ends of episodes) are appended.
    """
    now, after = dataset.observations, dataset.next_observations
    follows = torch.zeros(len(now), dtype=torch.bool)
    follows[:-1] = (after[:-1] == now[1:]).all(dim=1)
    rows = torch.arange(1, len(now) + 1)
    rows[~follows] = len(now) + torch.arange(int((~follows).sum()))
    return torch.cat([now, after[~follows]]), rows


def digest(dataset: OfflineDataset) -> str:
    """SHA-256, of which 16 digits, over all transitions: two files of one name and length are told apart by it."""
    found = hashlib.sha256()
    for value in (
        dataset.observations,
        dataset.actions,
        dataset.rewards,
        dataset.next_observations,
        dataset.terminals,
    ):
        found.update(value.contiguous().numpy())
    return found.hexdigest()[:16]


def check_rewards_vary(dataset: OfflineDataset) -> None:
    """Raises `CepnbError` if all rewards are equal: every policy is then as good as any other."""
    if (dataset.rewards == dataset.rewards[0]).all():
        raise CepnbError(
            f"{dataset.name}: all rewards are {dataset.rewards[0].item():g}, expected some that differ"
        )
