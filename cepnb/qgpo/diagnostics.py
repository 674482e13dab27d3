"""Exactness of guidance without a simulator: mean Q of guided actions less that of the behaviour."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.diffusion.guidance import EnergyFunction, EpsFunction, energy_gradient, guided
from cepnb.qgpo.critic import support_values
from cepnb.qgpo.policy import BLOCK, sample_actions
from cepnb.qgpo.settings import SCHEDULE, Settings
from cepnb.storage.validation import check_shape

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
) -> list[dict]:
    """Measure E_π[Q] − E_μ[Q], averaged over states; return records of `method`, `scale` and `gain`.

    - "reweighted" (scale None): π by weights e^{βQ} on actions of μ_θ. This is the target, up to the
      error of self-normalised sampling where good actions are rare.
    - "summed" (scale 1): guidance by `summed_energy` over the same actions, without a network. Its
      distance to "reweighted" is the sampler's error.
    - each method of `energies` at each of `settings.scales`: a method that guides exactly reaches
      "reweighted" at s = 1; the converse does not hold.

    The first two use `draws` = energy_K actions per state, as training does, and 16 · energy_K.
    """
    all_draws = settings.energy_K, 16 * settings.energy_K
    actions = sample_actions(eps, states, action_dim, settings, generator, all_draws[-1], BLOCK)
    values = support_values(q, states, actions, rows=16)
    beta_q, behaviour_value, records = settings.beta * values, values.mean(dim=1), []

    def record(method: str, scale: float | None, value: Float[Tensor, "n"], **draws: int) -> None:
        gain = (value - behaviour_value).mean().item()
        records.append({"method": method, "scale": scale, "gain": gain} | draws)

    def guided_value(energy: EnergyFunction, scale: float, s: Tensor) -> Float[Tensor, "m"]:
        guided_eps = guided(eps, energy_gradient(energy), SCHEDULE, scale)
        guided_actions = sample_actions(guided_eps, s, action_dim, settings, generator, GUIDED)
        return support_values(q, s, guided_actions).mean(dim=1)

    for draws in all_draws:
        groups = values.unflatten(1, (-1, draws))
        weights = beta_q.unflatten(1, (-1, draws)).softmax(dim=2)
        record("reweighted", None, (weights * groups).sum(dim=2).mean(dim=1), draws=draws)
    for draws in all_draws:
        pools = states, actions[:, :draws], beta_q[:, :draws]
        chunks = zip(*(pool.split(CHUNK) for pool in pools), strict=True)
        found = [guided_value(summed_energy(a, b), 1.0, s) for s, a, b in chunks]
        record("summed", 1.0, torch.cat(found), draws=draws)
    for method, energy in energies.items():
        for scale in settings.scales:
            record(method, scale, guided_value(energy, scale, states))
    return records


def summed_energy(
    actions: Float[Tensor, "n draws da"], beta_q: Float[Tensor, "n draws"]
) -> EnergyFunction:
    """E_t(s, a_t) = −log Σ_i w_i e^{βQ_i} with w_i ∝ N(a_t; α_t a_i, σ_t² I), for actions a_i of μ.

    It takes a_t of shape (n, k, da) in the same n states, and converges to the intermediate energy
    as the number of draws grows. For one state, a `GaussianMixture` of point masses is the same.
    """
    check_shape("beta_q", beta_q, *actions.shape[:2])

    def energy(
        at: Float[Tensor, "n k da"], t: Tensor, s: Tensor | None = None
    ) -> Float[Tensor, "n k"]:
        check_shape("a_t", at, len(actions), "k", actions.shape[-1])
        alpha, sigma = SCHEDULE.coefficients(t, at)
        distance = ((at / alpha).unsqueeze(-2) - actions.unsqueeze(-3)).square().sum(dim=-1)
        log_w = (-distance * (alpha / sigma) ** 2 / 2).log_softmax(dim=-1)
        return -(log_w + beta_q.unsqueeze(-2)).logsumexp(dim=-1)

    return energy
