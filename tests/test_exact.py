"""The closed forms against quadrature, automatic differentiation and each other."""

import math

import pytest
import torch
from hypothesis import given, strategies as st

from cepnb.errors import CepnbError
from cepnb.exact import GaussianMixture
from cepnb.guidance import energy_gradient, guided
from cepnb.metrics import gradient_error, w2
from cepnb.samplers import dpm_solver_pp, last
from cepnb.schedule import VPSchedule
from cepnb.toys import eight_gaussians

SCHEDULE = VPSchedule()


def random_mixture(seed: int, dim: int = 2) -> GaussianMixture:
    g = torch.Generator().manual_seed(seed)
    return GaussianMixture(torch.randn(3, generator=g, dtype=torch.float64),
                           2 * torch.randn(3, dim, generator=g, dtype=torch.float64),
                           0.3 + torch.rand(3, generator=g, dtype=torch.float64),
                           torch.randn(3, generator=g, dtype=torch.float64))


cases = given(st.integers(0, 10**6), st.floats(1e-3, 1.0), st.floats(0.0, 20.0))


@cases
def test_theorem_31(seed: int, t: float, beta: float) -> None:
    """p_t ∝ q_t e^{−E_t} (Eq. 10), where p_t is noised p_0 and knows nothing of E_t; and the scores obey Eq. 11."""
    q, time = random_mixture(seed), torch.tensor(t, dtype=torch.float64)
    p = q.tilted(beta)
    x = 3 * torch.randn(50, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ratio = p.log_q(x, time) - q.log_q(x, time) + q.intermediate_energy(x, time, beta)
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=0, atol=1e-8)  # one constant for all x
    gradient = energy_gradient(lambda xt, t, c: q.intermediate_energy(xt, t, beta))(x, time)
    torch.testing.assert_close(gradient, q.energy_gradient(x, time, beta), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(q.score(x, time) - gradient, p.score(x, time), rtol=1e-6, atol=1e-7)


@cases
def test_against_quadrature_of_the_definition(seed: int, t: float, beta: float) -> None:
    """q_t(x_t) and E_t(x_t) by summing over a fine grid of x_0, the integrals of the theorem as they stand."""
    q, time = random_mixture(seed, dim=1), torch.tensor(t, dtype=torch.float64)
    x0 = torch.linspace(-14, 14, 100_001, dtype=torch.float64).unsqueeze(1)
    spacing = float(x0[1] - x0[0])
    per_component = torch.exp(-0.5 * ((x0 - q.means[:, 0]) / q.deviations) ** 2) / (q.deviations * math.sqrt(2 * math.pi))
    weighted = per_component * q.log_weights.softmax(0)
    xt = torch.tensor([[-1.5], [0.2], [2.0]], dtype=torch.float64)
    alpha, sigma = SCHEDULE.alpha(time), SCHEDULE.sigma(time)
    kernel = torch.exp(-0.5 * ((xt - alpha * x0.T) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    density = spacing * kernel @ weighted.sum(1)
    tilted = spacing * kernel @ (weighted * torch.exp(-beta * q.energies)).sum(1)
    seen = density > 1e-200  # where the sums did not underflow
    torch.testing.assert_close(q.log_q(xt, time)[seen], density.log()[seen], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(q.intermediate_energy(xt, time, beta)[seen], -(tilted / density).log()[seen],
                               rtol=1e-6, atol=1e-6)


@given(st.integers(0, 10**6), st.floats(1e-3, 1.0))
def test_beta_zero_and_constants(seed: int, t: float) -> None:
    q, time = random_mixture(seed), torch.tensor(t, dtype=torch.float64)
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(q.intermediate_energy(x, time, 0.0), torch.zeros(20, dtype=torch.float64))
    torch.testing.assert_close(q.tilted(0.0).log_q(x, time), q.log_q(x, time))
    shifted = GaussianMixture(q.log_weights, q.means, q.deviations, q.energies + 3.0)
    torch.testing.assert_close(shifted.intermediate_energy(x, time, 2.0), q.intermediate_energy(x, time, 2.0) + 6.0)
    torch.testing.assert_close(shifted.energy_gradient(x, time, 2.0), q.energy_gradient(x, time, 2.0))


def test_small_times_give_beta_times_the_energy() -> None:
    q = eight_gaussians(torch.float64)  # well apart: each point shows its component
    torch.testing.assert_close(q.intermediate_energy(q.means, torch.tensor(1e-3, dtype=torch.float64), 5.0),
                               5.0 * q.energies, rtol=0, atol=1e-4)


def test_eight_gaussians_samples() -> None:
    x, energy = eight_gaussians().sample(40_000, torch.Generator().manual_seed(0))
    nearest = torch.cdist(x, eight_gaussians().means).argmin(dim=1)
    assert (nearest / 7 == energy).float().mean() > 0.99  # 3 standard deviations to the middle between neighbours
    assert torch.bincount(nearest, minlength=8).sub(5000).abs().max() < 5 * math.sqrt(5000)


@pytest.mark.parametrize("beta", [0.0, 3.0, 20.0])
def test_exact_guidance_samples_p0_to_the_noise_floor(beta: float) -> None:
    """W2 from guided samples to exact ones is that between two exact sets: the means over 12 seeds agree."""
    q = eight_gaussians()
    eps = guided(q.eps, lambda xt, t, c=None: q.energy_gradient(xt, t, beta), SCHEDULE)
    distances = []
    for seed in range(12):
        g = torch.Generator().manual_seed(seed)
        guided_samples = last(dpm_solver_pp(eps, torch.randn(500, 2, generator=g), SCHEDULE.times(40), SCHEDULE))
        exact, other = (q.tilted(beta).sample(500, g)[0] for _ in range(2))
        distances.append((w2(guided_samples, exact), w2(other, exact)))
    distance, floor = torch.tensor(distances).unbind(dim=1)
    error = ((distance.var() + floor.var()) / 12).sqrt()
    assert distance.mean() - floor.mean() < 3 * error  # and nothing is hidden by a wide error:
    assert error < 0.15 * floor.mean()


def test_w2_of_a_shift_is_the_shift() -> None:
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    assert w2(x, x + torch.tensor([0.3, -0.4])) == pytest.approx(0.5, rel=1e-5)
    assert w2(x, x[torch.randperm(200)]) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(CepnbError, match="sizes 0 and 200"):
        w2(x[:0], x)


def test_gradient_error_is_zero_for_exact_and_one_for_none() -> None:
    q, times = eight_gaussians(), torch.tensor([0.1, 0.5, 0.9])
    g = torch.Generator().manual_seed(0)
    exact = gradient_error(lambda x, t: q.energy_gradient(x, t, 3.0), q, 3.0, times, generator=g)
    none = gradient_error(lambda x, t: torch.zeros_like(x), q, 3.0, times, generator=g)
    assert exact.tolist() == [0, 0, 0] and none.tolist() == [1, 1, 1]


def test_bad_deviations_are_named() -> None:
    with pytest.raises(CepnbError, match="deviations"):
        GaussianMixture(torch.zeros(1), torch.zeros(1, 2), torch.zeros(1), torch.zeros(1))
