"""Checks of the notebooks' exercises: each returns one line, "Right." or a hint."""

from collections.abc import Callable

import torch
from torch import Tensor

from cepnb.losses import cep_self_normalised, softmax_q_target


def check_contrastive_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Notebook 05: the self-normalised contrastive loss of (f, βE), both of shape (groups, K)."""
    generator = torch.Generator().manual_seed(0)
    f, beta_energy = torch.randn(2, 6, 4, generator=generator).unbind()
    found, expected = loss(f, beta_energy), cep_self_normalised(f, beta_energy)
    if found is None:
        return "Not written yet: return one number a group."
    if found.shape != expected.shape:
        return f"The shape is {tuple(found.shape)}, expected {tuple(expected.shape)}: sum over the K samples alone."
    if torch.allclose(found, -expected, atol=1e-5):
        return "The sign is the other way round: a cross-entropy is not negative."
    if torch.allclose(found, cep_self_normalised(-f, beta_energy), atol=1e-5):
        return "The sign of f: a low energy must get a high probability, softmax(−f)."
    if torch.allclose(found, cep_self_normalised(f, -beta_energy), atol=1e-5):
        return "The sign of the labels: a low energy must get a large label, softmax(−βE)."
    if not torch.allclose(found, expected, atol=1e-5):
        return "Not yet: labels softmax(−βE), prediction log softmax(−f), both over the last axis."
    return "Right." if torch.isfinite(loss(f, 1e4 * beta_energy)).all() else \
        "Right for small energies, but not finite for large ones: use softmax and log_softmax, not exp."


def check_softmax_target(target: Callable[[Tensor, Tensor, float, float], Tensor]) -> str:
    """Notebook 13: the in-support softmax target of (reward, next_q, beta, discount), without terminals."""
    generator = torch.Generator().manual_seed(0)
    reward, next_q = torch.rand(6, generator=generator), torch.randn(6, 5, generator=generator)
    found = target(reward, next_q, 2.0, 0.9)
    expected = softmax_q_target(reward, torch.zeros(6, dtype=torch.bool), next_q, 2.0, 0.9)
    if found is None:
        return "Not written yet: return one target a transition."
    if found.shape != expected.shape:
        return f"The shape is {tuple(found.shape)}, expected {tuple(expected.shape)}: one target a transition."
    if torch.allclose(found, reward + 0.9 * next_q.mean(dim=1), atol=1e-5):
        return "This is the value of the behaviour policy (SARSA): weight the actions by softmax(βQ')."
    if torch.allclose(found, reward + 0.9 * next_q.max(dim=1).values, atol=1e-5):
        return "This is the maximum over the support (β → ∞): weight the actions by softmax(βQ')."
    if not torch.allclose(found, expected, atol=1e-5):
        return "Not yet: r + γ Σ softmax(βQ') Q', the softmax over the support actions."
    return "Right." if torch.isfinite(target(reward, 1e4 * next_q, 2.0, 0.9)).all() else \
        "Right for small values, but not finite for large ones: use torch.softmax, not exp."
