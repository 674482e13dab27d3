"""Checks of the exercises of notebooks 01 to 08."""

from collections.abc import Callable

import torch
from torch import Tensor

from cepnb.densities.metrics import effective_samples
from cepnb.diffusion.losses import cep_self_normalised
from cepnb.notebook.exercises.answers import unfinished


def check_noise(noise: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """Notebook 01: x_t of (x0, log_alpha, eps), of shapes (batch, dim), (batch,), (batch, dim)."""
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 5, 3, generator=generator).unbind()
    log_alpha = torch.tensor([-1e-6, -1e-3, -0.1, -1.0, -5.0])
    alpha, sigma = (
        log_alpha.double().exp()[:, None],
        (-torch.expm1(2 * log_alpha.double())).sqrt()[:, None],
    )
    found, expected = noise(x0, log_alpha, eps), alpha * x0 + sigma * eps
    if hint := unfinished(
        found, expected, "return x_t, one row an example", "one coefficient a row"
    ):
        return hint
    found = found.double()
    if torch.allclose(found, alpha * x0 + (1 - alpha) * eps, atol=1e-4):
        return "The squares sum to one, not the coefficients: σ² = 1 − α²."
    if torch.allclose(found, alpha * x0 + (1 - alpha**2) * eps, atol=1e-4):
        return "1 − α² is the variance of the noise; its root multiplies ε."
    if not torch.allclose(found, expected, atol=1e-2):
        return "Not yet: α x_0 + σ ε, with α = exp(log α) and σ² = 1 − α²."
    noise_alone = noise(torch.zeros_like(x0), log_alpha, eps).double() - sigma * eps
    exact = (noise_alone.abs() < 1e-5 * sigma * eps.abs()).all()
    return "Right." if exact else "Right but for the digits of σ at small times: use torch.expm1."


def check_first_order_step(step: Callable[..., Tensor]) -> str:
    """Notebook 02: the DDIM step of (x, eps, alpha, sigma, alpha_next, sigma_next)."""
    x, eps = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(0)).unbind()
    alpha, sigma, alpha_next, sigma_next = 0.6, 0.8, 0.8, 0.6
    found = step(x, eps, alpha, sigma, alpha_next, sigma_next)
    x0 = (x - sigma * eps) / alpha
    expected = alpha_next * x0 + sigma_next * eps
    if hint := unfinished(found, expected, "return x at the next time"):
        return hint
    if torch.allclose(found, x0, atol=1e-5):
        return "This is the predicted clean sample; noise it again to the next level."
    if torch.allclose(found, alpha_next * x + sigma_next * eps, atol=1e-5):
        return "Noise goes onto the predicted clean sample, not onto x: find x̂_0 first."
    return (
        "Right."
        if torch.allclose(found, expected, atol=1e-5)
        else "Not yet: x̂_0 = (x − σ ε)/α, then α_next x̂_0 + σ_next ε (or the formula with h, which is the same)."
    )


def check_effective_samples(effective: Callable[[Tensor], Tensor]) -> str:
    """Notebook 03: (Σ w)²/Σ w² of log weights (n,)."""
    log_weights = 2 * torch.randn(50, generator=torch.Generator().manual_seed(0))
    found, expected = effective(log_weights), effective_samples(log_weights)
    found = found if found is None else torch.as_tensor(found)
    if hint := unfinished(found, expected, "return one number", "a single number"):
        return hint
    if torch.isclose(found, 1 / expected, rtol=1e-4):
        return "Upside down: (Σ w)² over Σ w², which is n for equal weights."
    if torch.isclose(found, effective_samples(log_weights.exp().log1p()), rtol=1e-4):
        return "The arguments are logarithms of the weights."
    if not torch.isclose(found, expected, rtol=1e-4):
        return "Not yet: (Σ w)²/Σ w² with w = exp(log_weights)."
    far = torch.as_tensor(effective(log_weights - 10_000))
    return (
        "Right."
        if torch.isclose(far, expected, rtol=1e-3)
        else "Right for small weights, but a common factor of e^−10000 must not matter: use softmax or logsumexp."
    )


