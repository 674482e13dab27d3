"""Random mixtures with a smooth energy: closed forms against quadrature, and CEP on fresh ones."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cepnb.cli import main
from cepnb.densities.mixtures import GaussianMixture
from cepnb.densities.names import mixture_seed
from cepnb.densities.random_mixtures import random_mixture
from cepnb.densities.toys import density
from cepnb.diffusion.guidance import energy_gradient
from cepnb.errors import CepnbError

SIDE = torch.linspace(-8, 8, 641, dtype=torch.float64)
GRID = torch.cartesian_prod(SIDE, SIDE)
CELL = float(SIDE[1] - SIDE[0]) ** 2


def mass(seed: int, beta: float) -> torch.Tensor:
    """q_0 e^{−βE} times the area of a cell, on the grid, from the definitions of q_0 and E."""
    q, total = random_mixture(seed, torch.float64), torch.zeros(len(GRID), dtype=torch.float64)
    for weight, mean, deviation in zip(q.log_weights.softmax(0), q.means, q.deviations):
        square = ((GRID - mean) / deviation).square().sum(1)
        total += weight * (-0.5 * square).exp() / (2 * math.pi * deviation**2)
    return CELL * total * (-beta * energy(seed, GRID)).exp()


def energy(seed: int, x: torch.Tensor) -> torch.Tensor:
    q, total = random_mixture(seed, torch.float64), torch.zeros(len(x), dtype=torch.float64)
    for wave, phase in zip(q.waves, q.phases):
        total += torch.cos(2 * math.pi / 16 * (x[:, 0] * wave[0] + x[:, 1] * wave[1]) + phase) / 3
    return (1 + total) / 2


@pytest.mark.parametrize("t", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("seed, beta", [(0, 7.0), (1, 7.0), (2, 1.0), (3, 20.0)])
def test_closed_forms_against_quadrature(seed: int, beta: float, t: float) -> None:
    """Z, log p_t, its score and E[E | x_t] by sums over a grid of x_0."""
    q, time = random_mixture(seed, torch.float64), torch.tensor(t, dtype=torch.float64)
    p, weights = q.tilted(beta), mass(seed, beta)
    torch.testing.assert_close(q.log_partition(beta), weights.sum().log(), rtol=0, atol=1e-9)
    x0, _ = p.sample(5, torch.Generator().manual_seed(seed))
    noise = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    xt = q.schedule.add_noise(x0, time, noise)
    alpha, sigma = q.schedule.coefficients(time, xt)
    squares = ((xt.unsqueeze(1) - alpha * GRID) / sigma).square().sum(-1)
    joint = (-0.5 * squares).exp() * weights / weights.sum()
    log_p = (joint.sum(1) / (2 * math.pi * sigma.squeeze() ** 2)).log()
    torch.testing.assert_close(p.log_q(xt, time), log_p, rtol=0, atol=1e-8)
    posterior = joint / joint.sum(1, keepdim=True)
    score = (alpha * posterior @ GRID - xt) / sigma**2  # Tweedie's formula
    torch.testing.assert_close(p.score(xt, time), score, rtol=1e-7, atol=1e-7)
    mean_energy = posterior @ energy(seed, GRID)
    torch.testing.assert_close(p.mean_energy(xt, time), mean_energy, rtol=0, atol=1e-8)
    likely, _ = q.sample(5, torch.Generator().manual_seed(seed))  # here p_t may be tiny
    xt2 = q.schedule.add_noise(likely, time, noise)
    squares2 = ((xt2.unsqueeze(1) - alpha * GRID) / sigma).square().sum(-1)
    log_p2 = (
        (-0.5 * squares2).exp() @ weights / weights.sum() / (2 * math.pi * sigma.squeeze() ** 2)
    ).log()
    torch.testing.assert_close(p.log_q(xt2, time), log_p2, rtol=0, atol=1e-5)
    # ∇E_t through the definition of E_t, too
    slope = energy_gradient(lambda x, t, c: q.intermediate_energy(x, t, beta))(xt, time)
    torch.testing.assert_close(q.score(xt, time) - slope, score, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("beta", [0.0, 7.0])
def test_samples_have_the_tilted_mean_energy(beta: float) -> None:
    p, weights = random_mixture(0).tilted(beta), mass(0, beta)
    x, found = p.sample(40_000, torch.Generator().manual_seed(0))
    assert x.shape == (40_000, 2) and x.dtype == torch.float32
    torch.testing.assert_close(found.double(), energy(0, x.double()), rtol=0, atol=1e-5)
    exact = (weights / weights.sum()) @ energy(0, GRID)
    assert abs(found.mean() - exact) < 5 * found.std() / 200
    assert 0 <= energy(0, GRID).min() and energy(0, GRID).max() <= 1


def test_without_a_tilt_it_is_the_gaussian_mixture() -> None:
    q, time = random_mixture(5, torch.float64), torch.tensor(0.4, dtype=torch.float64)
    gaussian = GaussianMixture(
        log_weights=q.log_weights, energies=q.energies, means=q.means, deviations=q.deviations
    )
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(q.score(x, time), gaussian.score(x, time))
    torch.testing.assert_close(q.tilted(3.0).tilted(-3.0).log_q(x, time), q.log_q(x, time))
    x0, _ = q.sample(300_000, torch.Generator().manual_seed(0))
    near = x0[((x0 + torch.randn(x0.shape, dtype=x0.dtype)) - x[0]).norm(dim=1) < 0.2]
    smooth = q.energy(x[0], width=1.0)
    assert abs(q.energy(near).mean() - smooth) < 5 * q.energy(near).std() / len(near) ** 0.5 + 0.01


def test_float32_is_close_to_float64() -> None:
    single, double = random_mixture(0).tilted(7.0), random_mixture(0, torch.float64).tilted(7.0)
    x, _ = double.sample(200, torch.Generator().manual_seed(0))
    time = torch.tensor(0.1, dtype=torch.float64)
    score = single.score(x.float(), time.float()).double()
    torch.testing.assert_close(score, double.score(x, time), rtol=1e-3, atol=1e-3)


def test_names_are_seeds() -> None:
    assert mixture_seed("mixture12") == 12 and mixture_seed("mixture-1") is None
    torch.testing.assert_close(density("mixture3").means, random_mixture(3).means)
    assert not torch.equal(random_mixture(3).waves, random_mixture(4).waves)
    for name in ("mixture", "mixture01", "mixture1e3", "Mixture1"):
        with pytest.raises(CepnbError, match="is unknown; use one of .* or mixture0"):
            density(name)


def test_bad_energies_raise() -> None:
    with pytest.raises(CepnbError, match="use two dimensions and no energy but the cosines"):
        replace(random_mixture(0), quadratic=1.0)
    with pytest.raises(CepnbError, match="beta 25.1: rounding errors are too large"):
        random_mixture(0).tilted(25.0).tilted(0.1)


def test_a_table_of_a_random_mixture(tmp_path: Path) -> None:
    """The command measures the named case only, and the exact method is exact."""
    command = ["toy", "--table", "--profile", "ci", "--beta", "7", "--method", "exact"]
    command += ["--density", "mixture900"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    records = json.loads((tmp_path / "records.json").read_text())
    assert [record["density"] for record in records] == ["mixture900"]
    assert all(record["w2_ratio"] < 2 for record in records)
    assert "mixture900" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "samples.png").exists()
