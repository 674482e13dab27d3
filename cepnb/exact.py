"""Exact answers in closed form: a Gaussian mixture stays a mixture under noise and under an energy of its components."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.errors import CepnbError
from cepnb.schedule import VPSchedule, expand_as


@dataclass(frozen=True)
class GaussianMixture:
    """q_0 = Σ_c w_c N(m_c, d_c² I) with an energy E_c attached to each component.

    A sample is a pair (x_0, E_c), c being the component that it was drawn from. Then p_0 ∝ q_0 e^{−βE} is the mixture
    with weights ∝ w_c e^{−βE_c}, q_t is the one with means α_t m_c and variances α_t² d_c² + σ_t², and
    E_t(x_t) = −log Σ_c q(c | x_t) e^{−βE_c}: nothing below is approximate. Shapes: C components in `dim` dimensions.
    """

    log_weights: Float[Tensor, "C"]
    means: Float[Tensor, "C dim"]
    deviations: Float[Tensor, "C"]
    energies: Float[Tensor, "C"]
    schedule: VPSchedule = VPSchedule()

    def __post_init__(self) -> None:
        if not bool((self.deviations > 0).all()):
            raise CepnbError(f"deviations {self.deviations.tolist()}: expected all above 0")

    def tilted(self, beta: float) -> "GaussianMixture":
        """p_0 ∝ q_0 e^{−βE}, with the same components and energies (β = 0 gives q_0 with normalised weights)."""
        log_weights = torch.log_softmax(self.log_weights - beta * self.energies, dim=0)
        return GaussianMixture(log_weights, self.means, self.deviations, self.energies, self.schedule)

    def sample(self, count: int, generator: torch.Generator | None = None) -> tuple[
            Float[Tensor, "count dim"], Float[Tensor, "count"]]:
        """Independent pairs (x_0, E)."""
        component = torch.multinomial(self.log_weights.softmax(0), count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return self.means[component] + self.deviations[component, None] * noise, self.energies[component]

    def log_joint(self, xt: Float[Tensor, "*batch dim"], t: Tensor) -> Float[Tensor, "*batch C"]:
        """log w_c N(x_t; α_t m_c, α_t² d_c² + σ_t²) with normalised weights. t has leading axes of x_t, or none."""
        variance = self._variance(xt, t)
        offset = xt.unsqueeze(-2) - expand_as(self.schedule.alpha(t), xt.unsqueeze(-2)) * self.means
        log_gaussian = -0.5 * offset.square().sum(-1) / variance
        log_gaussian = log_gaussian - 0.5 * self.means.shape[1] * torch.log(2 * torch.pi * variance)
        return torch.log_softmax(self.log_weights, dim=0) + log_gaussian

    def log_q(self, xt: Float[Tensor, "*batch dim"], t: Tensor) -> Float[Tensor, "*batch"]:
        """log q_t(x_t), normalised."""
        return self.log_joint(xt, t).logsumexp(-1)

    def score(self, xt: Float[Tensor, "*batch dim"], t: Tensor) -> Float[Tensor, "*batch dim"]:
        """∇ log q_t(x_t) = Σ_c q(c | x_t) (α_t m_c − x_t)/(α_t² d_c² + σ_t²)."""
        posterior = torch.softmax(self.log_joint(xt, t), dim=-1) / self._variance(xt, t)
        pull = expand_as(self.schedule.alpha(t), xt) * (posterior @ self.means)
        return pull - xt * posterior.sum(-1, keepdim=True)

    def eps(self, xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """The exact noise prediction ε = −σ_t ∇ log q_t, for the samplers."""
        return -expand_as(self.schedule.sigma(t), xt) * self.score(xt, t)

    def intermediate_energy(self, xt: Float[Tensor, "*batch dim"], t: Tensor, beta: float) -> Float[Tensor, "*batch"]:
        """E_t(x_t) = −log E[e^{−βE} | x_t] (Eq. 9, arXiv:2304.12824)."""
        joint = self.log_joint(xt, t)
        return joint.logsumexp(-1) - (joint - beta * self.energies).logsumexp(-1)

    def energy_gradient(self, xt: Float[Tensor, "*batch dim"], t: Tensor, beta: float) -> Float[Tensor, "*batch dim"]:
        """∇E_t = ∇ log q_t − ∇ log p_t (Eq. 11, arXiv:2304.12824)."""
        return self.score(xt, t) - self.tilted(beta).score(xt, t)

    def _variance(self, xt: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (expand_as(c, xt) for c in (self.schedule.alpha(t), self.schedule.sigma(t)))
        return alpha**2 * self.deviations**2 + sigma**2
