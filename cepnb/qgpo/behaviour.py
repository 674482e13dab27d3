"""Step 1: the behaviour policy μ_θ(a|s) as a state-conditioned diffusion model of the actions in the data."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.diffusion.guidance import EpsFunction
from cepnb.diffusion.losses import noise_prediction
from cepnb.diffusion.networks import EpsNet, in_bfloat16
from cepnb.diffusion.schedule import VPSchedule
from cepnb.diffusion.training import Examples, Plan, StepLoss, draw, initialised, seeded, train
from cepnb.qgpo.settings import Settings


def behaviour_net(
    state_dim: int, action_dim: int, settings: Settings, schedule: VPSchedule, seed: int
) -> EpsNet:
    """An untrained ε_θ(a_t, t, s) of the profile's size."""
    return initialised(
        seed,
        "behaviour",
        lambda: EpsNet(
            action_dim,
            state_dim,
            settings.behaviour_widths,
            embedding=settings.behaviour_embedding,
            schedule=schedule,
        ),
    )


def train_behaviour(
    states: Float[Tensor, "n ds"],
    actions: Float[Tensor, "n da"],
    settings: Settings,
    schedule: VPSchedule,
    seed: int,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> EpsNet:
    """Fit ε_θ by noise prediction on (s, a) pairs: imitation learning by diffusion (Section 4 of arXiv:2304.12824).

    It is trained where the pairs are.
    """
    net = behaviour_net(states.shape[1], actions.shape[1], settings, schedule, seed).to(
        states.device
    )
    train(
        behaviour_loss(net, states, actions, settings, schedule),
        {"net": net},
        behaviour_plan(settings),
        seeded(seed, "behaviour", states.device),
        checkpoint=checkpoint,
        label="behaviour",
        progress=progress,
    )
    return net


def behaviour_loss(
    net: EpsFunction,
    states: Float[Tensor, "n ds"],
    actions: Float[Tensor, "n da"],
    settings: Settings,
    schedule: VPSchedule,
) -> StepLoss:
    """The noise prediction errors of a batch of pairs, of `settings.behaviour_batch`."""
    examples, predicted = (
        behaviour_examples(states, actions, settings, schedule),
        predictor(net, settings),
    )
    return lambda generator: behaviour_errors(predicted, *examples(generator))


def predictor(net: EpsFunction, settings: Settings) -> EpsFunction:
    """ε_θ as it is trained: with the precision of `settings.behaviour_precision`."""
    return in_bfloat16(net) if settings.behaviour_precision == "bfloat16" else net


def behaviour_examples(
    states: Float[Tensor, "n ds"],
    actions: Float[Tensor, "n da"],
    settings: Settings,
    schedule: VPSchedule,
) -> Examples:
    """Draws (a_t, t, s, ε) of a batch of pairs."""

    def examples(generator: torch.Generator) -> tuple[Tensor, ...]:
        s, a = draw(generator, settings.behaviour_batch, states, actions)
        t = schedule.draw_times(len(a), generator)
        eps = torch.randn(a.shape, generator=generator, device=a.device)
        return schedule.add_noise(a, t, eps), t, s, eps

    return examples


def behaviour_errors(
    net: EpsFunction,
    at: Float[Tensor, "*batch da"],
    t: Float[Tensor, "*batch"],
    s: Float[Tensor, "*batch ds"],
    eps: Float[Tensor, "*batch da"],
) -> Float[Tensor, "*batch"]:
    """‖ε_θ(a_t, t, s) − ε‖² of each pair."""
    return noise_prediction(net(at, t, s), eps)


def behaviour_plan(settings: Settings) -> Plan:
    """How long and how fast step 1 trains."""
    return Plan(
        settings.behaviour_steps,
        settings.behaviour_rate,
        settings.behaviour_final,
        checkpoint_every=settings.checkpoint_every,
    )
