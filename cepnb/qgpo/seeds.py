"""Steps 1, 3 and 4 for several training seeds at once: what each seed learns alone, in one batched model."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cepnb.diffusion.batched import apart, loss_together, together
from cepnb.diffusion.networks import TwinQ
from cepnb.diffusion.schedule import VPSchedule
from cepnb.diffusion.streams import Streams
from cepnb.diffusion.training import Plan, Record, StepLoss, seeded, train
from cepnb.qgpo.behaviour import (
    behaviour_errors,
    behaviour_examples,
    behaviour_net,
    behaviour_plan,
    predictor,
)
from cepnb.qgpo.critic import critic_errors, critic_examples, critic_net, critic_plan, polyak_update
from cepnb.qgpo.energy import energy_errors, energy_examples, energy_net, energy_plan
from cepnb.qgpo.settings import Settings
from cepnb.qgpo.transitions import Transitions


@dataclass(frozen=True)
class Fit:
    """A step about to be trained: what `training` takes, and the networks that come of it, one a seed."""

    loss: StepLoss
    modules: dict[str, nn.Module]
    plan: Plan
    streams: Streams
    result: Callable[[], list[nn.Module]]
    after_step: Callable[[], None] | None = None

    def train(self, checkpoint: Path | None = None, progress: bool = True) -> list[Record]:
        """To the end; the history is of the sum of the losses of all seeds."""
        return train(
            self.loss,
            self.modules,
            self.plan,
            self.streams,
            after_step=self.after_step,
            checkpoint=checkpoint,
            progress=progress,
        )


def behaviour_fit(
    states: Float[Tensor, "n ds"],
    actions: Float[Tensor, "n da"],
    settings: Settings,
    schedule: VPSchedule,
    seeds: Sequence[int],
) -> Fit:
    """`train_behaviour` for each seed, on the same pairs."""
    net = together(
        [
            behaviour_net(states.shape[1], actions.shape[1], settings, schedule, seed)
            for seed in seeds
        ]
    ).to(states.device)
    examples = [behaviour_examples(states, actions, settings, schedule)] * len(seeds)
    return Fit(
        loss_together(partial(behaviour_errors, predictor(net, settings)), examples),
        {"net": net},
        behaviour_plan(settings),
        _streams(seeds, "behaviour", states.device),
        lambda: apart(net),
    )


def critic_fit(
    data: Transitions,
    supports: Sequence[Float[Tensor, "n K da"]],
    settings: Settings,
    seeds: Sequence[int],
) -> Fit:
    """`train_critic` for each seed, with its own support set; the result are the target networks."""
    device = data.states.device
    q = _twin([critic_net(data, settings, seed) for seed in seeds]).to(device)
    target = deepcopy(q).requires_grad_(False)
    examples = [critic_examples(data, support, settings) for support in supports]
    return Fit(
        loss_together(partial(critic_errors, q, target, settings), examples),
        {"q": q, "target": target},
        critic_plan(settings),
        _streams(seeds, "critic", device),
        lambda: _twins(target),
        polyak_update(q, target, settings.target_rate),
    )


def energy_fit(
    method: str,
    states: Float[Tensor, "n ds"],
    supports: Sequence[Float[Tensor, "n K da"]],
    values: Sequence[Float[Tensor, "n K"]],
    settings: Settings,
    schedule: VPSchedule,
    seeds: Sequence[int],
) -> Fit:
    """`train_energy` for each seed, with its own support set and the Q of it. Raises `CepnbError` on an unknown method."""
    shape = states.shape[1], supports[0].shape[2]
    net = together([energy_net(*shape, settings, schedule, seed) for seed in seeds]).to(
        states.device
    )
    examples = [
        energy_examples(states, support, q, settings, schedule)
        for support, q in zip(supports, values, strict=True)
    ]
    return Fit(
        loss_together(partial(energy_errors(method, settings), net), examples),
        {"net": net},
        energy_plan(settings),
        _streams(seeds, "energy", states.device),
        lambda: apart(net),
    )


def _streams(seeds: Sequence[int], purpose: str, device: torch.device) -> Streams:
    return Streams([seeded(seed, purpose, device) for seed in seeds])


def _twin(critics: Sequence[TwinQ]) -> TwinQ:
    """Twins of several seeds as one: both their networks are."""
    joined = critics[0]
    joined.q1, joined.q2 = (
        together([critic.q1 for critic in critics]),
        together([critic.q2 for critic in critics]),
    )
    return joined


def _twins(joined: TwinQ) -> list[TwinQ]:
    critics = []
    for q1, q2 in zip(apart(joined.q1), apart(joined.q2), strict=True):
        critics.append(deepcopy(joined))
        critics[-1].q1, critics[-1].q2 = q1, q2
    return critics
