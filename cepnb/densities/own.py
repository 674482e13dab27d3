"""Your own density from a sampler and an energy: reweighted samples, and guidance by CEP."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.densities.methods import check_scale, guided_samples, train_score, train_toy_energy
from cepnb.densities.metrics import effective_samples
from cepnb.densities.mixtures import GaussianMixture, Points, Samples, Values
from cepnb.densities.settings import ToySettings, toy_settings
from cepnb.diffusion.guidance import energy_gradient
from cepnb.diffusion.losses import check_beta
from cepnb.diffusion.networks import EnergyNet, PlaneEpsNet
from cepnb.diffusion.training import seeded
from cepnb.errors import CepnbError

Sampler = Callable[[int, torch.Generator | None], Tensor]  # (count, generator) → (count, dim)
Energy = Callable[[Tensor], Tensor]  # (*batch, dim) → (*batch,)


@dataclass(frozen=True, kw_only=True)
class SampledDensity(GaussianMixture):
    """A density given by a sampler and an energy, approximated by point masses x_i.

    `own_density` builds it. q_t is the mixture of N(α_t x_i, σ_t² I), and p_0 has the weights
    e^{−βE(x_i)}, so E_t is a self-normalised sum. `effective_samples` measures its accuracy.
    """

    sampler: Sampler
    energy_function: Energy

    def sample(self, count: int, generator: torch.Generator | None = None) -> Samples:
        """Draw new pairs (x_0, E) from the sampler."""
        x = self.sampler(count, generator)
        return x, self.energy_function(x.clone()).detach()

    def energy(self, x: Points, width: float = 0.0) -> Values:
        """Return E(x); if `width` > 0, its mean over points near x with Gaussian weights."""
        return self.energy_function(x) if width == 0 else super().energy(x, width)

    def tilted(self, beta: float) -> GaussianMixture:
        """Return the points with weights e^{−βE}."""
        points = {field.name: getattr(self, field.name) for field in fields(GaussianMixture)}
        return GaussianMixture(**points).tilted(beta)

    def effective_samples(self, xt: Points, t: Tensor, beta: float) -> Values:
        """Effective sample size of the sum for E_t(x_t), with weights q(x_i | x_t) e^{−βE(x_i)}."""
        return effective_samples(self.tilted(beta).log_joint(xt, t))


@dataclass(frozen=True)
class FittedGuidance:
    """ε_θ and f_φ of one density at one β, trained by `fit_guidance`."""

    eps: PlaneEpsNet  # ε_θ(x_t, t)
    energy: EnergyNet  # f_φ(x_t, t) ≈ E_t(x_t) up to a constant in x_t
    density: SampledDensity
    beta: float
    settings: ToySettings

    def sample(self, n: int, *, seed: int = 0, scale: float = 1.0) -> Float[Tensor, "n 2"]:
        """Draw n samples of p_0 ∝ q_0 e^{−βE} by DPM-Solver++ under the guided score (Eq. 11).

        `scale` = 1 is exact guidance, 0 samples q_0. Raises `CepnbError` unless n ≥ 0 is an integer
        and 0 ≤ scale < ∞, and on samples that are not finite.
        """
        check_scale(scale)
        if not isinstance(n, int) or n < 0:
            raise CepnbError(f"n {n}: use a number of samples, 0 or more")
        settings, start = replace(self.settings, samples=n), seeded(seed, "fitted guidance")
        gradient = energy_gradient(self.energy)
        x = guided_samples(self.eps, gradient, self.density, settings, start, scale)
        if not x.isfinite().all():
            raise CepnbError(f"samples at scale {scale:g} are not finite; use a smaller scale")
        return x


def own_density(
    sampler: Sampler, energy: Energy, count: int = 20_000, generator: torch.Generator | None = None
) -> SampledDensity:
    """Build a density from a sampler and an energy.

    `sampler(count, generator)` returns (count, dim); `energy(x)` maps (*batch, dim) to (*batch,).
    The exact answers are sums over `count` points, drawn once with `generator`. Raises `CepnbError`
    unless both functions take these arguments and return tensors of these shapes with finite
    numbers.
    """
    _check_arguments("sampler", sampler, "count", "generator")
    _check_arguments("energy", energy, "x")
    x = sampler(count, generator)
    _check_values("sampler", x, count, axes=2)
    energies = energy(x.clone())  # a function may change its argument in place
    _check_values("energy", energies, count, axes=1)
    zeros = torch.zeros(count, dtype=x.dtype)
    return SampledDensity(
        log_weights=zeros,
        energies=energies.detach(),
        means=x,
        deviations=zeros,
        sampler=sampler,
        energy_function=energy,
    )


def fit_guidance(
    sampler: Sampler,
    energy: Energy,
    beta: float,
    *,
    settings: ToySettings | None = None,
    profile: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> FittedGuidance:
    """Train ε_θ and f_φ by CEP (Eq. 13, arXiv:2304.12824) to sample p_0 ∝ q_0 e^{−βE} in the plane.

    `sampler(count, generator)` draws x_0 ~ q_0 of shape (count, 2), float32. `energy(x)` maps
    (*batch, 2) to (*batch,). `settings` default to `toy_settings(profile)`. Equal arguments give
    equal networks if the sampler draws from `generator` alone. Raises `CepnbError` unless
    0 < β < ∞, and if a function returns wrong values or another dimension than 2.
    """
    check_beta(beta)
    settings = settings or toy_settings(profile)
    density = own_density(sampler, energy, generator=seeded(seed, "own points"))
    dim = density.means.shape[1]
    if dim != 2:
        raise CepnbError(f"sampler: returns {dim} coordinates; fit_guidance needs 2, the plane")
    if density.means.dtype != torch.float32:
        raise CepnbError(f"sampler: returns {density.means.dtype}; convert to float32 by .float()")
    eps = train_score(density, settings, seed, progress=progress)
    f = train_toy_energy("cep_self", density, beta, settings, seed, progress=progress)
    return FittedGuidance(
        eps.requires_grad_(False), f.requires_grad_(False), density, beta, settings
    )


def _check_arguments(name: str, function: Callable, *arguments: str) -> None:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        raise CepnbError(f"{name}: {error}; let it take ({', '.join(arguments)})") from error
    except ValueError:  # a built-in function has no signature to check
        pass


def _check_values(name: str, values: object, count: int, axes: int) -> None:
    if not isinstance(values, Tensor):
        raise CepnbError(f"{name}: returns {type(values).__name__}; return a torch.Tensor")
    if values.ndim != axes or len(values) != count:
        shape, needed = tuple(values.shape), f"({count}, dim)" if axes == 2 else f"({count},)"
        raise CepnbError(f"{name}: returns shape {shape} for {count} points; return {needed}")
    if not bool(torch.isfinite(values).all()):
        raise CepnbError(f"{name}: returns values that are not finite; return finite ones")