def check_intermediate_energy(energy: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Notebook 04: E_t of (log_posterior, beta_energies), of shapes (batch, C) and (C,)."""
    generator = torch.Generator().manual_seed(0)
    log_posterior = torch.randn(6, 4, generator=generator).log_softmax(-1)
    beta_energies = 3 * torch.rand(4, generator=generator)
    posterior, found = log_posterior.exp(), energy(log_posterior, beta_energies)
    expected = -(posterior @ torch.exp(-beta_energies)).log()
    if hint := unfinished(
        found, expected, "return one energy an example", "sum over the components"
    ):
        return hint
    if torch.allclose(found, -expected, atol=1e-5):
        return "The sign: the energy is minus the logarithm of the expectation."
    if torch.allclose(found, posterior @ beta_energies, atol=1e-5):
        return (
            "This is the mean of βE given x_t. It is the mean of e^(−βE) whose logarithm is wanted."
        )
    if not torch.allclose(found, expected, atol=1e-5):
        return "Not yet: −log Σ_c q(c | x_t) e^(−βE_c)."
    far = energy(log_posterior, beta_energies + 5_000)
    return (
        "Right."
        if torch.allclose(far, expected + 5_000, atol=1e-2)
        else "Right for small energies, but not for large ones: use torch.logsumexp."
    )


def check_contrastive_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Notebook 05: the self-normalised contrastive loss of (f, βE), both of shape (groups, K)."""
    generator = torch.Generator().manual_seed(0)
    f, beta_energy = torch.randn(2, 6, 4, generator=generator).unbind()
    found, expected = loss(f, beta_energy), cep_self_normalised(f, beta_energy)
    if hint := unfinished(
        found, expected, "return one number a group", "sum over the K samples alone"
    ):
        return hint
    if torch.allclose(found, -expected, atol=1e-5):
        return "The sign is the other way round: a cross-entropy is not negative."
    if torch.allclose(found, cep_self_normalised(-f, beta_energy), atol=1e-5):
        return "The sign of f: a low energy must get a high probability, softmax(−f)."
    if torch.allclose(found, cep_self_normalised(f, -beta_energy), atol=1e-5):
        return "The sign of the labels: a low energy must get a large label, softmax(−βE)."
    if not torch.allclose(found, expected, atol=1e-5):
        return "Not yet: labels softmax(−βE), prediction log softmax(−f), both over the last axis."
    return (
        "Right."
        if torch.isfinite(loss(f, 1e4 * beta_energy)).all()
        else "Right for small energies, but not finite for large ones: use softmax and log_softmax, not exp."
    )


def check_guided_noise(guided: Callable[..., Tensor]) -> str:
    """Notebook 06: the guided noise prediction of (eps, gradient, sigma, scale)."""
    eps, gradient = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(0)).unbind()
    sigma, scale = 0.3, 2.0
    found = guided(eps, gradient, sigma, scale)
    if hint := unfinished(found, eps, "return the noise prediction of the guided score"):
        return hint
    if torch.allclose(found, eps - scale * sigma * gradient):
        return "The sign: the score loses s∇f, and the score is −ε/σ, so ε gains."
    if torch.allclose(found, eps + scale * gradient):
        return "σ is missing: the score is −ε/σ, so its s∇f becomes s σ∇f in ε."
    if torch.allclose(found, eps + scale * gradient / sigma):
        return "Multiplied by σ, not divided: score = −ε/σ."
    return (
        "Right."
        if torch.allclose(found, eps + scale * sigma * gradient)
        else "Not yet: −ε'/σ = −ε/σ − s∇f, solved for ε'."
    )


def check_mse_energy(energy: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Notebook 07: the minimiser of mean squared error, of (posterior, beta_energies), shapes (batch, C) and (C,)."""
    generator = torch.Generator().manual_seed(0)
    posterior, beta_energies = (
        torch.randn(6, 4, generator=generator).softmax(-1),
        3 * torch.rand(4, generator=generator),
    )
    found, expected = energy(posterior, beta_energies), posterior @ beta_energies
    if hint := unfinished(
        found, expected, "return one energy an example", "sum over the components"
    ):
        return hint
    if torch.allclose(found, -(posterior @ torch.exp(-beta_energies)).log(), atol=1e-5):
        return "This is the exact E_t. Least squares finds a conditional mean: of what?"
    return (
        "Right."
        if torch.allclose(found, expected, atol=1e-5)
        else "Not yet: the mean of βE given x_t, Σ_c q(c | x_t) βE_c."
    )


def check_info_nce(loss: Callable[[Tensor], Tensor]) -> str:
    """Notebook 08: the contrastive (InfoNCE) loss of logits (n, n) whose true pairs are on the diagonal; one value a row."""
    logits = 2 * torch.randn(7, 7, generator=torch.Generator().manual_seed(0))
    found, expected = (
        loss(logits),
        torch.nn.functional.cross_entropy(logits, torch.arange(7), reduction="none"),
    )
    if hint := unfinished(found, expected, "return one number a row", "one number a row"):
        return hint
    if torch.allclose(found, -expected, atol=1e-5):
        return "The sign: a loss is −log of the probability of the true pair."
    if torch.allclose(found, -logits.log_softmax(0).diagonal(), atol=1e-5):
        return "The softmax runs over the candidates of a row, not of a column."
    if not torch.allclose(found, expected, atol=1e-5):
        return "Not yet: minus the diagonal of log softmax over each row."
    return (
        "Right."
        if torch.isfinite(loss(1e4 * logits)).all()
        else "Right for small logits: use log_softmax for large ones."
    )
