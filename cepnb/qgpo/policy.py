"""Step 5: policies that draw actions from μ_θ, from π ∝ μ e^{βQ} by guidance, or as the best of several by Q."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.diffusion.guidance import EnergyFunction, EpsFunction, energy_gradient, guided
from cepnb.diffusion.networks import TwinQ
from cepnb.diffusion.samplers import dpm_solver_pp, last
from cepnb.diffusion.schedule import VPSchedule
from cepnb.qgpo.settings import Settings

BLOCK = 2048  # actions whose hidden values stay in the cache of a processor; larger batches took a fifth more time

Policy = Callable[[Tensor, torch.Generator], Tensor]  # states (n, ds) → actions (n, da)


def sample_actions(
    eps: EpsFunction,
    states: Float[Tensor, "n ds"],
    action_dim: int,
    settings: Settings,
    schedule: VPSchedule,
    generator: torch.Generator,
    K: int = 1,
    block: int | None = None,
) -> Float[Tensor, "n K da"]:
    """K independent actions for each state by DPM-Solver++ (2M); clipped into [-1, 1] where the settings say so.

    The network sees each state once, broadcast over its K actions. With `block` it is asked for at most about so many
    actions at a time, from the same random numbers; `eps` must then not hold anything a row of its own, such as scales.
    """
    start = torch.randn((len(states), K, action_dim), generator=generator, device=states.device)
    times, parts = (
        schedule.times(settings.sampler_steps),
        max(1, math.ceil(len(states) * K / block)) if block else 1,
    )
    actions = torch.cat(
        [
            last(dpm_solver_pp(eps, x, times, schedule, s.unsqueeze(1)))
            for x, s in zip(start.tensor_split(parts), states.tensor_split(parts), strict=True)
        ]
    )
    return actions.clamp(-1, 1) if settings.clip_actions else actions


def behaviour_policy(
    eps: EpsFunction, action_dim: int, settings: Settings, schedule: VPSchedule
) -> Policy:
    """a ~ μ_θ(·|s)."""
    return lambda states, generator: sample_actions(
        eps, states, action_dim, settings, schedule, generator
    ).squeeze(1)


def guided_policy(
    eps: EpsFunction,
    energy: EnergyFunction,
    scale: float | Float[Tensor, "n"],
    action_dim: int,
    settings: Settings,
    schedule: VPSchedule,
) -> Policy:
    """a ~ π(·|s) by the guided score (Eqs. 11 and 18); a tensor of scales gives each state of the batch its own s."""
    return behaviour_policy(
        guided(eps, energy_gradient(energy), schedule, scale), action_dim, settings, schedule
    )


def best_of_policy(
    eps: EpsFunction, q: TwinQ, action_dim: int, settings: Settings, schedule: VPSchedule
) -> Policy:
    """The action of highest Q among `settings.best_of` draws from μ_θ (selection without guidance, as in SfBC)."""

    def act(states: Tensor, generator: torch.Generator) -> Tensor:
        actions = sample_actions(
            eps, states, action_dim, settings, schedule, generator, settings.best_of, BLOCK
        )
        with torch.no_grad():
            best = q(states.unsqueeze(1), actions).argmax(dim=1)
        return actions.take_along_dim(best[:, None, None], dim=1).squeeze(1)

    return act
