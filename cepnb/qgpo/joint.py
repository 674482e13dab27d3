"""Steps 3 and 4 together: energies that follow Q_ψ while it trains, as in the paper's public code."""

from copy import deepcopy
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cepnb.diffusion.schedule import VPSchedule
from cepnb.diffusion.training import draw, seeded, train
from cepnb.qgpo.critic import critic_loss, critic_plan, polyak_update, sized_critic_net
from cepnb.qgpo.energy import TRAINED_ENERGIES, contrast_loss, energy_net
from cepnb.qgpo.settings import Settings
from cepnb.qgpo.transitions import Transitions


def train_joint(
    data: Transitions,
    support: Float[Tensor, "n K da"],
    states: Float[Tensor, "m ds"],
    actions: Float[Tensor, "m energy_K da"],
    settings: Settings,
    seed: int,
    checkpoint: Path | None = None,
    progress: bool = True,
    schedule: VPSchedule = VPSchedule(),
) -> nn.ModuleDict:
    """Train Q_ψ and an f_φ for each trained method of `settings.guidance` in one loop.

    Returns the target network as "q" and each f_φ under its method's name. A step is one step of
    the critic (Eq. 22) and one of each energy (Eq. 20), labelled by the current target network. It
    uses the number of steps and the learning rate of step 3. The energies do not change Q.
    """
    nets = joint_nets(states.shape[1], actions.shape[2], settings, seed, schedule).to(states.device)
    energies = {method: nets[method] for method in nets if method != "q"}
    target = nets["q"].requires_grad_(False)
    q = deepcopy(target).requires_grad_(True)
    q_loss = critic_loss(q, target, data, support, settings)

    def step_loss(generator: torch.Generator) -> Float[Tensor, "1"]:
        total = q_loss(generator).mean()
        s, a = draw(generator, settings.energy_batch, states, actions)
        with torch.no_grad():
            values = target(s.unsqueeze(1), a)
        for method, f in energies.items():
            loss = contrast_loss(method, f, s, a, values, settings, generator, schedule)
            total = total + loss.mean()
        return total.unsqueeze(0)  # the batches differ in size, so their means are added

    train(
        step_loss,
        {"q": q, "target": target} | energies,
        critic_plan(settings),
        seeded(seed, "joint", states.device),
        after_step=lambda: polyak_update(q, target, settings.target_rate),
        checkpoint=checkpoint,
        label="critic and energies",
        progress=progress,
    )
    return nets


def joint_nets(
    state_dim: int,
    action_dim: int,
    settings: Settings,
    seed: int,
    schedule: VPSchedule = VPSchedule(),
) -> nn.ModuleDict:
    """Build the untrained networks that `train_joint` returns."""
    nets = {"q": sized_critic_net(state_dim, action_dim, settings, seed)}
    for method in settings.guidance:
        if method in TRAINED_ENERGIES:
            nets[method] = energy_net(state_dim, action_dim, settings, seed, schedule)
    return nn.ModuleDict(nets)
