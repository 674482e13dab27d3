"""The losses: pure functions that return one value per example or group of K samples.

f approximates E_t, not −E_t. `beta_energy` is β E(x_0); for a policy E = −Q, so it is −β Q(s, a). Equations are those of
arXiv:2304.12824.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cepnb.errors import CepnbError

Normaliser = Float[Tensor, "*batch"] | Float[Tensor, ""] | float
EXP_MSE_CEILING = 4.5  # largest exponent of `exponentiated_mse`


def noise_prediction(
    predicted: Float[Tensor, "*batch dim"], eps: Float[Tensor, "*batch dim"]
) -> Float[Tensor, "*batch"]:
    """Denoising score matching: mean over coordinates of (ε_θ − ε)² (Ho et al. 2020, Eq. 14)."""
    return (predicted - eps).square().mean(dim=-1)


def cep(
    f: Float[Tensor, "*batch K"],
    beta_energy: Float[Tensor, "*batch K"],
    log_normaliser: Normaliser = 0.0,
    ceiling: float = math.inf,
) -> Float[Tensor, "*batch"]:
    """Contrastive energy prediction, −Σ_i e^{−βE_i − c} log softmax(−f)_i (Eq. 12).

    c = `log_normaliser` must not depend on the K samples, which share one t. c = 0 is Eq. 12. Any
    constant or function of the condition, such as βV_β(s), keeps the minimiser ∇f = ∇E_t. Raises
    `CepnbError` for K = 1. Caveat: if c is far from log E[e^{−βE}], labels overflow or vanish in
    float32. `ceiling` limits their exponents but makes the minimiser inexact.
    """
    _check_contrast(f)
    if isinstance(log_normaliser, Tensor):
        log_normaliser = log_normaliser.unsqueeze(-1)
    labels = (-beta_energy - log_normaliser).clamp(max=ceiling).exp()
    return -(labels * torch.log_softmax(-f, dim=-1)).sum(dim=-1)


def cep_self_normalised(
    f: Float[Tensor, "*batch K"], beta_energy: Float[Tensor, "*batch K"]
) -> Float[Tensor, "*batch"]:
    """Contrastive energy prediction with self-normalised labels (Eq. 13; Eqs. 19–20 for policies).

    The cross-entropy −Σ_i softmax(−βE)_i log softmax(−f)_i ≥ 0 over K samples, which share one t.
    It is stable for any energies. Raises `CepnbError` for K = 1. Caveat: the normaliser depends on
    the K samples, so the minimiser is biased at finite K, strongly if good samples are rare.
    """
    _check_contrast(f)
    return -(torch.softmax(-beta_energy, dim=-1) * torch.log_softmax(-f, dim=-1)).sum(dim=-1)


def mse(
    f: Float[Tensor, "*batch"], beta_energy: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Squared error (f − βE)²; its minimiser E[βE(x_0) | x_t] ≥ E_t is not exact (Table 1)."""
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
    expected = (torch.softmax(beta * next_q, dim=-1) * next_q).sum(dim=-1)
    return reward + discount * torch.where(terminal, torch.zeros_like(expected), expected)


def check_beta(beta: float) -> None:
    """Raise `CepnbError` unless 0 < β < ∞."""
    if not isinstance(beta, (int, float)) or not 0 < beta < math.inf:
        raise CepnbError(f"beta {beta}: use a finite number above 0")


def _check_contrast(f: Tensor) -> None:
    if f.shape[-1] < 2:
        raise CepnbError(f"K {f.shape[-1]}: use at least 2 samples to contrast")
