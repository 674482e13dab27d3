"""Tabular problems, checked by their definitions, by brute force and by guided sampling."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from cepnb.diffusion.guidance import guided
from cepnb.diffusion.samplers import dpm_solver_pp, last
from cepnb.errors import CepnbError
from cepnb.qgpo.tabular import TabularMDP, action_density, maze_mdp, nearest_direction


def random_mdp(seed: int, states: int = 6, actions: int = 3) -> TabularMDP:
    g = torch.Generator().manual_seed(seed)
    return TabularMDP(
        torch.randint(states, (states, actions), generator=g),
        torch.randn(states, actions, generator=g, dtype=torch.float64),
        torch.rand(states, actions, generator=g, dtype=torch.float64).softmax(1),
        0.9,
    )


@pytest.mark.parametrize("seed", range(3))
def test_values_agree_with_iterated_sums(seed: int) -> None:
    mdp = random_mdp(seed)
    v = torch.zeros(6, dtype=torch.float64)
    for _ in range(600):
        v = (mdp.behaviour * (mdp.reward + 0.9 * v[mdp.next_state])).sum(1)
    torch.testing.assert_close(mdp.value(mdp.behaviour), v)
    torch.testing.assert_close((mdp.behaviour * mdp.action_value(mdp.behaviour)).sum(1), v)


@pytest.mark.parametrize("seed", range(3))
def test_the_tilted_policy_maximises_the_regularised_objective(seed: int) -> None:
    """By a general optimiser over the simplex, in one state."""
    mdp, beta = random_mdp(seed), 2.5
    q, mu = mdp.action_value(mdp.behaviour)[0].numpy(), mdp.behaviour[0].numpy()

    def cost(logits: np.ndarray) -> float:
        pi = np.exp(logits - logits.max())
        pi /= pi.sum()
        return -(pi @ q - pi @ np.log(pi / mu) / beta)

    best = minimize(cost, np.zeros(3), tol=1e-12)
    ours = mdp.tilted(torch.tensor(q)[None].expand(6, 3), beta)[0]
    found = np.exp(best.x - best.x.max())
    np.testing.assert_allclose(ours.numpy(), found / found.sum(), atol=1e-5)
    soft = np.log((mu * np.exp(beta * q)).sum()) / beta
    assert -best.fun == pytest.approx(soft, abs=1e-9)  # the maximum is the soft value


@pytest.mark.parametrize("seed", range(5))
def test_tilting_improves_and_the_fixed_point_is_its_own_value(seed: int) -> None:
    mdp = random_mdp(seed)
    plain = mdp.action_value(mdp.behaviour)
    torch.testing.assert_close(mdp.in_support_q(0.0), plain)
    for beta in (0.1, 1.0, 10.0):
        assert (mdp.value(mdp.tilted(plain, beta)) >= mdp.value(mdp.behaviour) - 1e-9).all()
        q = mdp.in_support_q(beta)
        torch.testing.assert_close(mdp.action_value(mdp.tilted(q, beta)), q)
    best = torch.zeros_like(plain)
    for _ in range(600):
        best = mdp.reward + 0.9 * best.max(1).values[mdp.next_state]
    torch.testing.assert_close(mdp.in_support_q(1e6), best, atol=1e-4, rtol=1e-4)


def test_full_steps_can_cycle() -> None:
    mdp = random_mdp(0)
    with pytest.raises(
        CepnbError, match="beta 1: Q has not settled after 2000 sweeps, still changing by 0.77"
    ):
        mdp.in_support_q(1.0, step=1.0, sweeps=2000)


def test_guided_actions_have_the_probabilities_of_the_table() -> None:
    mdp, cells = maze_mdp("umaze", 0.9)
    assert len(cells) == 7 and cells[-1] == (1, 1)
    q, beta, state = mdp.in_support_q(3.0), 3.0, 3
    density = action_density(mdp.behaviour[state], q[state])
    p = density.tilted(beta)
    torch.testing.assert_close(
        p.log_weights.softmax(0).double(), mdp.tilted(q, beta)[state], atol=1e-5, rtol=1e-4
    )
    gradient = lambda xt, t, condition=None: density.intermediate_energy_gradient(xt, t, beta)
    eps = guided(density.eps, gradient, density.schedule)
    start = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0))
    moves = nearest_direction(
        last(dpm_solver_pp(eps, start, density.schedule.times(30), density.schedule))
    )
    share = moves.bincount(minlength=4).double() / len(moves)
    assert (share - mdp.tilted(q, beta)[state]).abs().max() < 0.012


def test_bad_tables_are_refused() -> None:
    mdp = random_mdp(0)
    with pytest.raises(CepnbError, match="discount 1.0: use a number"):
        TabularMDP(mdp.next_state, mdp.reward, mdp.behaviour, 1.0)
    with pytest.raises(CepnbError, match="behaviour: use positive probabilities"):
        TabularMDP(mdp.next_state, mdp.reward, mdp.behaviour - 0.5, 0.9)


def test_rewards_and_policies_that_do_not_fit_are_refused(as_users_call_it: None) -> None:
    mdp = random_mdp(0, states=3)
    broken = mdp.reward.clone()
    broken[0, 0] = torch.nan
    with pytest.raises(CepnbError, match="^reward: 1 of 9 values are not finite; use finite"):
        replace(mdp, reward=broken)
    with pytest.raises(CepnbError, match=r"^Q has shape \(3,\); use that of behaviour"):
        mdp.tilted(mdp.reward[0], 1.0)
    with pytest.raises(CepnbError, match=r"^policy has shape \(1, 3\); use that of"):
        mdp.value(mdp.behaviour[:1])


def test_actions_that_are_not_finite_have_no_direction() -> None:
    for bad in (torch.nan, torch.inf):
        with pytest.raises(CepnbError, match="actions: 1 of 4 values are not finite"):
            nearest_direction(torch.tensor([[bad, 0.0], [1.0, 0.0]]))
