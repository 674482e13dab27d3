"""Measures of exactness: small pure functions of samples."""

import numpy as np
import ot
import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.errors import CepnbError


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
