"""From a dataset as stored to what the networks see: states of unit scale, and each distinct state once."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cepnb.offline.data import OfflineDataset, distinct_states


@dataclass(frozen=True)
class Scaling:
    """Affine map of observations to mean 0 and standard deviation 1 over the dataset."""

    mean: Float[Tensor, "ds"]
    deviation: Float[Tensor, "ds"]

    def __call__(self, observations: Float[Tensor, "*batch ds"]) -> Float[Tensor, "*batch ds"]:
        return (observations - self.mean) / self.deviation


@dataclass(frozen=True)
class Transitions:
    """Training data of all steps: scaled states, and rows into the distinct states for the support set.

    `distinct[next_row[i]]` is the state after transition i. Next states are mostly next rows, so there are about n
    distinct states and not 2n, and each is given support actions once.
    """

    states: Float[Tensor, "n ds"]
    actions: Float[Tensor, "n da"]
    rewards: Float[Tensor, "n"]
    terminals: Bool[Tensor, "n"]
    next_row: Int[Tensor, "n"]
    distinct: Float[Tensor, "m ds"]


def prepare(dataset: OfflineDataset) -> tuple[Transitions, Scaling]:
    """Scale the states and index the distinct ones. A coordinate that never changes is left at 0."""
    observations = dataset.observations
    deviation = observations.std(dim=0)
    scaling = Scaling(observations.mean(dim=0), torch.where(deviation > 0, deviation, torch.ones_like(deviation)))
    distinct, next_row = distinct_states(dataset)
    return Transitions(scaling(observations), dataset.actions, dataset.rewards, dataset.terminals, next_row,
                       scaling(distinct)), scaling
