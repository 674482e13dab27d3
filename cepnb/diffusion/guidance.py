"""Energy guidance: from an intermediate energy to a guided noise prediction, one path for toys and policies (Eq. 11)."""

from collections.abc import Callable

import torch
from torch import Tensor

from cepnb.diffusion.schedule import VPSchedule, expand_as

# ε(x_t, t, condition) → (*batch, dim); f(x_t, t, condition) → (*batch,). The condition is None for plain densities.
EpsFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]
EnergyFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def energy_gradient(energy: EnergyFunction) -> EpsFunction:
    """∇_{x_t} f(x_t, t, condition) by automatic differentiation, as a function of the same arguments.

    The energies of a batch must not depend on each other's x_t. The gradient is detached.
    """

    def gradient(xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        with torch.enable_grad():
            xt = xt.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(energy(xt, t, condition).sum(), xt)
        return slope

    return gradient


def guided(
    eps: EpsFunction, gradient: EpsFunction, schedule: VPSchedule, scale: float | Tensor = 1.0
) -> EpsFunction:
    """Noise prediction of the guided score (Eq. 11, arXiv:2304.12824): ε_θ + s σ_t ∇f, since score = −ε/σ_t.

    `scale` s = 1 is exact guidance; a tensor gives each example its own (leading axes of x_t). Another s is not
    another β: s E_t is not the intermediate energy of s β. With s = 0 the unguided function itself is returned, and of a
    tensor the examples with s = 0 are unguided whatever the gradient is.
    """
    if isinstance(scale, (int, float)) and scale == 0:
        return eps

    def guided_eps(xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        push = expand_as(schedule.sigma(t) * scale, xt) * gradient(xt, t, condition)
        if isinstance(scale, Tensor):
            push = push.masked_fill(expand_as(scale == 0, xt), 0.0)
        return eps(xt, t, condition) + push

    return guided_eps


def predict_x0(eps: EpsFunction, schedule: VPSchedule) -> EpsFunction:
    """Data prediction x̂_0 = (x_t − σ_t ε_θ)/α_t, which is E[x_0 | x_t] when ε_θ is exact (Tweedie's formula)."""

    def data(xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        noise = expand_as(schedule.sigma(t), xt) * eps(xt, t, condition)
        return (xt - noise) / expand_as(schedule.alpha(t), xt)

    return data


def dps_energy(
    eps: EpsFunction, energy: Callable[..., Tensor], beta: float, schedule: VPSchedule
) -> EnergyFunction:
    """Diffusion posterior sampling, f = β E(x̂_0(x_t)): no training, not exact (Table 1; Chung et al. 2023).

    `energy` takes x_0, and the condition where there is one. Its gradient passes through ε_θ, and needs a
    differentiable E: a piecewise constant one gives no guidance at all.
    """
    data = predict_x0(eps, schedule)

    def dps(xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        x0 = data(xt, t, condition)
        return beta * (energy(x0) if condition is None else energy(x0, condition))

    return dps
