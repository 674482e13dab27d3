"""Checks of the notebooks' exercises: each returns one line, "Right." or a hint.

A check calls the reader's function on small random inputs. It compares the result with the exact
answer and with the answers that common mistakes give. Whatever the function returns or raises gives
one line.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from cepnb.densities.metrics import effective_samples, mean_interval
from cepnb.diffusion.losses import cep_self_normalised, softmax_q_target
from cepnb.diffusion.schedule import VPSchedule
from cepnb.errors import in_a_line
from cepnb.qgpo.tabular import TabularMDP

Answer = Callable[..., Tensor]  # the reader's function
Inputs = tuple[Tensor | float | Callable[..., Tensor], ...]


def _returned(answer: Answer, inputs: Inputs) -> Tensor | str:
    """Return the reader's answer at copies of `inputs`, or a hint if it is no tensor of floats."""
    copies = [part.clone() if isinstance(part, Tensor) else part for part in inputs]
    try:
        found = answer(*copies)
    except (Exception, SystemExit) as error:
        shapes = ", ".join(str(tuple(part.shape)) for part in inputs if isinstance(part, Tensor))
        return f"The function raises {in_a_line(error)}; its arguments have shapes {shapes}."
    if found is None:
        return "Not written yet: replace the dots by code that returns the answer."
    try:
        tensor = torch.as_tensor(found)
        if tensor.dtype not in (torch.float32, torch.float64):
            return f"The dtype is {tensor.dtype}, but must be torch.float32."
        return torch.from_numpy(tensor.numpy(force=True)).double()
    except Exception:  # no tensor, or one that is sparse or has no values
        needed = "a dense tensor on the CPU" if isinstance(found, Tensor) else "a tensor"
        return f"The answer is a {type(found).__name__}; return {needed}."


def _verdict(
    answer: Answer,
    inputs: Inputs,
    expected: Tensor,
    mistakes: list[tuple[Tensor, str]],
    formula: str,
    large: Inputs = (),
    tolerance: float = 1e-5,
) -> str:
    """Return "Right." or a hint for the reader's answer at `inputs`.

    `mistakes` pairs the result of a common mistake with its hint. At `large` inputs, if any, the
    answer must be finite.
    """
    found = _returned(answer, inputs)
    if isinstance(found, str):
        return found
    if found.shape != expected.shape:
        return f"The shape is {tuple(found.shape)}, but must be {tuple(expected.shape)}."
    if wrong := int((~found.isfinite()).sum()):
        return f"{wrong} of {found.numel()} values are not finite; {formula}."
    for mistake, hint in mistakes:
        if torch.allclose(found, mistake.double(), rtol=1e-4, atol=tolerance):
            return hint
    if not torch.allclose(found, expected.double(), rtol=1e-4, atol=tolerance):
        return f"Not yet: {formula}."
    if large:
        found = _returned(answer, large)
        if isinstance(found, str):
            return found
        if not found.isfinite().all():
            return "Right for small values; use softmax, log_softmax or logsumexp for large ones."
    return "Right."


