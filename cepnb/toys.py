"""Toy densities with energies, whose guided answers are known exactly."""

import math

import torch

from cepnb.exact import GaussianMixture


def eight_gaussians(dtype: torch.dtype = torch.float32) -> GaussianMixture:
    """Eight equal Gaussians on a circle of radius 4/√2, of deviation 0.5/√2; the i-th has energy i/7 (i = 0 … 7).

    The density and the energies of the toy experiments of arXiv:2304.12824 (anticlockwise from the top). As β grows,
    p_0 ∝ q_0 e^{−βE} empties the circle from the end backwards, until only the Gaussian at the top is left.
    """
    angle = math.pi / 2 + torch.arange(8, dtype=dtype) * math.pi / 4
    means = 4 / math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], dim=1)
    deviations = torch.full((8,), 0.5 / math.sqrt(2), dtype=dtype)
    return GaussianMixture(torch.zeros(8, dtype=dtype), means, deviations, torch.arange(8, dtype=dtype) / 7)
