"""The samplers against diffusers' DPM-Solver++, each other and an exactly known flow."""

import math

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from cepnb.diffusion.guidance import dps_energy, energy_gradient, guided, predict_x0
from cepnb.diffusion.samplers import ancestral, dpm_solver_pp, last
from cepnb.diffusion.schedule import VPSchedule, expand_as
from cepnb.errors import CepnbError

SCHEDULE = VPSchedule()
UNIFORM = torch.linspace(1.0, SCHEDULE.t_min, 16, dtype=torch.float64)
# A Gaussian q_0, whose marginals, scores and flow have a closed form.
MEAN = torch.tensor([1.0, -0.5], dtype=torch.float64)
DEVIATION = torch.tensor([0.5, 2.0], dtype=torch.float64)


def gaussian_eps(
    xt: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None
) -> torch.Tensor:
    """ε = −σ_t ∇log q_t for q_0 = N(MEAN, DEVIATION²)."""
    alpha, sigma = expand_as(SCHEDULE.alpha(t), xt), expand_as(SCHEDULE.sigma(t), xt)
    return sigma * (xt - alpha * MEAN) / (alpha**2 * DEVIATION**2 + sigma**2)


def gaussian_flow(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The probability-flow map from time 1 to t: it maps one Gaussian marginal onto the other."""

    def marginal(u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return SCHEDULE.alpha(u) * MEAN, (
            SCHEDULE.alpha(u) ** 2 * DEVIATION**2 + SCHEDULE.sigma(u) ** 2
        ).sqrt()

    (mean_1, deviation_1), (mean_t, deviation_t) = (
        marginal(torch.ones((), dtype=torch.float64)),
        marginal(t),
    )
    return mean_t + deviation_t * (x - mean_1) / deviation_1


@pytest.mark.parametrize("times", [SCHEDULE.times(15), UNIFORM], ids=["half_log_snr", "time"])
def test_equal_to_diffusers(times: torch.Tensor) -> None:
    """With one nonlinear network and one grid, the whole trajectory equals that of diffusers."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2)
    ).double()

    def eps(
        xt: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        return net(torch.cat([xt, t.expand(len(xt), 1)], dim=1))

    x = torch.randn(64, 2, dtype=torch.float64)
    theirs = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        lower_order_final=False,
        final_sigmas_type="sigma_min",
    )
    theirs.set_timesteps(15)
    theirs.sigmas = SCHEDULE.sigma(times) / SCHEDULE.alpha(times)
    theirs.timesteps = torch.arange(15)
    expected = [x]
    with torch.no_grad():
        for i in range(15):
            expected.append(
                theirs.step(
                    eps(expected[-1], times[i]), theirs.timesteps[i], expected[-1]
                ).prev_sample
            )
    ours = list(dpm_solver_pp(eps, x, times, SCHEDULE))
    # diffusers rounds each of 15 states to float32: 6e-8 of values up to about 50
    torch.testing.assert_close(torch.stack(ours), torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_second_order_towards_the_exact_flow() -> None:
    x = torch.randn(256, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    errors = []
    for steps in (20, 40, 80, 160):
        times = SCHEDULE.times(steps)
        end = last(dpm_solver_pp(gaussian_eps, x, times, SCHEDULE))
        errors.append((end - gaussian_flow(x, times[-1])).abs().max().item())
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:])]
    assert orders[-1] == pytest.approx(2.0, abs=0.2)
    assert errors[-1] < 1e-2 < errors[0]


def test_ancestral_reaches_the_marginal_at_every_time() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(20_000, 2, dtype=torch.float64, generator=generator)
    times = SCHEDULE.times(200)
    for i, xt in enumerate(ancestral(gaussian_eps, x, times, SCHEDULE, generator=generator)):
        if i in (50, 100, 200):
            alpha, sigma = SCHEDULE.alpha(times[i]), SCHEDULE.sigma(times[i])
            deviation = (alpha**2 * DEVIATION**2 + sigma**2).sqrt()
            # 5 standard errors of 20,000 draws, and 2 % for the first-order error of 200 steps
            assert ((xt.mean(0) - alpha * MEAN).abs() < 5 * deviation / 141 + 0.02).all()
            assert ((xt.std(0) / deviation - 1).abs() < 5 / 200 + 0.02).all()


