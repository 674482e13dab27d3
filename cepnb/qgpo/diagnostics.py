"""How exact the guidance of a policy is, without returns: the gain in Q of guided actions against that of reweighting."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.diffusion.guidance import EnergyFunction, EpsFunction, energy_gradient, guided
from cepnb.diffusion.schedule import VPSchedule, expand_as
from cepnb.qgpo.policy import BLOCK, sample_actions
from cepnb.qgpo.settings import Settings

GUIDED = 8  # guided actions a state
CHUNK = 250  # states whose sums over all draws are held at a time


def q_gains(
    eps: EpsFunction,
    q: Callable[[Tensor, Tensor], Tensor],
    energies: dict[str, EnergyFunction],
    states: Float[Tensor, "n ds"],
    action_dim: int,
    settings: Settings,
    schedule: VPSchedule,
    generator: torch.Generator,
    draws: tuple[int, ...] | None = None,
) -> list[dict]:
    """Records of `method`, `scale` and `gain` = mean over states of E_policy[Q] − E_μ[Q].

    For π ∝ μ e^{βQ} both means are taken over as many actions of μ_θ as `draws` says, weighted by e^{βQ} ("reweighted", scale
    None): right up to the error of self-normalised sampling, which falls short where good actions are rarer than that. A method
    that guides exactly gains no less at s = 1; the converse does not hold, since other policies may gain as much. "summed" at s = 1
    is guided by E_t as a sum over the same draws, without a network: what it lacks of "reweighted" is the sampler's fault.
    `draws` has several numbers, each a divisor of the last: energy_K and 16 times it, if not given. With the first, what "summed"
    lacks of that with the last is the fault of a softmax of energy_K actions, and what CEP lacks of "summed" that of its learned f_φ,
    as far as a network does not learn of one state from others.
    """

    def q_of(
        energy: EnergyFunction, scale: float, states: Float[Tensor, "m ds"]
    ) -> Float[Tensor, "m"]:
        steered = guided(eps, energy_gradient(energy), schedule, scale)
        drawn = sample_actions(steered, states, action_dim, settings, schedule, generator, GUIDED)
        with torch.no_grad():
            return q(states.unsqueeze(1), drawn).mean(dim=1)

    draws = draws or (settings.energy_K, 16 * settings.energy_K)
    actions = sample_actions(
        eps, states, action_dim, settings, schedule, generator, draws[-1], BLOCK
    )
    with torch.no_grad():
        values = torch.cat(
            [q(s.unsqueeze(1), a) for s, a in zip(states.split(16), actions.split(16))]
        )
    plain, beta_q, records = values.mean(dim=1), settings.beta * values, []
    for count in draws:
        weights = beta_q.unflatten(1, (-1, count)).softmax(dim=2)
        gain = (weights * values.unflatten(1, (-1, count))).sum(dim=2).mean(dim=1) - plain
        records.append(
            {"method": "reweighted", "scale": None, "gain": gain.mean().item(), "draws": count}
        )
    for count in draws:
        parts = zip(
            states.split(CHUNK),
            actions[:, :count].split(CHUNK),
            beta_q[:, :count].split(CHUNK),
            strict=True,
        )
        gain = torch.cat([q_of(summed_energy(a, v, schedule), 1.0, s) for s, a, v in parts]) - plain
        records.append(
            {"method": "summed", "scale": 1.0, "gain": gain.mean().item(), "draws": count}
        )
    for method, energy in energies.items():
        for scale in settings.scales:
            gain = q_of(energy, scale, states) - plain
            records.append({"method": method, "scale": scale, "gain": gain.mean().item()})
    return records


def summed_energy(
    actions: Float[Tensor, "n draws da"], beta_q: Float[Tensor, "n draws"], schedule: VPSchedule
) -> EnergyFunction:
    """E_t(s, a_t) = −log Σ_i w_i e^{βQ_i}, w_i ∝ N(a_t; α_t a_i, σ_t² I) over actions a_i of μ in each of n states, given with their βQ.

    It takes a_t of shape (n, k, da) in these states, and converges to the intermediate energy as `draws` grows: that of a
    `GaussianMixture` of deviations 0 a state, for all states at once.
    """

    def energy(
        at: Float[Tensor, "n k da"], t: Tensor, s: Tensor | None = None
    ) -> Float[Tensor, "n k"]:
        alpha, sigma = (expand_as(value, at) for value in (schedule.alpha(t), schedule.sigma(t)))
        square = ((at / alpha).unsqueeze(-2) - actions.unsqueeze(-3)).square().sum(dim=-1)
        log_w = (-square * (alpha / sigma) ** 2 / 2).log_softmax(dim=-1)
        return -(log_w + beta_q.unsqueeze(-2)).logsumexp(dim=-1)

    return energy
