"""Single steps of the offline pipeline on problems small enough to know the answer."""

import math

import pytest
import torch

from cepnb.offline.gain import q_gains
from cepnb.offline.scaling import Transitions, with_jitter
from cepnb.profiles import settings
from cepnb.schedule import VPSchedule, expand_as

SCHEDULE = VPSchedule()


def test_a_jittered_copy_moves_a_state_and_its_next_alike() -> None:
    g = torch.Generator().manual_seed(0)
    distinct = torch.randn(201, 4, generator=g)
    data = Transitions(states=distinct[:200], actions=torch.randn(200, 2, generator=g), rewards=torch.randn(200, generator=g),
                       terminals=torch.zeros(200, dtype=torch.bool), next_row=torch.arange(1, 201), distinct=distinct)
    both = with_jitter(data, 0.3, g)
    for name, whole in vars(both).items():
        assert torch.equal(whole[:len(whole) // 2], getattr(data, name))
    moved, after = both.states[200:] - data.states, both.distinct[both.next_row[200:]] - data.distinct[data.next_row]
    torch.testing.assert_close(moved, after)
    assert moved.std().item() == pytest.approx(0.3, rel=0.1)
    assert torch.equal(both.actions[200:], data.actions) and torch.equal(both.rewards[200:], data.rewards)


def test_gains_of_exact_guidance_on_a_gaussian() -> None:
    """μ = N(0, 0.3² I) and Q = c·a: π is μ moved by β 0.09 c, so the gain is β 0.09 ‖c‖², and E_t is known."""
    chosen = settings("ci", clip_actions=False, beta=4.0, sampler_steps=30)
    slope, variance = torch.tensor([0.5, -1.0]), 0.09

    def eps(at, t, state=None):
        alpha, sigma = (expand_as(c, at) for c in (SCHEDULE.alpha(t), SCHEDULE.sigma(t)))
        return sigma * at / (alpha**2 * variance + sigma**2)

    def energy(at, t, state=None):
        alpha, sigma = (expand_as(c, at) for c in (SCHEDULE.alpha(t), SCHEDULE.sigma(t)))
        return -(chosen.beta * alpha * variance / (alpha**2 * variance + sigma**2) * at @ slope.unsqueeze(1)).squeeze(-1)

    records = q_gains(eps, lambda s, a: a @ slope, {"cep": energy}, torch.zeros(2000, 4), 2, chosen, SCHEDULE,
                      torch.Generator().manual_seed(0))
    exact = chosen.beta * variance * slope.square().sum().item()
    error = math.sqrt(variance * slope.square().sum().item() / 2000)  # of a mean over 2000 states; each side has more draws
    found = {(record["method"], record["scale"]): record["gain"] for record in records}
    assert found["cep", 1.0] == pytest.approx(exact, abs=3 * error)
    assert found["cep", 3.0] == pytest.approx(3 * exact, abs=5 * error)  # s on a linear energy is s on β
    assert exact - 0.05 < found["reweighted", None] < exact + 3 * error  # self-normalised over 64: a little low
