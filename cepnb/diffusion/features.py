"""What networks see of time, of a point in the plane and of a place in a maze: sin and cos of it at random frequencies."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cepnb.diffusion.schedule import VPSchedule, expand_as
from cepnb.errors import CepnbError


class TimeFeatures(nn.Module):
    """Fourier features of diffusion time: sin and cos of 2π w u(t), u = λ_t rescaled to [0, 1], w ~ N(0, scale²).

    λ_t is half the log signal-to-noise ratio, in which the targets of all three losses change at an even pace; in t
    itself almost all change happens below 0.1. t of shape (*axes) gives (*axes, dim), with axes of length one put in
    to match `x`; a single t for a whole batch is embedded once. The frequencies are fixed, not trained.
    """

    def __init__(self, schedule: VPSchedule, dim: int = 32, scale: float = 1.0) -> None:
        super().__init__()
        self.schedule = schedule
        first, last = schedule.half_log_snr(
            torch.tensor([1.0, schedule.t_min], dtype=torch.float64)
        ).tolist()
        self.offset, self.span = first, last - first
        self.register_buffer("frequencies", 2 * math.pi * scale * torch.randn(dim // 2))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        u = (self.schedule.half_log_snr(t) - self.offset) / self.span
        return _waves(u.reshape(t.shape + (1,) * (x.ndim - t.ndim)) * self.frequencies)


class PlaneFeatures(nn.Module):
    """x_t of unit scale, with sin and cos of it at random frequencies: for densities with details finer than their extent.

    u = x_t/(α_t² m² + σ_t²)^½, m being the deviation of the data, gives (u, sin Wu, cos Wu), W ~ N(0, scale²) fixed
    (Tancik et al. 2020). An MLP of x_t alone takes long to see rings that are a twentieth as thick as they are wide.
    """

    def __init__(
        self, schedule: VPSchedule, dim: int, count: int, scale: float, deviation: float
    ) -> None:
        super().__init__()
        self.schedule, self.deviation = schedule, deviation
        self.width = dim + 2 * count
        self.register_buffer("frequencies", scale * torch.randn(dim, count))

    def variance(self, t: Tensor, x: Tensor) -> Tensor:
        """α_t² m² + σ_t², broadcastable to x_t."""
        return (
            expand_as(self.schedule.alpha(t), x) ** 2 * self.deviation**2
            + expand_as(self.schedule.sigma(t), x) ** 2
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        unit = x / self.variance(t, x).sqrt()
        return _waves(unit @ self.frequencies, beside=unit)


class PlaceFeatures(nn.Module):
    """A state with sin and cos of its place p, which is its first two coordinates, at random frequencies.

    (s, sin Wp, cos Wp), W ~ N(0, scale²) fixed (Tancik et al. 2020), for p of unit deviation. A value that is high on one side
    of a wall and low on the other has a jump that an MLP of s alone smooths over; temporal differences then spread the
    false summit behind the wall (on such critics Yang et al., 2022, arXiv:2206.04672). Shapes (*batch, ds) → (*batch, width).
    Raises `CepnbError` on states of fewer coordinates.
    """

    def __init__(self, state_dim: int, count: int, scale: float = 4.0) -> None:
        super().__init__()
        if state_dim < 2:
            raise CepnbError(
                f"states of width {state_dim}: expected at least the two coordinates of a place"
            )
        self.width = state_dim + 2 * count
        self.register_buffer("frequencies", scale * torch.randn(2, count))

    def forward(self, state: Float[Tensor, "*batch ds"]) -> Float[Tensor, "*batch width"]:
        return _waves(state[..., :2] @ self.frequencies, beside=state)


def _waves(phase: Tensor, *, beside: Tensor | None = None) -> Tensor:
    """sin and cos of the phases, behind what they are features of where that is given."""
    return torch.cat(
        [phase.sin(), phase.cos()] if beside is None else [beside, phase.sin(), phase.cos()], dim=-1
    )
