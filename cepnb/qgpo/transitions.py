"""Training data as the networks use it: scaled states without repeats, and moved copies."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cepnb.datasets.ant import heading_frame
from cepnb.datasets.dataset import OfflineDataset, check_actions, distinct_states
from cepnb.errors import CepnbError
from cepnb.storage.validation import check_finite, check_shape

ANT = 29  # coordinates of an AntMaze observation
MOST_COORDINATES = 8  # of states whose nearest neighbours a k-d tree finds fast


@dataclass(frozen=True)
class Scaling:
    """Map of observations to states: affine, to mean 0 and standard deviation 1 over the dataset.

    With `in_heading_frame` the states are those of `cepnb.datasets.ant.heading_frame`.
    """

    mean: Float[Tensor, "ds"]
    deviation: Float[Tensor, "ds"]
    in_heading_frame: bool = False

    @property
    def width(self) -> int:
        """Coordinates of an observation."""
        return ANT if self.in_heading_frame else len(self.mean)

    def __call__(self, observations: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch ds"]:
        check_shape("observations", observations, *observations.shape[:-1], self.width)
        states = _in_heading_frame(observations) if self.in_heading_frame else observations
        return (states - self.mean).div_(self.deviation)


def _in_heading_frame(observations: Float[Tensor, "*batch 29"]) -> Float[Tensor, "*batch 31"]:
    plain = observations.detach().cpu().reshape(-1, ANT)
    turned = torch.from_numpy(heading_frame(plain.numpy()))
    return turned.reshape(*observations.shape[:-1], turned.shape[-1]).to(observations.device)


@dataclass(frozen=True)
class Transitions:
    """Training data of all steps: scaled transitions, and the distinct states of the support set.

    `distinct[next_row[i]]` is the state after transition i. Most next states are also the next row,
    so there are about n distinct states instead of 2n. `prepare` makes `states` a view of the first
    n rows of `distinct`. Raises `CepnbError` on other shapes, which could broadcast in a loss, on
    no transition, and on rows outside of `distinct`: a negative one would count from the end.
    """

    states: Float[Tensor, "n ds"]
    actions: Float[Tensor, "n da"]
    rewards: Float[Tensor, "n"]
    terminals: Bool[Tensor, "n"]
    next_row: Int[Tensor, "n"]
    distinct: Float[Tensor, "m ds"]

    def __post_init__(self) -> None:
        check_shape("states", self.states, "n", "ds")
        n = len(self.states)
        check_shape("actions", self.actions, n, "da")
        for name in ("rewards", "terminals", "next_row"):
            check_shape(name, getattr(self, name), n)
        check_shape("distinct", self.distinct, "m", self.states.shape[1])
        if not n:
            raise CepnbError("states: there are no rows; use at least one transition")
        fix = f"use integers from 0 to {len(self.distinct) - 1}"
        if (kind := self.next_row.dtype) not in (torch.int32, torch.int64):
            raise CepnbError(f"next_row: type is {kind}; {fix}")
        if self.next_row.device.type != "cpu":
            return  # a copy; reading its values would wait for the device
        low, high = (bound.item() for bound in self.next_row.aminmax())
        if low < 0 or high >= len(self.distinct):
            raise CepnbError(f"next_row: rows are from {low} to {high}; {fix}")

    def to(self, device: torch.device) -> "Transitions":
        """Copy all tensors to a device."""
        return Transitions(**{name: value.to(device) for name, value in vars(self).items()})


def prepare(
    dataset: OfflineDataset, reward_tuning: str = "none", in_heading_frame: bool = False
) -> tuple[Transitions, Scaling]:
    """Scale the states and index the distinct ones; return the data and the scaling.

    A coordinate that never changes is only centred. `in_heading_frame` is for AntMaze, see `Scaling`;
    its means and deviations are those of the turned ants. `reward_tuning` follows the reference settings:
    "return_range" multiplies rewards by 1000/(max − min episode return) (locomotion), "minus_one"
    subtracts 1 (AntMaze), "none" keeps them. Raises `CepnbError` if all returns are equal, on actions
    outside [-1, 1], on deviations and rewards that are not finite, and if states of another width
    than the ant's are to be turned.
    """
    check_actions(dataset)
    observations, rewards = dataset.observations, _tuned_rewards(dataset, reward_tuning)
    if in_heading_frame:
        if (width := observations.shape[1]) != ANT:
            problem = f"{dataset.name}: observations have width {width}, an ant's {ANT}"
            raise CepnbError(f"{problem}; use heading_frame False")
        observations = _in_heading_frame(observations)
    deviation = observations.std(dim=0)
    for what, values in (("deviations of observations", deviation), ("tuned rewards", rewards)):
        check_finite(f"{dataset.name}: {what}", values, "rescale the data or remove such rows")
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    scaling = Scaling(observations.mean(dim=0), deviation, in_heading_frame)
    distinct, next_row = distinct_states(dataset)
    scaled = scaling(distinct)
    data = Transitions(
        states=scaled[: len(observations)],
        actions=dataset.actions,
        rewards=rewards,
        terminals=dataset.terminals,
        next_row=next_row,
        distinct=scaled,
    )
    return data, scaling


def _tuned_rewards(dataset: OfflineDataset, tuning: str) -> Float[Tensor, "n"]:
    if tuning == "minus_one":
        return dataset.rewards - 1
    if tuning == "none":
        return dataset.rewards
    low, high = dataset.episode_returns.min().item(), dataset.episode_returns.max().item()
    if not high > low:
        problem = f"every episode has a return of {low:g}"
        raise CepnbError(f"{dataset.name}: {problem}; use another reward_tuning than return_range")
    return dataset.rewards * (1000 / (high - low))


def with_jitter(data: Transitions, jitter: float, generator: torch.Generator) -> Transitions:
    """Append a moved copy of each transition, from s + δ to s' + δ + δA.

    Q is unreliable outside the data, but policies reach such states. The copies say that an action
    has a similar effect, and the same reward, nearby (as in S4RL, Sinha et al. 2021). δ = u `jitter`
    N(0, I) with u uniform in [0, 1], so that copies are near and far; a coordinate that never
    changes stays. A is the linear effect of the state, from the fit s' − s ≈ sA + aB + c.
    """
    count, device = len(data.states), generator.device
    width = torch.rand((count, 1), generator=generator, device=device)
    noise = jitter * width * torch.randn(data.states.shape, generator=generator, device=device)
    noise *= data.states.std(dim=0) > 0
    following = data.distinct[data.next_row] + noise + noise @ _linear_effect(data)
    return Transitions(
        states=torch.cat([data.states, data.states + noise]),
        actions=torch.cat([data.actions, data.actions]),
        rewards=torch.cat([data.rewards, data.rewards]),
        terminals=torch.cat([data.terminals, data.terminals]),
        next_row=torch.cat(
            [data.next_row, len(data.distinct) + torch.arange(count, device=device)]
        ),
        distinct=torch.cat([data.distinct, following]),
    )


def _linear_effect(data: Transitions) -> Float[Tensor, "ds ds"]:
    """Return A of the least-squares fit s' − s ≈ sA + aB + c."""
    states = data.states
    known = torch.cat([states, data.actions, torch.ones_like(states[:, :1])], dim=1)
    effects = data.distinct[data.next_row] - states
    # The pseudo-inverse also serves where a coordinate never changes.
    return (torch.linalg.pinv(known.mT @ known) @ (known.mT @ effects))[: states.shape[1]]


