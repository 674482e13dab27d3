"""Checks of the exercises of notebooks 09 to 13."""

from collections.abc import Callable

import torch
from torch import Tensor

from cepnb.diffusion.losses import softmax_q_target
from cepnb.notebook.exercises.answers import unfinished


def check_softmax_target(target: Callable[[Tensor, Tensor, float, float], Tensor]) -> str:
    """Notebook 13: the in-support softmax target of (reward, next_q, beta, discount), without terminals."""
    generator = torch.Generator().manual_seed(0)
    reward, next_q = torch.rand(6, generator=generator), torch.randn(6, 5, generator=generator)
    found = target(reward, next_q, 2.0, 0.9)
    expected = softmax_q_target(reward, torch.zeros(6, dtype=torch.bool), next_q, 2.0, 0.9)
    if hint := unfinished(
        found, expected, "return one target a transition", "one target a transition"
    ):
        return hint
    if torch.allclose(found, reward + 0.9 * next_q.mean(dim=1), atol=1e-5):
        return (
            "This is the value of the behaviour policy (SARSA): weight the actions by softmax(βQ')."
        )
    if torch.allclose(found, reward + 0.9 * next_q.max(dim=1).values, atol=1e-5):
        return "This is the maximum over the support (β → ∞): weight the actions by softmax(βQ')."
    if not torch.allclose(found, expected, atol=1e-5):
        return "Not yet: r + γ Σ softmax(βQ') Q', the softmax over the support actions."
    return (
        "Right."
        if torch.isfinite(target(reward, 1e4 * next_q, 2.0, 0.9)).all()
        else "Right for small values, but not finite for large ones: use torch.softmax, not exp."
    )


