"""Step 1: the behaviour policy μ_θ(a|s) as a state-conditioned diffusion model of the actions in the data."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.losses import noise_prediction
from cepnb.networks import EpsNet, in_bfloat16
from cepnb.profiles import Settings
from cepnb.schedule import VPSchedule
from cepnb.training import Plan, StepLoss, draw, initialised, seeded, train


def behaviour_net(state_dim: int, action_dim: int, settings: Settings, schedule: VPSchedule, seed: int) -> EpsNet:
    """An untrained ε_θ(a_t, t, s) of the profile's size."""
    return initialised(seed, "behaviour", lambda: EpsNet(
        action_dim, state_dim, settings.behaviour_widths, embedding=settings.behaviour_embedding, schedule=schedule))


def train_behaviour(states: Float[Tensor, "n ds"], actions: Float[Tensor, "n da"], settings: Settings,
                    schedule: VPSchedule, seed: int, checkpoint: Path | None = None, progress: bool = True) -> EpsNet:
    """Fit ε_θ by noise prediction on (s, a) pairs: imitation learning by diffusion (Section 4 of arXiv:2304.12824)."""
    net = behaviour_net(states.shape[1], actions.shape[1], settings, schedule, seed)
    plan = Plan(settings.behaviour_steps, settings.behaviour_rate, settings.behaviour_final,
                checkpoint_every=settings.checkpoint_every)
    train(behaviour_loss(net, states, actions, settings, schedule), {"net": net}, plan, seeded(seed, "behaviour"),
          checkpoint=checkpoint, label="behaviour", progress=progress)
    return net


def behaviour_loss(net: EpsNet, states: Float[Tensor, "n ds"], actions: Float[Tensor, "n da"], settings: Settings,
                   schedule: VPSchedule) -> StepLoss:
    """The noise prediction errors of a batch of pairs, of `settings.behaviour_batch`."""
    predicted = in_bfloat16(net) if settings.behaviour_precision == "bfloat16" else net

    def step_loss(generator: torch.Generator) -> Tensor:
        s, a = draw(generator, settings.behaviour_batch, states, actions)
        t = schedule.draw_times(len(a), generator)
        eps = torch.randn(a.shape, generator=generator)
        return noise_prediction(predicted(schedule.add_noise(a, t, eps), t, s), eps)

    return step_loss
