"""Step 5: policies that sample actions from μ_θ, from π ∝ μ e^{βQ} by guidance, or as the best of several."""

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.diffusion.guidance import EnergyFunction, EpsFunction, energy_gradient, guided
from cepnb.diffusion.networks import TwinQ
from cepnb.diffusion.samplers import dpm_solver_pp, last
from cepnb.diffusion.schedule import VPSchedule
from cepnb.qgpo.settings import Settings

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
    schedule: VPSchedule = VPSchedule(),
) -> Float[Tensor, "n K da"]:
    """Sample K independent actions per state by DPM-Solver++ (2M), clipped if the settings say so.

    `block` limits the actions per network call without changing the random numbers; then `eps` must
    not depend on the row (such as a scale per state).
    """
    start = torch.randn((len(states), K, action_dim), generator=generator, device=states.device)
    times = schedule.times(settings.sampler_steps)
    parts = max(1, math.ceil(len(states) * K / block)) if block else 1
    actions = []
    for x, s in zip(start.tensor_split(parts), states.tensor_split(parts), strict=True):
        trajectory = dpm_solver_pp(eps, x, times, schedule, s.unsqueeze(1))
        actions.append(last(trajectory))
    sampled = torch.cat(actions)
    return sampled.clamp(-1, 1) if settings.clip_actions else sampled


def behaviour_policy(
    eps: EpsFunction, action_dim: int, settings: Settings, schedule: VPSchedule = VPSchedule()
) -> Policy:
    """Return the policy a ~ μ_θ(·|s)."""
    fixed = dict(action_dim=action_dim, settings=settings, schedule=schedule)
    sample = partial(sample_actions, eps, **fixed)
    return lambda states, generator: sample(states, generator=generator).squeeze(1)


def guided_policy(
    eps: EpsFunction,
    energy: EnergyFunction,
    scale: float | Float[Tensor, "n"],
    action_dim: int,
    settings: Settings,
    schedule: VPSchedule = VPSchedule(),
) -> Policy:
    """Return the policy a ~ π(·|s) of the guided score (Eqs. 11 and 18).

    `scale` is the guidance scale s; a tensor gives each state of a batch its own.
    """
    guided_eps = guided(eps, energy_gradient(energy), schedule, scale)
    return behaviour_policy(guided_eps, action_dim, settings, schedule)


def best_of_policy(
    eps: EpsFunction,
    q: TwinQ,
    action_dim: int,
    settings: Settings,
    schedule: VPSchedule = VPSchedule(),
) -> Policy:
    """Return the policy that takes the highest Q of `settings.best_of` actions of μ_θ (as in SfBC)."""

    def act(states: Float[Tensor, "n ds"], generator: torch.Generator) -> Float[Tensor, "n da"]:
        actions = sample_actions(
            eps, states, action_dim, settings, generator, settings.best_of, BLOCK, schedule
        )
        with torch.no_grad():
            best = q(states.unsqueeze(1), actions).argmax(dim=1)
        return actions.take_along_dim(best[:, None, None], dim=1).squeeze(1)

    return act
