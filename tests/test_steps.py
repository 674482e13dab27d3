"""Single steps of QGPO on problems small enough to know the answer."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cepnb.datasets.dataset import OfflineDataset
from cepnb.diffusion.guidance import dps_energy, energy_gradient
from cepnb.diffusion.networks import QEnsemble
from cepnb.diffusion.schedule import VPSchedule, expand_as
from cepnb.diffusion.training import initialised
from cepnb.errors import CepnbError
from cepnb.qgpo.behaviour import behaviour_loss, behaviour_net
from cepnb.qgpo.critic import critic_loss, policy_value, support_values
from cepnb.qgpo.diagnostics import critic_errors, observed_returns, q_gains, summed_energy
from cepnb.qgpo.energy import contrast_loss, energy_loss, energy_net, train_energy
from cepnb.qgpo.joint import train_joint
from cepnb.qgpo.policy import best_of_policy, sample_actions
from cepnb.qgpo.settings import Settings, qgpo_settings
from cepnb.qgpo.support import sample_support
from cepnb.qgpo.transitions import Scaling, Transitions, prepare, with_jitter, with_reward_reach

SCHEDULE = VPSchedule()


def test_a_moved_copy_obeys_linear_dynamics_and_earns_less_off_the_data() -> None:
    g = torch.Generator().manual_seed(0)
    states, actions = torch.randn(200, 4, generator=g), torch.randn(200, 2, generator=g)
    states[:, 3] = 0.0  # a coordinate that never changes
    A, B = 0.1 * torch.randn(4, 4, generator=g), torch.randn(2, 4, generator=g)
    A[:, 3], B[:, 3], A[3] = 0.0, 0.0, 0.0
    step = lambda s, a: s + s @ A + a @ B + torch.tensor([0.5, 0.0, -0.2, 0.0])
    data = Transitions(
        states=states,
        actions=actions,
        rewards=torch.randn(200, generator=g),
        terminals=torch.rand(200, generator=g) < 0.1,
        next_row=torch.arange(200, 400),
        distinct=torch.cat([states, step(states, actions)]),
    )
    both = with_jitter(data, 0.3, g)
    for name, whole in vars(both).items():
        assert torch.equal(whole[: len(getattr(data, name))], getattr(data, name)), name
    moved = both.states[200:]
    torch.testing.assert_close(
        both.distinct[both.next_row[200:]], step(moved, actions), atol=1e-4, rtol=0
    )
    noise = moved - states
    assert not noise[:, 3].any()
    assert noise[:, :3].std().item() == pytest.approx(0.3 / math.sqrt(3), rel=0.1)  # E[u²] = 1/3
    length = noise.norm(dim=1)
    assert (length < 0.1).float().mean() > 0.1 and length.max() > 0.5  # near and far
    distance = (moved.unsqueeze(1) - states).norm(dim=2).amin(dim=1)
    assert (distance < length - 1e-3).any()  # another state can be nearer
    earned = with_reward_reach(both, 200, 0.4).rewards
    assert torch.equal(earned[:200], data.rewards)
    lowest, far = data.rewards.min(), distance >= 0.4
    assert far.any() and torch.equal(earned[200:][far], lowest.expand(int(far.sum())))
    expected = lowest + (data.rewards - lowest) * (1 - distance / 0.4)
    torch.testing.assert_close(earned[200:][~far], expected[~far])
    wide = replace(both, states=both.states.repeat(1, 5), distinct=both.distinct.repeat(1, 5))
    with pytest.raises(CepnbError, match="reward_reach 0.4: states have 20 coordinates; use 0, or"):
        with_reward_reach(wide, 200, 0.4)
    assert torch.equal(both.actions[200:], actions)
    assert torch.equal(both.terminals[200:], data.terminals)
    assert torch.equal(both.rewards[200:], data.rewards)


def test_gains_of_exact_guidance_on_a_gaussian() -> None:
    """μ = N(0, 0.3² I) and Q = c·a: π is μ shifted by β 0.09 c, the gain is β 0.09 ‖c‖², E_t is known."""
    known = dict(clip_actions=False, q_pessimism=0.0)  # one exact Q, so no bound
    chosen = qgpo_settings("ci", beta=4.0, sampler_steps=30, **known)
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


def test_eq_20_is_biased_where_good_actions_are_rare_and_right_elsewhere() -> None:
    """μ = N(0, 0.3²) and Q = c·a with βQ of a given deviation: ∇E_t is one number per time."""
    generator, n, spread = torch.Generator().manual_seed(0), 20_000, 0.3
    times = torch.tensor([0.2, 0.4])
    alpha, sigma = SCHEDULE.alpha(times), SCHEDULE.sigma(times)
    variance = alpha**2 * spread**2 + sigma**2

    def share(method: str, K: int, deviation: float, beta: float = 20.0) -> list[float]:
        """The learned gradient under π_t as a share of the exact one, at each time."""
        slope = deviation / (beta * spread)
        support = spread * torch.randn(n, K, 1, generator=generator)
        states, q = torch.zeros(n, 1), slope * support[..., 0]
        chosen = qgpo_settings(
            "ci",
            beta=beta,
            energy_K=K,
            energy_steps=1500,
            energy_batch=2048 // K,
            labels="self_normalised",
            energy_rate=2e-3,
        )
        net = train_energy(method, states, support, q, chosen, 0, progress=False)
        centre = alpha * beta * slope * spread**2  # of π_t
        noise = torch.randn(2, 500, 1, generator=generator)
        xt = centre[:, None, None] + variance.sqrt()[:, None, None] * noise
        found = energy_gradient(net)(xt, times, torch.zeros(2, 1, 1)).mean(dim=(1, 2))
        return (found / (-beta * slope * alpha * spread**2 / variance)).tolist()

    assert max(share("cep", 8, 2.0)) < 0.85
    for method in ("cep", "exp_mse"):
        found = share(method, 64, 1.0)
        assert all(0.88 < value < 1.12 for value in found), (method, found)


@pytest.mark.parametrize("contrasted", [6, 600])
def test_posterior_labels_are_minimised_by_the_exact_energy(contrasted: int) -> None:
    """A Gaussian μ with linear βQ = b a has closed forms of all energies; own labels are noisier."""
    g, K, b, variance = torch.Generator().manual_seed(0), 600, 6.0, 0.09
    a = math.sqrt(variance) * torch.randn(150, K, 1, generator=g)
    q, s = a[:, :, 0], torch.zeros(150, 1)

    def posterior(at: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        alpha, sigma = SCHEDULE.coefficients(t, at)
        noised = alpha**2 * variance + sigma**2
        return (alpha * variance * at / noised)[..., 0], (variance * sigma**2 / noised)[..., 0]

    def exact(method: str, factor: float = 1.0):
        def energy(at: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
            mean, spread = posterior(at, t)
            linear = -b * (mean - a.mean(dim=1))
            f = linear if method == "mse" else linear - b**2 * spread / 2
            return factor * f + (b**2 * variance / 2 if method == "exp_mse" else 0)

        return energy

    def loss(method: str, labels: str, factor: float = 1.0) -> float:
        chosen = qgpo_settings("ci", beta=b, labels=labels, contrasted=contrasted, energy_K=K)
        noise = torch.Generator().manual_seed(1)
        net = exact(method, factor)
        return contrast_loss(method, net, s, a, q, chosen, noise).double().mean().item()

    for method in ("mse", "exp_mse"):
        assert loss(method, "posterior") < 0.05 * loss(method, "self_normalised")
    low, found, high = (loss("cep", "posterior", factor) for factor in (0.8, 1.0, 1.2))
    assert found < low and found < high


def two_networks() -> QEnsemble:
    return initialised(0, "critic", lambda: QEnsemble(4, 2, width=16, depth=2))


def informed(**changes: object) -> Settings:
    return qgpo_settings("ci", q_in_energy=True, beta=2.0, **changes)


@pytest.mark.parametrize("shape", [(7,), (7, 5)])
def test_an_energy_that_starts_from_q_by_hand(shape: tuple[int, ...]) -> None:
    q, g = two_networks(), torch.Generator().manual_seed(0)
    net = energy_net(4, 2, informed(), 0, q)
    at = torch.randn(*shape, 2, generator=g)
    s = torch.randn(7, *[1] * (len(shape) - 1), 4, generator=g)
    t = torch.linspace(0.05, 0.95, 7)
    found, plain = net(at, t, s), energy_net(4, 2, qgpo_settings("ci"), 0)(at, t, s)
    for i, time in enumerate(t.tolist()):
        log_alpha = -19.9 / 4 * time**2 - 0.1 / 2 * time
        alpha, sigma = math.exp(log_alpha), math.sqrt(1 - math.exp(2 * log_alpha))
        gate = 1 / (1 + math.exp(-2.0 * (math.log(alpha / sigma) - 1.0)))
        a = (at[i] / alpha).clamp(-1, 1)
        mean = (q.nets[0](s[i], a) + q.nets[1](s[i], a)) / 2
        torch.testing.assert_close(found[i], plain[i] - 2.0 * gate * mean, rtol=1e-4, atol=1e-5)


def test_an_energy_that_starts_from_q_tends_to_it_without_noise() -> None:
    """At the smallest time, differences of f_φ within a state are those of −βQ."""
    q, g = two_networks(), torch.Generator().manual_seed(0)
    net = energy_net(4, 2, informed(), 0, q)
    torch.nn.init.zeros_(net.net.out.weight)
    a, s = 2 * torch.rand(9, 6, 2, generator=g) - 1, torch.randn(9, 1, 4, generator=g)
    t = torch.full((9,), SCHEDULE.t_min)
    f, expected = net(SCHEDULE.alpha(t)[:, None, None] * a, t, s), -2.0 * q.each(s, a).mean(dim=0)
    torch.testing.assert_close(f - f[:, :1], expected - expected[:, :1], rtol=0.01, atol=1e-3)


def test_training_an_energy_that_starts_from_q_leaves_q_alone() -> None:
    q, g = two_networks(), torch.Generator().manual_seed(0)
    before = {name: tensor.clone() for name, tensor in q.state_dict().items()}
    a, s = 2 * torch.rand(50, 8, 2, generator=g) - 1, torch.randn(50, 4, generator=g)
    values = support_values(q, s, a)
    chosen = informed(energy_K=8, energy_steps=20)
    net = train_energy("cep", s, a, values, chosen, 0, progress=False, q_net=q)
    assert all(torch.equal(tensor, before[name]) for name, tensor in q.state_dict().items())
    assert {name.partition(".")[0] for name in net.state_dict()} == {"net", "slope", "middle"}
    assert all(parameter.grad is None for parameter in q.parameters())
    assert net.slope.item() != 2.0 and net.middle.item() != 1.0
    with pytest.raises(CepnbError, match="^the critic is missing; .* needs the critic of its run$"):
        train_energy("cep", s, a, values, chosen, 0, progress=False)


def test_the_level_of_q_changes_no_loss_of_an_energy_that_starts_from_it() -> None:
    q, g = two_networks(), torch.Generator().manual_seed(0)
    a, s = 2 * torch.rand(50, 8, 2, generator=g) - 1, torch.randn(50, 4, generator=g)
    chosen, values = informed(energy_K=8), support_values(q, s, a)
    f = energy_net(4, 2, chosen, 0, q)
    for method in ("cep", "mse"):
        losses = []
        for level in (0.0, 300.0):
            for net in q.nets:
                net.out.bias.data += level
            noise = torch.Generator().manual_seed(1)
            losses.append(contrast_loss(method, f, s, a, values + level, chosen, noise).mean())
        assert 0 < losses[0] < 10
        torch.testing.assert_close(*losses, rtol=0.01, atol=0.0)


def test_an_energy_that_starts_from_q_learns_the_noised_energy_too() -> None:
    """μ = N(0, 0.3²) and Q = 2a, a network that is exact: ∇E_t is one number per time.

    The start −βQ has another slope at t > 0, so that h_φ must learn the difference.
    """
    g, beta, slope, variance = torch.Generator().manual_seed(0), 2.0, 2.0, 0.09
    q = initialised(0, "critic", lambda: QEnsemble(1, 1, width=4, depth=1))
    for net in q.nets:  # slope (relu(a) − relu(−a))
        for parameter in net.parameters():
            torch.nn.init.zeros_(parameter)
        net.first.weight.data[:2, 1] = torch.tensor([1.0, -1.0])
        net.out.weight.data[0, :2] = torch.tensor([slope, -slope])
    a = math.sqrt(variance) * torch.randn(3000, 64, 1, generator=g)
    s = torch.zeros(3000, 1)
    torch.testing.assert_close(q(s[:, None], a), slope * a[..., 0])
    chosen = informed(energy_K=64, energy_steps=1000, energy_rate=4e-3, energy_batch=64)
    net = train_energy("cep", s, a, slope * a[..., 0], chosen, 0, progress=False, q_net=q)
    t = torch.tensor([0.02, 0.1, 0.3, 0.5])
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    total = alpha**2 * variance + sigma**2
    truth = -beta * slope * alpha * variance / total
    centre = alpha * beta * slope * variance  # of π_t
    at = centre[:, None, None] + total.sqrt()[:, None, None] * torch.randn(4, 500, 1, generator=g)
    found = energy_gradient(net)(at, t, torch.zeros(4, 1, 1)).mean(dim=(1, 2))
    torch.testing.assert_close(found, truth, rtol=0.12, atol=0.0)


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


def test_observed_returns_of_ended_and_cut_episodes() -> None:
    """Rows 0–1 end in a terminal, 2–4 are cut, and 5–9 are cut too, with returns that are whole."""
    n, discount = 10, 0.4
    rewards, follows = torch.arange(1.0, n + 1), torch.arange(1, n + 1)
    ends = torch.tensor([1, 4, 9])
    follows[ends] = n + torch.arange(3)
    data = Transitions(
        states=torch.zeros(n, 1),
        actions=torch.zeros(n, 1),
        rewards=rewards,
        terminals=torch.arange(n) == 1,
        next_row=follows,
        distinct=torch.zeros(n + 3, 1),
    )
    returns, whole = observed_returns(data, discount)
    assert (
        whole.tolist() == [True] * 2 + [False] * 3 + [True] * 2 + [False] * 3
    )  # 0.4⁴ < 0.05 < 0.4³
    for first, last in ((0, 1), (2, 4), (5, 9)):
        for row in range(first, last + 1):
            terms = [discount ** (k - row) * (k + 1) for k in range(row, last + 1)]
            assert returns[row].item() == pytest.approx(sum(terms), rel=1e-5)
    walk, whole = observed_returns(data, discount, one_walk=True)
    terms = [discount ** (k - 4) * (k + 1) for k in range(4, 10)]
    assert walk[4].item() == pytest.approx(sum(terms), rel=1e-5) and whole[2:5].all()
    assert torch.equal(walk[:2], returns[:2]) and torch.equal(walk[5:], returns[5:])


def test_errors_of_a_known_critic() -> None:
    """Q1 = 3 + a₁ and Q2 = 3 + a₁ + a₂ of a bandit with reward a₁ agree by √½."""
    g, n = torch.Generator().manual_seed(0), 4_000
    actions = torch.randn(n, 2, generator=g)
    data = Transitions(
        states=torch.zeros(n, 1),
        actions=actions,
        rewards=actions[:, 0].clone(),
        terminals=torch.ones(n, dtype=torch.bool),
        next_row=torch.arange(n),
        distinct=torch.zeros(n, 1),
    )

    class Known(QEnsemble):
        def each(self, s: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
            return 3 + torch.stack([a[..., 0], a.sum(dim=-1)]) + 0 * s[..., 0]

    support = torch.randn(n, 6, 2, generator=g) - 1
    found = critic_errors(Known(1, 2), data, support, 0.9)
    low = torch.minimum(torch.zeros(10**6), torch.randn(10**6, generator=g)).mean().item()
    assert found["agreement"] == pytest.approx(math.sqrt(0.5), abs=0.02)
    assert found["return_bias"] == pytest.approx(3 + low, abs=0.05)
    # Support actions have means (−1, −1): Q1 falls by 1, and min(0, a₂) by about 0.68.
    assert found["data_less_support"] == pytest.approx(1.68, abs=0.1)
    assert 0.7 < found["return_rank_correlation"] < 1
    constant = critic_errors(Known(1, 2), data, 0 * support, 0.9)
    assert "agreement" not in constant and "return_bias" in constant


class Table(QEnsemble):
    """Three networks that know two states, with three actions a = (0,), (1,), (2,)."""

    LEVELS = torch.tensor([[0.0, 70.0], [9.0, 0.0], [-5.0, 10.0]])  # of each network and state
    EXTRA = torch.tensor([0.0, 3.0, -3.0])  # what the networks add to the last action

    def each(self, s: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        level = self.LEVELS[:, s[..., 0].long()]
        a = a[..., 0]
        return level + a + self.EXTRA[:, None, None] * (a == 2)


def test_pessimism_bounds_the_advantage_by_the_disagreement_about_it() -> None:
    q, s = Table(1, 1), torch.tensor([[[0.0]], [[1.0]]])
    a = torch.arange(3.0).reshape(1, 3, 1).expand(2, 3, 1)
    least = policy_value(q, qgpo_settings("ci", q_pessimism=0.0))(s, a)
    torch.testing.assert_close(least, torch.tensor([[-5.0, -4.0, -6.0], [0.0, 1.0, 5.0]]))
    # The networks' advantages are (−1, 0, 1), (−2, −1, 3) and (0, 1, −1): means −1, 0, 1 and
    # deviations 1, 1, 2, in both states alike, although the levels differ by 14 and by 70.
    for pessimism, expected in ((0.5, [-1.5, -0.5, 0.0]), (3.0, [-4.0, -3.0, -5.0])):
        chosen = qgpo_settings("ci", q_networks=3, target_networks=2, q_pessimism=pessimism)
        found = policy_value(q, chosen)(s, a)
        torch.testing.assert_close(found, torch.tensor(expected).expand(2, 3))
    sure, unsure = (qgpo_settings("ci", q_pessimism=kappa, best_of=3) for kappa in (3.0, 0.5))
    eps = lambda x, t, s=None: torch.zeros_like(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cepnb.qgpo.policy.sample_actions", lambda *rest: a)
        for chosen, best in ((sure, 1.0), (unsure, 2.0)):
            actions = best_of_policy(eps, q, 1, chosen)(s[:, 0], torch.Generator())
            assert actions.flatten().tolist() == [best, best]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_targets_of_few_drawn_support_actions(count: int) -> None:
    """Each target averages `count` different actions of its state; their mean is that of all 8."""
    n, K = 20_000, 8
    g = torch.Generator().manual_seed(0)
    support = torch.rand(2, K, 1, generator=g)
    data = Transitions(
        states=torch.zeros(2, 1),
        actions=torch.zeros(2, 1),
        rewards=torch.tensor([3.0, 3.0]),
        terminals=torch.tensor([False, False]),
        next_row=torch.tensor([1, 1]),
        distinct=torch.zeros(2, 1),
    )
    chosen = qgpo_settings(
        "ci",
        K=K,
        target_actions=count,
        target_networks=2,
        q_batch=n,
        beta_q=1e-6,
        discount=0.5,
        energy_K=8,
    )

    class First(QEnsemble):
        """Q(s, a) = a as target, Q = 0 as trained network."""

        def each(self, s: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
            return torch.zeros(2, *a.shape[:-1])

        def forward(self, s: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
            return a[..., 0]

    q = First(1, 1)
    targets = critic_loss(q, q, data, support, chosen)(g).sqrt()
    subsets = torch.combinations(support[1, :, 0], count).mean(dim=1)
    possible = 3 + 0.5 * subsets
    distance = (targets[:, None] - possible).abs().min(dim=1)
    assert distance.values.max() < 1e-5 and len(distance.indices.unique()) == len(possible)
    assert targets.mean().item() == pytest.approx(possible.mean().item(), abs=0.005)


@pytest.mark.parametrize(("number", "pairs"), [(2, [1.0, 1.0, 2.0]), (3, [1.0, 1.0, 1.0])])
def test_targets_take_the_minimum_of_some_networks(number: int, pairs: list[float]) -> None:
    """Constant networks 1, 2 and 4. The minima of two are of 1 and 4, of 2 and 1, and of 4 and 2."""
    sizes = dict(q_networks=3, target_networks=number, q_batch=6, K=4, discount=0.5)
    chosen = qgpo_settings("ci", **sizes)

    def constants(*values: float) -> QEnsemble:
        q = QEnsemble(4, 2, 8, 2, count=3).requires_grad_(False)
        for net, value in zip(q.nets, values, strict=True):
            net.out.weight.zero_()
            net.out.bias.fill_(value)
        return q

    data = example(rewards=torch.full((6,), 3.0), terminals=torch.zeros(6, dtype=torch.bool))
    loss = critic_loss(constants(0, 0, 0), constants(1, 2, 4), data, torch.zeros(6, 4, 2), chosen)
    targets = loss(torch.Generator().manual_seed(0)).sqrt()
    expected = 3 + 0.5 * torch.tensor(pairs).repeat_interleave(2)
    torch.testing.assert_close(targets, expected)


def test_joint_training_ends_where_staged_training_does() -> None:
    """A bandit of one step: Q = c·a exactly, so staged and joint energies have the same ∇E_t."""
    g, n, K, beta, deviation = torch.Generator().manual_seed(0), 2_000, 64, 2.0, 0.3
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
        energy_batch=32,
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
    assert found == pytest.approx(truth, rel=0.15)  # βQ deviates by 1.2 over μ: K = 64 costs little


def example(**changes: object) -> Transitions:
    parts = dict(
        states=torch.zeros(6, 4),
        actions=torch.zeros(6, 2),
        rewards=torch.zeros(6),
        terminals=torch.zeros(6, dtype=torch.bool),
        next_row=torch.arange(6),
        distinct=torch.zeros(6, 4),
    )
    return Transitions(**parts | changes)


def test_shapes_that_would_broadcast_in_a_loss_are_refused(as_users_call_it: None) -> None:
    data, support, values = example(), torch.zeros(6, 4, 2), torch.zeros(6, 4)
    chosen, g, actions = qgpo_settings("ci"), torch.Generator(), data.actions
    flat = lambda at, t, s=None: at.sum(-1, keepdim=True)  # (batch, K, 1) instead of (batch, K)
    contrast = lambda f, q: contrast_loss("mse", f, data.states, support, q, chosen, g)
    net = lambda *_: torch.zeros(4, 2)
    for work, reason in (
        (lambda: example(rewards=torch.zeros(6, 1)), r"rewards: shape is \(6, 1\); use \(6,\)"),
        (lambda: example(terminals=torch.zeros(6, 1)), r"terminals: shape is \(6, 1\)"),
        (lambda: example(states=torch.zeros(4)), r"states: shape is \(4,\); use \(n, ds\)"),
        (lambda: example(distinct=torch.zeros(6, 1)), r"distinct: shape .*; use \(m, 4\)"),
        (lambda: example(next_row=torch.arange(6) - 1), "next_row: .* from -1 to 4; use integers"),
        (lambda: example(next_row=torch.arange(6) + 1), "next_row: .* to 6; use integers from 0"),
        (
            lambda: example(next_row=torch.arange(6.0)),
            "next_row: type is torch.float32; use integers",
        ),
        (
            lambda: Transitions(**{key: value[:0] for key, value in vars(data).items()}),
            "states: there are no rows; use at least one transition",
        ),
        (
            lambda: critic_loss(None, None, data, support[:5], chosen),
            r"support: shape is \(5, 4, 2\); use \(6, K, 2\)",
        ),
        (
            lambda: critic_loss(Columns(), Columns(), data, support, chosen)(g),
            r"Q has shape \(128, 1\); use that of rewards, \(128,\)",
        ),
        (
            lambda: behaviour_loss(net, data.states, torch.zeros(7, 2), chosen),
            r"actions: shape is \(7, 2\); use \(6, da\)",
        ),
        (
            lambda: energy_loss("cep", flat, data.states, support, values[..., None], chosen),
            r"Q: shape is \(6, 4, 1\); use \(6, 4\)",
        ),
        (lambda: contrast(flat, values), r"f has shape \(6, 4, 1\); use that of labels"),
        (
            lambda: train_joint(data, support, data.states, support[:1], chosen, 0),
            r"actions: shape is \(1, 4, 2\); use \(6, energy_K, da\)",
        ),
        (
            lambda: support_values(lambda s, a: a, data.states, support),
            r"Q: shape is \(6, 4, 2\); use \(6, 4\)",
        ),
        (
            lambda: sample_actions(net, data.states[0], 2, chosen, g),
            r"states: shape is \(4,\); use \(n, ds\)",
        ),
        (
            lambda: Scaling(torch.zeros(4), torch.ones(4))(torch.zeros(6, 1)),
            r"observations: shape is \(6, 1\); use \(6, 4\)",
        ),
        (
            lambda: summed_energy(support, values[:1]),
            r"beta_q: shape is \(1, 4\); use \(6, 4\)",
        ),
        (
            lambda: summed_energy(support, values)(actions[:, None][:1], torch.tensor(0.5)),
            r"a_t: shape is \(1, 1, 2\); use \(6, k, 2\)",
        ),
    ):
        with pytest.raises(CepnbError, match=reason):
            work()


class Columns(torch.nn.Module):
    """Q as columns of shape (batch, 1)."""

    def forward(self, s: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return (s.sum(-1) + a.sum(-1))[..., None] if s.ndim == 2 else s.sum(-1) + a.sum(-1)

    def least_of(self, number: int, s: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return self(s, a)

    def each(self, s: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return torch.stack([self(s, a), self(s, a)])


def test_values_that_are_not_finite_stop_a_step_and_are_named(tmp_path: Path) -> None:
    data, chosen = example(), qgpo_settings("ci", beta=1e30, K=4)
    q = torch.full((6, 4), 1e10) * torch.arange(4.0)
    reason = "labels βQ: 24 of 24 values are not finite; use a smaller beta"
    with pytest.raises(CepnbError, match=f"^energy .cep.: {reason}$"):
        train_energy("cep", data.states, torch.zeros(6, 4, 2), q, chosen, 0)
    net = initialised(0, "broken", lambda: behaviour_net(4, 2, chosen, 0)).requires_grad_(False)
    net.out.bias[0] = math.nan
    reason = "support: chunk 0 of the actions: 48 of 48 values are not finite; train the"
    for path in (None, tmp_path / "set.npy"):
        with pytest.raises(CepnbError, match=reason):
            sample_support(net, data.states, 4, chosen, 0, path, progress=False)
    broken = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    broken[:, 0] = 3.4e38 * torch.tensor([1, -1, 1, -1, 1, -1])  # its deviation overflows
    ends = data.terminals, torch.tensor([1.0, 2.0])
    dataset = OfflineDataset("own", broken, data.actions, torch.arange(6.0), broken, *ends)
    with pytest.raises(CepnbError, match="own: deviations of observations: 1 of 4 values are not"):
        prepare(dataset)
    near = replace(dataset, observations=data.states, next_observations=data.states)
    close = torch.tensor([0.0, 1e-42])
    with pytest.raises(CepnbError, match="own: tuned rewards: 6 of 6 values are not finite"):
        prepare(replace(near, episode_returns=close, rewards=1 + near.rewards), "return_range")


@pytest.mark.parametrize("pessimism", [0.0, 1.0])
def test_the_best_action_of_unknown_values_is_unknown(
    as_users_call_it: None, pessimism: float
) -> None:
    """The maximum must not pick an action whose Q is NaN and pass it on as the best one."""

    class Unknown(QEnsemble):
        """Two networks, without a value where s > 0."""

        def each(self, s: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
            values = torch.where(s[..., 0] > 0, a.sum(-1) * math.nan, a.sum(-1))
            return torch.stack([values, values + a[..., 0]])

    chosen, q = qgpo_settings("ci", q_pessimism=pessimism), Unknown(1, 2)
    eps = lambda x, t, s=None: torch.zeros_like(x)
    states = torch.tensor([[1.0], [-1.0]])
    actions = best_of_policy(eps, q, 2, chosen)(states, torch.Generator().manual_seed(0))
    assert actions[0].isnan().all() and actions[1].isfinite().all()
