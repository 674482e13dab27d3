"""Single steps of QGPO on problems small enough to know the answer."""

import math
from dataclasses import replace

import pytest
import torch

from cepnb.diffusion.guidance import dps_energy, energy_gradient
from cepnb.diffusion.schedule import VPSchedule, expand_as
from cepnb.errors import CepnbError
from cepnb.qgpo.diagnostics import q_gains, summed_energy
from cepnb.qgpo.energy import energy_loss, train_energy
from cepnb.qgpo.joint import train_joint
from cepnb.qgpo.settings import qgpo_settings
from cepnb.qgpo.transitions import Transitions, with_jitter

SCHEDULE = VPSchedule()


def test_a_jittered_copy_moves_a_state_and_its_next_alike() -> None:
    g = torch.Generator().manual_seed(0)
    distinct = torch.randn(201, 4, generator=g)
    data = Transitions(
        states=distinct[:200],
        actions=torch.randn(200, 2, generator=g),
        rewards=torch.randn(200, generator=g),
        terminals=torch.zeros(200, dtype=torch.bool),
        next_row=torch.arange(1, 201),
        distinct=distinct,
    )
    both = with_jitter(data, 0.3, g)
    for name, whole in vars(both).items():
        assert torch.equal(whole[: len(whole) // 2], getattr(data, name))
    moved = both.states[200:] - data.states
    next_moved = both.distinct[both.next_row[200:]] - data.distinct[data.next_row]
    torch.testing.assert_close(moved, next_moved)
    assert moved.std().item() == pytest.approx(0.3, rel=0.1)
    assert torch.equal(both.actions[200:], data.actions)
    assert torch.equal(both.rewards[200:], data.rewards)


def test_gains_of_exact_guidance_on_a_gaussian() -> None:
    """μ = N(0, 0.3² I) and Q = c·a: π is μ shifted by β 0.09 c, the gain is β 0.09 ‖c‖², E_t is known."""
    chosen = qgpo_settings("ci", clip_actions=False, beta=4.0, sampler_steps=30)
    slope, variance, beta = torch.tensor([0.5, -1.0]), 0.09, 4.0

    def coefficients(at, t):
        alpha, sigma = expand_as(SCHEDULE.alpha(t), at), expand_as(SCHEDULE.sigma(t), at)
        return alpha, sigma, alpha**2 * variance + sigma**2

    def eps(at, t, state=None):
        _, sigma, total = coefficients(at, t)
        return sigma * at / total

    def energy(at, t, state=None):
        alpha, _, total = coefficients(at, t)
        return -(beta * alpha * variance / total * at @ slope.unsqueeze(1)).squeeze(-1)

    def gains(energies, settings):
        generator = torch.Generator().manual_seed(0)
        q = lambda s, a: a @ slope
        return q_gains(eps, q, energies, torch.zeros(2000, 4), 2, settings, generator)

    records = gains({"cep": energy}, chosen)
    exact = beta * variance * slope.square().sum().item()
    error = math.sqrt(variance * slope.square().sum().item() / 2000)  # of a mean over 2000 states
    draws = [record.get("draws") for record in records]
    assert draws == [8, 128, 8, 128, *[None] * len(chosen.scales)]
    # The last of several records of one key is the one with the most draws.
    found = {(record["method"], record["scale"]): record["gain"] for record in records}
    assert found["cep", 1.0] == pytest.approx(exact, abs=3 * error)
    # For a linear energy, scale s is the same as β·s.
    assert found["cep", 3.0] == pytest.approx(3 * exact, abs=5 * error)
    # Self-normalised over 128 actions: slightly too low.
    assert exact - 0.03 < found["reweighted", None] < exact + 3 * error
    assert found["summed", 1.0] == pytest.approx(found["reweighted", None], abs=3 * error)
    few = [record for record in gains({}, replace(chosen, energy_K=4)) if record["draws"] == 4]
    assert [record["method"] for record in few] == ["reweighted", "summed"]
    # The best of four actions is seldom as good as π.
    assert all(record["gain"] < 0.9 * exact for record in few)
    reweighted, summed = records[0]["gain"], records[2]["gain"]  # of eight actions
    assert few[0]["gain"] < reweighted < found["reweighted", None]
    assert few[1]["gain"] < summed < found["summed", 1.0]


def test_the_summed_energy_is_its_formula() -> None:
    g = torch.Generator().manual_seed(0)
    actions, beta_q, at = (
        torch.randn(3, *shape, generator=g, dtype=torch.float64)
        for shape in ((50, 2), (50,), (4, 2))
    )
    per_row = torch.tensor([[0.05], [0.5], [1.0]], dtype=torch.float64).expand(3, 4)
    for t in (torch.tensor(0.3, dtype=torch.float64), per_row):
        found = summed_energy(actions, beta_q)(at, t)
        for i in range(3):
            for j in range(4):
                time = t.expand(3, 4)[i, j]
                alpha, sigma = SCHEDULE.alpha(time), SCHEDULE.sigma(time)
                kernel = torch.distributions.Normal(alpha * actions[i], sigma)
                w = kernel.log_prob(at[i, j]).sum(dim=1).exp()
                expected = -((w * beta_q[i].exp()).sum() / w.sum()).log()
                torch.testing.assert_close(found[i, j], expected)


def test_labels_over_a_state_value_are_unbiased_where_good_actions_are_rare() -> None:
    """μ = N(0, 0.3²) and Q = c·a with βQ of deviation 2: ∇E_t is one number per time.

    With K = 8, Eq. 20 underestimates it. Labels over a value of other actions do not, and exponential
    regression, with its ceiling, by less than a fifth.
    """
    generator, n, K, deviation, beta = torch.Generator().manual_seed(0), 20_000, 8, 0.3, 20.0
    slope = 2.0 / (beta * deviation)
    support = deviation * torch.randn(n, K, 1, generator=generator)
    times = torch.tensor([0.2, 0.4])
    alpha, sigma = SCHEDULE.alpha(times), SCHEDULE.sigma(times)
    variance = alpha**2 * deviation**2 + sigma**2
    truth = -beta * slope * alpha * deviation**2 / variance
    states, q = torch.zeros(n, 1), slope * support[..., 0]
    shares = {}
    for method, labels in (
        ("cep", "self_normalised"),
        ("cep", "state_value"),
        ("exp_mse", "state_value"),
    ):
        chosen = qgpo_settings(
            "ci", beta=beta, energy_K=K, energy_steps=1500, energy_batch=256, labels=labels
        )
        net = train_energy(method, states, support, q, chosen, 0, progress=False)
        centre = alpha * beta * slope * deviation**2  # of π_t
        noise = torch.randn(2, 500, 1, generator=generator)
        xt = centre[:, None, None] + variance.sqrt()[:, None, None] * noise
        found = energy_gradient(net)(xt, times, torch.zeros(2, 1, 1)).mean(dim=(1, 2))
        shares[method, labels] = (found / truth).tolist()
    assert max(shares["cep", "self_normalised"]) < 0.85, shares
    assert all(0.88 < share < 1.12 for share in shares["cep", "state_value"]), shares
    assert all(0.8 < share < 1.12 for share in shares["exp_mse", "state_value"]), shares


def test_an_unknown_energy_is_refused() -> None:
    states, support, q = torch.zeros(3, 1), torch.zeros(3, 8, 1), torch.zeros(3, 8)
    with pytest.raises(CepnbError, match="^method 'dps': use one of cep, mse, exp_mse$"):
        energy_loss("dps", lambda *_: q, states, support, q, qgpo_settings("ci"))


def test_dps_of_a_state() -> None:
    """f = −βQ(s, E[a | a_t, s]): its gradient for μ = N(s, 0.3²) and Q = −(a − 2s)² by the chain rule."""
    s, t, beta = torch.linspace(-0.5, 0.5, 7)[:, None], torch.full((7,), 0.3), 2.0
    alpha, sigma = expand_as(SCHEDULE.alpha(t), s), expand_as(SCHEDULE.sigma(t), s)
    variance = alpha**2 * 0.09 + sigma**2
    eps = lambda at, time, state: sigma * (at - alpha * state) / variance
    f = dps_energy(eps, lambda a, state: (a - 2 * state).square().squeeze(-1), beta, SCHEDULE)
    at = torch.randn(7, 1, generator=torch.Generator().manual_seed(0))
    mean = s + alpha * 0.09 / variance * (at - alpha * s)
    expected = beta * 2 * (mean - 2 * s) * alpha * 0.09 / variance
    torch.testing.assert_close(energy_gradient(f)(at, t, s), expected)


def test_joint_training_ends_where_staged_training_does() -> None:
    """A bandit of one step: Q = c·a exactly, so staged and joint energies have the same ∇E_t."""
    g, n, K, beta, deviation = torch.Generator().manual_seed(0), 2_000, 16, 2.0, 0.3
    states, actions = torch.zeros(n, 1), deviation * torch.randn(n, 1, generator=g)
    data = Transitions(
        states=states,
        actions=actions,
        rewards=2 * actions[:, 0],
        terminals=torch.ones(n, dtype=torch.bool),
        next_row=torch.arange(n),
        distinct=states,
    )
    support = deviation * torch.randn(n, K, 1, generator=g)
    chosen = qgpo_settings(
        "ci",
        beta=beta,
        K=K,
        energy_K=K,
        energy_batch=128,
        q_steps=1_500,
        training="joint",
        guidance=("cep",),
        checkpoint_every=500,
    )
    nets = train_joint(data, support, states, support, chosen, 0, progress=False)
    at = torch.linspace(-0.8, 0.8, 50)[:, None]
    assert (nets["q"](torch.zeros(50, 1), at) - 2 * at[:, 0]).abs().max() < 0.15
    t = torch.tensor(0.3)
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    truth = (-2 * beta * alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)).item()
    found = energy_gradient(nets["cep"])(at, t, torch.zeros(50, 1)).mean().item()
    assert found == pytest.approx(truth, rel=0.15)  # βQ deviates by 1.2 over μ: K = 16 costs little