def _random(*shapes: tuple[int, ...]) -> list[Tensor]:
    """Draw one standard normal tensor per shape, the same on every call."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def check_noise(noise: Answer) -> str:
    """Check x_t of (x0, log_alpha, eps), shapes (n, d), (n,) and (n, d) (notebook 01)."""
    x0, eps = _random((5, 3), (5, 3))
    log_alpha = torch.tensor([-1e-6, -1e-3, -0.1, -1.0, -5.0])
    alpha = log_alpha.double().exp()[:, None]
    sigma = (-torch.expm1(2 * log_alpha.double())).sqrt()[:, None]
    linear = alpha * x0 + (1 - alpha) * eps
    no_root = alpha * x0 + (1 - alpha**2) * eps
    mistakes = [
        (linear, "The squares sum to one, not the coefficients: σ² = 1 − α²."),
        (no_root, "1 − α² is the variance of the noise; its root multiplies ε."),
    ]
    formula = "compute α x_0 + σ ε, one coefficient per row, with α = exp(log α) and σ² = 1 − α²"
    inputs, expected = (x0, log_alpha, eps), alpha * x0 + sigma * eps
    verdict = _verdict(noise, inputs, expected, mistakes, formula, tolerance=1e-2)
    if verdict != "Right.":
        return verdict
    found = _returned(noise, (torch.zeros_like(x0), log_alpha, eps))
    if isinstance(found, str):
        return found
    if not found.isfinite().all():
        return f"Not yet: values are not finite at x_0 = 0; {formula}."
    exact = ((found - sigma * eps).abs() < 1e-5 * sigma * eps.abs()).all()
    return verdict if exact else "Right, but σ loses digits at small times: use torch.expm1."


def check_noise_loss(loss: Answer) -> str:
    """Check the loss of (eps_theta, x0, t, log_alpha, eps), one value per example (notebook 02).

    The first argument is a function of (x_t, t); x0 and eps are (n, d), t and log_alpha (n,).
    """
    x0, eps = _random((6, 3), (6, 3))
    t = torch.linspace(0.1, 0.9, 6)
    schedule = VPSchedule()
    eps_theta = lambda xt, time: 0.5 * xt.square() + time.unsqueeze(-1)
    xt = schedule.add_noise(x0, t, eps)
    error = (eps_theta(xt, t) - eps).square()
    mistakes = [
        (error.sum(1), "Take the mean over the coordinates, not their sum."),
        (error.mean().expand(6), "Return one value per example: average over coordinates only."),
        ((eps_theta(xt, t) - x0).square().mean(1), "The network predicts ε, not x_0."),
        ((eps_theta(x0, t) - eps).square().mean(1), "The network's input is x_t, not x_0."),
        ((eps_theta(xt, t) - eps).abs().mean(1), "Take squares, not absolute values."),
    ]
    formula = "compute the mean over coordinates of (ε_θ(x_t, t) − ε)² with x_t = α x_0 + σ ε"
    inputs = (eps_theta, x0, t, schedule.log_alpha(t), eps)
    return _verdict(loss, inputs, error.mean(1), mistakes, formula)


def check_first_order_step(step: Answer) -> str:
    """Check the DDIM step of (x, eps, alpha, sigma, alpha_next, sigma_next) (notebook 02)."""
    x, eps = _random((6, 2), (6, 2))
    x0 = (x - 0.8 * eps) / 0.6
    mistakes = [
        (x0, "This is the predicted clean sample; noise it again to the next level."),
        (0.8 * x + 0.6 * eps, "Add the noise to the predicted clean sample x̂_0, not to x."),
    ]
    formula = "compute x̂_0 = (x − σ ε)/α, then α_next x̂_0 + σ_next ε"
    return _verdict(step, (x, eps, 0.6, 0.8, 0.8, 0.6), 0.8 * x0 + 0.6 * eps, mistakes, formula)


def check_tilted_weights(weights: Answer) -> str:
    """Check the weights of samples of q_0 for means under p_0, of (energy (n,), beta) (notebook 03)."""
    energy, beta = _random((9,))[0], 2.0
    expected = (-beta * energy).softmax(0)
    mistakes = [
        ((beta * energy).softmax(0), "The sign: a low energy has a large weight."),
        ((-beta * energy).exp(), "Right up to Z: divide by the sum, so that the weights sum to 1."),
        (9 * expected, "The mean of these weights is one; their sum must be one."),
        ((-energy / beta).softmax(0), "β multiplies the energy: a large β trusts it more."),
    ]
    formula = "compute e^(−βE) and divide by the sum"
    inputs, large = ((energy + shift, beta) for shift in (0, 10_000))
    return _verdict(weights, inputs, expected, mistakes, formula, large)


def check_effective_samples(effective: Answer) -> str:
    """Check (Σ w)²/Σ w² of log weights, shape (n,) (notebook 03)."""
    log_w = 2 * _random((50,))[0]
    expected = effective_samples(log_w)
    mistakes = [
        (1 / expected, "Divide (Σ w)² by Σ w², not Σ w² by (Σ w)²; n equal weights give n."),
        (log_w.sum() ** 2 / log_w.square().sum(), "The arguments are logarithms of the weights."),
    ]
    formula = "compute (Σ w)²/Σ w² with w = exp(log_weights)"
    return _verdict(effective, (log_w,), expected, mistakes, formula, large=(log_w - 10_000,))


def check_intermediate_energy(energy: Answer) -> str:
    """Check E_t of (log_posterior, beta_energies), shapes (n, C) and (C,) (notebook 04)."""
    logits, draws = _random((6, 4), (4,))
    log_posterior, beta_energies = logits.log_softmax(-1), 3 * draws.abs()
    posterior = log_posterior.exp()
    expected = -(posterior @ torch.exp(-beta_energies)).log()
    mistakes = [
        (-expected, "The sign: the energy is minus the logarithm of the expectation."),
        (posterior @ beta_energies, "This is the mean of βE; take −log of the mean of e^(−βE)."),
    ]
    formula = "compute −log Σ_c q(c | x_t) e^(−βE_c)"
    inputs, large = ((log_posterior, beta_energies + shift) for shift in (0, 5_000))
    return _verdict(energy, inputs, expected, mistakes, formula, large)


def check_contrastive_loss(loss: Answer) -> str:
    """Check Eq. 13's loss of (f, βE), both of shape (groups, K) (notebook 05)."""
    f, beta_energy = _random((6, 4), (6, 4))
    exact = cep_self_normalised
    mistakes = [
        (-exact(f, beta_energy), "The sign is the other way round: a cross-entropy is positive."),
        (exact(-f, beta_energy), "The sign of f: a low energy is likely under softmax(−f)."),
        (exact(f, -beta_energy), "The sign of the labels: a low energy is likely: softmax(−βE)."),
    ]
    formula = "labels softmax(−βE), prediction log softmax(−f), both over the last axis"
    inputs, large = ((f, factor * beta_energy) for factor in (1, 1e4))
    return _verdict(loss, inputs, exact(*inputs), mistakes, formula, large)


