"""Averages over the posterior, against their formula, closed forms, and the label of a single x_0."""

import itertools
import math

import numpy as np
import pytest
import torch

from cepnb.diffusion.losses import cep_averaged
from cepnb.diffusion.posterior import averaged_energy, averaged_noise, posterior_log_weights
from cepnb.diffusion.schedule import VPSchedule
from cepnb.errors import CepnbError

SCHEDULE = VPSchedule()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shared", [True, False])
def test_weights_energy_and_noise_by_hand(shared: bool) -> None:
    xt, t = normal(3, 4, 2), torch.tensor([0.05, 0.4, 1.0], dtype=torch.float64)
    x0, energy = (normal(50, 2), normal(50)) if shared else (normal(3, 50, 2), normal(3, 50))
    log_w = posterior_log_weights(xt, t, x0, SCHEDULE)
    f, noise = averaged_energy(log_w, 3.0 * energy), averaged_noise(xt, t, x0, SCHEDULE)
    assert log_w.shape == (3, 4, 50) and f.shape == (3, 4)
    for i, time in enumerate(t.tolist()):
        log_alpha = -19.9 / 4 * time**2 - 0.1 / 2 * time
        alpha, sigma = math.exp(log_alpha), math.sqrt(1 - math.exp(2 * log_alpha))
        points, e = (x0, energy) if shared else (x0[i], energy[i])
        for j in range(4):
            away = (xt[i, j] - alpha * points).numpy()
            w = np.exp(-(away**2).sum(axis=1) / (2 * sigma**2))
            w /= w.sum()
            np.testing.assert_allclose(log_w[i, j].exp(), w, atol=1e-12)
            expected = -np.log((w * np.exp(-3.0 * e.numpy())).sum())
            np.testing.assert_allclose(f[i, j], expected, rtol=1e-9)
            np.testing.assert_allclose(noise[i, j], w @ away / sigma, rtol=1e-8, atol=1e-8)


def test_averages_converge_to_the_posterior_of_a_gaussian() -> None:
    """q_0 = N(0, v) and βE = c x: E[ε | x_t] = σ x_t/(α² v + σ²), and E_t is linear in x_t."""
    v, c, t = 0.5, 1.5, torch.tensor([0.1, 0.3, 0.6], dtype=torch.float64)
    x0, xt = math.sqrt(v) * normal(200_000, 1, seed=1), normal(3, 20, 1, seed=2)
    alpha, sigma = SCHEDULE.coefficients(t, xt)
    total = alpha**2 * v + sigma**2
    log_w = posterior_log_weights(xt, t, x0, SCHEDULE)
    exact = c * alpha * v / total * xt - c**2 * v * sigma**2 / (2 * total)
    torch.testing.assert_close(
        averaged_energy(log_w, c * x0[:, 0]), exact[..., 0], atol=0.05, rtol=0.0
    )
    noise = averaged_noise(xt, t, x0, SCHEDULE)
    torch.testing.assert_close(noise, sigma * xt / total, atol=0.05, rtol=0.0)


@pytest.mark.parametrize("R", [1, 2, 4])
def test_averages_have_the_right_mean_at_every_number_of_samples(R: int) -> None:
    """Over all sets of R draws from three points, where x_t was made from the first of the set."""
    points = torch.tensor([[-1.0], [0.3], [2.0]], dtype=torch.float64)
    chance, energy = np.array([0.5, 0.3, 0.2]), torch.tensor([3.0, -1.0, 0.5])
    xt, t = torch.tensor([[0.4]], dtype=torch.float64), torch.tensor(0.35, dtype=torch.float64)
    alpha, sigma = (float(c) for c in SCHEDULE.coefficients(t, t))
    likely = np.exp(-(((0.4 - alpha * points[:, 0].numpy()) / sigma) ** 2) / 2)
    posterior = chance * likely / (chance @ likely)
    label = noise = 0.0
    for members in itertools.product(range(3), repeat=R):
        probability = posterior[members[0]] * np.prod(chance[list(members[1:])])
        x0 = points[list(members)]
        log_w = posterior_log_weights(xt, t, x0, SCHEDULE)
        label += probability * averaged_energy(log_w, energy[list(members)]).neg().exp().item()
        noise += probability * averaged_noise(xt, t, x0, SCHEDULE).item()
    assert label == pytest.approx(posterior @ np.exp(-energy.numpy()), rel=1e-6)
    assert noise == pytest.approx((0.4 - alpha * posterior @ points[:, 0].numpy()) / sigma)


def test_without_noise_the_averages_are_the_labels_of_the_own_sample() -> None:
    """At the smallest time, in float32, with energies whose e^{−βE} would overflow."""
    line = torch.linspace(-3, 3, 13)
    x0, t = torch.cartesian_prod(line, line), torch.tensor(SCHEDULE.t_min)
    energy, eps = 100 * x0[:, 0], normal(len(x0), 2).float()
    xt = SCHEDULE.add_noise(x0, t, eps)
    log_w = posterior_log_weights(xt, t, x0, SCHEDULE)
    torch.testing.assert_close(averaged_energy(log_w, energy), energy)
    torch.testing.assert_close(averaged_noise(xt, t, x0, SCHEDULE), eps, atol=1e-3, rtol=0.0)


def test_each_label_needs_one_energy_per_sample(as_users_call_it: None) -> None:
    log_w = posterior_log_weights(torch.zeros(4, 2), torch.tensor(0.5), torch.ones(7, 2), SCHEDULE)
    with pytest.raises(CepnbError, match=r"beta_energy: shape is \(1,\); use \(7,\)"):
        averaged_energy(log_w, torch.zeros(1))


def test_the_loss_of_averaged_labels_has_its_minimum_at_the_labels() -> None:
    label = normal(5, 8)
    at_label = cep_averaged(label, label)
    entropy = -(torch.softmax(-label, 1) * torch.log_softmax(-label, 1)).sum(1)
    torch.testing.assert_close(at_label, entropy)
    for change in (0.1 * normal(5, 8, seed=1), torch.full((5, 8), 0.3, dtype=torch.float64)):
        assert bool((cep_averaged(label + change, label) > at_label).all())
