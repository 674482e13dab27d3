"""The forward process against quadrature of its stochastic equation, and its inverse."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from cepnb.diffusion.schedule import VPSchedule
from cepnb.errors import CepnbError

SCHEDULE = VPSchedule()


@given(st.floats(1e-3, 1.0))
def test_alpha_is_the_integral_of_the_rate(t: float) -> None:
    """dx = −½ rate(t) x dt + sqrt(rate(t)) dw shrinks x by α_t; the rate rises from 0.1 to 20."""
    time = torch.tensor(t, dtype=torch.float64)
    integral, _ = quad(lambda u: 0.1 + (20.0 - 0.1) * u, 0, t)
    assert float(SCHEDULE.alpha(time)) == pytest.approx(math.exp(-integral / 2), rel=1e-9)


@given(st.floats(1e-3, 1.0))
def test_variance_is_preserved_and_the_inverse_is_one(t: float) -> None:
    time = torch.tensor(t, dtype=torch.float64)
    assert float(SCHEDULE.alpha(time) ** 2 + SCHEDULE.sigma(time) ** 2) == pytest.approx(
        1.0, abs=1e-12
    )
    assert float(SCHEDULE.time_of(SCHEDULE.half_log_snr(time))) == pytest.approx(t, rel=1e-9)


def test_sigma_keeps_its_digits_at_small_times() -> None:
    t = torch.tensor([1e-6, 1e-5, 1e-4])
    exact = SCHEDULE.sigma(t.double())
    torch.testing.assert_close(SCHEDULE.sigma(t).double(), exact, rtol=1e-5, atol=0)
    naive = (1 - SCHEDULE.alpha(t) ** 2).sqrt()  # wrong in the first digits
    assert ((naive.double() - exact).abs() / exact).max() > 1e-2


def test_noising_has_the_stated_mean_and_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    x0 = torch.tensor([[2.0, -1.0]]).expand(200_000, 2)
    eps = torch.randn(x0.shape, generator=generator)
    for t in (0.01, 0.3, 1.0):
        time = torch.tensor(t)
        xt = SCHEDULE.add_noise(x0, time, eps)
        # 5 standard errors of the mean and the variance of 200,000 draws
        torch.testing.assert_close(xt.mean(0), SCHEDULE.alpha(time) * x0[0], atol=5 / 447, rtol=0)
        torch.testing.assert_close(
            xt.var(0), (SCHEDULE.sigma(time) ** 2).expand(2), atol=0, rtol=5 * math.sqrt(2) / 447
        )


def test_one_time_for_a_group_is_broadcast() -> None:
    x0, eps, t = torch.randn(3, 4, 2), torch.randn(3, 4, 2), torch.rand(3)
    each = SCHEDULE.add_noise(x0.reshape(12, 2), t.repeat_interleave(4), eps.reshape(12, 2))
    torch.testing.assert_close(SCHEDULE.add_noise(x0, t, eps), each.reshape(3, 4, 2))


def test_sampling_times() -> None:
    times = SCHEDULE.times(15)
    assert len(times) == 16 and (times.diff() < 0).all()
    assert times[0] == 1 and times[-1] == pytest.approx(1e-3)
    uniform = SCHEDULE.half_log_snr(times)
    torch.testing.assert_close(uniform.diff(), uniform.diff().mean().expand(15))


def test_draws_stay_in_range() -> None:
    t = SCHEDULE.draw_times(10_000, torch.Generator().manual_seed(0))
    assert t.min() >= SCHEDULE.t_min and t.max() <= 1


def test_bad_input_is_named() -> None:
    with pytest.raises(
        CepnbError, match="^rate_min 20.0 and rate_max 0.1: use 0 < rate_min < rate_max < inf$"
    ):
        VPSchedule(rate_min=20.0, rate_max=0.1)
    with pytest.raises(CepnbError, match="^t_min 0.0: use a time in"):
        VPSchedule(t_min=0.0)
    with pytest.raises(CepnbError, match="alpha at t = 1 underflows; use smaller rates"):
        VPSchedule(rate_max=1000.0)
    with pytest.raises(CepnbError, match="sigma at t_min underflows; use a larger t_min"):
        VPSchedule(t_min=1e-46)
    with pytest.raises(CepnbError, match="steps 0"):
        SCHEDULE.times(0)


def test_shapes_that_would_broadcast_raise() -> None:
    x = torch.randn(3, 3)
    with pytest.raises(CepnbError, match=r"eps has shape \(3,\); use that of x0, \(3, 3\)"):
        SCHEDULE.add_noise(x, torch.tensor(0.5), x[0])
    for t in (torch.rand(2), torch.rand(3, 3), torch.rand(3, 3, 1)):
        with pytest.raises(CepnbError, match="times or scales have shape"):
            SCHEDULE.add_noise(x, t, x)
    with pytest.raises(CepnbError, match="times or scales have shape"):
        SCHEDULE.add_noise(x[:1], torch.rand(3), x[:1])
