"""Exact answers in closed form for mixtures of Gaussians or boxes.

Noise, or the factor e^{−βE}, turns each component into one of the same kind, so q_t, p_0 and p_t are
mixtures too. They give the intermediate energy E_t = log q_t − log p_t − log Z (Theorem 3.1,
arXiv:2304.12824).
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.diffusion.schedule import VPSchedule
from cepnb.errors import CepnbError
from cepnb.storage.validation import check_finite, check_same_shape

Points = Float[Tensor, "*batch dim"]
Values = Float[Tensor, "*batch"]
Samples = tuple[Float[Tensor, "count dim"], Float[Tensor, "count"]]  # pairs (x_0, E)


@dataclass(frozen=True, kw_only=True)
class Density:
    """A density q_0 = Σ_c w_c q_c with an energy E, and its exact q_t, p_t and E_t.

    A sample is a pair (x_0, E). Each of the C components adds a constant E_c to the energy, so E may
    depend on x_0 and on its component; `energy` is its mean given x_0. p_0 reweights each sample by
    its own e^{−βE}. Subclasses define the methods that raise `NotImplementedError` here. Raises
    `CepnbError` on components that are not finite or differ in number, and on points of another
    dimension.
    """

    log_weights: Float[Tensor, "C"]  # log w_c up to a constant
    energies: Float[Tensor, "C"]  # E_c
    schedule: VPSchedule = VPSchedule()

    @property
    def dim(self) -> int:
        """The number of coordinates of x_0."""
        raise NotImplementedError

    def sample(self, count: int, generator: torch.Generator | None = None) -> Samples:
        """Draw independent pairs (x_0, E)."""
        raise NotImplementedError

    def energy(self, x: Points, width: float = 0.0) -> Values:
        """Return the mean energy at x_0 = x; with `width` > 0 the mean given x_0 + N(0, width² I) = x."""
        one = torch.ones((), dtype=x.dtype)
        joint = self.log_weights + self._log_components(x, one, width**2 * one)
        return joint.softmax(-1) @ self.energies

    def tilted(self, beta: float) -> "Density":
        """Return p_0 ∝ q_0 e^{−βE} with the same energy (β = 0 gives q_0).

        Raises `CepnbError` if no weight is finite, as for a very large β.
        """
        log_weights = (self.log_weights + self._log_factors(beta)).log_softmax(0)
        if log_weights.isnan().any():
            problem = f"the weights e^(-beta E) are not finite in {log_weights.dtype}"
            raise CepnbError(f"beta {beta:g}: {problem}; use a smaller beta")
        return replace(self, log_weights=log_weights)

    def score(self, xt: Points, t: Tensor) -> Points:
        """Return the score ∇ log q_t(x_t)."""
        raise NotImplementedError

    def _log_components(self, x: Tensor, scale: Tensor, variance: Tensor) -> Tensor:
        """(*batch, C): log density at x of scale · x_0 + N(0, variance I) for each component."""
        raise NotImplementedError

    def _log_factors(self, beta: float) -> Float[Tensor, "C"]:
        """log of the mean of e^{−βE} over each component."""
        return -beta * self.energies

    def log_joint(self, xt: Points, t: Tensor) -> Float[Tensor, "*batch C"]:
        """Return log [w_c q_{t,c}(x_t)], normalised; its softmax over c is q(c | x_t)."""
        alpha, sigma = self.schedule.coefficients(t, xt)
        return self.log_weights.log_softmax(0) + self._log_components(xt, alpha, sigma**2)

    def log_q(self, xt: Points, t: Tensor) -> Values:
        """Return log q_t(x_t), normalised. t has the leading axes of x_t, or none."""
        return self.log_joint(xt, t).logsumexp(-1)

    def mean_energy(self, xt: Points, t: Tensor) -> Values:
        """Return E[E(x_0) | x_t] = Σ_c q(c | x_t) E_c, which is dE_t/dβ at β = 0.

        Times β, it is the minimiser of the regression on βE (Table 1, arXiv:2304.12824).
        """
        return self.log_joint(xt, t).softmax(-1) @ self.energies

    def log_partition(self, beta: float) -> Float[Tensor, ""]:
        """Return log Z = log E_{q_0}[e^{−βE}] = log Σ_c w_c E[e^{−βE} | c], or −β × free energy."""
        return (self.log_weights.log_softmax(0) + self._log_factors(beta)).logsumexp(0)

    def eps(self, xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the exact noise prediction ε = −σ_t ∇ log q_t(x_t), for the samplers."""
        return -self.schedule.coefficients(t, xt)[1] * self.score(xt, t)

    def intermediate_energy(self, xt: Points, t: Tensor, beta: float) -> Values:
        """Return E_t(x_t) = −log E[e^{−βE} | x_t] = log q_t − log p_t − log Z (Eq. 9)."""
        return self.log_q(xt, t) - self.tilted(beta).log_q(xt, t) - self.log_partition(beta)

    def intermediate_energy_gradient(self, xt: Points, t: Tensor, beta: float) -> Points:
        """Return ∇E_t = ∇ log q_t − ∇ log p_t (Eq. 11)."""
        return self.score(xt, t) - self.tilted(beta).score(xt, t)

    def _check_components(self, *names: str) -> None:
        total = self.log_weights.logsumexp(0)  # single weights may be 0
        check_finite("log of the total weight", total, "use finite log_weights")
        for name in ("energies", *names):
            values = getattr(self, name)
            check_finite(name, values.detach(), f"use finite {name}")
            first = values[:, 0] if name in ("means", "lows", "highs") else values
            check_same_shape(log_weights=self.log_weights, **{name: first})

    def _check_points(self, x: Points) -> None:
        if x.shape[-1:] != (self.dim,):
            fix = f"use (*batch, {self.dim}), as the density has {self.dim} coordinates"
            raise CepnbError(f"points have shape {tuple(x.shape)}; {fix}")

    def _draw_components(self, count: int, generator: torch.Generator | None) -> Tensor:
        weights = self.log_weights.softmax(0)
        return torch.multinomial(weights, count, replacement=True, generator=generator)


