"""Samplers of the reverse process: plain generators of x along decreasing times, given any noise prediction."""

import math
from collections import deque
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.diffusion.guidance import EpsFunction, predict_x0
from cepnb.diffusion.schedule import VPSchedule
from cepnb.errors import CepnbError


@torch.no_grad()
def dpm_solver_pp(
    eps: EpsFunction,
    x: Tensor,
    times: Float[Tensor, "steps_plus_1"],
    schedule: VPSchedule,
    condition: Tensor | None = None,
) -> Iterator[Tensor]:
    """DPM-Solver++ (2M), Algorithm 2 of Lu et al. 2022 (arXiv:2211.01095): yields x at every time, the start included.

    A second-order multistep solver of the probability-flow equation in data prediction: one evaluation of `eps` a
    step, first order on the first step. With λ = log(α/σ), h the step in λ and r the ratio of the last step to it,
        D = x̂_0 + (x̂_0 − x̂_0')/(2r),   x ← (σ_next/σ) x + α_next (1 − e^{−h}) D.
    `x` ~ N(0, I) of shape (*batch, dim) at times[0]; the last yield is at times[-1] and keeps its noise σ_{t_min}.
    """
    alpha, sigma, lam = _coefficients(times, schedule)
    data, moments = predict_x0(eps, schedule), times.tolist()
    previous = previous_h = None
    yield x
    for i in range(len(times) - 1):
        x0 = data(x, x.new_full((), moments[i]), condition)
        h = lam[i + 1] - lam[i]
        direction = x0 if previous is None else x0 + (x0 - previous) * (h / (2 * previous_h))
        x = (sigma[i + 1] / sigma[i]) * x - alpha[i + 1] * math.expm1(-h) * direction
        previous, previous_h = x0, h
        yield x


@torch.no_grad()
def ancestral(
    eps: EpsFunction,
    x: Tensor,
    times: Float[Tensor, "steps_plus_1"],
    schedule: VPSchedule,
    condition: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Ancestral sampling (Ho et al. 2020, Algorithm 2): x_next ~ q(x_next | x, x̂_0) at every step, the start included.

    The posterior between two times is Gaussian with mean (σ_next² a/σ²) x + (α_next (1 − a² σ_next²/σ²) ...) written
    below through a = α/α_next; first order in the step, stochastic, and therefore forgiving of small score errors.
    """
    alpha, sigma, _ = _coefficients(times, schedule)
    data, moments = predict_x0(eps, schedule), times.tolist()
    yield x
    for i in range(len(times) - 1):
        x0 = data(x, x.new_full((), moments[i]), condition)
        a = alpha[i] / alpha[i + 1]
        step_variance = sigma[i] ** 2 - (a * sigma[i + 1]) ** 2  # of x given x_next
        from_x = a * sigma[i + 1] ** 2 / sigma[i] ** 2
        from_x0 = alpha[i + 1] * step_variance / sigma[i] ** 2
        deviation = sigma[i + 1] * math.sqrt(step_variance) / sigma[i]
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        x = from_x * x + from_x0 * x0 + deviation * noise
        yield x


def last(trajectory: Iterator[Tensor]) -> Tensor:
    """The end of a trajectory, without keeping the rest: `last(dpm_solver_pp(...))`."""
    return deque(trajectory, maxlen=1).pop()


def _coefficients(
    times: Tensor, schedule: VPSchedule
) -> tuple[list[float], list[float], list[float]]:
    if (
        times.ndim != 1
        or len(times) < 2
        or not bool((times[1:] < times[:-1]).all())
        or float(times[-1]) <= 0
    ):
        raise CepnbError(
            f"times of shape {tuple(times.shape)}: expected at least 2, strictly decreasing, above 0"
        )
    times = times.double()
    return (
        schedule.alpha(times).tolist(),
        schedule.sigma(times).tolist(),
        schedule.half_log_snr(times).tolist(),
    )
