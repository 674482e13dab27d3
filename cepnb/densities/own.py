"""Your own density from a sampler and an energy: reweighted samples, and guidance by CEP."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from numbers import Integral

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.densities.methods import guided_samples, train_score, train_toy_energy
from cepnb.densities.metrics import effective_samples
from cepnb.densities.mixtures import GaussianMixture, Points, Samples, Values
from cepnb.densities.settings import ToySettings, toy_settings
from cepnb.diffusion.guidance import energy_gradient
from cepnb.diffusion.losses import check_beta, check_scale
from cepnb.diffusion.networks import EnergyNet, PlaneEpsNet
from cepnb.diffusion.training import seeded
from cepnb.errors import CepnbError
from cepnb.storage.validation import check_finite, check_type

Sampler = Callable[[int, torch.Generator | None], Tensor]  # (count, generator) → (count, dim)
Energy = Callable[[Tensor], Tensor]  # (*batch, dim) → (*batch,)


@dataclass(frozen=True, kw_only=True)
class SampledDensity(GaussianMixture):
    """A density given by a sampler and an energy, approximated by point masses x_i.

    `own_density` builds it. q_t is the mixture of N(α_t x_i, σ_t² I), and p_0 has the weights
    e^{−βE(x_i)}, so E_t is a self-normalised sum. `effective_samples` measures its accuracy. The
    sampler and the energy take the reader's coordinates `origin` + `unit` · x; x is in the reader's
    coordinates, too, unless the density is `standardised`.
    """

    sampler: Sampler
    energy_function: Energy
    origin: Float[Tensor, "dim"] | float = 0.0
    unit: float = 1.0

    def sample(self, count: int, generator: torch.Generator | None = None) -> Samples:
        """Draw new pairs (x_0, E) from the sampler."""
        points = _checked("sampler", self.sampler(count, generator), (count, self.dim))
        energies = _checked("energy", self.energy_function(points.clone()), (count,))
        x = (points - self.origin) / self.unit
        return x.to(self.means.dtype), energies.to(self.means.dtype)

    def energy(self, x: Points, width: float = 0.0) -> Values:
        """Return E(x); if `width` > 0, its mean over points near x with Gaussian weights."""
        if width > 0:
            return super().energy(x, width)
        return self.energy_function(self.restored(x)).to(x.dtype)

    def standardised(self) -> "SampledDensity":
        """Return the density of (x − mean)/deviation in float32, with the same energies.

        The mean of each coordinate and the common deviation are those of the points. Networks and
        the sampler need about this scale; `restored` returns to the coordinates of this density.
        """
        origin, unit = _mean_and_deviation(self.means)
        return replace(
            self,
            means=((self.means - origin) / unit).float(),
            energies=self.energies.float(),
            log_weights=self.log_weights.float(),
            deviations=self.deviations.float(),
            origin=self.restored(origin),
            unit=self.unit * unit,
        )

    def restored(self, x: Points) -> Points:
        """Return points of this density in the reader's coordinates."""
        return self.origin + self.unit * x

    def tilted(self, beta: float) -> GaussianMixture:
        """Return the points with weights e^{−βE}."""
        points = {field.name: getattr(self, field.name) for field in fields(GaussianMixture)}
        return GaussianMixture(**points).tilted(beta)

    def effective_samples(self, xt: Points, t: Tensor, beta: float) -> Values:
        """Effective sample size of the sum for E_t(x_t), with weights q(x_i | x_t) e^{−βE(x_i)}."""
        return effective_samples(self.tilted(beta).log_joint(xt, t))


@dataclass(frozen=True)
class FittedGuidance:
    """ε_θ and f_φ of one density at one β, trained by `fit_guidance`.

    The networks take x_t of `density.standardised()`; samples have the sampler's units and type.
    """

    eps: PlaneEpsNet  # ε_θ(x_t, t)
    energy: EnergyNet  # f_φ(x_t, t) ≈ E_t(x_t) up to a constant in x_t
    density: SampledDensity
    beta: float
    settings: ToySettings

    def sample(self, n: int, *, seed: int = 0, scale: float = 1.0) -> Float[Tensor, "n dim"]:
        """Draw n samples of p_0 ∝ q_0 e^{−βE} by DPM-Solver++ under the guided score (Eq. 11).

        `scale` = 1 is exact guidance, 0 samples q_0. Raises `CepnbError` unless n ≥ 0 is an integer
        and 0 ≤ scale < ∞, and on samples that are not finite.
        """
        scale = check_scale(scale)
        if not isinstance(n, Integral) or isinstance(n, bool) or n < 0:
            raise CepnbError(f"n {n}: use a number of samples, 0 or more")
        settings, start = replace(self.settings, samples=int(n)), seeded(seed, "fitted guidance")
        gradient, density = energy_gradient(self.energy), self.density.standardised()
        x = guided_samples(self.eps, gradient, density, settings, start, scale)
        return density.restored(x).to(self.density.means.dtype)


