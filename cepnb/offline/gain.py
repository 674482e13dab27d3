"""How exact the guidance of a policy is, without returns: the gain in Q of guided actions against that of reweighting."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.guidance import EnergyFunction, EpsFunction, energy_gradient, guided
from cepnb.offline.policy import BLOCK, sample_actions
from cepnb.profiles import Settings
from cepnb.schedule import VPSchedule

GUIDED = 8  # guided actions a state


def q_gains(eps: EpsFunction, q: Callable[[Tensor, Tensor], Tensor], energies: dict[str, EnergyFunction],
            states: Float[Tensor, "n ds"], action_dim: int, settings: Settings, schedule: VPSchedule,
            generator: torch.Generator, draws: int | None = None) -> list[dict]:
    """Records of `method`, `scale` and `gain` = mean over states of E_policy[Q] − E_μ[Q].

    For π ∝ μ e^{βQ} both means are taken over `draws` actions of μ_θ (16 times those of a softmax of Eq. 20, if not given), weighted by
    e^{βQ} ("reweighted", scale None): right up to the error of self-normalised sampling, which falls short where good actions
    are rarer than one in `draws`. A method that guides exactly gains no less at s = 1; the converse does not hold, since other
    policies may gain as much.
    """
    draws = draws or 16 * settings.energy_K
    actions = sample_actions(eps, states, action_dim, settings, schedule, generator, draws, BLOCK)
    with torch.no_grad():
        values = torch.cat([q(s.unsqueeze(1), a) for s, a in zip(states.split(16), actions.split(16))])
    plain = values.mean(dim=1)
    gain = ((settings.beta * values).softmax(dim=1) * values).sum(dim=1) - plain
    records = [{"method": "reweighted", "scale": None, "gain": gain.mean().item(), "draws": draws}]
    for method, energy in energies.items():
        for scale in settings.scales:
            guided_eps = guided(eps, energy_gradient(energy), schedule, scale)
            actions = sample_actions(guided_eps, states, action_dim, settings, schedule, generator, GUIDED)
            with torch.no_grad():
                gain = q(states.unsqueeze(1), actions).mean(dim=1) - plain
            records.append({"method": method, "scale": scale, "gain": gain.mean().item()})
    return records
