"""From a dataset as stored to what the networks see: states of unit scale, each distinct one once, and jittered copies."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cepnb.datasets.dataset import OfflineDataset, distinct_states
from cepnb.errors import CepnbError


@dataclass(frozen=True)
class Scaling:
    """Affine map of observations to mean 0 and standard deviation 1 over the dataset."""

    mean: Float[Tensor, "ds"]
    deviation: Float[Tensor, "ds"]

    def __call__(self, observations: Float[Tensor, "*batch ds"]) -> Float[Tensor, "*batch ds"]:
        return (observations - self.mean).div_(self.deviation)


@dataclass(frozen=True)
class Transitions:
    """Training data of all steps: scaled states, and rows into the distinct states for the support set.

    `distinct[next_row[i]]` is the state after transition i. Next states are mostly next rows, so there are about n
    distinct states and not 2n, and each is given support actions once. As `prepare` makes them the first n of them are
    `states`, in the same memory.
    """

    states: Float[Tensor, "n ds"]
    actions: Float[Tensor, "n da"]
    rewards: Float[Tensor, "n"]
    terminals: Bool[Tensor, "n"]
    next_row: Int[Tensor, "n"]
    distinct: Float[Tensor, "m ds"]

    def to(self, device: torch.device) -> "Transitions":
        """The same on a device, where the steps that are given it then work."""
        return Transitions(**{name: value.to(device) for name, value in vars(self).items()})


def prepare(dataset: OfflineDataset, reward_tuning: str = "none") -> tuple[Transitions, Scaling]:
    """Scale the states and index the distinct ones. A coordinate that never changes is left at 0.

    Rewards are tuned as the reference settings do: "return_range" makes r · 1000/(max − min return over true episodes), for
    locomotion; "minus_one" makes r − 1, for AntMaze; "none" leaves them. Raises `CepnbError` if there is no range.
    """
    observations = dataset.observations
    deviation = observations.std(dim=0)
    scaling = Scaling(
        observations.mean(dim=0), torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    )
    distinct, next_row = distinct_states(dataset)
    scaled = scaling(distinct)
    return Transitions(
        scaled[: len(observations)],
        dataset.actions,
        _tuned(dataset, reward_tuning),
        dataset.terminals,
        next_row,
        scaled,
    ), scaling


def _tuned(dataset: OfflineDataset, tuning: str) -> Float[Tensor, "n"]:
    if tuning == "minus_one":
        return dataset.rewards - 1
    if tuning == "none":
        return dataset.rewards
    low, high = dataset.episode_returns.min().item(), dataset.episode_returns.max().item()
    if not high > low:
        raise CepnbError(
            f"{dataset.name}: every episode has a return of {low:g}, expected some that differ for return_range"
        )
    return dataset.rewards * (1000 / (high - low))


def with_jitter(data: Transitions, jitter: float, generator: torch.Generator) -> Transitions:
    """The transitions and one jittered copy of each: s + δ and s' + δ with one δ ~ N(0, jitter² I) for both.

    Data that lies in thin tubes says nothing about the states beside them, where a policy that chooses soon is; a copy
    says that the same action does there what it does nearby, with the same reward (data augmentation as in S4RL, Sinha
    et al. 2021). Rows n to 2n and distinct states m to 2m are the copies.
    """
    noise = jitter * torch.randn(data.distinct.shape, generator=generator, device=generator.device)
    twice = {
        name: torch.cat([value, value])
        for name, value in vars(data).items()
        if name in ("actions", "rewards", "terminals")
    }
    return Transitions(
        states=torch.cat([data.states, data.states + noise[data.next_row]]),
        **twice,
        next_row=torch.cat([data.next_row, data.next_row + len(data.distinct)]),
        distinct=torch.cat([data.distinct, data.distinct + noise]),
    )
