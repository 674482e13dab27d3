"""Closed forms of mixtures against quadrature, automatic differentiation and Monte Carlo."""

import inspect
import math
from dataclasses import replace
from functools import partial

import ot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cepnb.densities.metrics import gradient_error, mmd, w2
from cepnb.densities.mixtures import BoxMixture, GaussianMixture
from cepnb.densities.toys import (
    DENSITIES,
    checkerboard,
    density,
    eight_gaussians,
    moons,
    rings,
    swiss_roll,
    two_spirals,
)
from cepnb.diffusion.guidance import energy_gradient, guided
from cepnb.diffusion.samplers import dpm_solver_pp, last
from cepnb.diffusion.schedule import VPSchedule
from cepnb.errors import CepnbError

SCHEDULE = VPSchedule()


def random_mixture(seed: int, dim: int = 2) -> GaussianMixture:
    g = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=g, dtype=torch.float64)
    return GaussianMixture(
        log_weights=draw(3),
        means=2 * draw(3, dim),
        energies=draw(3),
        deviations=0.3 + torch.rand(3, generator=g, dtype=torch.float64),
        linear=0.1 * draw(dim),
        quadratic=float(draw(1).abs()),
    )


cases = given(st.integers(0, 10**6), st.floats(1e-3, 1.0), st.floats(0.0, 20.0))


