"""Step 1: the behaviour policy μ_θ(a|s), a diffusion model of actions (network: `EpsNet`)."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.diffusion.guidance import EpsFunction
from cepnb.diffusion.losses import noise_prediction
from cepnb.diffusion.networks import EpsNet, in_bfloat16
from cepnb.diffusion.schedule import VPSchedule
from cepnb.diffusion.training import StepLoss, draw, initialised, seeded, train
from cepnb.qgpo.settings import Settings
from cepnb.storage.validation import check_shape

SCHEDULE = VPSchedule()  # of all diffusion models of QGPO


def train_behaviour(
    states: Float[Tensor, "n ds"],
    actions: Float[Tensor, "n da"],
    settings: Settings,
    seed: int,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> EpsNet:
    """Train ε_θ(a_t, t, s) by noise prediction: imitation by diffusion (Section 4, arXiv:2304.12824).

    `states` are scaled, `actions` are in [-1, 1]. Training runs on the device of the states.
    """
    net = behaviour_net(states.shape[1], actions.shape[1], settings, seed).to(states.device)
    loss, plan = behaviour_loss(net, states, actions, settings), settings.plan("behaviour")
    generator = seeded(seed, "behaviour", states.device)
    options = {"label": "behaviour", "checkpoint": checkpoint, "progress": progress}
    train(loss, {"net": net}, plan, generator, **options)
    return net


def behaviour_loss(
    net: EpsFunction,
    states: Float[Tensor, "n ds"],
    actions: Float[Tensor, "n da"],
    settings: Settings,
) -> StepLoss:
    """Return the loss of one step: ‖ε_θ(a_t, t, s) − ε‖² of `settings.behaviour_batch` pairs."""
    check_shape("states", states, "n", "ds")
    check_shape("actions", actions, len(states), "da")
    predict = in_bfloat16(net) if settings.behaviour_precision == "bfloat16" else net

    def step_loss(generator: torch.Generator) -> Float[Tensor, "batch"]:
        s, a = draw(generator, settings.behaviour_batch, states, actions)
        t = SCHEDULE.draw_times(len(a), generator)
        eps = torch.randn(a.shape, generator=generator, device=a.device)
        return noise_prediction(predict(SCHEDULE.add_noise(a, t, eps), t, s), eps)

    return step_loss


def behaviour_net(state_dim: int, action_dim: int, settings: Settings, seed: int) -> EpsNet:
    """Build an untrained ε_θ(a_t, t, s); its first weights depend on the seed alone."""
    sizes = state_dim, settings.behaviour_widths, settings.behaviour_embedding
    width = settings.behaviour_state_width
    return initialised(seed, "behaviour", lambda: EpsNet(action_dim, *sizes, state_width=width))
