"""A reader's own density, given by a sampler and an energy: exact answers by self-normalised sums over samples."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.densities.metrics import effective_samples
from cepnb.densities.mixtures import Density, GaussianMixture
from cepnb.errors import CepnbError


@dataclass(frozen=True)
class SampledDensity(Density):
    """A reader's own density: a sampler of x_0 and an energy, and self-normalised sums over `points` for exact answers.

    q_t becomes the mixture of N(α_t x_i, σ_t² I) over the points x_i (Monte Carlo quadrature), p_0 the points reweighted
    by e^{−βE(x_i)}. How far this may be trusted at (x_t, t, β) is said by `effective_samples`.
    """

    sampler: Callable[[int, torch.Generator | None], Tensor]
    energy_function: Callable[[Tensor], Tensor]
    points: GaussianMixture  # of deviations 0; made by `own_density`

    def sample(
        self, count: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "count dim"], Float[Tensor, "count"]]:
        """Fresh pairs (x_0, E)."""
        x = self.sampler(count, generator)
        return x, self.energy_function(x)

    def energy(self, x: Float[Tensor, "*batch dim"], width: float = 0.0) -> Float[Tensor, "*batch"]:
        """The given energy; with `width`, its mean over the points about x, weighted by a Gaussian of that deviation."""
        return self.energy_function(x) if width == 0 else self.points.energy(x, width)

    def tilted(self, beta: float) -> GaussianMixture:
        """The points with weights e^{−βE}."""
        return self.points.tilted(beta)

    def mean_energy(self, xt: Float[Tensor, "*batch dim"], t: Tensor) -> Float[Tensor, "*batch"]:
        """E[E(x_0) | x_t] of the points."""
        return self.points.mean_energy(xt, t)

    def log_partition(self, beta: float) -> Float[Tensor, ""]:
        """log of the mean of e^{−βE} over the points."""
        return self.points.log_partition(beta)

    def log_q(self, xt: Float[Tensor, "*batch dim"], t: Tensor) -> Float[Tensor, "*batch"]:
        """log q_t(x_t) of the points."""
        return self.points.log_q(xt, t)

    def score(self, xt: Float[Tensor, "*batch dim"], t: Tensor) -> Float[Tensor, "*batch dim"]:
        """∇ log q_t(x_t) of the points."""
        return self.points.score(xt, t)

    def effective_samples(
        self, xt: Float[Tensor, "*batch dim"], t: Tensor, beta: float
    ) -> Float[Tensor, "*batch"]:
        """(Σ w)²/Σ w² of the weights w_i = q(x_i | x_t) e^{−βE(x_i)} in E_t(x_t): about 1/its relative variance."""
        return effective_samples(self.points.tilted(beta).log_joint(xt, t))


def own_density(
    sampler: Callable[[int, torch.Generator | None], Tensor],
    energy: Callable[[Tensor], Tensor],
    count: int = 20_000,
    generator: torch.Generator | None = None,
) -> SampledDensity:
    """The density of `sampler(count, generator)` → (count, dim) with `energy(x)`, (*batch, dim) → (*batch,).

    `count` points are drawn once for the exact answers. Raises `CepnbError` if shapes are wrong or a value is not finite.
    """
    x = sampler(count, generator)
    if x.ndim != 2 or len(x) != count:
        raise CepnbError(f"sampler: found shape {tuple(x.shape)}, expected ({count}, dim)")
    energies = energy(x)
    if energies.shape != (count,):
        raise CepnbError(
            f"energy: found shape {tuple(energies.shape)} for {count} points, expected ({count},)"
        )
    for name, values in (("sampler", x), ("energy", energies)):
        if not bool(torch.isfinite(values).all()):
            raise CepnbError(f"{name}: found a value that is not finite")
    zeros = torch.zeros(count, dtype=x.dtype)
    points = GaussianMixture(log_weights=zeros, energies=energies, means=x, deviations=zeros)
    return SampledDensity(sampler=sampler, energy_function=energy, points=points)
