"""The six toy densities with energies of arXiv:2304.12824, whose guided answers are known exactly.

Each is a mixture of extent about [−4, 4]², its energies between 0 and about 1. A curve with Gaussian noise across it is the
mixture of the Gaussians along it; the nodes stand close enough (below, and in the tests) that sums over them equal the
integrals to six digits.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from cepnb.densities.mixtures import BoxMixture, Density, GaussianMixture
from cepnb.errors import CepnbError


def eight_gaussians(dtype: torch.dtype = torch.float32) -> GaussianMixture:
    """Eight equal Gaussians on a circle of radius 4/√2, of deviation 0.5/√2; the i-th has energy i/7 (i = 0 … 7).

    Anticlockwise from the top. As β grows, p_0 ∝ q_0 e^{−βE} empties the circle from the end backwards, until only the
    Gaussian at the top is left.
    """
    angle = math.pi / 2 + torch.arange(8, dtype=torch.float64) * math.pi / 4
    means = 4 / math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], dim=1)
    return _mixture(means, 0.5 / math.sqrt(2), torch.arange(8) / 7, dtype=dtype)


def swiss_roll(dtype: torch.dtype = torch.float32, nodes: int = 300) -> GaussianMixture:
    """The spiral a (cos a, sin a)/5 for a uniform in [1.5π, 4.5π], of deviation 0.2; E = ‖x‖²/10, low inside.

    The energy is a function of x and quadratic, so that p_0 is a mixture still, of Gaussians that shrink and move.
    """
    u, weights = _legendre(nodes)
    angle = 1.5 * math.pi * (1 + 2 * u)
    means = (angle / 5)[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return _mixture(means, 0.2, torch.zeros(nodes), weights, quadratic=0.2, dtype=dtype)


def moons(dtype: torch.dtype = torch.float32, nodes: int = 100) -> GaussianMixture:
    """Two half circles of radius 2 that interlock, of deviation 0.2; the upper has energy 0, the lower 1."""
    u, weights = _legendre(nodes)
    upper = torch.stack([(math.pi * u).cos(), (math.pi * u).sin()], dim=1)
    lower = torch.tensor([1.0, 0.5], dtype=torch.float64) - upper
    means = 2 * (torch.cat([upper, lower]) - torch.tensor([0.5, 0.25], dtype=torch.float64))
    return _mixture(
        means, 0.2, torch.arange(2).repeat_interleave(nodes), weights.repeat(2), dtype=dtype
    )


def rings(dtype: torch.dtype = torch.float32, nodes: int = 192) -> GaussianMixture:
    """Four circles of radii 3/4, 6/4, 9/4 and 3, equally likely, of deviation 0.1; energies 0, 1/3, 2/3, 1 outwards."""
    angle = 2 * math.pi * torch.arange(nodes, dtype=torch.float64) / nodes
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    means = torch.cat([0.75 * i * circle for i in range(1, 5)])
    return _mixture(means, 0.1, torch.arange(4).repeat_interleave(nodes) / 3, dtype=dtype)


def checkerboard(dtype: torch.dtype = torch.float32) -> BoxMixture:
    """Eight squares of side 2, the black ones of a board of 4 × 4; energies 0, 1/3, 2/3, 1 by column from the left."""
    column = torch.arange(8) // 2
    row = 2 * (torch.arange(8) % 2) + column % 2
    lows = 2.0 * torch.stack([column, row], dim=1).to(dtype) - 4
    return BoxMixture(
        log_weights=torch.zeros(8, dtype=dtype),
        energies=(column / 3).to(dtype),
        lows=lows,
        highs=lows + 2,
    )


def two_spirals(dtype: torch.dtype = torch.float32, nodes: int = 256) -> GaussianMixture:
    """Two arms ±θ (cos θ, sin θ)/3 with θ = 3π√u, u uniform in [0, 1], of deviation 0.15; E = 1 − √u, low outside."""
    root, weights = _legendre(nodes)  # in √u, whose density is 2√u
    angle = 3 * math.pi * root
    arm = (angle / 3)[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return _mixture(
        torch.cat([arm, -arm]),
        0.15,
        (1 - root).repeat(2),
        (2 * root * weights).repeat(2),
        dtype=dtype,
    )


DENSITIES: dict[str, Callable[[], Density]] = {
    "8gaussians": eight_gaussians,
    "swissroll": swiss_roll,
    "moons": moons,
    "rings": rings,
    "checkerboard": checkerboard,
    "2spirals": two_spirals,
}


def density(name: str) -> Density:
    """A toy density by its name. Raises `CepnbError` on an unknown one."""
    if name not in DENSITIES:
        raise CepnbError(f"density '{name}': expected one of {', '.join(DENSITIES)}")
    return DENSITIES[name]()


def _mixture(
    means: Tensor,
    deviation: float,
    energies: Tensor,
    weights: Tensor | None = None,
    quadratic: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> GaussianMixture:
    count = len(means)
    log_weights = torch.zeros(count) if weights is None else weights.log()
    return GaussianMixture(
        log_weights=log_weights.to(dtype),
        energies=energies.to(dtype),
        means=means.to(dtype),
        deviations=torch.full((count,), deviation, dtype=dtype),
        quadratic=quadratic,
    )


@cache
def _legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss–Legendre quadrature on [0, 1], in float64."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.as_tensor((nodes + 1) / 2), torch.as_tensor(weights / 2)