@dataclass(frozen=True, kw_only=True)
class GaussianMixture(Density):
    """A Gaussian mixture q_0 = Σ_c w_c N(m_c, d_c² I) with the energy E = E_c + b·x + ½ h ‖x‖².

    q_t has the means α_t m_c and the variances α_t² d_c² + σ_t². p_0 has the means (m_c − β d_c² b)/
    k_c and the variances d_c²/k_c, with k_c = 1 + βh d_c². Deviations of 0 are point masses; they
    need t > 0. Raises `CepnbError` if a deviation is negative.
    """

    means: Float[Tensor, "C dim"]  # m_c
    deviations: Float[Tensor, "C"]  # d_c
    linear: Float[Tensor, "dim"] | float = 0.0  # b
    quadratic: float = 0.0  # h

    def __post_init__(self) -> None:
        self._check_components("means", "deviations")
        if torch.as_tensor(self.linear).shape not in ((), (self.dim,)):
            shape = tuple(torch.as_tensor(self.linear).shape)
            raise CepnbError(f"linear has shape {shape}; use a number or shape ({self.dim},)")
        if not bool((self.deviations >= 0).all()):
            lowest = float(self.deviations.min())
            raise CepnbError(f"deviations: the lowest is {lowest:g}; use values of 0 or more")

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    def sample(self, count: int, generator: torch.Generator | None = None) -> Samples:
        component = self._draw_components(count, generator)
        noise = torch.randn(count, self.dim, generator=generator, dtype=self.means.dtype)
        x = self.means[component] + self.deviations[component, None] * noise
        return x, self.energies[component] + self._polynomial(x)

    def energy(self, x: Points, width: float = 0.0) -> Values:
        """Return E[E_c | x] + b·x + ½ h ‖x‖²; `width` smooths the first term."""
        return super().energy(x, width) + self._polynomial(x)

    def tilted(self, beta: float) -> "GaussianMixture":
        """Return p_0 ∝ q_0 e^{−βE}. Raises `CepnbError` if it has no integral (h < 0, large β)."""
        k = self._precision_factors(beta)
        means = (self.means - beta * self.deviations[:, None] ** 2 * self.linear) / k[:, None]
        return replace(super().tilted(beta), means=means, deviations=self.deviations / k.sqrt())

    def mean_energy(self, xt: Points, t: Tensor) -> Values:
        """Return E[E(x_0) | x_t] = Σ_c q(c | x_t) [E_c + b·μ_c + ½ h (‖μ_c‖² + dim · v_c)].

        Given c, x_0 is Gaussian with mean μ_c = m_c + g_c (x_t/α_t − m_c) and variance
        v_c = d_c² (1 − g_c), where g_c = α_t² d_c²/(α_t² d_c² + σ_t²).
        """
        posterior = self.log_joint(xt, t).softmax(-1)
        alpha, sigma = self.schedule.coefficients(t, xt)
        signal = alpha**2 * self.deviations**2
        gain = signal / (signal + sigma**2)  # (*batch, C)
        offset = xt.unsqueeze(-2) / alpha.unsqueeze(-1) - self.means
        mean = self.means + gain.unsqueeze(-1) * offset  # (*batch, C, dim)
        spread = 0.5 * self.quadratic * self.dim * self.deviations**2 * (1 - gain)
        return (posterior * (self.energies + self._polynomial(mean) + spread)).sum(-1)

    def score(self, xt: Points, t: Tensor) -> Points:
        """Return ∇ log q_t(x_t) = Σ_c q(c | x_t) (α_t m_c − x_t)/(α_t² d_c² + σ_t²)."""
        alpha, sigma = self.schedule.coefficients(t, xt)
        weights = self.log_joint(xt, t).softmax(-1) / (alpha**2 * self.deviations**2 + sigma**2)
        return alpha * (weights @ self.means) - xt * weights.sum(-1, keepdim=True)

    def _log_components(self, x: Tensor, scale: Tensor, variance: Tensor) -> Tensor:
        self._check_points(x)
        variance = scale**2 * self.deviations**2 + variance
        offset = x.unsqueeze(-2) - scale.unsqueeze(-1) * self.means
        square = offset.square().sum(-1) / variance
        return -0.5 * (square + self.dim * torch.log(2 * math.pi * variance))

    def _log_factors(self, beta: float) -> Tensor:
        k, variance, dim = self._precision_factors(beta), self.deviations**2, self.dim
        b = torch.as_tensor(self.linear, dtype=self.means.dtype).expand(dim)
        from_linear = -2 * beta * self.means @ b + beta * beta * (b @ b) * variance
        from_quadratic = beta * self.quadratic * self.means.square().sum(1)
        return -beta * self.energies + 0.5 * ((from_linear - from_quadratic) / k - dim * k.log())

    def _precision_factors(self, beta: float) -> Tensor:
        """k_c = 1 + βh d_c², the factor of e^{−βE} on the precision of component c."""
        k = 1 + beta * self.quadratic * self.deviations**2
        if bool((k <= 0).any()):
            limit = f"{-1 / (self.quadratic * float(self.deviations.max()) ** 2):g}"
            raise CepnbError(f"beta {beta:g}: e^(-beta E) has no mean; use a beta below {limit}")
        return k

    def _polynomial(self, x: Tensor) -> Tensor:
        """b·x + ½ h ‖x‖²."""
        return (x * self.linear).sum(-1) + 0.5 * self.quadratic * x.square().sum(-1)


