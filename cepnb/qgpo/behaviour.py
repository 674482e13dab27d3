"""Step 1: the behaviour policy μ_θ(a|s) as a state-conditioned diffusion model of actions."""

from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.diffusion.guidance import EpsFunction
from cepnb.diffusion.losses import noise_prediction
from cepnb.diffusion.networks import EpsNet, in_bfloat16
from cepnb.diffusion.schedule import VPSchedule
from cepnb.diffusion.training import Plan, StepLoss, draw, initialised, seeded, train
from cepnb.qgpo.settings import Settings


def train_behaviour(
    states: Float[Tensor, "n ds"],
    actions: Float[Tensor, "n da"],
    settings: Settings,
    seed: int,
    checkpoint: Path | None = None,
    progress: bool = True,
    schedule: VPSchedule = VPSchedule(),
) -> EpsNet:
    """Train ε_θ(a_t, t, s) by noise prediction: imitation by diffusion (Section 4, arXiv:2304.12824).

    `states` are scaled, `actions` are in [-1, 1]. Training runs on the device of the states.
    """
    net = behaviour_net(states.shape[1], actions.shape[1], settings, seed, schedule)
    net = net.to(states.device)
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
    schedule: VPSchedule = VPSchedule(),
) -> StepLoss:
    """Return the loss of one step: ‖ε_θ(a_t, t, s) − ε‖² of `settings.behaviour_batch` pairs."""
    predict = in_bfloat16(net) if settings.behaviour_precision == "bfloat16" else net

    def step_loss(generator: torch.Generator) -> Float[Tensor, "batch"]:
        s, a = draw(generator, settings.behaviour_batch, states, actions)
        t = schedule.draw_times(len(a), generator)
        eps = torch.randn(a.shape, generator=generator, device=a.device)
        at = schedule.add_noise(a, t, eps)
        return noise_prediction(predict(at, t, s), eps)

    return step_loss


def behaviour_plan(settings: Settings) -> Plan:
    """Return the number of steps and the learning rates of step 1."""
    steps, rate, final = settings.behaviour_steps, settings.behaviour_rate, settings.behaviour_final
    return Plan(steps, rate, final, checkpoint_every=settings.checkpoint_every)


def behaviour_net(
    state_dim: int,
    action_dim: int,
    settings: Settings,
    seed: int,
    schedule: VPSchedule = VPSchedule(),
) -> EpsNet:
    """Build an untrained ε_θ(a_t, t, s); its first weights depend on the seed alone."""
    widths, embedding = settings.behaviour_widths, settings.behaviour_embedding
    build = partial(EpsNet, action_dim, state_dim, widths, embedding=embedding, schedule=schedule)
    return initialised(seed, "behaviour", build)
