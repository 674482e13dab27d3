"""Step 5: three policies: the behaviour μ_θ, the guided π ∝ μ e^{βQ}, and the best of several by Q."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.diffusion.guidance import EnergyFunction, EpsFunction, energy_gradient, guided
from cepnb.diffusion.networks import QEnsemble
from cepnb.diffusion.samplers import dpm_solver_pp, last
from cepnb.qgpo.behaviour import SCHEDULE
from cepnb.qgpo.critic import policy_value
from cepnb.qgpo.settings import Settings
from cepnb.storage.validation import check_shape

BLOCK = 2048  # actions per network call whose hidden values fit into a CPU's cache

Policy = Callable[[Tensor, torch.Generator], Tensor]  # scaled states (n, ds) → actions (n, da)


def sample_actions(
    eps: EpsFunction,
    states: Float[Tensor, "n ds"],
    action_dim: int,
    settings: Settings,
    generator: torch.Generator,
    K: int = 1,
    block: int | None = None,
) -> Float[Tensor, "n K da"]:
    """Sample K independent actions per state by DPM-Solver++ (2M), clipped if the settings say so.

    Clipping makes infinite numbers NaN, so that the caller's checks still find them.
    `block` limits the actions per network call, with the same random numbers. It requires an `eps`
    that treats all rows alike (no scale per state). Raises `CepnbError` unless `states` has a row
    per state.
    """
    check_shape("states", states, "n", "ds")
    start = torch.randn((len(states), K, action_dim), generator=generator, device=states.device)
    times = SCHEDULE.times(settings.sampler_steps)
    parts = max(1, math.ceil(len(states) * K / block)) if block else 1
    pairs = zip(start.tensor_split(parts), states.tensor_split(parts), strict=True)
    samples = [last(dpm_solver_pp(eps, x, times, SCHEDULE, s.unsqueeze(1))) for x, s in pairs]
    actions = torch.cat(samples)
    if not settings.clip_actions:
        return actions
    return actions.masked_fill(actions.isinf(), math.nan).clamp(-1, 1)


def behaviour_policy(eps: EpsFunction, action_dim: int, settings: Settings) -> Policy:
    """Return the policy a ~ μ_θ(·|s)."""
    return lambda s, generator: sample_actions(eps, s, action_dim, settings, generator).squeeze(1)


def guided_policy(
    eps: EpsFunction,
    energy: EnergyFunction,
    scale: float | Float[Tensor, "n"],
    action_dim: int,
    settings: Settings,
) -> Policy:
    """Return the policy a ~ π(·|s) of the guided score (Eqs. 11 and 18).

    `scale` is the guidance scale s; a tensor gives each state of a batch its own.
    """
    guided_eps = guided(eps, energy_gradient(energy), SCHEDULE, scale)
    return behaviour_policy(guided_eps, action_dim, settings)


def best_of_policy(eps: EpsFunction, q: QEnsemble, action_dim: int, settings: Settings) -> Policy:
    """Return the policy that takes the highest Q̃ of `settings.best_of` actions of μ_θ (as in SfBC).

    Where a Q̃ is not a number, so is the action.
    """
    value = policy_value(q, settings)

    def act(states: Float[Tensor, "n ds"], generator: torch.Generator) -> Float[Tensor, "n da"]:
        count = settings.best_of
        actions = sample_actions(eps, states, action_dim, settings, generator, count, BLOCK)
        with torch.no_grad():
            highest, best = value(states.unsqueeze(1), actions).max(dim=1)
        chosen = actions.take_along_dim(best[:, None, None], dim=1).squeeze(1)
        return chosen.masked_fill(highest.isnan().unsqueeze(1), math.nan)

    return act
