"""The forward process q(x_t | x_0) = N(α_t x_0, σ_t² I) (Eq. 8 of arXiv:2304.12824)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.errors import CepnbError
from cepnb.storage.validation import check_same_shape


def expand_as(coefficient: Tensor, x: Tensor) -> Tensor:
    """Append axes of length one to a coefficient per example: (batch,) → (batch, 1, ..., 1).

    Raises `CepnbError` unless its axes are the leading ones of x, or of length one.
    """
    leading, shape = coefficient.shape, x.shape[:-1]
    if len(leading) > len(shape) or any(n not in (1, m) for n, m in zip(leading, shape)):
        fix = f"use leading axes of x, of shape {tuple(x.shape)}"
        raise CepnbError(f"times or scales have shape {tuple(leading)}; {fix}")
    return coefficient.reshape(coefficient.shape + (1,) * (x.ndim - coefficient.ndim))


@dataclass(frozen=True)
class VPSchedule:
    """Linear variance-preserving schedule (Eq. 8), α_t² + σ_t² = 1.

    log α_t = −(rate_max − rate_min) t²/4 − rate_min t/2. The rates are β_0 and β_1 in Song et al.
    2021; here β is only the inverse temperature. Times are in [t_min, 1], because σ_0 = 0. Raises
    `CepnbError` unless 0 < rate_min < rate_max < ∞ and 0 < t_min < 1, or if σ at t_min or α at
    t = 1 underflows in float32.
    """

    rate_min: float = 0.1
    rate_max: float = 20.0
    t_min: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.rate_min < self.rate_max < math.inf:
            rates = f"rate_min {self.rate_min} and rate_max {self.rate_max}"
            raise CepnbError(f"{rates}: use 0 < rate_min < rate_max < inf")
        if not 0 < self.t_min < 1:
            raise CepnbError(f"t_min {self.t_min}: use a time in (0, 1)")
        first, last = torch.tensor([self.t_min, 1.0])
        if not self.sigma(first) > 0:
            raise CepnbError("sigma at t_min underflows; use a larger t_min")
        if not self.alpha(last) > 1e-30:  # predictions of x_0 divide by it
            raise CepnbError("alpha at t = 1 underflows; use smaller rates, such as 0.1 and 20")

    def log_alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """log α_t, from 0 at t = 0 to −(rate_max + rate_min)/4 at t = 1."""
        return -(self.rate_max - self.rate_min) / 4 * t**2 - self.rate_min / 2 * t

    def alpha(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Signal coefficient α_t in (0, 1]."""
        return self.log_alpha(t).exp()

    def sigma(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Noise coefficient σ_t = sqrt(1 − α_t²) in [0, 1); expm1 keeps the digits at small t."""
        return (-torch.expm1(2 * self.log_alpha(t))).sqrt()

    def half_log_snr(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """λ_t = log(α_t/σ_t), half the log signal-to-noise ratio; it falls with t."""
        log_alpha = self.log_alpha(t)
        return log_alpha - 0.5 * torch.log(-torch.expm1(2 * log_alpha))

    def time_of(self, half_log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the time of a given λ_t: the inverse of `half_log_snr`."""
        minus_log_alpha = 0.5 * torch.nn.functional.softplus(-2 * half_log_snr)
        # log α_t is quadratic in t; this is its positive root.
        discriminant = self.rate_min**2 + 4 * (self.rate_max - self.rate_min) * minus_log_alpha
        return 4 * minus_log_alpha / (self.rate_min + discriminant.sqrt())

    def coefficients(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return α_t and σ_t in a shape that broadcasts against x, as `expand_as` does."""
        return expand_as(self.alpha(t), x), expand_as(self.sigma(t), x)

    def add_noise(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return x_t = α_t x_0 + σ_t ε (Eq. 8); t has the leading axes of x0, or none."""
        check_same_shape(x0=x0, eps=eps)
        alpha, sigma = self.coefficients(t, x0)
        return alpha * x0 + sigma * eps

    def draw_times(
        self, count: int, generator: torch.Generator, early: float = 0.0
    ) -> Float[Tensor, "count"]:
        """Draw training times, uniform in [t_min, 1]; the first share `early` is uniform in λ_t.

        A third of the range of λ_t belongs to t < 0.1, where a density's fine details form. The
        distribution of t does not change the minimiser.
        """
        uniform = torch.rand(count, generator=generator, device=generator.device)
        times = self.t_min + (1 - self.t_min) * uniform
        first = round(early * count)
        if first:
            low, high = self.half_log_snr(torch.tensor([1.0, self.t_min])).tolist()
            part = (times[:first] - self.t_min) / (1 - self.t_min)
            times[:first] = self.time_of(low + (high - low) * part).clamp(self.t_min, 1.0)
        return times

    def times(self, steps: int) -> Float[Tensor, "steps_plus_1"]:
        """Return `steps` + 1 ≥ 2 sampling times from 1 to t_min, uniform in λ_t, in float64."""
        if steps < 1:
            raise CepnbError(f"steps {steps}: use at least 1")
        ends = torch.tensor([1.0, self.t_min], dtype=torch.float64)
        first, last = self.half_log_snr(ends).tolist()
        times = self.time_of(torch.linspace(first, last, steps + 1, dtype=torch.float64))
        times[0], times[-1] = ends
        return times
