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
from cepnb.diffusion.networks import EnergyNet, PlaneEpsNet
from cepnb.diffusion.training import seeded
from cepnb.errors import CepnbError
from cepnb.storage.validation import (
    check_beta,
    check_finite,
    check_same_shape,
    check_scale,
    check_type,
)

FEW = 100  # effective samples: a mean over them has a tenth of their deviation as its error
Sampler = Callable[[int, torch.Generator | None], Tensor]  # (count, generator) → (count, dim)
Energy = Callable[[Tensor], Tensor]  # (*batch, dim) → (*batch,)


@dataclass(frozen=True, kw_only=True)
class PointMasses(GaussianMixture):
    """A mixture of deviations 0, whose score keeps its digits far from the origin, too."""

    def score(self, xt: Points, t: Tensor) -> Points:
        """Return ∇ log q_t(x_t) = Σ_i q(i | x_t) (α_t x_i − x_t)/σ_t², around the mean of the x_i."""
        alpha, sigma = self.schedule.coefficients(t, xt)
        centre = self.means.mean(dim=0)
        shift = self.log_joint(xt, t).softmax(-1) @ (self.means - centre)
        return (alpha * shift - (xt - alpha * centre)) / sigma**2


@dataclass(frozen=True, kw_only=True)
class SampledDensity(PointMasses):
    """A density given by a sampler and an energy, approximated by point masses x_i.

    `own_density` builds it. q_t is the mixture of N(α_t x_i, σ_t² I), and p_0 has the weights
    e^{−βE(x_i)}, so E_t is a self-normalised sum. `effective_samples` measures its accuracy. The
    sampler and the energy take the reader's coordinates `origin` + `unit` · x; x is in the reader's
    coordinates, too, unless the density is `standardised`.
    """

    sampler: Sampler
    energy_function: Energy
    centred: Float[Tensor, "C"]  # E(x_i) less their mean, subtracted before any rounding
    origin: Float[Tensor, "dim"] | float = 0.0
    unit: Float[Tensor, "dim"] | float = 1.0

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
        self._check_points(x)
        energies = self.energy_function(self.restored(x))
        check_same_shape(x=x[..., 0], energy=energies)
        return energies.to(x.dtype)

    def standardised(self) -> "SampledDensity":
        """Return the density of (x − mean)/deviation in float32, with the same energies.

        Each coordinate has its own mean and deviation, those of the points; one that is constant
        becomes 0. Networks and the sampler need about this scale; `restored` returns to the
        coordinates of this density.
        """
        origin, unit = _mean_and_deviation(self.means)
        return replace(
            self,
            means=((self.means - origin) / unit).float(),
            energies=self.energies.float(),
            centred=self.centred.float(),
            log_weights=self.log_weights.float(),
            deviations=self.deviations.float(),
            origin=self.restored(origin),
            unit=self.unit * unit,
        )

    def restored(self, x: Points) -> Points:
        """Return points of this density in the reader's coordinates."""
        return self.origin + self.unit * x

    def tilted(self, beta: float) -> PointMasses:
        """Return the points with weights e^{−βE}."""
        points = {field.name: getattr(self, field.name) for field in fields(PointMasses)}
        tilted = PointMasses(**points | {"energies": self.centred}).tilted(beta)
        return replace(tilted, energies=self.energies)

    def effective_samples(self, xt: Points, t: Tensor, beta: float) -> Values:
        """Effective sample size of the sum for E_t(x_t), with weights q(x_i | x_t) e^{−βE(x_i)}."""
        return effective_samples(self.tilted(beta).log_joint(xt, t))

    def reliability(self, beta: float) -> str:
        """Say how many effective samples the tilted points have; warn below `FEW`."""
        worth = effective_samples(self.tilted(beta).log_weights).item()
        found = f"{worth:,.0f} effective samples of {len(self.means):,} at β = {beta:g}"
        fix = "too few to trust; use a smaller β or more samples"
        return found if worth >= FEW else f"{found}: {fix}"


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
    arguments and return tensors of these shapes with finite numbers, and if all points are equal or
    rounding hides how points or energies differ.
    """
    if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
        raise CepnbError(f"count {count}: use a number of points, 1 or more")
    if generator is not None:
        check_type("generator", generator, torch.Generator, "use a torch.Generator or None")
    _check_arguments("sampler", sampler, "count", "generator")
    _check_arguments("energy", energy, "x")
    points = _checked("sampler", sampler(count, generator), (count, None))
    energies = _checked("energy", energy(points.clone()), (count,))  # it may change its argument
    x = points if points.dtype == torch.float64 else points.float()
    _mean_and_deviation(x)
    exact = energies.double()
    centred, largest = exact - exact.mean(), exact.abs().max().item()
    deviation = centred.square().mean().sqrt().item()
    if energies.is_floating_point() and deviation < torch.finfo(energies.dtype).eps * largest:
        found = f"energy: returns values of deviation {deviation:g} and size up to {largest:g}"
        raise CepnbError(f"{found}; subtract a constant, or return float64")
    zeros = torch.zeros(count, dtype=x.dtype)
    return SampledDensity(
        log_weights=zeros,
        energies=energies.to(x.dtype),
        centred=centred.to(x.dtype),
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
    """Train ε_θ and f_φ by CEP (arXiv:2304.12824) to sample p_0 ∝ q_0 e^{−βE}.

    Labels are averaged over the posterior (`cepnb.diffusion.posterior`), which is beyond the paper.
    `sampler(count, generator)` draws x_0 ~ q_0 of shape (count, dim). `energy(x)` maps (*batch, dim)
    to (*batch,). Networks are trained on `standardised` points and energies less their mean, so
    units and offset of each coordinate do not matter, nor does a constant in E. `settings` default
    to `toy_settings(profile)`. Equal arguments give equal networks if the sampler draws from
    `generator` alone. Raises `CepnbError` unless 0 < β < ∞, if βE overflows in float32, if a
    function returns wrong values, and on tails that are too heavy.
    """
    beta = check_beta(beta)
    settings = toy_settings(profile) if settings is None else settings
    check_type("settings", settings, ToySettings, "use those of toy_settings")
    density = own_density(sampler, energy, generator=seeded(seed, "own points"))
    standard, level = density.standardised(), density.energies.double().mean().item()
    standard = replace(standard, energy_function=lambda x: energy(x).double() - level)
    check_finite("beta times the energy", beta * standard.centred, "use a smaller beta")
    cut = len(standard.means) // 100
    middle = standard.means.sort(dim=0).values[cut:-cut]
    squeezed = (middle.std(dim=0) < 0.1) & (standard.means != 0).any(dim=0)
    if bool(squeezed.any()):  # the noise that the sampler leaves would hide the other points
        found = "sampler: the outermost 2 % of its points are over ten times as wide as the others"
        raise CepnbError(f"{found}; cut its heavy tails off")
    eps = train_score(standard, settings, seed, progress=progress)
    f = train_toy_energy("cep_posterior", standard, beta, settings, seed, progress=progress)
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
    if values.is_complex() or (name == "sampler" and values.dtype == torch.bool):
        raise CepnbError(f"{name}: returns {values.dtype}; return float32 or float64")
    shape = tuple(values.shape)
    if len(shape) != len(needed) or any(n not in (m, None) for m, n in zip(shape, needed)):
        fix = f"return ({needed[0]}, dim)" if None in needed else f"return {needed}"
        raise CepnbError(f"{name}: returns shape {shape} for {needed[0]} points; {fix}")
    if not bool(values.isfinite().all()):
        raise CepnbError(f"{name}: returns values that are not finite; return finite ones")
    return values.detach()


def _mean_and_deviation(
    x: Float[Tensor, "n dim"],
) -> tuple[Float[Tensor, "dim"], Float[Tensor, "dim"]]:
    """Return the mean and the deviation of each coordinate, computed in float64.

    A constant coordinate has its value as mean, and so small a deviation that it stays constant.
    Raises `CepnbError` if all are constant, and on a deviation within the rounding of x.
    """
    points, constant = x.double(), (x == x[0]).all(dim=0)
    mean = torch.where(constant, points[0], points.mean(dim=0))
    deviation, largest = (points - mean).square().mean(dim=0).sqrt(), points.abs().amax(dim=0)
    differs = (deviation > torch.finfo(x.dtype).eps * largest) & (deviation < math.inf)
    bad = ~differs & (~constant | constant.all())
    if bool(bad.any()):
        i = int(bad.int().argmax())
        found = (
            f"sampler: returns points of deviation {deviation[i]:g} and size up to {largest[i]:g}"
        )
        fix = "return points that differ by more than rounding"
        raise CepnbError(f"{found} in coordinate {i}; {fix}")
    deviation = deviation.masked_fill(constant, torch.finfo(torch.float32).tiny)
    return mean.to(x.dtype), deviation.to(x.dtype)
