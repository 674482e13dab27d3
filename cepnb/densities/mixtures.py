"""Exact answers in closed form: mixtures of Gaussians or boxes stay mixtures under noise and under an energy.

Noise acts on each component alone, and so does the factor e^{−βE}. Hence q_t, p_0 and p_t are all mixtures again, and the
intermediate energy is their quotient: E_t = log q_t − log p_t − log Z (Theorem 3.1 read backwards).
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.diffusion.schedule import VPSchedule, expand_as
from cepnb.errors import CepnbError


@dataclass(frozen=True, kw_only=True)
class Density:
    """q_0 with an energy E, and all that follows exactly: the interface of every toy density.

    A sample is a pair (x_0, E). E may be a function of x_0, or belong to the component that x_0 was drawn from; then
    `energy` is its mean given x_0, and p_0 is the density of samples that are reweighted by their own e^{−βE}.
    """

    schedule: VPSchedule = VPSchedule()

    def sample(
        self, count: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "count dim"], Float[Tensor, "count"]]:
        """Independent pairs (x_0, E)."""
        raise NotImplementedError

    def energy(self, x: Float[Tensor, "*batch dim"], width: float = 0.0) -> Float[Tensor, "*batch"]:
        """E as a function of x; smoothed over a Gaussian of deviation `width` under q_0 for what needs a slope (DPS)."""
        raise NotImplementedError

    def tilted(self, beta: float) -> "Density":
        """p_0 ∝ q_0 e^{−βE} with the same energy (β = 0 gives q_0)."""
        raise NotImplementedError

    def mean_energy(self, xt: Float[Tensor, "*batch dim"], t: Tensor) -> Float[Tensor, "*batch"]:
        """E[E(x_0) | x_t], which is dE_t/dβ at β = 0; times β it is what regression on βE learns, whatever the β."""
        raise NotImplementedError

    def log_partition(self, beta: float) -> Float[Tensor, ""]:
        """log Z = log E[e^{−βE}] under q_0, which is −βF of physics."""
        raise NotImplementedError

    def log_q(self, xt: Float[Tensor, "*batch dim"], t: Tensor) -> Float[Tensor, "*batch"]:
        """log q_t(x_t), normalised. t has leading axes of x_t, or none."""
        raise NotImplementedError

    def score(self, xt: Float[Tensor, "*batch dim"], t: Tensor) -> Float[Tensor, "*batch dim"]:
        """∇ log q_t(x_t)."""
        raise NotImplementedError

    def eps(self, xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """The exact noise prediction ε = −σ_t ∇ log q_t, for the samplers."""
        return -expand_as(self.schedule.sigma(t), xt) * self.score(xt, t)

    def intermediate_energy(
        self, xt: Float[Tensor, "*batch dim"], t: Tensor, beta: float
    ) -> Float[Tensor, "*batch"]:
        """E_t(x_t) = −log E[e^{−βE} | x_t] (Eq. 9, arXiv:2304.12824) = log q_t − log p_t − log Z."""
        return self.log_q(xt, t) - self.tilted(beta).log_q(xt, t) - self.log_partition(beta)

    def intermediate_energy_gradient(
        self, xt: Float[Tensor, "*batch dim"], t: Tensor, beta: float
    ) -> Float[Tensor, "*batch dim"]:
        """∇E_t = ∇ log q_t − ∇ log p_t (Eq. 11, arXiv:2304.12824)."""
        return self.score(xt, t) - self.tilted(beta).score(xt, t)


@dataclass(frozen=True)
class _Mixture(Density):
    """What mixtures share: Σ_c w_c q_c, an energy E_c attached to each component. C components."""

    log_weights: Float[Tensor, "C"]
    energies: Float[Tensor, "C"]

    def log_joint(self, xt: Float[Tensor, "*batch dim"], t: Tensor) -> Float[Tensor, "*batch C"]:
        """log of w_c times the noised density of component c, with normalised weights."""
        scale, variance = self.schedule.alpha(t), self.schedule.sigma(t) ** 2
        return self.log_weights.log_softmax(0) + self._log_components(
            xt, expand_as(scale, xt), expand_as(variance, xt)
        )

    def log_q(self, xt: Float[Tensor, "*batch dim"], t: Tensor) -> Float[Tensor, "*batch"]:
        """log q_t(x_t), normalised."""
        return self.log_joint(xt, t).logsumexp(-1)

    def mean_energy(self, xt: Float[Tensor, "*batch dim"], t: Tensor) -> Float[Tensor, "*batch"]:
        """E[E(x_0) | x_t] = Σ_c q(c | x_t) E_c."""
        return self.log_joint(xt, t).softmax(-1) @ self.energies

    def log_partition(self, beta: float) -> Float[Tensor, ""]:
        """log Z = log Σ_c w_c E_c[e^{−βE}], E_c being the mean over component c."""
        return (self.log_weights.log_softmax(0) + self._log_factors(beta)).logsumexp(0)

    def _log_factors(self, beta: float) -> Float[Tensor, "C"]:
        """log of the mean of e^{−βE} over each component."""
        return -beta * self.energies

    def _log_components(
        self, x: Tensor, scale: Tensor, variance: Tensor
    ) -> Float[Tensor, "*batch C"]:
        """log density at x of scale · x_0 + N(0, variance) for x_0 from each component."""
        raise NotImplementedError

    def _mean_energy(self, x: Tensor, width: float) -> Float[Tensor, "*batch"]:
        """E[E_c | x] for x = x_0 + N(0, width²)."""
        one = torch.ones((), dtype=x.dtype)
        joint = self.log_weights + self._log_components(x, one, width**2 * one)
        return joint.softmax(-1) @ self.energies

    def _components(self, count: int, generator: torch.Generator | None) -> Tensor:
        return torch.multinomial(
            self.log_weights.softmax(0), count, replacement=True, generator=generator
        )


@dataclass(frozen=True)
class GaussianMixture(_Mixture):
    """q_0 = Σ_c w_c N(m_c, d_c² I) with the energy E = E_c + b·x + ½ h ‖x‖².

    Under noise, means α_t m_c and variances α_t² d_c² + σ_t². Under the energy, with k_c = 1 + βh d_c²: means
    (m_c − β d_c² b)/k_c and variances d_c²/k_c. Deviations of 0 make point masses, for times above 0 alone.
    """

    means: Float[Tensor, "C dim"]
    deviations: Float[Tensor, "C"]
    linear: Float[Tensor, "dim"] | float = 0.0  # b
    quadratic: float = 0.0  # h

    def __post_init__(self) -> None:
        if not bool((self.deviations >= 0).all()):
            raise CepnbError(f"deviations {self.deviations.tolist()}: expected none below 0")

    def sample(
        self, count: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "count dim"], Float[Tensor, "count"]]:
        """Independent pairs (x_0, E)."""
        component = self._components(count, generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        x = self.means[component] + self.deviations[component, None] * noise
        return x, self.energies[component] + self._plain_energy(x)

    def energy(self, x: Float[Tensor, "*batch dim"], width: float = 0.0) -> Float[Tensor, "*batch"]:
        """E[E_c | x] + b·x + ½ h ‖x‖², the first term smoothed over `width`."""
        return self._mean_energy(x, width) + self._plain_energy(x)

    def tilted(self, beta: float) -> "GaussianMixture":
        """p_0 ∝ q_0 e^{−βE}. Raises `CepnbError` if a component then has no finite integral (h < 0 and large β)."""
        k = self._precision_factor(beta)
        means = (self.means - beta * self.deviations[:, None] ** 2 * self.linear) / k[:, None]
        return replace(
            self,
            log_weights=(self.log_weights + self._log_factors(beta)).log_softmax(0),
            means=means,
            deviations=self.deviations / k.sqrt(),
        )

    def mean_energy(self, xt: Float[Tensor, "*batch dim"], t: Tensor) -> Float[Tensor, "*batch"]:
        """E[E(x_0) | x_t]: given c, x_0 is Gaussian about m_c + g_c (x_t − α_t m_c)/α_t of variance d_c² (1 − g_c)."""
        scale, variance = (
            expand_as(self.schedule.alpha(t), xt),
            expand_as(self.schedule.sigma(t), xt) ** 2,
        )
        gain = (
            scale**2 * self.deviations**2 / (scale**2 * self.deviations**2 + variance)
        )  # (*batch, C)
        scale = scale.unsqueeze(-1)
        mean = self.means + gain.unsqueeze(-1) * (xt.unsqueeze(-2) / scale - self.means)
        spread = 0.5 * self.quadratic * self.means.shape[1] * self.deviations**2 * (1 - gain)
        return (
            self.log_joint(xt, t).softmax(-1) * (self.energies + self._plain_energy(mean) + spread)
        ).sum(-1)

    def score(self, xt: Float[Tensor, "*batch dim"], t: Tensor) -> Float[Tensor, "*batch dim"]:
        """∇ log q_t(x_t) = Σ_c q(c | x_t) (α_t m_c − x_t)/(α_t² d_c² + σ_t²)."""
        scale = expand_as(self.schedule.alpha(t), xt)
        variance = scale**2 * self.deviations**2 + expand_as(self.schedule.sigma(t), xt) ** 2
        posterior = torch.softmax(self.log_joint(xt, t), dim=-1) / variance
        return scale * (posterior @ self.means) - xt * posterior.sum(-1, keepdim=True)

    def _log_components(self, x: Tensor, scale: Tensor, variance: Tensor) -> Tensor:
        variance = scale**2 * self.deviations**2 + variance
        offset = x.unsqueeze(-2) - scale.unsqueeze(-1) * self.means
        return -0.5 * (
            offset.square().sum(-1) / variance
            + self.means.shape[1] * torch.log(2 * math.pi * variance)
        )

    def _log_factors(self, beta: float) -> Tensor:
        k, d2 = self._precision_factor(beta), self.deviations**2
        b = torch.as_tensor(self.linear, dtype=self.means.dtype).expand(self.means.shape[1])
        square = (
            -2 * beta * self.means @ b
            + beta**2 * (b @ b) * d2
            - beta * self.quadratic * self.means.square().sum(1)
        )
        return -beta * self.energies + 0.5 * (square / k - self.means.shape[1] * k.log())

    def _precision_factor(self, beta: float) -> Tensor:
        k = 1 + beta * self.quadratic * self.deviations**2
        if not bool((k > 0).all()):
            limit = -1 / (self.quadratic * float(self.deviations.max()) ** 2)
            raise CepnbError(
                f"beta {beta:g}: e^(-beta E) grows too fast for p_0 to exist, expected less than {limit:g}"
            )
        return k

    def _plain_energy(self, x: Tensor) -> Tensor:
        return (x * self.linear).sum(-1) + 0.5 * self.quadratic * x.square().sum(-1)


@dataclass(frozen=True)
class BoxMixture(_Mixture):
    """q_0 = Σ_c w_c uniform on the box [low_c, high_c], with one energy a box: error functions under noise."""

    lows: Float[Tensor, "C dim"]
    highs: Float[Tensor, "C dim"]

    def __post_init__(self) -> None:
        if not bool((self.highs > self.lows).all()):
            raise CepnbError("boxes: expected every high above its low")

    def sample(
        self, count: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "count dim"], Float[Tensor, "count"]]:
        """Independent pairs (x_0, E)."""
        component = self._components(count, generator)
        part = torch.rand(count, self.lows.shape[1], generator=generator, dtype=self.lows.dtype)
        return torch.lerp(self.lows[component], self.highs[component], part), self.energies[
            component
        ]

    def energy(self, x: Float[Tensor, "*batch dim"], width: float = 0.0) -> Float[Tensor, "*batch"]:
        """The energy of the box that holds x (of the nearest, outside all), constant in each; smooth if width > 0."""
        if width > 0:
            return self._mean_energy(x, width)
        outside = torch.maximum(self.lows - x.unsqueeze(-2), x.unsqueeze(-2) - self.highs).clamp(
            min=0
        )
        return self.energies[outside.square().sum(-1).argmin(-1)]

    def tilted(self, beta: float) -> "BoxMixture":
        """p_0 ∝ q_0 e^{−βE}: the same boxes with weights w_c e^{−βE_c}."""
        return replace(self, log_weights=(self.log_weights - beta * self.energies).log_softmax(0))

    def score(self, xt: Float[Tensor, "*batch dim"], t: Tensor) -> Float[Tensor, "*batch dim"]:
        """∇ log q_t(x_t): the mean over q(c | x_t) of the slopes of log [Φ(v) − Φ(u)]; see `_edges`."""
        scale, deviation = (
            expand_as(self.schedule.alpha(t), xt),
            expand_as(self.schedule.sigma(t), xt),
        )
        u, v = self._edges(xt, scale, deviation)
        mass = _log_interval(u, v)
        slopes = (
            (_log_normal(u) - mass).exp() - (_log_normal(v) - mass).exp()
        ) / deviation.unsqueeze(-1)
        posterior = self.log_joint(xt, t).softmax(-1)
        return (posterior.unsqueeze(-2) @ slopes).squeeze(-2)

    def _log_components(self, x: Tensor, scale: Tensor, variance: Tensor) -> Tensor:
        mass = _log_interval(*self._edges(x, scale, variance.sqrt()))
        return (mass - torch.log(scale.unsqueeze(-1) * (self.highs - self.lows))).sum(-1)

    def _edges(self, x: Tensor, scale: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
        """(scale · low − x)/deviation and the same for high, of shape (*batch, C, dim)."""
        edges = (
            scale.unsqueeze(-1) * corner - x.unsqueeze(-2) for corner in (self.lows, self.highs)
        )
        u, v = (edge / deviation.unsqueeze(-1) for edge in edges)
        return u, v


def _log_interval(u: Tensor, v: Tensor) -> Tensor:
    """log [Φ(v) − Φ(u)] for u < v, by the tails that do not cancel: both edges are reflected to the left of 0."""
    flip = u + v > 0
    low, high = torch.where(flip, -v, u), torch.where(flip, -u, v)
    log_high = torch.special.log_ndtr(high)
    return log_high + torch.log(-torch.expm1(torch.special.log_ndtr(low) - log_high))


def _log_normal(u: Tensor) -> Tensor:
    return -0.5 * (u.square() + math.log(2 * math.pi))
