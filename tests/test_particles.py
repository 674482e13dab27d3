"""The twisted diffusion sampler, against the closed form of a Gaussian and of a mixture."""

import math

import pytest
import torch

from cepnb.densities.mixtures import GaussianMixture
from cepnb.densities.toys import eight_gaussians
from cepnb.diffusion.particles import _resampled, twisted_diffusion
from cepnb.errors import CepnbError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampled(q, twist, energy, runs: int, particles: int, steps: int) -> torch.Tensor:
    g = generator()
    start = torch.randn(runs, particles, q.dim, generator=g)
    times = q.schedule.times(steps)
    return twisted_diffusion(q.eps, twist, energy, start, times, q.schedule, g)


def test_a_wrong_twist_is_corrected_by_the_weights() -> None:
    """q_0 = N(0, 0.3²) and energy 2x: p_0 = N(−0.18, 0.3²). A twist of another sign only costs particles."""
    zero = torch.zeros(1)
    q = GaussianMixture(
        log_weights=zero, energies=zero, means=zero[:, None], deviations=torch.full((1,), 0.3)
    )
    energy = lambda x: 2 * x[..., 0]
    for twist, particles in ((energy, 64), (lambda x: -energy(x), 512)):
        x = sampled(q, twist, energy, 65_536 // particles, particles, 200)
        assert x.mean().item() == pytest.approx(-0.18, abs=0.015)
        assert x.std().item() == pytest.approx(0.3, abs=0.015)
    uncorrected = sampled(q, lambda x: -energy(x), energy, 20_000, 1, 200)
    assert uncorrected.mean().item() > 0.05


def test_many_particles_find_the_shares_of_modes() -> None:
    """At β = 3 the eight Gaussians have shares of e^{−3i/7}; few particles have other ones."""
    q, beta = eight_gaussians(), 3.0
    exact = (-beta * q.energies).softmax(0)

    def error(runs: int, particles: int) -> float:
        smooth = lambda x: beta * q.energy(x, width=2.0)
        x = sampled(q, smooth, lambda x: beta * q.energy(x), runs, particles, 50).flatten(0, 1)
        nearest = torch.cdist(x, q.means).argmin(dim=1)
        shares = torch.bincount(nearest, minlength=8) / len(x)
        return (shares - exact).abs().sum().item() / 2

    assert error(20, 1000) < 0.06 < error(20_000, 1)


def test_resampling_keeps_the_expected_number_of_copies() -> None:
    w = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.3, 0.3, 0.2, 0.2]])
    log_w = w.log()
    rows, new = _resampled(log_w, 3.0, generator())
    assert sorted(rows[0].tolist()) == [0, 0, 1, 2] and new[0].tolist() == [0.0] * 4
    assert rows[1].tolist() == [0, 1, 2, 3] and torch.equal(new[1], log_w[1])
    one = torch.full((1, 5), -math.inf)
    one[0, 3] = -1e4
    assert _resampled(one, 6.0, generator())[0].tolist() == [[3] * 5]


def test_weights_that_are_not_finite_are_refused() -> None:
    q = eight_gaussians()
    nan = lambda x: x[..., 0] * math.nan
    with pytest.raises(
        CepnbError, match="^weights of particles: 8 of 8 values are not finite; use a"
    ):
        sampled(q, nan, nan, 1, 8, 5)
