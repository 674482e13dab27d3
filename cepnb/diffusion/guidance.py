"""Energy guidance: turn an intermediate energy into a guided noise prediction (Eq. 11)."""

from collections.abc import Callable

import torch
from torch import Tensor

from cepnb.diffusion.schedule import VPSchedule, expand_as
from cepnb.errors import CepnbError
from cepnb.storage.validation import check_same_shape

# ε(x_t, t, condition) → (*batch, dim); f(x_t, t, condition) → (*batch,). Toys pass no condition.
EpsFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]
EnergyFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def energy_gradient(energy: EnergyFunction) -> EpsFunction:
    """Return the detached gradient ∇f of an energy f(x_t, t, condition) of independent examples.

    The gradient raises `CepnbError` unless f returns one value per example.
    """

    def gradient(xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        with torch.enable_grad():
            xt = xt.detach().requires_grad_(True)
            f = energy(xt, t, condition)
            if f.shape != xt.shape[:-1]:
                fix = f"return {tuple(xt.shape[:-1])}, one value per example"
                raise CepnbError(f"energy returns shape {tuple(f.shape)}; {fix}")
            (slope,) = torch.autograd.grad(f.sum(), xt)
        return slope

    return gradient


def guided(
    eps: EpsFunction, gradient: EpsFunction, schedule: VPSchedule, scale: float | Tensor = 1.0
) -> EpsFunction:
    """Guided noise prediction ε_θ + s σ_t ∇f (Eq. 11, arXiv:2304.12824).

    `scale` s = 1 is exact guidance; a tensor gives each example its own s (leading axes of x_t).
    s is not a temperature: s E_t is not the intermediate energy of s β. s = 0 returns `eps` itself,
    and in a tensor it ignores ∇f even if ∇f is not finite.
    """
    if not isinstance(scale, Tensor) and scale == 0:
        return eps

    def guided_eps(xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        slope, noise = gradient(xt, t, condition), eps(xt, t, condition)
        check_same_shape(x_t=xt, gradient=slope, eps=noise)
        push = expand_as(schedule.sigma(t) * scale, xt) * slope
        if isinstance(scale, Tensor):
            push = push.masked_fill(expand_as(scale == 0, xt), 0.0)
        return noise + push

    return guided_eps


def predict_x0(eps: EpsFunction, schedule: VPSchedule) -> EpsFunction:
    """Data prediction x̂_0 = (x_t − σ_t ε_θ)/α_t, E[x_0 | x_t] for an exact ε_θ (Tweedie)."""

    def data(xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        alpha, sigma = schedule.coefficients(t, xt)
        noise = eps(xt, t, condition)
        check_same_shape(x_t=xt, eps=noise)
        return (xt - sigma * noise) / alpha

    return data


def dps_energy(
    eps: EpsFunction, energy: Callable[..., Tensor], beta: float, schedule: VPSchedule
) -> EnergyFunction:
    """Diffusion posterior sampling (DPS), f = β E(x̂_0(x_t)): no training, not exact (Table 1).

    E is `energy(x0)` or, with a condition, `energy(x0, condition)`, and must be differentiable: a
    piecewise constant E gives no guidance. Source: Chung et al. 2023.
    """
    data = predict_x0(eps, schedule)

    def dps(xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        x0 = data(xt, t, condition)
        return beta * (energy(x0) if condition is None else energy(x0, condition))

    return dps
