"""Input features of the networks: sines and cosines of time and position at random frequencies."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cepnb.diffusion.schedule import VPSchedule, expand_as
from cepnb.errors import CepnbError

TIME_DIM = 32  # width of the time features


class TimeFeatures(nn.Module):
    """Fourier features of diffusion time: sin and cos of 2π w u(t), w ~ N(0, 1) fixed.

    u is λ_t (half the log signal-to-noise ratio) rescaled to [0, 1]. The targets of all losses
    change evenly in λ_t; in t itself almost all change happens below 0.1. Shapes: t (*axes) →
    (*axes, 1, ..., 1, TIME_DIM), which broadcasts against x; a t without axes is embedded once.
    """

    def __init__(self, schedule: VPSchedule) -> None:
        super().__init__()
        self.schedule = schedule
        ends = torch.tensor([1.0, schedule.t_min], dtype=torch.float64)
        first, last = schedule.half_log_snr(ends).tolist()
        self.offset, self.span = first, last - first
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(TIME_DIM // 2))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        u = (self.schedule.half_log_snr(t) - self.offset) / self.span
        return _with_waves(u.reshape(t.shape + (1,) * (x.ndim - t.ndim)) * self.frequencies)


class PlaneFeatures(nn.Module):
    """Fourier features of x_t at unit scale, for densities with details finer than their extent.

    (u, sin Wu, cos Wu) with u = x_t/(α_t² m² + σ_t²)^½, m the deviation of the data and
    W ~ N(0, scale²) fixed (Tancik et al. 2020). An MLP of x_t alone learns thin rings slowly.
    Shapes: (*batch, dim) → (*batch, dim + 2 count).
    """

    def __init__(
        self, schedule: VPSchedule, dim: int, count: int, scale: float, deviation: float
    ) -> None:
        super().__init__()
        self.schedule, self.deviation = schedule, deviation
        self.width = dim + 2 * count
        self.register_buffer("frequencies", scale * torch.randn(dim, count))

    def variance(self, t: Tensor, x: Tensor) -> Tensor:
        """Return α_t² m² + σ_t², the variance of x_t, with axes that broadcast against x."""
        alpha, sigma = expand_as(self.schedule.alpha(t), x), expand_as(self.schedule.sigma(t), x)
        return alpha**2 * self.deviation**2 + sigma**2

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        unit = x / self.variance(t, x).sqrt()
        return _with_waves(unit @ self.frequencies, unit)


class PlaceFeatures(nn.Module):
    """Fourier features of a state's position p, its first two coordinates: (s, sin Wp, cos Wp).

    W ~ N(0, scale²) is fixed (Tancik et al. 2020); p has unit deviation. An MLP of s alone smooths
    over the jump of a value at a wall, and bootstrapping spreads the error behind the wall
    (Yang et al. 2022, arXiv:2206.04672). Shapes: (*batch, ds) → (*batch, ds + 2 count).
    Raises `CepnbError` if ds < 2.
    """

    def __init__(self, state_dim: int, count: int, scale: float = 4.0) -> None:
        super().__init__()
        if state_dim < 2:
            raise CepnbError(f"states of width {state_dim}: expected at least two coordinates")
        self.width = state_dim + 2 * count
        self.register_buffer("frequencies", scale * torch.randn(2, count))

    def forward(self, state: Float[Tensor, "*batch ds"]) -> Float[Tensor, "*batch width"]:
        return _with_waves(state[..., :2] @ self.frequencies, state)


def _with_waves(phase: Tensor, *inputs: Tensor) -> Tensor:
    """Concatenate the inputs with sin and cos of the phases."""
    return torch.cat([*inputs, phase.sin(), phase.cos()], dim=-1)