def check_guided_noise(guided: Answer) -> str:
    """Check the guided ε of (eps, gradient, sigma, scale) (notebook 06)."""
    eps, gradient = _random((6, 2), (6, 2))
    sigma, scale = 0.3, 2.0
    push = scale * gradient
    mistakes = [
        (eps - sigma * push, "The sign: the score −ε/σ loses s∇f, so ε gains."),
        (eps + push, "σ is missing: the score is −ε/σ, so its s∇f becomes s σ∇f in ε."),
        (eps + push / sigma, "Multiply by σ instead of dividing: the score is −ε/σ."),
    ]
    inputs, expected = (eps, gradient, sigma, scale), eps + sigma * push
    return _verdict(guided, inputs, expected, mistakes, "solve −ε'/σ = −ε/σ − s∇f for ε'")


def check_mse_energy(energy: Answer) -> str:
    """Check the minimiser of MSE, of (posterior (n, C), beta_energies (C,)) (notebook 07)."""
    logits, draws = _random((6, 4), (4,))
    posterior, beta_energies = logits.softmax(-1), 3 * draws.abs()
    exact = -(posterior @ torch.exp(-beta_energies)).log()
    mistakes = [(exact, "This is the exact E_t; least squares predicts a mean. Of what?")]
    formula = "compute the mean of βE given x_t, Σ_c q(c | x_t) βE_c"
    expected = posterior @ beta_energies
    return _verdict(energy, (posterior, beta_energies), expected, mistakes, formula)


def check_info_nce(loss: Answer) -> str:
    """Check InfoNCE of logits (n, n) with the true pairs on the diagonal (notebook 08)."""
    logits = 2 * _random((7, 7))[0]
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(7), reduction="none")
    over_columns = -logits.log_softmax(0).diagonal()
    mistakes = [
        (-expected, "The sign: a loss is −log of the probability of the true pair."),
        (over_columns, "The softmax runs over a row's candidates, not over a column's."),
    ]
    formula = "take minus the diagonal of log softmax over each row"
    return _verdict(loss, (logits,), expected, mistakes, formula, large=(1e4 * logits,))