def test_condition_is_passed_on_and_every_time_is_yielded() -> None:
    calls = []

    def eps(
        xt: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        calls.append((float(t), condition))
        return xt

    x, condition = torch.randn(5, 2), torch.randn(5, 3)
    for sampler in (dpm_solver_pp, ancestral):
        calls.clear()
        states = list(sampler(eps, x, SCHEDULE.times(7), SCHEDULE, condition))
        assert len(states) == 8 and len(calls) == 7  # one evaluation a step
        assert states[0] is x and all(c is condition for _, c in calls)


def test_guidance_of_a_linear_energy_is_exact_on_a_gaussian() -> None:
    """E = g·x tilts N(m, d²) to N(m − β d² g, d²); MSE and DPS energies have the exact gradient."""
    beta, slope = 1.5, torch.tensor([0.7, -0.4], dtype=torch.float64)

    def mse_energy(
        xt: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        return beta * predict_x0(gaussian_eps, SCHEDULE)(xt, t) @ slope

    dps = dps_energy(gaussian_eps, lambda x0: x0 @ slope, beta, SCHEDULE)
    x = torch.randn(20_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for energy in (mse_energy, dps):
        eps = guided(gaussian_eps, energy_gradient(energy), SCHEDULE)
        end = last(dpm_solver_pp(eps, x, SCHEDULE.times(60), SCHEDULE))
        # 5 standard errors of 20,000 draws, and 0.02 because N(0, I) only approximates q_1
        torch.testing.assert_close(
            end.mean(0), MEAN - beta * DEVIATION**2 * slope, atol=5 * 2 / 141 + 0.02, rtol=0
        )
        torch.testing.assert_close(end.std(0), DEVIATION, atol=0, rtol=0.03)


def test_scale_0_skips_the_gradient() -> None:
    def never(*_: object) -> torch.Tensor:
        raise AssertionError("the gradient was evaluated at scale 0")

    assert guided(gaussian_eps, never, SCHEDULE, 0.0) is gaussian_eps


def test_scales_differ_by_row() -> None:
    def slope(
        xt: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        return torch.ones_like(xt)

    x, t = torch.randn(3, 2, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    mixed = guided(
        gaussian_eps, slope, SCHEDULE, torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64)
    )(x, t)
    for row, scale in enumerate((0.0, 1.0, 4.0)):
        torch.testing.assert_close(
            mixed[row], guided(gaussian_eps, slope, SCHEDULE, scale)(x, t)[row]
        )


def test_bad_times_are_named() -> None:
    for times in (torch.tensor([1.0]), torch.tensor([0.1, 0.5]), torch.tensor([1.0, 0.0])):
        with pytest.raises(CepnbError, match="times of shape"):
            last(dpm_solver_pp(gaussian_eps, torch.randn(1, 2), times, SCHEDULE))


def test_times_that_are_not_finite_are_named() -> None:
    for times in (torch.tensor([math.inf, 0.5]), torch.tensor([1.0, math.nan])):
        with pytest.raises(CepnbError, match="times of shape"):
            last(dpm_solver_pp(gaussian_eps, torch.randn(1, 2), times, SCHEDULE))


def test_functions_of_another_shape_raise() -> None:
    """A column of noise, slopes or energies would broadcast against the points."""
    x, t = torch.randn(3, 2, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    column = lambda xt, t, condition=None: xt[:, :1]
    with pytest.raises(CepnbError, match=r"eps has shape \(3, 1\); use that of x_t, \(3, 2\)"):
        last(dpm_solver_pp(column, x, SCHEDULE.times(2), SCHEDULE))
    with pytest.raises(CepnbError, match=r"gradient has shape \(3, 1\); use that of x_t"):
        guided(gaussian_eps, column, SCHEDULE)(x, t)
    with pytest.raises(CepnbError, match=r"eps has shape \(3, 1\); use that of x_t"):
        guided(column, gaussian_eps, SCHEDULE)(x, t)
    for energy in (column, lambda xt, t, condition=None: xt[:, 0] - xt[:, 1:]):
        with pytest.raises(CepnbError, match=r"energy returns shape .*; return \(3,\), one value"):
            energy_gradient(energy)(x, t)


@pytest.mark.usefixtures("as_users_call_it")
def test_a_scale_of_zero_is_zero_in_any_type() -> None:
    for zero in (0, 0.0, np.float32(0), np.int64(0)):
        assert guided(gaussian_eps, gaussian_eps, SCHEDULE, zero) is gaussian_eps
