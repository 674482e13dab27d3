"""Measures without a simulator: errors of the critic, and the gain in Q of guided actions."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cepnb.diffusion.guidance import EnergyFunction, EpsFunction, energy_gradient, guided
from cepnb.diffusion.networks import QEnsemble
from cepnb.diffusion.posterior import averaged_energy, posterior_log_weights
from cepnb.diffusion.training import unpacked
from cepnb.qgpo.behaviour import SCHEDULE
from cepnb.qgpo.critic import policy_value, support_values
from cepnb.qgpo.policy import BLOCK, sample_actions
from cepnb.qgpo.settings import Settings
from cepnb.qgpo.transitions import Transitions
from cepnb.storage.validation import check_shape

GUIDED = 8  # guided actions per state
CHUNK = 250  # states whose sums over all draws are in memory together

CUT = 0.05  # share of a return that may be missing because its episode was cut
COMPARED = 10_000  # states, at most, whose support actions are evaluated


def observed_returns(
    data: Transitions, discount: float, one_walk: bool = False
) -> tuple[Float[Tensor, "n"], Bool[Tensor, "n"]]:
    """Return Σ_k γ^k r_{i+k} from each row to the end of its episode, and which of them are whole.

    A return is whole if its episode ends in a terminal, or if the discount at the cut is at most
    `CUT`. These are unbiased samples of the behaviour's Q(s, a), on the CPU. With `one_walk` only
    terminals and the last row end an episode: in a maze, a new goal does not move the controller.
    """
    n = len(data.rewards)
    follows = data.next_row.cpu().eq(torch.arange(1, n + 1)).tolist()
    rewards, terminals = data.rewards.cpu().double().tolist(), data.terminals.cpu().tolist()
    returns, missing, total, weight = [0.0] * n, [0.0] * n, 0.0, 1.0
    for i in reversed(range(n)):
        if terminals[i]:
            total, weight = 0.0, 0.0
        elif i == n - 1 or not (follows[i] or one_walk):
            total, weight = 0.0, 1.0
        total, weight = rewards[i] + discount * total, discount * weight
        returns[i], missing[i] = total, weight
    return torch.tensor(returns), torch.tensor(missing) <= CUT


@torch.no_grad()
def critic_errors(
    q: QEnsemble, data: Transitions, support: Float[Tensor, "n K da"], discount: float
) -> dict[str, float]:
    """Compare the critic with observed returns, and its networks with each other.

    `support` holds K actions for each row of `data`. Keys of the result, without those that are
    undefined, such as a correlation of equal values:

    - `return_rank_correlation`: Spearman's, of Q(s, a) and `observed_returns` that are whole. It
      measures the order of states more than that of actions.
    - `return_bias`: mean Q(s, a) less the mean of these returns. Q is the value of a better policy
      than the behaviour and a minimum of networks, so 0 is not exact.
    - `agreement`: correlation of two networks over the support actions of a state, each less its
      mean over the state; the mean over all pairs. This is the order of actions, which guides the
      policy.
    - `data_less_support`: mean Q of the data's actions less that of the support actions.
    """
    from scipy.stats import rankdata

    check_shape("support", support, len(data.states), "K", data.actions.shape[1])
    taken = support_values(q, data.states, data.actions.unsqueeze(1)).squeeze(1)
    some = slice(None, None, math.ceil(len(taken) / COMPARED))
    s, a = data.states[some].unsqueeze(1), unpacked(support[some])
    values = q.each(s, a)
    advantages = (values - values.mean(dim=2, keepdim=True)).flatten(1)
    count = len(values)
    pairs = torch.corrcoef(advantages)[*torch.triu_indices(count, count, 1, device=values.device)]
    level = values.amin(dim=0).mean()
    errors = {"agreement": pairs.mean().item()}
    errors["data_less_support"] = (taken[some].mean() - level).item()
    returns, whole = observed_returns(data, discount)
    if whole.any():
        found, expected = taken.cpu()[whole], returns[whole]
        ranks = (torch.from_numpy(rankdata(values)) for values in (found, expected))
        errors["return_rank_correlation"] = _correlation(*ranks)
        errors["return_bias"] = (found.mean() - expected.mean()).item()
    return {name: error for name, error in errors.items() if math.isfinite(error)}


def _correlation(x: Float[Tensor, "n"], y: Float[Tensor, "n"]) -> float:
    """Return Pearson's correlation; NaN if either is constant."""
    return torch.corrcoef(torch.stack([x, y]))[0, 1].item()


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

    - "reweighted" (scale None): π by weights e^{βQ̃} on actions of μ_θ. This is the target, up to the
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
    value = policy_value(q, settings)
    bounded = values if value is q else support_values(value, states, actions, rows=16)
    beta_q, behaviour_value, records = settings.beta * bounded, values.mean(dim=1), []

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
    """E_t(s, a_t) = −log Σ_i w_i e^{βQ_i} with `posterior_log_weights` w of actions a_i of μ.

    It takes a_t of shape (n, k, da) in the same n states, and converges to the intermediate energy
    as the number of draws grows. For one state, a `GaussianMixture` of point masses is the same.
    """
    check_shape("beta_q", beta_q, *actions.shape[:2])

    def energy(
        at: Float[Tensor, "n k da"], t: Tensor, s: Tensor | None = None
    ) -> Float[Tensor, "n k"]:
        check_shape("a_t", at, len(actions), "k", actions.shape[-1])
        return averaged_energy(posterior_log_weights(at, t, actions, SCHEDULE), -beta_q)

    return energy