def check_tilted_policy(policy: Answer) -> str:
    """Check log π(a|s) of (log μ(a|s), Q(s, a), β), both of shape (S, A) (notebook 09)."""
    logits, q = _random((5, 4), (5, 4))
    log_mu, beta = logits.log_softmax(-1), 2.0
    tilted = log_mu + beta * q
    expected = tilted.log_softmax(-1)
    mistakes = [
        ((beta * q).log_softmax(-1), "μ is missing: actions outside the data get weight."),
        (tilted, "Not normalised: subtract log Z(s), the logsumexp over the actions."),
        (tilted.log_softmax(0), "Normalise over the last axis, the actions of one state."),
        (expected.exp(), "These are the probabilities; return their logarithms."),
        ((log_mu + q / beta).log_softmax(-1), "β multiplies Q: a large β trusts Q more."),
    ]
    formula = "compute log μ + βQ − log Σ μ e^{βQ}"
    inputs, large = ((log_mu, factor * q, beta) for factor in (1, 1e4))
    return _verdict(policy, inputs, expected, mistakes, formula, large)


def check_policy_value(value: Answer) -> str:
    """Check V^π of (policy, reward, next_state, discount), the first three (S, A) (notebook 10)."""
    logits, reward = _random((5, 3), (5, 3))
    policy, discount = logits.softmax(-1), 0.9
    next_state = torch.tensor([[0, 1, 1], [2, 3, 2], [4, 4, 4], [0, 0, 1], [3, 1, 2]])
    problem = TabularMDP(next_state, reward.double(), policy.double(), discount)
    expected = problem.value(policy.double())
    random = problem.value(torch.full((5, 3), 1 / 3, dtype=torch.float64))
    one_step = (policy * reward).sum(1)
    last_move = torch.zeros(5, 5, dtype=torch.float64)
    last_move[torch.arange(5).unsqueeze(1), next_state] = policy.double()  # overwrites, adds not
    wrong = torch.linalg.solve(torch.eye(5) - discount * last_move, one_step.double())
    mistakes = [
        (one_step, "This is the reward of one step; V adds γ times the value of the next state."),
        (random, "Weight rewards and moves by the policy instead of averaging over the moves."),
        (wrong, "Two moves from one state may lead to one state: add their probabilities."),
    ]
    formula = "solve (I − γP) V = r, with r and P averaged over the policy's actions"
    inputs = (policy, reward, next_state, discount)
    return _verdict(value, inputs, expected, mistakes, formula, tolerance=1e-4)


def check_coverage(coverage: Answer) -> str:
    """Check the share of actions that have a support action within a radius (notebook 11).

    The answer is a function of (actions (n, d), support (n, K, d), radius).
    """
    actions, support = _random((60, 2), (60, 5, 2))
    offset = support - actions.unsqueeze(1)
    near = offset.norm(dim=-1) <= 0.6
    near_in_each_coordinate = offset.abs().amax(-1) <= 0.6
    mistakes = [
        (near.float().mean(), "Count actions, not support actions: one near one is enough."),
        (near.all(1).float().mean(), "Take the nearest of the K, not the farthest."),
        (near_in_each_coordinate.any(1).float().mean(), "Take the Euclidean distance."),
    ]
    formula = "take the smallest ‖support − action‖ per row, then the share within the radius"
    expected = near.any(1).float().mean()
    return _verdict(coverage, (actions, support, 0.6), expected, mistakes, formula)


def check_importance_weights(weights: Answer) -> str:
    """Check the weights of K actions of μ for means under π ∝ μ e^{βQ} (notebook 12).

    The answer is a function of (q (S, K), beta); the weights of a state sum to one.
    """
    q, beta = _random((6, 5))[0], 2.0
    expected = (beta * q).softmax(1)
    mistakes = [
        ((beta * q).exp(), "Right up to the unknown Z(s): divide by the sum over the K actions."),
        ((beta * q).softmax(0), "The weights of a state sum to one: sum over its K actions."),
        (5 * expected, "The mean of these weights is one; their sum must be one."),
    ]
    formula = "the actions come from μ, so μ cancels in π/μ; normalise e^{βQ}"
    return _verdict(weights, (q, beta), expected, mistakes, formula, large=(1e4 * q, beta))


