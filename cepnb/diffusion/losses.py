"""The losses: pure functions that return one value per example or group of K samples.

Inputs are not broadcast: they raise `CepnbError` unless their shapes are as declared.
f approximates E_t, not −E_t. `beta_energy` is β E(x_0); for a policy E = −Q, so it is −β Q(s, a). Equations are those of
arXiv:2304.12824.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from cepnb.errors import CepnbError
from cepnb.storage.validation import check_beta, check_same_shape

Normaliser = Float[Tensor, "*batch"] | Float[Tensor, ""] | float
EXP_MSE_CEILING = 4.5  # largest exponent of `exponentiated_mse`


def noise_prediction(
    predicted: Float[Tensor, "*batch dim"], eps: Float[Tensor, "*batch dim"]
) -> Float[Tensor, "*batch"]:
    """Denoising score matching: mean over coordinates of (ε_θ − ε)² (Ho et al. 2020, Eq. 14)."""
    check_same_shape(predicted=predicted, eps=eps)
    return (predicted - eps).square().mean(dim=-1)


def cep(
    f: Float[Tensor, "*batch K"],
    beta_energy: Float[Tensor, "*batch K"],
    log_normaliser: Normaliser = 0.0,
) -> Float[Tensor, "*batch"]:
    """Contrastive energy prediction, −Σ_i e^{−βE_i − c} log softmax(−f)_i (Eq. 12).

    c = `log_normaliser` must not depend on the K samples, which share one t. c = 0 is Eq. 12. Any
    constant or function of the condition, such as βV_β(s), keeps the minimiser ∇f = ∇E_t. Raises
    `CepnbError` for K = 1. Caveat: if c is far from log E[e^{−βE}], labels overflow or vanish in
    float32.
    """
    _check_contrast(f, beta_energy)
    if isinstance(log_normaliser, Tensor) and log_normaliser.ndim:
        check_same_shape(f=f[..., 0], log_normaliser=log_normaliser)
        log_normaliser = log_normaliser.unsqueeze(-1)
    labels = (-beta_energy - log_normaliser).exp()
    return -(labels * torch.log_softmax(-f, dim=-1)).sum(dim=-1)


def cep_self_normalised(
    f: Float[Tensor, "*batch K"], beta_energy: Float[Tensor, "*batch K"]
) -> Float[Tensor, "*batch"]:
    """Contrastive energy prediction with self-normalised labels (Eq. 13; Eqs. 19–20 for policies).

    The cross-entropy −Σ_i softmax(−βE)_i log softmax(−f)_i ≥ 0 over K samples, which share one t.
    It is stable for any energies. Raises `CepnbError` for K = 1. Caveat: the normaliser depends on
    the K samples, so the minimiser is biased at finite K, strongly if good samples are rare.
    """
    _check_contrast(f, beta_energy)
    return -(torch.softmax(-beta_energy, dim=-1) * torch.log_softmax(-f, dim=-1)).sum(dim=-1)


def cep_averaged(
    f: Float[Tensor, "*batch K"], averaged_energy: Float[Tensor, "*batch K"]
) -> Float[Tensor, "*batch"]:
    """Contrastive energy prediction with labels averaged over the posterior (beyond the paper).

    `averaged_energy` estimates E_t(x_t) (`cepnb.diffusion.posterior`). The loss is Eq. 13 plus a
    tenth of the Huber loss of f − E_t. Eq. 13 weights an error of f by p_t, so it hardly sees x_t
    with p_t ≪ q_t, where an inexact sampler strays; one x_0's label would be too noisy to regress on.
    """
    contrast = cep_self_normalised(f, averaged_energy)
    return contrast + 0.1 * F.smooth_l1_loss(f, averaged_energy, reduction="none").mean(dim=-1)


def mse(
    f: Float[Tensor, "*batch"], beta_energy: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Squared error (f − βE)²; its minimiser E[βE(x_0) | x_t] ≥ E_t is not exact (Table 1)."""
    check_same_shape(f=f, beta_energy=beta_energy)
    return (f - beta_energy).square()


def exponentiated_mse(
    f: Float[Tensor, "*batch"],
    beta_energy: Float[Tensor, "*batch"],
    log_normaliser: Normaliser = 0.0,
) -> Float[Tensor, "*batch"]:
    """Squared error of exponentials, (e^{−f} − e^{−βE − c})², with the minimiser E_t + c.

    c = `log_normaliser` is as in `cep`. The paper's `EXP_MSE_CEILING` limits both exponents, so that one
    example cannot outweigh all others. Caveat: it makes the minimiser inexact for large −βE − c.
    """
    check_same_shape(f=f, beta_energy=beta_energy)
    if isinstance(log_normaliser, Tensor) and log_normaliser.ndim:
        check_same_shape(f=f, log_normaliser=log_normaliser)
    label = (-beta_energy - log_normaliser).clamp(max=EXP_MSE_CEILING).exp()
    return ((-f).clamp(max=EXP_MSE_CEILING).exp() - label).square()


def soft_value(q: Float[Tensor, "*batch K"], beta: float) -> Float[Tensor, "*batch"]:
    """Soft value V_β = β⁻¹ log mean_i e^{βQ_i} over K actions; raises unless 0 < β < ∞."""
    check_beta(beta)
    return (torch.logsumexp(beta * q, dim=-1) - math.log(q.shape[-1])) / beta


def softmax_q_target(
    reward: Float[Tensor, "*batch"],
    terminal: Bool[Tensor, "*batch"],
    next_q: Float[Tensor, "*batch K"],
    beta: float,
    discount: float,
) -> Float[Tensor, "*batch"]:
    """In-support softmax target r + γ Σ_i softmax(βQ')_i Q'_i over K support actions (Eq. 22).

    `next_q` is Q', the target network's minimum of two Qs at s'. Bootstrapping stops at terminals,
    not at timeouts. Raises `CepnbError` unless 0 < β < ∞.
    """
    check_beta(beta)
    check_same_shape(next_q=next_q[..., 0], reward=reward, terminal=terminal)
    expected = (torch.softmax(beta * next_q, dim=-1) * next_q).sum(dim=-1)
    return reward + discount * torch.where(terminal, torch.zeros_like(expected), expected)


def _check_contrast(f: Tensor, beta_energy: Tensor) -> None:
    check_same_shape(f=f, beta_energy=beta_energy)
    if f.shape[-1] < 2:
        raise CepnbError(f"K {f.shape[-1]}: use at least 2 samples to contrast")
