"""Distances between samples, errors of a guidance, and confidence intervals: pure functions.

All raise `CepnbError` on values that are not finite.
"""

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.densities.mixtures import Density
from cepnb.errors import CepnbError
from cepnb.storage.global_state import unchanged_globals
from cepnb.storage.validation import check_finite, check_same_shape, check_shape

Gradient = Callable[[Tensor, Tensor], Tensor]  # ∇f(x_t, t)
PerTime = Float[Tensor, "m"]
WIDTHS = (0.1, 0.3, 1.0, 3.0)  # of the kernels of `mmd`, for data of unit scale
BLOCK = 2_000  # rows of a kernel matrix in memory at a time


def w2(x: Float[Tensor, "n dim"], y: Float[Tensor, "m dim"]) -> float:
    """2-Wasserstein distance by exact optimal transport: (min_P Σ P_ij ‖x_i − y_j‖²)^½ ≥ 0.

    Two samples of one distribution are a positive distance apart, which falls about as n^{−1/2} in
    the plane. So compare it with `w2` of two independent exact samples of the same size. Memory
    grows as n², time about as n³. Raises `CepnbError` on an empty sample, and if the solver fails.
    """
    with unchanged_globals():
        import ot  # slow to import

    _check_samples(x, y)
    cost = _squared_distances(x.detach().double(), y.detach().double()).numpy()
    check_finite("squared distances", cost, "rescale the samples")
    uniform = [np.full(size, 1 / size) for size in cost.shape]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the solver's problem is raised instead
        total, log = ot.emd2(*uniform, cost, numItermax=10_000_000, log=True)
    if log["warning"] is not None:
        problem = log["warning"].split(".")[0]
        raise CepnbError(f"w2: optimal transport failed ({problem}); use fewer or other samples")
    return float(np.sqrt(max(0.0, total)))


def mmd(x: Float[Tensor, "n dim"], y: Float[Tensor, "m dim"]) -> float:
    """Maximum mean discrepancy (mean k(x,x') + mean k(y,y') − 2 mean k(x,y))^½ ≥ 0.

    The biased estimate, Eq. 5 of Gretton et al. 2012; k is the mean of Gaussian kernels of `WIDTHS`,
    for fine and coarse differences of data of unit scale. Compare it, too, with `mmd` of two exact
    samples. Time grows as n², memory as n. Raises `CepnbError` on an empty sample.
    """
    _check_samples(x, y)

    def block_mean(a: Tensor, b: Tensor) -> float:
        square = _squared_distances(a, b)
        means = [torch.exp(-0.5 * square / width**2).mean().item() for width in WIDTHS]
        return sum(means) / len(WIDTHS)

    def kernel_mean(a: Tensor, b: Tensor) -> float:
        return sum(block_mean(block, b) * (len(block) / len(a)) for block in a.split(BLOCK))

    return max(0.0, kernel_mean(x, x) + kernel_mean(y, y) - 2 * kernel_mean(x, y)) ** 0.5


def energy_shares(energy: Float[Tensor, "n"], levels: int = 8) -> Float[Tensor, "levels"]:
    """Return the share of samples whose energy is nearest to each of `levels` values from 0 to 1.

    Energies of the toy densities are in about [0, 1]. Compare the shares with those of exact samples:
    W2 counts a few distant samples heavily, the shares say how many there are.
    """
    check_finite("energies", energy.detach(), "leave out samples that diverged")
    level = (energy * (levels - 1)).round().long().clamp(0, levels - 1)
    return torch.bincount(level, minlength=levels) / len(energy)