def with_reward_reach(data: Transitions, count: int, reach: float) -> Transitions:
    """Lower the rewards of copies with their distance from the data, its first `count` transitions.

    A copy's reward becomes r_min + (r − r_min) max(0, 1 − d/h), where h is `reach`, d the Euclidean
    distance to the nearest state of the data, and r_min the lowest reward. So Q expects the lowest
    reward off the data, and policies stay near it; MOPO (Yu et al. 2020) lowers rewards where its
    model is uncertain. Raises `CepnbError` on states of more than `MOST_COORDINATES`, among which
    no fast search is known.
    """
    if (width := data.states.shape[1]) > MOST_COORDINATES:
        problem = f"reward_reach {reach:g}: states have {width} coordinates"
        raise CepnbError(f"{problem}; use 0, or states of at most {MOST_COORDINATES}")
    from scipy.spatial import KDTree  # slow to import

    known, copies = data.states.cpu().split([count, len(data.states) - count])
    distance, _ = KDTree(known.numpy()).query(copies.numpy())
    kept = (1 - torch.from_numpy(distance).to(data.rewards) / reach).clamp(min=0)
    lowest, earned = data.rewards.min(), data.rewards[count:]
    rewards = torch.cat([data.rewards[:count], lowest + (earned - lowest) * kept])
    return replace(data, rewards=rewards)
