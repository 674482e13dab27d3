"""Random Gaussian mixtures with a smooth energy: test densities that no setting was chosen on.

The energy is a sum of cosines, so e^{−βE} has a Fourier series Σ_k C_k e^{ik·x}. Its mean over a
Gaussian N(μ, v I) is Σ_k C_k e^{ik·μ − v‖k‖²/2}, which makes p_t and E_t exact.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cepnb.densities.mixtures import GaussianMixture, Points, Samples, Values
from cepnb.errors import CepnbError

PERIOD = 16.0  # of the energy along each axis; samples are in about [-5, 5]²
GRID = 256  # points per axis for Fourier coefficients
SMALLEST = 1e-15  # coefficients below this share of the largest one are left out
BETA_MAX = 25.0  # rounding leaves e^{−βE} > 1e-11 five digits


@dataclass(frozen=True, kw_only=True)
class CosineMixture(GaussianMixture):
    """A Gaussian mixture in the plane times e^{−βE}, with E = ½ + Σ_j cos(k_j·x + φ_j)/(2J) in [0, 1].

    `waves` holds the whole numbers k_j · `PERIOD`/2π. `beta` is 0 for q_0; `tilted` increases it.
    Raises `CepnbError` if the energy has other terms, and in another dimension.
    """

    waves: Float[Tensor, "J dim"]
    phases: Float[Tensor, "J"]
    beta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        terms = (self.energies, torch.as_tensor(self.linear), torch.tensor(self.quadratic))
        if self.dim != 2 or any(bool(term.any()) for term in terms):
            raise CepnbError("cosine mixture: use two dimensions and no energy but the cosines")

    def sample(self, count: int, generator: torch.Generator | None = None) -> Samples:
        """Draw pairs (x_0, E): samples of the Gaussians, accepted with probability ∝ e^{−βE}."""
        kept = self.means[:0]
        while len(kept) < count:
            x, _ = super().sample(max(count, 1_000), generator)
            chance = (-self.beta * self.energy(x) + min(self.beta, 0.0)).exp()  # E is in [0, 1]
            kept = torch.cat([kept, x[torch.rand(len(x), generator=generator) < chance]])
        return kept[:count], self.energy(kept[:count])

    def energy(self, x: Points, width: float = 0.0) -> Values:
        """Return E(x); with `width` > 0 the mean of E given x_0 + N(0, width² I) = x."""
        self._check_points(x)
        if width > 0:
            one = torch.ones((), dtype=x.dtype)
            return self._mean_energy(x, one, width**2 * one)
        angle = x @ (2 * math.pi / PERIOD * self.waves.to(x.dtype)).T + self.phases.to(x.dtype)
        return 0.5 + angle.cos().mean(-1) / 2

    def tilted(self, beta: float) -> "CosineMixture":
        """Return p_0 ∝ q_0 e^{−βE}. Raises `CepnbError` on a β of p_0 beyond ± `BETA_MAX`."""
        total = self.beta + beta
        if not abs(total) <= BETA_MAX:
            raise CepnbError(
                f"beta {total:g}: rounding errors are too large; use at most {BETA_MAX:g}"
            )
        return replace(self, beta=total)

    def log_partition(self, beta: float) -> Float[Tensor, ""]:
        """Return log Z = log E[e^{−βE}]."""
        total, own = self._log_means(self.beta + beta), self._log_means(self.beta)
        return total.logsumexp(0) - own.logsumexp(0)

    def log_joint(self, xt: Points, t: Tensor) -> Float[Tensor, "*batch C"]:
        """Return log [w_c q_{t,c}(x_t)], normalised."""
        return super().log_joint(xt, t) - self._log_means(self.beta).logsumexp(0)

    def score(self, xt: Points, t: Tensor) -> Points:
        """Return ∇ log q_t(x_t), by automatic differentiation."""
        with torch.enable_grad():
            point = xt.detach().requires_grad_()
            return torch.autograd.grad(self.log_q(point, t).sum(), point)[0]

    def mean_energy(self, xt: Points, t: Tensor) -> Values:
        """Return E[E(x_0) | x_t]."""
        alpha, sigma = self.schedule.coefficients(t, xt)
        return self._mean_energy(xt, alpha, sigma**2)

    def _log_components(self, x: Tensor, scale: Tensor, variance: Tensor) -> Tensor:
        """The Gaussian log densities plus log E[e^{−βE} | c, x]."""
        log_gaussians = super()._log_components(x, scale, variance)
        if self.beta == 0:
            return log_gaussians
        return log_gaussians + self._factor(self.beta, *self._posterior(x, scale, variance)).log()

    def _log_means(self, beta: float) -> Float[Tensor, "C"]:
        """log of w_c E[e^{−βE} | c] for the Gaussian weights w_c."""
        factor = self._factor(beta, self.means, self.deviations**2)
        return self.log_weights.log_softmax(0) + factor.log()

    def _mean_energy(self, x: Tensor, scale: Tensor, variance: Tensor) -> Tensor:
        """E[E(x_0) | scale · x_0 + N(0, variance I) = x]."""
        joint = self.log_weights + self._log_components(x, scale, variance)
        gaussians = self._posterior(x, scale, variance)
        means = self._factor(self.beta, *gaussians, power=1) / self._factor(self.beta, *gaussians)
        return (joint.softmax(-1) * means).sum(-1)

    def _posterior(
        self, x: Tensor, scale: Tensor, variance: Tensor
    ) -> tuple[Float[Tensor, "*batch C 2"], Float[Tensor, "*batch C"]]:
        """Mean and variance of x_0 given its Gaussian c and scale · x_0 + N(0, variance I) = x."""
        total = scale**2 * self.deviations**2 + variance
        gain = scale * self.deviations**2 / total
        offset = x.unsqueeze(-2) - scale.unsqueeze(-1) * self.means
        mean = self.means + gain.unsqueeze(-1) * offset
        return mean, (self.deviations**2 * variance / total).expand(mean.shape[:-1])

    def _factor(
        self,
        beta: float,
        mean: Float[Tensor, "*batch 2"],
        variance: Float[Tensor, "*batch"],
        power: int = 0,
    ) -> Float[Tensor, "*batch"]:
        """The mean of E^power e^{−βE} over N(mean, variance I), by its Fourier series in float64."""
        side = PERIOD / GRID * torch.arange(GRID, dtype=torch.float64)
        energy = self.energy(torch.cartesian_prod(side, side)).unflatten(0, (GRID, GRID))
        values = energy**power * (-beta * energy).exp()
        half = torch.fft.rfft2(values) / values.numel()  # the others are complex conjugates
        half[:, 1:] *= 2
        large = half.abs() > SMALLEST * half.abs().max()
        numbers = torch.fft.fftfreq(GRID, 1 / GRID, dtype=torch.float64)
        rows, columns = large.any(dim=1), large.any(dim=0)
        first = _waves(numbers[rows], mean[..., 0], variance)
        second = _waves(numbers[: GRID // 2 + 1].abs()[columns], mean[..., 1], variance)
        return ((first @ half[rows][:, columns]) * second).sum(-1).real


def random_mixture(
    seed: int, dtype: torch.dtype = torch.float32, components: int = 12, waves: int = 3
) -> CosineMixture:
    """Draw a mixture and its energy: means in [−4, 4]², deviations from 0.2 to 0.6, wavelengths from 4."""
    generator = torch.Generator().manual_seed(seed)
    uniform = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)
    numbers = torch.cartesian_prod(*[torch.arange(-4.0, 5.0, dtype=torch.float64)] * 2)
    sizes = numbers.norm(dim=1)
    numbers = numbers[(sizes >= 1) & (sizes <= 4)]
    picked = torch.multinomial(torch.ones(len(numbers)), waves, generator=generator)
    return CosineMixture(
        log_weights=(0.2 + uniform(components)).log().to(dtype),
        energies=torch.zeros(components, dtype=dtype),
        means=(8 * uniform(components, 2) - 4).to(dtype),
        deviations=(0.2 + 0.4 * uniform(components)).to(dtype),
        waves=numbers[picked].to(dtype),
        phases=(2 * math.pi * uniform(waves)).to(dtype),
    )


def _waves(
    numbers: Float[Tensor, "F"], mean: Float[Tensor, "*batch"], variance: Float[Tensor, "*batch"]
) -> Complex[Tensor, "*batch F"]:
    """The mean of e^{ikx} over N(mean, variance) for each k = 2π number/`PERIOD`, in float64."""
    k = 2 * math.pi / PERIOD * numbers
    mean, variance = mean.double().unsqueeze(-1), variance.double().unsqueeze(-1)
    return (1j * k * mean - 0.5 * variance * k**2).exp()