def integrals(
    q: GaussianMixture, xt: torch.Tensor, time: torch.Tensor, beta: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Integrate over a grid of x_0: q_t(x_t), q(x_t, e^{−βE}) = ∫ q(x_t | x_0) q_0 e^{−βE}, and Z.

    The spacing is an eighth of the smallest σ_t, where the sum of a Gaussian is exact in float64.
    """
    x0 = torch.linspace(-25, 25, 40_001, dtype=torch.float64).unsqueeze(1)
    spacing = float(x0[1] - x0[0])
    per_component = torch.exp(-0.5 * ((x0 - q.means[:, 0]) / q.deviations) ** 2) / (
        q.deviations * math.sqrt(2 * math.pi)
    )
    by_component = per_component * q.log_weights.softmax(0)
    q0 = by_component.sum(1)
    energy = q.energies + x0 * q.linear + 0.5 * q.quadratic * x0**2
    tilted = (by_component * torch.exp(-beta * energy)).sum(1)
    alpha, sigma = SCHEDULE.alpha(time), SCHEDULE.sigma(time)
    kernel = torch.exp(-0.5 * ((xt - alpha * x0.T) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))
    return spacing * kernel @ q0, spacing * kernel @ tilted, spacing * tilted.sum()


XT = torch.tensor([[-1.5], [0.2], [2.0]], dtype=torch.float64)


@cases
def test_theorem_31(seed: int, t: float, beta: float) -> None:
    """Noise p_0 by quadrature: its density p_t is q_t e^{−E_t}/Z, all three in closed form (Eq. 10)."""
    q, time = random_mixture(seed, dim=1), torch.tensor(t, dtype=torch.float64)
    _, tilted, partition = integrals(q, XT, time, beta)
    log_p = tilted.log() - partition.log()
    theorem = q.log_q(XT, time) - q.intermediate_energy(XT, time, beta) - q.log_partition(beta)
    valid = tilted > 1e-200  # the sums did not underflow
    torch.testing.assert_close(theorem[valid], log_p[valid], rtol=1e-6, atol=1e-6)
    closed = q.tilted(beta).log_q(XT, time)
    torch.testing.assert_close(closed[valid], log_p[valid], rtol=1e-6, atol=1e-6)


@cases
def test_scores_are_gradients(seed: int, t: float, beta: float) -> None:
    """∇log p_t = ∇log q_t − ∇E_t (Eq. 11), with ∇E_t by automatic differentiation."""
    q, time = random_mixture(seed), torch.tensor(t, dtype=torch.float64)
    p = q.tilted(beta)
    x = 3 * torch.randn(50, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ratio = p.log_q(x, time) - q.log_q(x, time) + q.intermediate_energy(x, time, beta)
    constant = ratio.mean().expand_as(ratio)
    torch.testing.assert_close(ratio, constant, rtol=0, atol=1e-8)
    gradient = energy_gradient(lambda xt, t, c: q.intermediate_energy(xt, t, beta))(x, time)
    torch.testing.assert_close(
        gradient, q.intermediate_energy_gradient(x, time, beta), rtol=1e-6, atol=1e-7
    )
    torch.testing.assert_close(q.score(x, time) - gradient, p.score(x, time), rtol=1e-6, atol=1e-7)


@cases
def test_against_quadrature_of_the_definition(seed: int, t: float, beta: float) -> None:
    """q_t(x_t), and E_t(x_t) as −log of the mean of e^{−βE} given x_t (Eq. 9)."""
    q, time = random_mixture(seed, dim=1), torch.tensor(t, dtype=torch.float64)
    density, tilted, _ = integrals(q, XT, time, beta)
    valid = density > 1e-200  # the sums did not underflow
    torch.testing.assert_close(q.log_q(XT, time)[valid], density.log()[valid], rtol=1e-6, atol=1e-6)
    energy = -(tilted / density).log()
    exact = q.intermediate_energy(XT, time, beta)
    torch.testing.assert_close(exact[valid], energy[valid], rtol=1e-6, atol=1e-6)


@given(st.integers(0, 10**6), st.floats(1e-3, 1.0))
def test_beta_zero_and_constants(seed: int, t: float) -> None:
    """E_t is 0 at β = 0, and a constant c added to E adds βc to E_t and nothing to its gradient."""
    q, time = random_mixture(seed), torch.tensor(t, dtype=torch.float64)
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(
        q.intermediate_energy(x, time, 0.0), torch.zeros(20, dtype=torch.float64)
    )
    torch.testing.assert_close(q.tilted(0.0).log_q(x, time), q.log_q(x, time))
    shifted = replace(q, energies=q.energies + 3.0)
    torch.testing.assert_close(
        shifted.intermediate_energy(x, time, 2.0), q.intermediate_energy(x, time, 2.0) + 6.0
    )
    torch.testing.assert_close(
        shifted.intermediate_energy_gradient(x, time, 2.0),
        q.intermediate_energy_gradient(x, time, 2.0),
    )


@given(st.integers(0, 10**6), st.floats(1e-3, 1.0), st.sampled_from([None, checkerboard]))
def test_mean_energy_is_the_slope_of_the_intermediate_energy(seed: int, t: float, make) -> None:
    """dE_t/dβ at β = 0 by a central difference, of error 1e-8/6 × the third derivative."""
    q = make(torch.float64) if make else random_mixture(seed)
    time = torch.tensor(t, dtype=torch.float64)
    # Far from the data, rounding of the log densities would exceed their difference.
    x = 2 * torch.randn(50, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = q.schedule.add_noise(q.sample(50, torch.Generator().manual_seed(seed))[0], time, x)
    slope = (q.intermediate_energy(x, time, 1e-4) - q.intermediate_energy(x, time, -1e-4)) / 2e-4
    torch.testing.assert_close(q.mean_energy(x, time), slope, rtol=1e-5, atol=1e-6)


def test_small_times_give_beta_times_the_energy() -> None:
    q = eight_gaussians(torch.float64)  # far enough apart to identify the component
    torch.testing.assert_close(
        q.intermediate_energy(q.means, torch.tensor(1e-3, dtype=torch.float64), 5.0),
        5.0 * q.energies,
        rtol=0,
        atol=1e-4,
    )


def test_eight_gaussians_samples() -> None:
    x, energy = eight_gaussians().sample(40_000, torch.Generator().manual_seed(0))
    nearest = torch.cdist(x, eight_gaussians().means).argmin(dim=1)
    # The middle between neighbours is 3 standard deviations away.
    assert (nearest / 7 == energy).float().mean() > 0.99
    assert torch.bincount(nearest, minlength=8).sub(5000).abs().max() < 5 * math.sqrt(5000)


@pytest.mark.parametrize("beta", [0.0, 3.0, 20.0])
def test_exact_guidance_samples_p0_to_the_noise_floor(beta: float) -> None:
    """W2 of guided and exact samples equals W2 of two exact sets, on average over 12 seeds."""
    q = eight_gaussians()
    eps = guided(q.eps, lambda xt, t, c=None: q.intermediate_energy_gradient(xt, t, beta), SCHEDULE)
    distances = []
    for seed in range(12):
        g = torch.Generator().manual_seed(seed)
        guided_samples = last(
            dpm_solver_pp(eps, torch.randn(500, 2, generator=g), SCHEDULE.times(40), SCHEDULE)
        )
        exact, other = (q.tilted(beta).sample(500, g)[0] for _ in range(2))
        distances.append((w2(guided_samples, exact), w2(other, exact)))
    distance, floor = torch.tensor(distances).unbind(dim=1)
    error = ((distance.var() + floor.var()) / 12).sqrt()
    assert distance.mean() - floor.mean() < 3 * error
    assert error < 0.15 * floor.mean()  # small enough to show a bias


@given(st.integers(0, 10**6), st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_tilts_add_up(seed: int, first: float, second: float) -> None:
    q = random_mixture(seed)
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    time = torch.tensor(0.2, dtype=torch.float64)
    torch.testing.assert_close(
        q.tilted(first).tilted(second).log_q(x, time), q.tilted(first + second).log_q(x, time)
    )


def test_an_energy_without_a_normalisable_p0_raises() -> None:
    q = replace(
        random_mixture(0), quadratic=-1.0, deviations=torch.full((3,), 0.5, dtype=torch.float64)
    )
    q.tilted(3.9)
    with pytest.raises(CepnbError, match="beta 4.1: .* use a beta below 4"):
        q.tilted(4.1)


@given(st.integers(0, 10**6), st.floats(1e-3, 1.0), st.floats(0.0, 20.0))
def test_boxes_against_quadrature_and_autograd(seed: int, t: float, beta: float) -> None:
    """Boxes in one dimension: q_t and E_t by sums over x_0, the score by autograd."""
    g = torch.Generator().manual_seed(seed)
    lows = 3 * torch.randn(3, 1, generator=g, dtype=torch.float64)
    q = BoxMixture(
        log_weights=torch.randn(3, generator=g, dtype=torch.float64),
        lows=lows,
        energies=torch.rand(3, generator=g, dtype=torch.float64),
        highs=lows + 0.2 + torch.rand(3, 1, generator=g, dtype=torch.float64),
    )
    time = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = SCHEDULE.alpha(time), SCHEDULE.sigma(time)
    xt = alpha * lows + sigma * torch.randn(3, 1, generator=g, dtype=torch.float64)
    midpoints = torch.arange(20_000, dtype=torch.float64) + 0.5  # no error at the edges
    part = midpoints / 20_000
    x0 = lows + (q.highs - lows) * part
    kernel = torch.exp(-0.5 * ((xt[:, None] - alpha * x0) / sigma) ** 2) / (
        sigma * math.sqrt(2 * math.pi)
    )
    parts = kernel.mean(-1) * q.log_weights.softmax(0)
    torch.testing.assert_close(q.log_q(xt, time), parts.sum(1).log(), rtol=1e-5, atol=1e-5)
    tilted = (parts * torch.exp(-beta * q.energies)).sum(1)
    torch.testing.assert_close(
        q.intermediate_energy(xt, time, beta), -(tilted / parts.sum(1)).log(), rtol=1e-5, atol=1e-5
    )
    slope = energy_gradient(lambda x, t, c: q.log_q(x, t))(xt, time)
    torch.testing.assert_close(q.score(xt, time), slope, rtol=1e-6, atol=1e-6)


def test_boxes_far_away_stay_finite() -> None:
    """Fifty deviations outside every box, probabilities underflow and logarithms do not."""
    q, exact, time = checkerboard(), checkerboard(torch.float64), torch.tensor(1e-3)
    x = torch.tensor([[-4.5, 4.5], [0.0, 0.5]])
    expected = exact.score(x.double(), time.double())
    # Exponents of 1250 in float32 leave about two digits.
    torch.testing.assert_close(q.score(x, time).double(), expected, rtol=1e-2, atol=0)
    assert torch.isfinite(q.intermediate_energy(torch.tensor([30.0, -20.0]), time, 20.0)).all()


@pytest.mark.parametrize("name", DENSITIES)
def test_six_densities_by_monte_carlo(name: str) -> None:
    """Samples against closed forms: log Z, E[E | x], and the mean of the score, which is 0."""
    q, g = DENSITIES[name](torch.float64), torch.Generator().manual_seed(0)
    x, energy = q.sample(50_000, g)
    for beta in (1.0, 10.0):
        weights = torch.exp(-beta * energy)
        error = (weights.std() / weights.mean()).item() / 50_000**0.5
        assert math.log(weights.mean()) == pytest.approx(
            q.log_partition(beta).item(), abs=5 * error
        )
    # E − E[E | x] has mean 0 times any function of x, here x and 1.
    rest = (energy - q.energy(x))[:, None] * torch.cat([x, torch.ones(len(x), 1)], dim=1)
    assert (rest.mean(0).abs() < 5 * rest.std(0) / len(x) ** 0.5 + 1e-12).all()
    time = torch.tensor(0.3, dtype=torch.float64)
    xt = q.schedule.add_noise(x, time, torch.randn(x.shape, generator=g, dtype=torch.float64))
    score = q.score(xt, time)
    assert (score.mean(0).abs() < 5 * score.std(0) / len(x) ** 0.5).all()
    slope = energy_gradient(lambda x, t, c: q.log_q(x, t))(xt[:100], time)
    torch.testing.assert_close(score[:100], slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [swiss_roll, moons, rings, two_spirals])
def test_nodes_along_curves_are_close_enough(make) -> None:
    """Four times as many nodes change log q_t, its score and E_t at β = 20 by less than 1e-6."""
    nodes = inspect.signature(make).parameters["nodes"].default
    q, finer = make(torch.float64), make(torch.float64, nodes=4 * nodes)
    x, _ = q.sample(500, torch.Generator().manual_seed(1))
    for t in (1e-3, 0.1, 0.6):
        time = torch.tensor(t, dtype=torch.float64)
        generator = torch.Generator().manual_seed(2)
        eps = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        xt = q.schedule.add_noise(x, time, eps)
        for quantity in (
            lambda d: d.log_q(xt, time),
            lambda d: d.score(xt, time),
            lambda d: d.intermediate_energy(xt, time, 20.0),
        ):
            torch.testing.assert_close(quantity(q), quantity(finer), rtol=0, atol=1e-6)


def test_a_smoothed_energy_has_a_slope_at_a_step() -> None:
    q, x = checkerboard(), torch.tensor([[-3.5, -3.0], [1.0, 1.0], [9.0, 0.0]])
    assert q.energy(x).tolist() == pytest.approx([0, 2 / 3, 1])
    near = torch.tensor([[-2.0, -1.0]])  # the edge between columns 0 and 1
    assert 0 < q.energy(near, 0.3).item() < 1 / 3
    assert energy_gradient(lambda x, t, c: q.energy(x, 0.3))(near, torch.tensor(0.0))[0, 0] > 0


def test_unknown_density() -> None:
    with pytest.raises(CepnbError, match="density 'ring' is unknown; use one of 8gaussians, "):
        density("ring")


def test_w2_of_a_shift_is_the_shift() -> None:
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    assert w2(x, x + torch.tensor([0.3, -0.4])) == pytest.approx(0.5, rel=1e-5)
    assert w2(x, x[torch.randperm(200)]) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(CepnbError, match="sizes 0 and 200"):
        w2(x[:0], x)


def test_gradient_error_is_zero_for_exact_and_one_for_none() -> None:
    q, times = eight_gaussians(), torch.tensor([0.1, 0.5, 0.9])
    g = torch.Generator().manual_seed(0)
    exact = gradient_error(
        lambda x, t: q.intermediate_energy_gradient(x, t, 3.0), q, 3.0, times, generator=g
    )
    none = gradient_error(lambda x, t: torch.zeros_like(x), q, 3.0, times, generator=g)
    assert exact.tolist() == [0, 0, 0] and none.tolist() == [1, 1, 1]


def test_a_negative_deviation_raises() -> None:
    with pytest.raises(CepnbError, match="deviations: the lowest is -1; use"):
        GaussianMixture(
            log_weights=torch.zeros(1),
            means=torch.zeros(1, 2),
            deviations=-torch.ones(1),
            energies=torch.zeros(1),
        )


def test_an_empty_box_raises() -> None:
    zeros = torch.zeros(1, 2)
    with pytest.raises(CepnbError, match="boxes: a high is not above its low"):
        BoxMixture(log_weights=torch.zeros(1), energies=torch.zeros(1), lows=zeros, highs=zeros)


def gaussians(**changes: object) -> GaussianMixture:
    parts = {"log_weights": torch.zeros(3), "energies": torch.zeros(3), "means": torch.zeros(3, 2)}
    return GaussianMixture(**parts | {"deviations": torch.ones(3)} | changes)


@pytest.mark.usefixtures("as_users_call_it")
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"energies": torch.zeros(3, 1)}, "energies has shape .*; use that of log_weights"),
        ({"deviations": torch.ones(3, 1)}, "deviations has shape .*; use that of log_weights"),
        ({"means": torch.zeros(1, 2)}, "means has shape .*; use that of log_weights"),
        ({"linear": torch.zeros(3, 2)}, "linear has shape .*; use a number or shape .2,."),
        ({"energies": torch.tensor([0, math.nan, 0])}, "energies: 1 of 3 values are not finite"),
        ({"means": torch.full((3, 2), math.inf)}, "means: 6 of 6 values are not finite"),
        ({"deviations": torch.full((3,), math.nan)}, "deviations: 3 of 3 values are not finite"),
        ({"log_weights": torch.full((3,), -math.inf)}, "log of the total weight"),
    ],
)
def test_components_that_do_not_match_raise(changes: dict, message: str) -> None:
    with pytest.raises(CepnbError, match=message):
        gaussians(**changes)


@pytest.mark.usefixtures("as_users_call_it")
def test_boxes_of_other_shapes_raise() -> None:
    parts = {"log_weights": torch.zeros(2), "energies": torch.zeros(2)}
    with pytest.raises(CepnbError, match="highs has shape .*; use that of lows"):
        BoxMixture(**parts, lows=torch.zeros(2, 2), highs=torch.ones(2, 1))
    with pytest.raises(CepnbError, match="lows has shape .*; use that of log_weights"):
        BoxMixture(**parts, lows=torch.zeros(1, 2), highs=torch.ones(1, 2))


@pytest.mark.usefixtures("as_users_call_it")
@pytest.mark.parametrize("make", [eight_gaussians, checkerboard])
def test_points_of_another_dimension_raise(make) -> None:
    """One coordinate would broadcast to two."""
    q, t = make(), torch.tensor(0.5)
    for x in (torch.zeros(4, 1), torch.zeros(2, 3), torch.tensor(0.0)):
        for answer in (q.log_q, q.score, q.eps, q.mean_energy, lambda x, t: q.energy(x)):
            with pytest.raises(CepnbError, match=r"points have shape .*; use \(\*batch, 2\)"):
                answer(x, t)


def test_a_beta_that_overflows_raises() -> None:
    for q in (density("swissroll"), density("moons"), gaussians(linear=1.0)):
        for beta in (1e39, 1e300, math.nan):
            with pytest.raises(CepnbError, match="beta .*: the weights .* are not finite"):
                q.tilted(beta)


@pytest.mark.usefixtures("as_users_call_it")
@pytest.mark.parametrize("measure", [w2, mmd])
def test_distances_of_bad_samples_raise(measure) -> None:
    """max(0, NaN) is 0, the distance of equal samples."""
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    one = x.clone()
    one[7, 1] = math.nan
    for bad, count in ((one, 1), (torch.full((9, 2), math.nan), 9), (x / 0, 200)):
        for pair in ((bad, x), (x, bad)):
            with pytest.raises(CepnbError, match=f"samples: {count} of {len(bad)} values are not"):
                measure(*pair)
    for other in (x[:, :1], x[:, 0]):
        with pytest.raises(CepnbError, match="samples have shapes"):
            measure(x, other)


def test_distances_that_overflow_or_do_not_converge_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(CepnbError, match="squared distances: .*; rescale the samples"):
        w2(1e200 * x, x)
    solve = ot.emd2
    few = lambda *args, numItermax, **options: solve(*args, numItermax=1, **options)
    monkeypatch.setattr(ot, "emd2", few)
    with pytest.raises(CepnbError, match=r"optimal transport failed \(numItermax reached"):
        w2(x, x + 1)


def test_gradients_that_are_not_finite_or_misshapen_raise() -> None:
    q, times, g = eight_gaussians(), torch.tensor([0.5]), torch.Generator().manual_seed(0)
    with pytest.raises(CepnbError, match="errors of the gradient: 1 of 1 values are not finite"):
        gradient_error(lambda x, t: x / 0, q, 3.0, times, g)
    with pytest.raises(CepnbError, match="gradient has shape .*; use that of x_t"):
        gradient_error(lambda x, t: x[:, :1], q, 3.0, times, g)
    constant = replace(q, energies=torch.zeros(8))
    with pytest.raises(CepnbError, match="beta 3: the exact gradient is 0 in float32"):
        gradient_error(lambda x, t: x, constant, 3.0, times, g)


@pytest.mark.parametrize("make", [checkerboard, eight_gaussians])
def test_the_energy_at_no_finite_point_is_nan(make) -> None:
    x = torch.tensor([[math.nan, 0.0], [0.0, math.inf], [-math.inf, math.nan], [-3.0, -3.0]])
    assert make().energy(x).isfinite().tolist() == [False, False, False, True]