@dataclass(frozen=True, kw_only=True)
class BoxMixture(Density):
    """A mixture q_0 = Σ_c w_c U[low_c, high_c] of uniform boxes with one energy E_c per box.

    q_t is a sum of products of differences of error functions. Raises `CepnbError` on an empty box.
    """

    lows: Float[Tensor, "C dim"]
    highs: Float[Tensor, "C dim"]

    def __post_init__(self) -> None:
        self._check_components("lows", "highs")
        check_same_shape(lows=self.lows, highs=self.highs)
        if not bool((self.highs > self.lows).all()):
            raise CepnbError("boxes: a high is not above its low; swap or move them")

    @property
    def dim(self) -> int:
        return self.lows.shape[1]

    def sample(self, count: int, generator: torch.Generator | None = None) -> Samples:
        component = self._draw_components(count, generator)
        part = torch.rand(count, self.dim, generator=generator, dtype=self.lows.dtype)
        x = torch.lerp(self.lows[component], self.highs[component], part)
        return x, self.energies[component]

    def energy(self, x: Points, width: float = 0.0) -> Values:
        """Return the energy of the nearest box, NaN at no finite x; `width` > 0 makes it smooth."""
        if width > 0:
            return super().energy(x, width)
        self._check_points(x)
        unknown, x = ~x.isfinite().all(-1), x.unsqueeze(-2)
        outside = torch.maximum(self.lows - x, x - self.highs).clamp(min=0)  # (*batch, C, dim)
        nearest = outside.square().sum(-1).argmin(-1)  # 0 if all are NaN
        return self.energies[nearest].masked_fill(unknown, math.nan)

    def score(self, xt: Points, t: Tensor) -> Points:
        """Return ∇ log q_t(x_t), the mean over q(c | x_t) of [φ(u) − φ(v)]/(σ_t [Φ(v) − Φ(u)]).

        In each coordinate u = (α_t low_c − x_t)/σ_t and v = (α_t high_c − x_t)/σ_t; φ and Φ are the
        standard normal density and its integral.
        """
        alpha, sigma = self.schedule.coefficients(t, xt)
        u, v = self._edges(xt, alpha, sigma)
        log_mass = _log_interval(u, v)
        difference = (_log_normal(u) - log_mass).exp() - (_log_normal(v) - log_mass).exp()
        slopes = difference / sigma.unsqueeze(-1)  # (*batch, C, dim)
        posterior = self.log_joint(xt, t).softmax(-1)
        return (posterior.unsqueeze(-2) @ slopes).squeeze(-2)

    def _log_components(self, x: Tensor, scale: Tensor, variance: Tensor) -> Tensor:
        log_mass = _log_interval(*self._edges(x, scale, variance.sqrt()))
        return (log_mass - torch.log(scale.unsqueeze(-1) * (self.highs - self.lows))).sum(-1)

    def _edges(self, x: Tensor, scale: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
        """(scale · low − x)/deviation and (scale · high − x)/deviation, both (*batch, C, dim)."""
        self._check_points(x)
        x, scale, deviation = x.unsqueeze(-2), scale.unsqueeze(-1), deviation.unsqueeze(-1)
        return (scale * self.lows - x) / deviation, (scale * self.highs - x) / deviation


def _log_interval(u: Tensor, v: Tensor) -> Tensor:
    """log [Φ(v) − Φ(u)] for u < v, reflected to the left of 0, where no digits cancel."""
    flip = u + v > 0
    low, high = torch.where(flip, -v, u), torch.where(flip, -u, v)
    log_high = torch.special.log_ndtr(high)
    return log_high + torch.log(-torch.expm1(torch.special.log_ndtr(low) - log_high))


def _log_normal(u: Tensor) -> Tensor:
    """log of the standard normal density."""
    return -0.5 * (u.square() + math.log(2 * math.pi))
