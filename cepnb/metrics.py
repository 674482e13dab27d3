"""Measures of exactness: small pure functions of samples."""

from collections.abc import Callable

import numpy as np
import ot
import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.errors import CepnbError
from cepnb.exact import GaussianMixture


def w2(x: Float[Tensor, "n dim"], y: Float[Tensor, "m dim"]) -> float:
    """2-Wasserstein distance of two samples by exact optimal transport: (min Σ P_ij ‖x_i − y_j‖²)^½.

    Two samples of one distribution are a positive distance apart, falling about as n^{−1/2} in two dimensions: read it
    as a ratio to `w2` of two independent exact samples of the same size. Cost grows as n² in memory, about n³ in time.
    """
    if len(x) == 0 or len(y) == 0:
        raise CepnbError(f"samples of sizes {len(x)} and {len(y)}: expected at least one point in each")
    cost = torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist").square().numpy()
    uniform = [np.full(size, 1 / size) for size in cost.shape]
    return float(np.sqrt(max(0.0, ot.emd2(*uniform, cost, numItermax=10_000_000))))


def gradient_error(gradient: Callable[[Tensor, Tensor], Tensor], exact: GaussianMixture, beta: float,
                   times: Float[Tensor, "m"], count: int = 1000,
                   generator: torch.Generator | None = None) -> Float[Tensor, "m"]:
    """E_{p_t} ‖∇f − ∇E_t‖² / E_{p_t} ‖∇E_t‖² at each time, by `count` samples of p_t: where guided samples really go.

    0 is exact; 1 is as wrong as no guidance at all.
    """
    errors = []
    for t in times:
        x0, _ = exact.tilted(beta).sample(count, generator)
        xt = exact.schedule.add_noise(x0, t, torch.randn(x0.shape, generator=generator))
        truth = exact.energy_gradient(xt, t, beta)
        errors.append((gradient(xt, t) - truth).square().sum() / truth.square().sum())
    return torch.stack(errors)
