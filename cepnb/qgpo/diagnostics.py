"""How exact the guidance of a policy is, measured by its gain in Q without any returns."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.diffusion.guidance import EnergyFunction, EpsFunction, energy_gradient, guided
from cepnb.diffusion.schedule import VPSchedule
from cepnb.qgpo.policy import BLOCK, sample_actions
from cepnb.qgpo.settings import Settings

GUIDED = 8  # guided actions per state
CHUNK = 250  # states whose sums over all draws are in memory together


def q_gains(
    eps: EpsFunction,
    q: Callable[[Tensor, Tensor], Tensor],
    energies: dict[str, EnergyFunction],
    states: Float[Tensor, "n ds"],
    action_dim: int,
    settings: Settings,
    generator: torch.Generator,
    draws: tuple[int, ...] | None = None,
    schedule: VPSchedule = VPSchedule(),
) -> list[dict]:
    """Measure E_π[Q] − E_μ[Q], averaged over states; return records of `method`, `scale` and `gain`.

    - "reweighted" (scale None): π by weights e^{βQ} on actions of μ_θ. This is the target, up to the
      error of self-normalised sampling where good actions are rare.
    - "summed" (scale 1): guidance by `summed_energy` over the same actions, without a network. Its
      distance to "reweighted" is the sampler's error.
    - each method of `energies` at each of `settings.scales`: a method that guides exactly reaches
      "reweighted" at s = 1; the converse does not hold.

    `draws` are numbers of actions per state, each a divisor of the last; their default is energy_K
    and 16 · energy_K. The first shows what a softmax of energy_K actions loses.
    """

    def guided_value(
        energy: EnergyFunction, scale: float, s: Float[Tensor, "m ds"]
    ) -> Float[Tensor, "m"]:
        guided_eps = guided(eps, energy_gradient(energy), schedule, scale)
        actions = sample_actions(
            guided_eps, s, action_dim, settings, generator, GUIDED, schedule=schedule
        )
        with torch.no_grad():
            return q(s.unsqueeze(1), actions).mean(dim=1)

    draws = draws or (settings.energy_K, 16 * settings.energy_K)
    actions = sample_actions(
        eps, states, action_dim, settings, generator, draws[-1], BLOCK, schedule
    )
    values = _values(q, states, actions)
    behaviour_value = values.mean(dim=1)
    beta_q = settings.beta * values

    records = []
    for count in draws:
        groups = values.unflatten(1, (-1, count))
        weights = beta_q.unflatten(1, (-1, count)).softmax(dim=2)
        value = (weights * groups).sum(dim=2).mean(dim=1)
        gain = (value - behaviour_value).mean().item()
        records.append({"method": "reweighted", "scale": None, "gain": gain, "draws": count})
    for count in draws:
        chunks = []
        for first in range(0, len(states), CHUNK):
            rows = slice(first, first + CHUNK)
            energy = summed_energy(actions[rows, :count], beta_q[rows, :count], schedule)
            chunks.append(guided_value(energy, 1.0, states[rows]))
        gain = (torch.cat(chunks) - behaviour_value).mean().item()
        records.append({"method": "summed", "scale": 1.0, "gain": gain, "draws": count})
    for method, energy in energies.items():
        for scale in settings.scales:
            gain = (guided_value(energy, scale, states) - behaviour_value).mean().item()
            records.append({"method": method, "scale": scale, "gain": gain})
    return records


def summed_energy(
    actions: Float[Tensor, "n draws da"],
    beta_q: Float[Tensor, "n draws"],
    schedule: VPSchedule = VPSchedule(),
) -> EnergyFunction:
    """E_t(s, a_t) = −log Σ_i w_i e^{βQ_i} with w_i ∝ N(a_t; α_t a_i, σ_t² I), for actions a_i of μ.

    It takes a_t of shape (n, k, da) in the same n states, and converges to the intermediate energy
    as the number of draws grows. A `GaussianMixture` of point masses computes the same for one
    state; this one computes all states at once.
    """

    def energy(
        at: Float[Tensor, "n k da"], t: Tensor, s: Tensor | None = None
    ) -> Float[Tensor, "n k"]:
        alpha, sigma = schedule.coefficients(t, at)
        distance = ((at / alpha).unsqueeze(-2) - actions.unsqueeze(-3)).square().sum(dim=-1)
        log_w = (-distance * (alpha / sigma) ** 2 / 2).log_softmax(dim=-1)
        return -(log_w + beta_q.unsqueeze(-2)).logsumexp(dim=-1)

    return energy


@torch.no_grad()
def _values(
    q: Callable[[Tensor, Tensor], Tensor],
    states: Float[Tensor, "n ds"],
    actions: Float[Tensor, "n draws da"],
) -> Float[Tensor, "n draws"]:
    """Compute Q of all actions, a few states at a time."""
    chunks = zip(states.split(16), actions.split(16), strict=True)
    return torch.cat([q(s.unsqueeze(1), a) for s, a in chunks])
