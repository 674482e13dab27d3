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

    u is λ_t rescaled to [0, 1]. The targets of all losses change evenly in λ_t; in t itself almost
    all change happens below 0.1. Shapes: t (*axes) → (*axes, 1, ..., 1, TIME_DIM), which broadcasts
    against x.
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
        return _with_waves(expand_as(u, x) * self.frequencies)


class PlaneFeatures(nn.Module):
    """Fourier features (u, sin Wu, cos Wu) of x_t, at unit scale.

    u = x_t/(α_t² m² + σ_t²)^½ with the data's `deviation` m, and W ~ N(0, scale²) is fixed (Tancik
    et al. 2020). An MLP of x_t alone learns details finer than the density, such as rings, slowly.
    Shapes: (*batch, dim) → (*batch, dim + 2 count).
    """

    def __init__(
        self, schedule: VPSchedule, count: int, scale: float, deviation: float, dim: int = 2
    ) -> None:
        super().__init__()
        self.schedule, self.deviation = schedule, deviation
        self.dim, self.width = dim, dim + 2 * count
        self.register_buffer("frequencies", scale * torch.randn(dim, count))

    def variance(self, t: Tensor, x: Tensor) -> Tensor:
        """Return α_t² m² + σ_t², the variance of x_t, in a shape that broadcasts against x."""
        alpha, sigma = self.schedule.coefficients(t, x)
        return alpha**2 * self.deviation**2 + sigma**2

    def signal(self, t: Tensor, x: Tensor) -> Tensor:
        """Return α_t m/(α_t² m² + σ_t²)^½, the correlation of x_t with x_0, as `variance` does."""
        alpha, _ = self.schedule.coefficients(t, x)
        return alpha * self.deviation / self.variance(t, x).sqrt()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        unit = x / self.variance(t, x).sqrt()
        return _with_waves(unit @ self.frequencies, unit)


class PlaceFeatures(nn.Module):
    """Fourier features (s, sin Wp, cos Wp) of a state's position p, its first two coordinates.

    W ~ N(0, 4²) is fixed (Tancik et al. 2020); p has unit deviation. An MLP of s alone smooths over
    the jump of a value at a wall, and bootstrapping spreads the error behind the wall (Yang et al.
    2022, arXiv:2206.04672). Shapes: (*batch, ds) → (*batch, ds + 2 count). Raises `CepnbError` if
    ds < 2.
    """

    def __init__(self, state_dim: int, count: int) -> None:
        super().__init__()
        if state_dim < 2:
            raise CepnbError(
                f"state width {state_dim}: use states with a position, at least 2 wide"
            )
        self.width = state_dim + 2 * count
        self.register_buffer("frequencies", 4.0 * torch.randn(2, count))

    def forward(self, state: Float[Tensor, "*batch ds"]) -> Float[Tensor, "*batch width"]:
        return _with_waves(state[..., :2] @ self.frequencies, state)


def _with_waves(phase: Tensor, *inputs: Tensor) -> Tensor:
    """Concatenate the inputs with sin and cos of the phases."""
    return torch.cat([*inputs, phase.sin(), phase.cos()], dim=-1)
