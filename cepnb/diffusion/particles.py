"""Guidance by particles: weighted samples correct inexact guidance, without training."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.diffusion.guidance import EpsFunction, predict_x0
from cepnb.diffusion.samplers import coefficients_at, reverse_step
from cepnb.diffusion.schedule import VPSchedule
from cepnb.storage.validation import check_finite

Energy = Callable[[Tensor], Tensor]  # (*batch, dim) → (*batch,)


@torch.no_grad()
def twisted_diffusion(
    eps: EpsFunction,
    twist: Energy,
    energy: Energy,
    x: Float[Tensor, "runs particles dim"],
    times: Float[Tensor, "steps_plus_1"],
    schedule: VPSchedule,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "runs particles dim"]:
    """Sample p_0 ∝ q_0 e^{−energy} by the twisted diffusion sampler (Wu et al. 2023, Algorithm 1).

    Each particle takes ancestral steps, pushed by the gradient of ψ_t(x) = twist(x̂_0(x)), as in DPS.
    Its weight corrects the push and ends with the right energy:
        w_next = w p(x_next | x) e^{−ψ_next(x_next)} / [p_pushed(x_next | x) e^{−ψ(x)}],
    with ψ = `energy`(x) at the last time. The particles of a run are resampled by their weights at
    the end, and before when less than half of them are effective. Samples are exact as particles
    and steps grow, for any differentiable `twist`; those of one run depend on each other. Both
    energies include the factor β. `x` ~ N(0, I) at times[0]. Raises `CepnbError` unless times
    decrease and stay above 0.
    """
    alpha, sigma, _ = coefficients_at(times, schedule)
    data, particles = predict_x0(eps, schedule), x.shape[1]

    def twisted(x: Tensor, t: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return x̂_0, ψ and its gradient at x."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            x0 = data(x, x.new_full((), t), None)
            psi = twist(x0)
            (slope,) = torch.autograd.grad(psi.sum(), x)
        return x0.detach(), psi.detach(), slope

    *earlier, _ = times.tolist()
    log_w = x.new_zeros(x.shape[:2])
    old_psi = torch.zeros_like(log_w)
    for i, t in enumerate(earlier):
        x0, psi, slope = twisted(x, t)
        log_w = log_w + old_psi - psi
        rows, log_w = _resampled(log_w, 0.5 * particles, generator)
        x, x0, slope = (v.take_along_dim(rows.unsqueeze(2), dim=1) for v in (x, x0, slope))
        old_psi = psi.gather(1, rows)
        from_x, from_x0, deviation = reverse_step(alpha[i : i + 2], sigma[i : i + 2])
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        push = -deviation * slope  # in deviations
        x = from_x * x + from_x0 * x0 + deviation * (push + noise)
        log_w = log_w + (noise.square() - (push + noise).square()).sum(dim=2) / 2
    rows, _ = _resampled(log_w + old_psi - energy(x), math.inf, generator)
    return x.take_along_dim(rows.unsqueeze(2), dim=1)


def _resampled(
    log_w: Float[Tensor, "runs particles"], threshold: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Systematic resampling of runs with fewer effective particles than `threshold`.

    Return the particles to keep, (runs, particles), and their log weights.
    """
    runs, particles = log_w.shape
    weights = log_w.double().softmax(dim=1)
    check_finite("weights of particles", weights, "use a smaller beta")
    few = 1 / weights.square().sum(dim=1, keepdim=True) < threshold
    edges = weights.cumsum(dim=1)
    offset = torch.rand(runs, 1, generator=generator, dtype=edges.dtype, device=edges.device)
    places = torch.arange(particles, dtype=edges.dtype, device=edges.device)
    drawn = torch.searchsorted(edges, (places + offset) / particles).clamp(max=particles - 1)
    kept = places.long().expand(runs, particles)
    return torch.where(few, drawn, kept), torch.where(few, 0.0, log_w)
