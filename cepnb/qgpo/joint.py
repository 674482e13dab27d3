"""Steps 3 and 4 in one: the energies follow Q_ψ while it is learned, as in the reference code of arXiv:2304.12824."""

from copy import deepcopy
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cepnb.diffusion.schedule import VPSchedule
from cepnb.diffusion.training import draw, seeded, train
from cepnb.qgpo.critic import critic_loss, critic_net, critic_plan, polyak_update
from cepnb.qgpo.energy import TRAINED_ENERGIES, energy_loss, energy_net
from cepnb.qgpo.settings import Settings
from cepnb.qgpo.transitions import Transitions


def train_joint(
    data: Transitions,
    support: Float[Tensor, "n K da"],
    states: Float[Tensor, "m ds"],
    actions: Float[Tensor, "m energy_K da"],
    settings: Settings,
    schedule: VPSchedule,
    seed: int,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> nn.ModuleDict:
    """The target network "q", and an f_φ for each trained method of `settings.guidance` under its name.

    Each step is one of the critic (`train_critic`) and one of every energy, whose labels are the target network's Q as it
    then is; number of steps and learning rate are those of step 3. Labels move while Q does: what is learned early is
    learned again, but nothing has to wait for Q. The energies do not act on Q.
    """
    nets = joint_nets(data, actions.shape[2], settings, schedule, seed).to(states.device)
    target, energies = (
        nets["q"].requires_grad_(False),
        {method: nets[method] for method in nets if method != "q"},
    )
    q = deepcopy(target).requires_grad_(True)
    temporal = critic_loss(q, target, data, support, settings)
    losses = {method: energy_loss(method, settings, schedule) for method in energies}

    def step_loss(generator: torch.Generator) -> Tensor:
        total = temporal(generator).mean()
        s, a = draw(generator, settings.energy_batch, states, actions)
        with torch.no_grad():
            values = target(s.unsqueeze(1), a)
        for method, net in energies.items():
            total = total + losses[method](net, s, a, values, generator).mean()
        return total.unsqueeze(0)  # a sum of means over batches of their own

    train(
        step_loss,
        {"q": q, "target": target} | energies,
        critic_plan(settings),
        seeded(seed, "joint", states.device),
        after_step=polyak_update(q, target, settings.target_rate),
        checkpoint=checkpoint,
        label="critic and energies",
        progress=progress,
    )
    return nets


def joint_nets(
    data: Transitions, action_dim: int, settings: Settings, schedule: VPSchedule, seed: int
) -> nn.ModuleDict:
    """Untrained networks of that shape."""
    return nn.ModuleDict(
        {"q": critic_net(data, settings, seed)}
        | {
            method: energy_net(data.states.shape[1], action_dim, settings, schedule, seed)
            for method in settings.guidance
            if method in TRAINED_ENERGIES
        }
    )
