"""Steps 3 and 4 together: energies train on the current Q_ψ, as in the paper's public code."""

from copy import deepcopy
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cepnb.diffusion.training import draw, seeded, train
from cepnb.qgpo.critic import critic_loss, critic_net, policy_value, polyak_update
from cepnb.qgpo.energy import TRAINED_ENERGIES, contrast_loss, energy_net
from cepnb.qgpo.settings import Settings
from cepnb.qgpo.transitions import Transitions
from cepnb.storage.validation import check_shape


def train_joint(
    data: Transitions,
    support: Float[Tensor, "n K da"],
    states: Float[Tensor, "m ds"],
    actions: Float[Tensor, "m energy_K da"],
    settings: Settings,
    seed: int,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> nn.ModuleDict:
    """Train Q_ψ and an f_φ for each trained method of `settings.guidance` in one loop.

    Returns the target network as "q" and each f_φ under its method's name. A step is one step of
    the critic (Eq. 22) and one of each energy (Eq. 20), labelled by the current target network. It
    uses the number of steps and the learning rate of step 3. The energies do not change Q.
    """
    check_shape("actions", actions, len(states), "energy_K", "da")
    nets = joint_nets(states.shape[1], actions.shape[2], settings, seed).to(states.device)
    energies = {method: nets[method] for method in nets if method != "q"}
    target = nets["q"].requires_grad_(False)
    q = deepcopy(target).requires_grad_(True)
    q_loss = critic_loss(q, target, data, support, settings)
    value = policy_value(target, settings)

    def step_loss(generator: torch.Generator) -> Float[Tensor, "1"]:
        total = q_loss(generator).mean()
        s, a = draw(generator, settings.states_per_energy_step, states, actions)
        with torch.no_grad():
            q_values = value(s.unsqueeze(1), a)
        for method, f in energies.items():
            total = total + contrast_loss(method, f, s, a, q_values, settings, generator).mean()
        return total.unsqueeze(0)  # the batches differ in size, so their means are added

    modules, generator = {"q": q, "target": target} | energies, seeded(seed, "joint", states.device)
    update_target = lambda: polyak_update(q, target, settings.target_rate)
    options = {"label": "critic and energies", "checkpoint": checkpoint, "progress": progress}
    train(step_loss, modules, settings.plan("q"), generator, after_step=update_target, **options)
    return nets


def joint_nets(state_dim: int, action_dim: int, settings: Settings, seed: int) -> nn.ModuleDict:
    """Build the untrained networks that `train_joint` returns."""
    sizes = state_dim, action_dim, settings, seed
    trained = [method for method in settings.guidance if method in TRAINED_ENERGIES]
    q = critic_net(*sizes)
    energies = {method: energy_net(*sizes, q) for method in trained}
    return nn.ModuleDict({"q": q} | energies)