def own_density(
    sampler: Sampler, energy: Energy, count: int = 20_000, generator: torch.Generator | None = None
) -> SampledDensity:
    """Build a density from a sampler and an energy.

    `sampler(count, generator)` returns (count, dim); `energy(x)` maps (*batch, dim) to (*batch,).
    The exact answers are sums over `count` points, drawn once with `generator`, in float64 if the
    sampler returns it and otherwise in float32. Raises `CepnbError` unless both functions take these
    arguments and return tensors of these shapes with finite numbers, and if all points are equal.
    """
    if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
        raise CepnbError(f"count {count}: use a number of points, 1 or more")
    if generator is not None:
        check_type("generator", generator, torch.Generator, "use a torch.Generator or None")
    _check_arguments("sampler", sampler, "count", "generator")
    _check_arguments("energy", energy, "x")
    points = _checked("sampler", sampler(count, generator), (count, None))
    energies = _checked("energy", energy(points.clone()), (count,))  # it may change its argument
    for name, values in (("sampler", points), ("energy", energies)):
        if not bool(values.isfinite().all()):
            raise CepnbError(f"{name}: returns values that are not finite; return finite ones")
    x = points if points.dtype == torch.float64 else points.float()
    _mean_and_deviation(x)
    zeros = torch.zeros(count, dtype=x.dtype)
    return SampledDensity(
        log_weights=zeros,
        energies=energies.to(x.dtype),
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
    """Train ε_θ and f_φ by CEP (Eq. 13, arXiv:2304.12824) to sample p_0 ∝ q_0 e^{−βE}.

    `sampler(count, generator)` draws x_0 ~ q_0 of shape (count, dim). `energy(x)` maps (*batch, dim)
    to (*batch,). Networks are trained on `standardised` points, so units and offset of x do not
    matter. `settings` default to `toy_settings(profile)`. Equal arguments give equal networks if the
    sampler draws from `generator` alone. Raises `CepnbError` unless 0 < β < ∞, if βE overflows in
    float32, and if a function returns wrong values.
    """
    beta = check_beta(beta)
    settings = toy_settings(profile) if settings is None else settings
    check_type("settings", settings, ToySettings, "use those of toy_settings")
    density = own_density(sampler, energy, generator=seeded(seed, "own points"))
    standard = density.standardised()
    check_finite("beta times the energy", beta * standard.energies, "use a smaller beta")
    eps = train_score(standard, settings, seed, progress=progress)
    f = train_toy_energy("cep_self", standard, beta, settings, seed, progress=progress)
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


def _checked(name: str, values: object, needed: tuple[int | None, ...]) -> Tensor:
    """Return a function's values without their graph; raise `CepnbError` on another shape or type."""
    if not isinstance(values, Tensor):
        raise CepnbError(f"{name}: returns {type(values).__name__}; return a torch.Tensor")
    shape = tuple(values.shape)
    if len(shape) != len(needed) or any(n not in (m, None) for m, n in zip(shape, needed)):
        fix = f"return ({needed[0]}, dim)" if None in needed else f"return {needed}"
        raise CepnbError(f"{name}: returns shape {shape} for {needed[0]} points; {fix}")
    return values.detach()


def _mean_and_deviation(x: Float[Tensor, "n dim"]) -> tuple[Float[Tensor, "dim"], float]:
    """Return the mean of each coordinate and their common deviation, computed in float64.

    Raises `CepnbError` on a deviation within the rounding of x.
    """
    points = x.double()
    mean = points.mean(dim=0)
    deviation, largest = (points - mean).square().mean().sqrt().item(), points.abs().max().item()
    if not torch.finfo(x.dtype).eps * largest < deviation < math.inf:
        found = f"sampler: returns points of deviation {deviation:g} and size up to {largest:g}"
        raise CepnbError(f"{found}; return points that differ by more than rounding")
    return mean.to(x.dtype), deviation
