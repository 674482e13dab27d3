"""The paper's six toy densities (arXiv:2304.12824) as mixtures in about [−4, 4]², E from 0 to 1.

Gaussians at points along a curve approximate a curve with Gaussian noise, to six digits of log q_t.
To add a density, write a function that returns a mixture and name it in `DENSITIES` and in
`cepnb.densities.names`.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from cepnb.densities.mixtures import BoxMixture, Density, GaussianMixture
from cepnb.densities.names import check_density, mixture_seed
from cepnb.densities.random_mixtures import random_mixture


def eight_gaussians(dtype: torch.dtype = torch.float32) -> GaussianMixture:
    """Eight equal Gaussians on a circle, anticlockwise from the top, with energies i/7."""
    angle = math.pi / 2 + torch.arange(8, dtype=torch.float64) * math.pi / 4
    means = 4 / math.sqrt(2) * _circle(angle)
    return _mixture(means, 0.5 / math.sqrt(2), torch.arange(8) / 7, torch.ones(8), dtype)


def swiss_roll(dtype: torch.dtype = torch.float32, nodes: int = 300) -> GaussianMixture:
    """The spiral a (cos a, sin a)/5, a uniform in [1.5π, 4.5π], of deviation 0.2; E = ‖x‖²/10."""
    u, weights = _legendre(nodes)
    angle = 1.5 * math.pi * (1 + 2 * u)
    means = (angle / 5)[:, None] * _circle(angle)
    return replace(_mixture(means, 0.2, torch.zeros(nodes), weights, dtype), quadratic=0.2)


def moons(dtype: torch.dtype = torch.float32, nodes: int = 100) -> GaussianMixture:
    """Two interlocking half circles of radius 2 and deviation 0.2; E = 0 above, 1 below."""
    u, weights = _legendre(nodes)
    upper = _circle(math.pi * u)
    lower = torch.tensor([1.0, 0.5], dtype=torch.float64) - upper
    means = 2 * (torch.cat([upper, lower]) - torch.tensor([0.5, 0.25], dtype=torch.float64))
    energies = torch.arange(2).repeat_interleave(nodes)
    return _mixture(means, 0.2, energies, weights.repeat(2), dtype)


def rings(dtype: torch.dtype = torch.float32, nodes: int = 192) -> GaussianMixture:
    """Four equal circles of radii 3/4, 6/4, 9/4, 3 and deviation 0.1; E = 0, 1/3, 2/3, 1."""
    angle = 2 * math.pi * torch.arange(nodes, dtype=torch.float64) / nodes
    means = torch.cat([0.75 * i * _circle(angle) for i in range(1, 5)])
    energies = torch.arange(4).repeat_interleave(nodes) / 3
    return _mixture(means, 0.1, energies, torch.ones(4 * nodes), dtype)


def checkerboard(dtype: torch.dtype = torch.float32) -> BoxMixture:
    """The eight black squares, of side 2, of a 4 × 4 board; E = 0, 1/3, 2/3, 1 by column."""
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
    """Two arms ±θ (cos θ, sin θ)/3, θ = 3π√u, u uniform in [0, 1], deviation 0.15; E = 1 − √u."""
    root, weights = _legendre(nodes)  # √u, whose density is 2√u
    angle = 3 * math.pi * root
    arm = (angle / 3)[:, None] * _circle(angle)
    energies, weights = (1 - root).repeat(2), (2 * root * weights).repeat(2)
    return _mixture(torch.cat([arm, -arm]), 0.15, energies, weights, dtype)


# All densities by name, in the order of `DENSITY_NAMES`. Each function takes a dtype, float32 by default.
DENSITIES: dict[str, Callable[..., Density]] = {
    "8gaussians": eight_gaussians,
    "swissroll": swiss_roll,
    "moons": moons,
    "rings": rings,
    "checkerboard": checkerboard,
    "2spirals": two_spirals,
}


def density(name: str) -> Density:
    """Return a toy density, or the random mixture "mixtureN". Raises `CepnbError` on another name."""
    check_density(name)
    seed = mixture_seed(name)
    return DENSITIES[name]() if seed is None else random_mixture(seed)


def _mixture(
    means: Tensor, deviation: float, energies: Tensor, weights: Tensor, dtype: torch.dtype
) -> GaussianMixture:
    return GaussianMixture(
        log_weights=weights.log().to(dtype),
        energies=energies.to(dtype),
        means=means.to(dtype),
        deviations=torch.full((len(means),), deviation, dtype=dtype),
    )


def _circle(angle: Tensor) -> Tensor:
    """Points (cos a, sin a) of angles a, of shape (n, 2)."""
    return torch.stack([angle.cos(), angle.sin()], dim=1)


@cache
def _legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss–Legendre quadrature on [0, 1], in float64."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return torch.as_tensor((nodes + 1) / 2), torch.as_tensor(weights / 2)
