"""The variance-preserving forward process q(x_t | x_0) = N(α_t x_0, σ_t² I), Eq. 8 of arXiv:2304.12824."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.errors import CepnbError


def expand_as(coefficient: Tensor, x: Tensor) -> Tensor:
    """Append axes of length one to a per-example coefficient so that it multiplies x: (batch,) → (batch, 1, ..., 1)."""
    return coefficient.reshape(coefficient.shape + (1,) * (x.ndim - coefficient.ndim))


@dataclass(frozen=True)
class VPSchedule:
    """Linear variance-preserving schedule: log α_t = −(rate_max − rate_min) t²/4 − rate_min t/2, α_t² + σ_t² = 1.

    `rate_min` and `rate_max` are the ends of the linear noise rate of the diffusion (Song et al. 2021, Appendix B call
    them β_0 and β_1; here β is only the inverse temperature). Times are in [t_min, 1]; t_min > 0 since σ_0 = 0.
    All methods take a tensor of times of any shape and return that shape.
    """

    rate_min: float = 0.1
    rate_max: float = 20.0
    t_min: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.rate_min < self.rate_max < math.inf:
            raise CepnbError(
                f"rates ({self.rate_min}, {self.rate_max}): expected 0 < rate_min < rate_max < inf"
            )
        if not 0 < self.t_min < 1:
            raise CepnbError(f"t_min {self.t_min}: expected a time in (0, 1)")

    def log_alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """log α_t, from 0 at t = 0 to −(rate_max + rate_min)/4 at t = 1."""
        return -(self.rate_max - self.rate_min) / 4 * t**2 - self.rate_min / 2 * t

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Signal coefficient α_t in (0, 1]."""
        return self.log_alpha(t).exp()

    def sigma(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Noise coefficient σ_t = sqrt(1 − α_t²) in [0, 1), by expm1 because 1 − α_t² loses its digits at small t."""
        return (-torch.expm1(2 * self.log_alpha(t))).sqrt()

    def half_log_snr(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """λ_t = log(α_t/σ_t), half the log signal-to-noise ratio: the time variable of DPM-Solver. Falls with t."""
        log_alpha = self.log_alpha(t)
        return log_alpha - 0.5 * torch.log(-torch.expm1(2 * log_alpha))

    def time_of(self, half_log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Inverse of `half_log_snr`: with −log α = ½ softplus(−2λ), the positive root of the schedule's quadratic."""
        minus_log_alpha = 0.5 * torch.nn.functional.softplus(-2 * half_log_snr)
        discriminant = self.rate_min**2 + 4 * (self.rate_max - self.rate_min) * minus_log_alpha
        return 4 * minus_log_alpha / (self.rate_min + discriminant.sqrt())

    def rate(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Noise rate −2 d(log α_t)/dt of the forward equation dx = −½ rate(t) x dt + sqrt(rate(t)) dw."""
        return self.rate_min + (self.rate_max - self.rate_min) * t

    def add_noise(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t = α_t x_0 + σ_t ε (Eq. 8). t has the leading axes of x0 (or none); each t serves the axes behind it."""
        return expand_as(self.alpha(t), x0) * x0 + expand_as(self.sigma(t), x0) * eps

    def draw_times(
        self, count: int, generator: torch.Generator | None = None, early: float = 0.0
    ) -> Float[Tensor, "count"]:
        """Training times, uniform in [t_min, 1]; the first share `early` of them uniform in λ_t instead.

        More than a third of the range of λ_t lies below t = 0.1, where fine details of a density are decided. Which times
        are seen how often does not move the minimiser at any one of them. They are where the generator draws.
        """
        device = generator.device if generator is not None else None
        times = self.t_min + (1 - self.t_min) * torch.rand(
            count, generator=generator, device=device
        )
        first = round(early * count)
        if first:
            low, high = self.half_log_snr(torch.tensor([1.0, self.t_min])).tolist()
            part = (times[:first] - self.t_min) / (1 - self.t_min)
            times[:first] = self.time_of(low + (high - low) * part).clamp(self.t_min, 1.0)
        return times

    def times(self, steps: int, spacing: str = "half_log_snr") -> Float[Tensor, "steps_plus_1"]:
        """Sampling times from 1 down to t_min, `steps` + 1 of them in float64.

        `spacing` is "half_log_snr" (uniform in λ, the natural grid of DPM-Solver) or "time" (uniform in t).
        Raises `CepnbError` on another, and on fewer than one step.
        """
        if steps < 1:
            raise CepnbError(f"steps {steps}: expected at least 1")
        ends = torch.tensor([1.0, self.t_min], dtype=torch.float64)
        if spacing == "time":
            return torch.linspace(1.0, self.t_min, steps + 1, dtype=torch.float64)
        if spacing != "half_log_snr":
            raise CepnbError(f"spacing '{spacing}': expected 'half_log_snr' or 'time'")
        first, last = self.half_log_snr(ends).tolist()
        times = self.time_of(torch.linspace(first, last, steps + 1, dtype=torch.float64))
        times[0], times[-1] = ends
        return times