def check_tilted_policy(policy: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """Notebook 09: log π(a|s) of (log μ(a|s), Q(s, a), β), both of shape (S, A)."""
    generator = torch.Generator().manual_seed(0)
    log_mu, q, beta = (
        torch.randn(5, 4, generator=generator).log_softmax(-1),
        torch.randn(5, 4, generator=generator),
        2.0,
    )
    found, expected = policy(log_mu, q, beta), (log_mu + beta * q).log_softmax(-1)
    if hint := unfinished(
        found,
        expected,
        "return log probabilities, one row a state",
        "one for each action of each state",
    ):
        return hint
    if torch.allclose(found, (beta * q).log_softmax(-1), atol=1e-5):
        return "This forgets μ: an action that the data never shows could get all the weight."
    if torch.allclose(found, log_mu + beta * q, atol=1e-5):
        return "Not normalised yet: subtract log Z(s), the logsumexp over the actions."
    if torch.allclose(found, (log_mu + beta * q).log_softmax(0), atol=1e-5):
        return "The probabilities of the actions of one state sum to one: normalise over the last axis."
    if torch.allclose(found, expected.exp(), atol=1e-5):
        return "These are the probabilities; their logarithms are wanted."
    if torch.allclose(found, (log_mu + q / beta).log_softmax(-1), atol=1e-5):
        return "β multiplies Q: a large β trusts Q more."
    if not torch.allclose(found, expected, atol=1e-5):
        return "Not yet: log μ + βQ − log Σ μ e^{βQ}."
    far = policy(log_mu, 1e4 * q, beta)
    return (
        "Right."
        if torch.isfinite(far).all()
        else "Right for small values, but not finite for large ones: use log_softmax."
    )


def check_coverage(coverage: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """Notebook 10: share of actions (n, da) with a support action, (n, K, da) of the same state, within `radius`."""
    generator = torch.Generator().manual_seed(0)
    actions, support = (
        torch.randn(60, 2, generator=generator),
        torch.randn(60, 5, 2, generator=generator),
    )
    distance = (support - actions.unsqueeze(1)).norm(dim=-1)
    found, expected = coverage(actions, support, 0.6), (distance.amin(1) <= 0.6).float().mean()
    found = found if found is None else torch.as_tensor(found).float()
    if hint := unfinished(found, expected, "return one number", "a share of all actions"):
        return hint
    if torch.isclose(found, (distance <= 0.6).float().mean(), atol=1e-4):
        return "This is the share of support actions that are near. One near one is enough: take the nearest of the K."
    if torch.isclose(found, (distance.amax(1) <= 0.6).float().mean(), atol=1e-4):
        return "The nearest, not the farthest of the K."
    if torch.isclose(
        found,
        ((support - actions.unsqueeze(1)).abs().amax(-1).amin(1) <= 0.6).float().mean(),
        atol=1e-4,
    ):
        return "The distance is Euclidean, over both coordinates together."
    return (
        "Right."
        if torch.isclose(found, expected, atol=1e-4)
        else "Not yet: for each row the smallest ‖support − action‖ over the K, then the share that is at most the radius."
    )


def check_energy_from_samples(energy: Callable[..., Tensor]) -> str:
    """Notebook 12: E_t(a_t) from K actions, of (at, actions, q, beta, alpha, sigma), shapes (n, da), (K, da) and (K,)."""
    generator = torch.Generator().manual_seed(0)
    at, actions, q = (
        torch.randn(6, 2, generator=generator),
        torch.randn(9, 2, generator=generator),
        torch.randn(9, generator=generator),
    )
    beta, alpha, sigma = 3.0, 0.8, 0.6
    log_weights = (-0.5 * torch.cdist(at, alpha * actions).square() / sigma**2).log_softmax(1)
    found, expected = (
        energy(at, actions, q, beta, alpha, sigma),
        -(log_weights + beta * q).logsumexp(1),
    )
    if hint := unfinished(
        found, expected, "return one energy for each a_t", "sum over the K actions"
    ):
        return hint
    if torch.allclose(found, -expected, atol=1e-4):
        return "The sign: the energy is low where Q is high."
    if torch.allclose(found, -(log_weights.exp() * beta * q).sum(1), atol=1e-4):
        return "This is the mean of −βQ given a_t, which MSE learns. The mean is to be taken of e^{βQ}, then its logarithm."
    if torch.allclose(found, -torch.log(torch.exp(beta * q).mean()).expand(6), atol=1e-4):
        return "The actions count by how likely each has become a_t: weights ∝ exp(−‖a_t − α a‖²/(2σ²))."
    unnormalised = -(
        -0.5 * torch.cdist(at, alpha * actions).square() / sigma**2 + beta * q
    ).logsumexp(1)
    if torch.allclose(found, unnormalised, atol=1e-4):
        return "The weights of the K actions must sum to one for each a_t."
    if not torch.allclose(found, expected, atol=1e-4):
        return "Not yet: −log Σ_j w_j e^{βQ_j}, w = softmax over j of −‖a_t − α a_j‖²/(2σ²)."
    return (
        "Right."
        if torch.isfinite(energy(at, actions, 1e3 * q, beta, alpha, sigma)).all()
        else "Right for small values, but not finite for large ones: log_softmax and logsumexp."
    )


def check_importance_weights(weights: Callable[[Tensor, float], Tensor]) -> str:
    """Notebook 11: self-normalised weights of K actions of μ for means under π ∝ μ e^{βQ}, of (q (S, K), beta)."""
    q, beta = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), 2.0
    found, expected = weights(q, beta), torch.softmax(beta * q, dim=1)
    if hint := unfinished(found, expected, "return one weight an action", "a row a state"):
        return hint
    if torch.allclose(found, (beta * q).exp(), atol=1e-5):
        return "Right up to Z(s), which is not known: divide by the sum over the K actions."
    if torch.allclose(found, torch.softmax(beta * q, dim=0), atol=1e-5):
        return "The weights of one state sum to one: normalise over its K actions."
    if torch.allclose(found, 5 * expected, atol=1e-5):
        return "These have mean one; let them have sum one."
    if not torch.allclose(found, expected, atol=1e-5):
        return "Not yet: the actions come from μ already, so μ cancels in π/μ, and e^{βQ} is left, normalised."
    return (
        "Right."
        if torch.isfinite(weights(1e4 * q, beta)).all()
        else "Right for small values; use torch.softmax for large ones."
    )