def effective_samples(log_weights: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Effective sample size (Σ w)²/Σ w² of n weighted samples, from 1 to n (Kong 1992)."""
    relative = log_weights - log_weights.amax(-1, keepdim=True)  # large logarithms lose digits
    size = (2 * relative.logsumexp(-1) - (2 * relative).logsumexp(-1)).exp()
    fix = "use log weights without NaN, at least one above -inf and all below inf"
    check_finite("effective sample sizes", size.detach().cpu(), fix)
    return size


def mean_interval(values: list[float]) -> tuple[float, float]:
    """Mean of runs and half the width of its 95 % interval by Student's t (NaN for one run).

    Raises `CepnbError` without runs, and on values whose mean or deviation overflows.
    """
    with unchanged_globals():
        from scipy import stats  # slow to import

    check_finite("values", values, "leave out failed runs")
    if len(values) == 0:
        raise CepnbError("values: there are none; pass one value per run")
    if len(values) == 1:
        return float(values[0]), math.nan
    with np.errstate(over="ignore", invalid="ignore"):  # raised next
        mean, error = float(np.mean(values)), stats.sem(values)
    half = float(error * stats.t.ppf(0.975, len(values) - 1))
    check_finite("mean and interval", (mean, half), "rescale the values")
    return mean, half


def interquartile_mean(scores: Float[np.ndarray, "*sets runs tasks"]) -> Float[np.ndarray, "*sets"]:
    """Mean of the middle half of all runs × tasks scores, robust to outliers (Agarwal et al. 2021)."""
    check_finite("scores", scores, "leave out failed runs")
    ordered = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = ordered.shape[-1] // 4  # scores to drop at each end
    return np.asarray(ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1))


def stratified_interval(
    scores: Float[np.ndarray, "runs tasks"], random: np.random.Generator, draws: int = 10_000
) -> tuple[float, float]:
    """95 % interval of the interquartile mean by stratified bootstrap.

    Runs are resampled within each task, so the interval is about other runs of the same tasks
    (Agarwal et al. 2021). It is too narrow for few runs and NaN for one.
    """
    check_shape("scores", scores, "runs", "tasks")
    if len(scores) < 2:
        return math.nan, math.nan
    check_finite("scores", scores, "leave out failed runs")
    rows = random.integers(len(scores), size=(draws, *scores.shape))
    resampled = np.take_along_axis(scores[None], rows, axis=1)  # (draws, runs, tasks)
    low, high = np.quantile(interquartile_mean(resampled), (0.025, 0.975))
    return float(low), float(high)


def gradient_moments(
    gradient: Gradient,
    exact: Density,
    beta: float,
    times: PerTime,
    generator: torch.Generator,
    count: int = 1000,
) -> tuple[PerTime, PerTime]:
    """Return E ‖∇f − ∇E_t‖² and E ‖∇E_t‖² at each time, over `count` samples of p_t.

    Raises `CepnbError` on a gradient that is not finite or has another shape than x_t.
    """
    p, errors, sizes = exact.tilted(beta), [], []
    for t in times:
        x0, _ = p.sample(count, generator)
        xt = exact.schedule.add_noise(x0, t, torch.randn(x0.shape, generator=generator))
        truth = exact.score(xt, t) - p.score(xt, t)
        found = gradient(xt, t)
        check_same_shape(x_t=xt, gradient=found)
        errors.append((found - truth).square().sum(-1).mean())
        sizes.append(truth.square().sum(-1).mean())
    moments = torch.stack(errors), torch.stack(sizes)
    for name, values in zip(("errors of the gradient", "exact gradients"), moments):
        check_finite(name, values.detach().cpu(), "use a smaller beta or guidance scale")
    return moments


def gradient_error(
    gradient: Gradient, exact: Density, beta: float, times: PerTime, generator: torch.Generator
) -> PerTime:
    """Relative error E ‖∇f − ∇E_t‖²/E ‖∇E_t‖² at each time: 0 is exact, 1 is no guidance.

    Raises `CepnbError` if an exact gradient is 0, as for a constant energy.
    """
    error, size = gradient_moments(gradient, exact, beta, times, generator)
    check_gradient_size(beta, size)
    return error / size


def check_gradient_size(beta: float, size: PerTime) -> None:
    """Raise `CepnbError` if E ‖∇E_t‖², by which errors are divided, is 0 at some time."""
    if not bool((size > 0).all()):
        raise CepnbError(f"beta {beta:g}: the exact gradient is 0 in float32; use a larger beta")


def _check_samples(x: Tensor, y: Tensor) -> None:
    if len(x) == 0 or len(y) == 0:
        raise CepnbError(f"samples of sizes {len(x)} and {len(y)}: one is empty; pass points")
    if not x.ndim == y.ndim == 2 or x.shape[1] != y.shape[1]:
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise CepnbError(f"samples have shapes {shapes}; use (n, dim) and (m, dim)")
    for samples in (x, y):  # the largest coordinate of a sample with NaN is NaN
        largest = samples.detach().abs().amax(dim=1)
        check_finite("samples", largest, "leave out samples that diverged")


def _squared_distances(x: Tensor, y: Tensor) -> Float[Tensor, "n m"]:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
