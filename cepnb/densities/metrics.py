"""Measures of exactness: small pure functions of samples."""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.densities.mixtures import Density
from cepnb.errors import CepnbError

BLOCK = 2_000  # points of the one sample that are held against all of the other at a time


def w2(x: Float[Tensor, "n dim"], y: Float[Tensor, "m dim"]) -> float:
    """2-Wasserstein distance of two samples by exact optimal transport: (min Σ P_ij ‖x_i − y_j‖²)^½.

    Two samples of one distribution are a positive distance apart, falling about as n^{−1/2} in two dimensions: read it
    as a ratio to `w2` of two independent exact samples of the same size. Cost grows as n² in memory, about n³ in time.
    Raises `CepnbError` on an empty sample.
    """
    import ot  # here, because it takes a second, and every process of a sweep imports this module

    if len(x) == 0 or len(y) == 0:
        raise CepnbError(
            f"samples of sizes {len(x)} and {len(y)}: expected at least one point in each"
        )
    cost = (
        torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")
        .square()
        .numpy()
    )
    uniform = [np.full(size, 1 / size) for size in cost.shape]
    return float(np.sqrt(max(0.0, ot.emd2(*uniform, cost, numItermax=10_000_000))))


def mmd(
    x: Float[Tensor, "n dim"],
    y: Float[Tensor, "m dim"],
    widths: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0),
) -> float:
    """Maximum mean discrepancy of two samples, (mean k(x,x') + mean k(y,y') − 2 mean k(x,y))^½ ≥ 0.

    k is the mean of Gaussian kernels of the given deviations, so that both sharp and broad faults count (Gretton et al.
    2012, Eq. 5, the biased estimate). Read it, too, as a ratio to that of two exact samples. Time grows as n², memory as n.
    Raises `CepnbError` on an empty sample.
    """
    if len(x) == 0 or len(y) == 0:
        raise CepnbError(
            f"samples of sizes {len(x)} and {len(y)}: expected at least one point in each"
        )

    def mean_kernel(a: Tensor, b: Tensor) -> float:
        square = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
        return sum(torch.exp(-0.5 * square / width**2).mean().item() for width in widths) / len(
            widths
        )

    def mean_of_all(a: Tensor, b: Tensor) -> float:
        return sum(mean_kernel(part, b) * (len(part) / len(a)) for part in a.split(BLOCK))

    return max(0.0, mean_of_all(x, x) + mean_of_all(y, y) - 2 * mean_of_all(x, y)) ** 0.5


def effective_samples(log_weights: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """(Σ w)²/Σ w²: how many equally weighted samples n weighted ones are worth, from 1 to n (Kong 1992)."""
    return (2 * log_weights.logsumexp(-1) - (2 * log_weights).logsumexp(-1)).exp()


def mean_interval(values: list[float]) -> tuple[float, float]:
    """Mean of independent runs, and half the width of its 95 % interval by Student's t (NaN for a single run)."""
    from scipy import stats  # here, because it takes a second

    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan
    return mean, float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))


def interquartile_mean(scores: Float[np.ndarray, "*sets runs tasks"]) -> Float[np.ndarray, "*sets"]:
    """Mean of the middle half of all runs on all tasks: one lucky or failed run moves it little (Agarwal et al. 2021).

    A quarter of the runs × tasks scores, rounded down, is left out at each end.
    """
    ordered = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = ordered.shape[-1] // 4
    return np.asarray(ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1))


def stratified_interval(
    scores: Float[np.ndarray, "runs tasks"], random: np.random.Generator, draws: int = 10_000
) -> tuple[float, float]:
    """95 % interval of the interquartile mean by stratified bootstrap: runs are drawn anew within each task.

    The tasks are fixed, so that it says how the mean would vary with other runs of the same tasks (Agarwal et al. 2021).
    Few runs make it too narrow; one run gives NaN.
    """
    if len(scores) < 2:
        return math.nan, math.nan
    rows = random.integers(len(scores), size=(draws, *scores.shape))
    low, high = np.quantile(
        interquartile_mean(np.take_along_axis(scores[None], rows, axis=1)), (0.025, 0.975)
    )
    return float(low), float(high)


def gradient_moments(
    gradient: Callable[[Tensor, Tensor], Tensor],
    exact: Density,
    beta: float,
    times: Float[Tensor, "m"],
    count: int = 1000,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "m"], Float[Tensor, "m"]]:
    """E_{p_t} ‖∇f − ∇E_t‖² and E_{p_t} ‖∇E_t‖² at each time, by `count` samples of p_t: where guided samples really go."""
    p, errors, sizes = exact.tilted(beta), [], []
    for t in times:
        x0, _ = p.sample(count, generator)
        xt = exact.schedule.add_noise(x0, t, torch.randn(x0.shape, generator=generator))
        truth = exact.score(xt, t) - p.score(xt, t)
        errors.append((gradient(xt, t) - truth).square().sum(-1).mean())
        sizes.append(truth.square().sum(-1).mean())
    return torch.stack(errors), torch.stack(sizes)


def gradient_error(*args, **kwargs) -> Float[Tensor, "m"]:
    """The first of `gradient_moments` over the second: 0 is exact, 1 is as wrong as no guidance at all."""
    error, size = gradient_moments(*args, **kwargs)
    return error / size