def check_energy_from_samples(energy: Answer) -> str:
    """Check E_t(a_t) from K actions of μ (notebook 13).

    The answer is a function of (at (n, d), actions (K, d), q (K,), beta, alpha, sigma).
    """
    at, actions, q = _random((6, 2), (9, 2), (9,))
    beta, alpha, sigma = 3.0, 0.8, 0.6
    log_likelihood = -0.5 * torch.cdist(at, alpha * actions).square() / sigma**2
    log_weights = log_likelihood.log_softmax(1)
    expected = -(log_weights + beta * q).logsumexp(1)
    mean = -(log_weights.exp() * beta * q).sum(1)
    unweighted = -torch.exp(beta * q).mean().log().expand(6)
    unnormalised = -(log_likelihood + beta * q).logsumexp(1)
    mistakes = [
        (-expected, "The sign: the energy is low where Q is high."),
        (mean, "This is the mean of −βQ (MSE); take −log of the mean of e^{βQ}."),
        (unweighted, "Weight each action by its likelihood, exp(−‖a_t − α a‖²/(2σ²))."),
        (unnormalised, "The weights of the K actions must sum to one for each a_t."),
    ]
    formula = "compute −log Σ_j w_j e^{βQ_j}, w = softmax over j of −‖a_t − α a_j‖²/(2σ²)"
    inputs, large = ((at, actions, factor * q, beta, alpha, sigma) for factor in (1, 1000))
    return _verdict(energy, inputs, expected, mistakes, formula, large, tolerance=1e-4)


def check_interval(interval: Answer) -> str:
    """Check (mean, half width) of the 95 % interval of one score per seed, (n,) (notebook 15)."""
    scores = 40 + 20 * _random((7,))[0].double()
    mean, half = mean_interval(scores.tolist())
    deviation, quantile = scores.std(), half / (scores.std() / 7**0.5)
    expected = torch.tensor([mean, half])
    of = lambda width: torch.stack([scores.mean(), torch.as_tensor(width).double()])
    mistakes = [
        (of(2 * half), "This is the whole width; return half of it."),
        (of(1.959964 * deviation / 7**0.5), "Seven seeds: use Student's t instead of the normal."),
        (of(quantile * deviation), "This is about one seed; the mean of n has deviation s/√n."),
        (of(quantile * scores.std(correction=0) / 7**0.5), "Divide squares by n − 1, not n."),
        (of(deviation / 7**0.5), "This is the standard error; multiply by Student's quantile."),
    ]
    formula = "compute t s/√n with the 97.5 % quantile t of Student's t for n − 1"
    return _verdict(interval, (scores,), expected, mistakes, formula, tolerance=1e-3)


def check_softmax_target(target: Answer) -> str:
    """Check Eq. 22's target of (reward, next_q, beta, discount), no terminals (notebook 14)."""
    reward, next_q = _random((6,), (6, 5))
    no_terminal = torch.zeros(6, dtype=torch.bool)
    expected = softmax_q_target(reward, no_terminal, next_q, 2.0, 0.9)
    mean = reward + 0.9 * next_q.mean(dim=1)
    maximum = reward + 0.9 * next_q.amax(dim=1)
    mistakes = [
        (mean, "This is the value of the behaviour policy: weight by softmax(βQ')."),
        (maximum, "This is the maximum over the support (β → ∞): weight by softmax(βQ')."),
    ]
    formula = "compute r + γ Σ softmax(βQ') Q', with the softmax over the support actions"
    inputs, large = ((reward, factor * next_q, 2.0, 0.9) for factor in (1, 1e4))
    return _verdict(target, inputs, expected, mistakes, formula, large)
