"""Averages over the posterior q(x_0 | x_t): labels of an energy or a score with less noise.

Beyond the paper. By Bayes' rule, q(x_0 | x_t) ∝ q_0(x_0) N(x_t; α_t x_0, σ_t² I). So R samples x_j
of q_0 with weights w_j ∝ N(x_t; α_t x_j, σ_t² I), Σ_j w_j = 1, estimate any mean given x_t. The x_0
that x_t was made from must be one of the samples. Then w_j is the probability that x_t was made from
x_j, given all samples and x_t. So Σ_j w_j y_j has the mean E[y | x_t] at every R, for y = e^{−βE} as
for y = ε, and less noise the larger R is. (E_t is minus the logarithm of such a mean, and its
estimate is too high.)

As t → 0, the weight of this x_0 tends to 1. The average then tends to the label that the paper's
losses use at every t. For scores this is the stable target field (Xu et al. 2023, arXiv:2302.00670).
"""

from jaxtyping import Float
from torch import Tensor

from cepnb.diffusion.schedule import VPSchedule
from cepnb.storage.validation import check_shape


def posterior_log_weights(
    xt: Float[Tensor, "*batch k dim"],
    t: Tensor,
    x0: Float[Tensor, "*samples R dim"],
    schedule: VPSchedule,
) -> Float[Tensor, "*batch k R"]:
    """Return log w_j with w_j ∝ N(x_t; α_t x_j, σ_t² I), Σ_j w_j = 1, for each x_t.

    t has leading axes of x_t, or none. The axes `samples` are those of `batch`, or none if all x_t
    share the R samples x_j.
    """
    alpha, sigma = schedule.coefficients(t, xt)
    # −‖x_t − α x_j‖²/2σ² without the term of x_t alone
    product = (alpha / sigma**2 * xt) @ x0.mT
    square = x0.square().sum(dim=-1).unsqueeze(-2)
    return (product - (alpha / sigma) ** 2 / 2 * square).log_softmax(dim=-1)


def averaged_energy(
    log_w: Float[Tensor, "*batch k R"], beta_energy: Float[Tensor, "*samples R"]
) -> Float[Tensor, "*batch k"]:
    """Return −log Σ_j w_j e^{−βE_j}, an estimate of E_t(x_t) (Eq. 9, arXiv:2304.12824)."""
    check_shape("beta_energy", beta_energy, *beta_energy.shape[:-1], log_w.shape[-1])
    terms = log_w - beta_energy.unsqueeze(-2)
    # Five times as fast as logsumexp, whose small terms are subnormal numbers.
    return terms.log_softmax(dim=-1).amax(dim=-1) - terms.amax(dim=-1)


def averaged_noise(
    xt: Float[Tensor, "*batch k dim"],
    t: Tensor,
    x0: Float[Tensor, "*samples R dim"],
    schedule: VPSchedule,
) -> Float[Tensor, "*batch k dim"]:
    """Return (x_t − α_t Σ_j w_j x_j)/σ_t, an estimate of E[ε | x_t], which ε_θ approximates."""
    alpha, sigma = schedule.coefficients(t, xt)
    weights = posterior_log_weights(xt, t, x0, schedule).exp()
    return (xt - alpha * (weights @ x0)) / sigma
