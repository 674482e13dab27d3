"""Samplers of the reverse process: generators that yield x at each time, for any noise prediction."""

import math
from collections import deque
from collections.abc import Iterator, Sequence

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
    """DPM-Solver++ (2M), Algorithm 2 of Lu et al. 2022 (arXiv:2211.01095): yield x at every time.

    Second-order multistep solver of the probability-flow equation, with one evaluation of `eps` a
    step. With λ = log(α/σ), h the step in λ and r the ratio of the previous step to h,
        D = x̂_0 + (x̂_0 − x̂_0')/(2r),   x ← (σ_next/σ) x + α_next (1 − e^{−h}) D.
    `x` ~ N(0, I) of shape (*batch, dim) at times[0] is the first yield; the last keeps the noise
    σ_{t_min}. Raises `CepnbError` unless times decrease and stay above 0.
    """
    alpha, sigma, lam = coefficients_at(times, schedule)
    data, values = predict_x0(eps, schedule), times.tolist()
    previous = previous_h = None
    yield x
    for i in range(len(times) - 1):
        x0 = data(x, x.new_full((), values[i]), condition)
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
    """Ancestral sampling, Algorithm 2 of Ho et al. 2020: yield x_next ~ q(x_next | x, x̂_0).

    First order in the step. The noise of each step corrects small score errors. Arguments and
    yields as in `dpm_solver_pp`.
    """
    alpha, sigma, _ = coefficients_at(times, schedule)
    data, values = predict_x0(eps, schedule), times.tolist()
    yield x
    for i in range(len(times) - 1):
        x0 = data(x, x.new_full((), values[i]), condition)
        from_x, from_x0, deviation = reverse_step(alpha[i : i + 2], sigma[i : i + 2])
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        x = from_x * x + from_x0 * x0 + deviation * noise
        yield x


def reverse_step(alpha: Sequence[float], sigma: Sequence[float]) -> tuple[float, float, float]:
    """Return the factors of x and x̂_0 in the mean of q(x_next | x, x̂_0), and its deviation.

    `alpha` and `sigma` have the values at the time of x and at the next, smaller time.
    """
    a = alpha[0] / alpha[1]  # x = a x_next + noise of this variance:
    step_variance = sigma[0] ** 2 - (a * sigma[1]) ** 2
    from_x = a * sigma[1] ** 2 / sigma[0] ** 2
    from_x0 = alpha[1] * step_variance / sigma[0] ** 2
    return from_x, from_x0, sigma[1] * math.sqrt(step_variance) / sigma[0]


def last(trajectory: Iterator[Tensor]) -> Tensor:
    """Return the end of a trajectory without storing the rest: `last(dpm_solver_pp(...))`."""
    return deque(trajectory, maxlen=1).pop()


def coefficients_at(times: Tensor, schedule: VPSchedule) -> Iterator[list[float]]:
    """Return α, σ and λ at the times, in float64; raise `CepnbError` unless these decrease above 0."""
    times = times.double()
    finite = bool(times.isfinite().all())
    if (
        not finite
        or times.ndim != 1
        or len(times) < 2
        or times[-1] <= 0
        or not (times.diff() < 0).all()
    ):
        shape = tuple(times.shape)
        raise CepnbError(f"times of shape {shape}: use at least 2, decreasing, above 0")
    coefficients = schedule.alpha(times), schedule.sigma(times), schedule.half_log_snr(times)
    return (values.tolist() for values in coefficients)
