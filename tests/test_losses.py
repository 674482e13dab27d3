"""The losses against theory: minimisers by brute force on small discrete problems."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import gammaln

from cepnb.diffusion import losses
from cepnb.errors import CepnbError
from cepnb.storage.validation import check_beta, check_scale


def two_point_gap(K: int, self_normalised: bool) -> float:
    """Minimiser of the expected contrastive loss on two points, by enumeration of all groups of K.

    The good point has prior 5 % and an energy lower by 10; x_t shows the wrong point 10 % of the
    time. Returns f(bad) − f(good) by bisection on a hand-written derivative, without the package.
    """
    prior, gap, wrong = 0.05, 10.0, 0.1
    kinds = [(good, seen) for good in (1, 0) for seen in (1, 0)]  # (x_0 is good, x_t looks good)
    probability = [
        (prior if g else 1 - prior) * ((1 - wrong) if g == s else wrong) for g, s in kinds
    ]
    weight = [math.exp(gap) if g else 1.0 for g, _ in kinds]
    counts = [
        (i, j, k, K - i - j - k)
        for i in range(K + 1)
        for j in range(K + 1 - i)
        for k in range(K + 1 - i - j)
    ]

    groups = np.array(counts, dtype=float)
    shown = groups[:, 0] + groups[:, 2]  # samples whose x_t looks good
    log_ways = math.lgamma(K + 1) - gammaln(groups + 1).sum(axis=1) + groups @ np.log(probability)
    labels = groups @ weight
    label_shown = (groups[:, [0, 2]] @ [weight[0], weight[2]]) / labels
    factor = np.exp(log_ways) * (1.0 if self_normalised else labels)

    def derivative(d: float) -> float:
        predicted = shown * math.exp(d) / (shown * math.exp(d) + K - shown)
        return float(factor @ (predicted - label_shown))

    low, high = -20.0, 20.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (low, middle) if derivative(middle) > 0 else (middle, high)
    return low


def package_gap(K: int, self_normalised: bool, groups: int = 200_000) -> float:
    """The same minimiser of the package's losses on sampled groups, by scipy."""
    generator = torch.Generator().manual_seed(K)
    good = torch.rand(groups, K, generator=generator) < 0.05
    looks = good ^ (torch.rand(groups, K, generator=generator) < 0.1)
    beta_energy = torch.where(good, -10.0, 0.0).double()

    def mean_loss(d: float) -> float:
        f = -d * looks.double()
        if self_normalised:
            return losses.cep_self_normalised(f, beta_energy).mean().item()
        return losses.cep(f, beta_energy, 7.0).mean().item()

    return float(minimize_scalar(mean_loss, bounds=(-10, 10), method="bounded").x)


TRUE_GAP = math.log((0.045 * math.exp(10) + 0.095) / 0.14) - math.log(
    (0.005 * math.exp(10) + 0.855) / 0.86
)


@pytest.mark.parametrize("K, biased", [(2, 0.65), (4, 1.06), (16, 2.29)])
def test_eq12_is_exact_at_every_K_and_eq13_is_not(K: int, biased: float) -> None:
    assert two_point_gap(K, self_normalised=False) == pytest.approx(
        TRUE_GAP, abs=1e-9
    )  # Theorem 3.2
    assert two_point_gap(K, self_normalised=True) == pytest.approx(biased, abs=0.01)
    # Sampling error of 200,000 groups: good points that look bad are rare.
    assert package_gap(K, False) == pytest.approx(two_point_gap(K, False), abs=0.15)
    assert package_gap(K, True) == pytest.approx(two_point_gap(K, True), abs=0.1)


groups = st.integers(0, 2**31).map(
    lambda seed: torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(seed))
)


@given(groups, st.floats(-50, 50))
def test_constants_do_not_matter(pair: torch.Tensor, shift: float) -> None:
    f, energy = pair.double()
    base = losses.cep_self_normalised(f, energy)
    torch.testing.assert_close(losses.cep_self_normalised(f + shift, energy - shift), base)
    torch.testing.assert_close(losses.cep(f + shift, energy, 1.0), losses.cep(f, energy, 1.0))
    # A constant in E cancels against the same constant in the normaliser.
    torch.testing.assert_close(
        losses.cep(f, energy + shift, 1.0 - shift), losses.cep(f, energy, 1.0)
    )


@given(groups, st.permutations(range(5)))
def test_order_of_the_samples_does_not_matter(pair: torch.Tensor, order: list[int]) -> None:
    f, energy = pair.double()
    for loss in (losses.cep, losses.cep_self_normalised):
        torch.testing.assert_close(loss(f[:, order], energy[:, order]), loss(f, energy))


@given(groups)
def test_normalisers_agree_where_they_must(pair: torch.Tensor) -> None:
    f, energy = pair.double()
    log_sum = torch.logsumexp(-energy, dim=-1)
    self_normalised = losses.cep_self_normalised(f, energy)
    torch.testing.assert_close(losses.cep(f, energy, log_sum), self_normalised)
    entropy = -(torch.softmax(-energy, -1) * torch.log_softmax(-energy, -1)).sum(-1)
    assert (losses.cep_self_normalised(f, energy) >= entropy - 1e-12).all()  # Gibbs' inequality
    torch.testing.assert_close(losses.cep_self_normalised(energy, energy), entropy)


@pytest.mark.parametrize("size", [1.0, 1e2, 1e4])
def test_float32_survives_large_energies(size: float) -> None:
    energy = size * torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    f = torch.zeros(64, 16, requires_grad=True)
    for loss in (
        losses.cep_self_normalised(f, energy),
        losses.cep(f, energy, torch.logsumexp(-energy, -1)),
    ):
        (gradient,) = torch.autograd.grad(loss.sum(), f)
        assert torch.isfinite(loss).all() and torch.isfinite(gradient).all()
    assert torch.isfinite(
        losses.softmax_q_target(
            torch.zeros(64), torch.zeros(64, dtype=torch.bool), energy, 3.0, 0.99
        )
    ).all()


def test_minimisers_of_mse_and_exponentiated_mse() -> None:
    energy = torch.tensor([0.3, -1.2, 2.0, 0.1], dtype=torch.float64)
    grid = torch.linspace(-3, 3, 60_001, dtype=torch.float64).unsqueeze(1)
    best_mse = grid[losses.mse(*torch.broadcast_tensors(grid, energy)).mean(dim=1).argmin()]
    best_exponential = grid[
        losses.exponentiated_mse(*torch.broadcast_tensors(grid, energy)).mean(dim=1).argmin()
    ]
    exact = -np.log(np.mean(np.exp(-energy.numpy())))
    # The grid's step is 1e-4.
    assert float(best_mse) == pytest.approx(np.mean(energy.numpy()), abs=2e-4)
    assert float(best_exponential) == pytest.approx(exact, abs=2e-4)


def test_softmax_target_by_hand() -> None:
    next_q = torch.tensor([[0.0, math.log(3.0)], [5.0, 5.0]])
    target = losses.softmax_q_target(
        torch.tensor([1.0, 2.0]), torch.tensor([False, True]), next_q, 1.0, 0.9
    )
    assert target.tolist() == pytest.approx([1 + 0.9 * 0.75 * math.log(3.0), 2.0])


@given(groups, st.floats(0.01, 100))
def test_soft_value_is_between_mean_and_maximum(pair: torch.Tensor, beta: float) -> None:
    q = pair[0].double()
    value = losses.soft_value(q, beta)
    assert (value <= q.max(-1).values + 1e-9).all() and (value >= q.mean(-1) - 1e-9).all()


def test_noise_prediction_is_one_value_per_example() -> None:
    loss = losses.noise_prediction(
        torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    )
    assert loss.tolist() == [2.5, 0.0]


def test_bad_input_is_named() -> None:
    one = torch.zeros(3, 1)
    for loss in (losses.cep, losses.cep_self_normalised):
        with pytest.raises(CepnbError, match="K 1: use at least 2"):
            loss(one, one)
    for beta in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(CepnbError, match="beta .*: use a finite number above 0"):
            losses.soft_value(torch.zeros(1, 2), beta)
        with pytest.raises(CepnbError, match="beta"):
            losses.softmax_q_target(
                torch.zeros(1), torch.zeros(1, dtype=torch.bool), torch.zeros(1, 2), beta, 0.99
            )


ROWS, COLUMN = torch.zeros(4, 4), torch.zeros(4, 1)
TERMINAL = torch.zeros(4, dtype=torch.bool)


@pytest.mark.usefixtures("as_users_call_it")
@pytest.mark.parametrize(
    "loss",
    [
        lambda: losses.noise_prediction(ROWS, COLUMN),
        lambda: losses.cep(ROWS, COLUMN),
        lambda: losses.cep(ROWS, ROWS, COLUMN),
        lambda: losses.cep_self_normalised(ROWS, COLUMN),
        lambda: losses.mse(ROWS[0], COLUMN),
        lambda: losses.exponentiated_mse(ROWS[0], COLUMN),
        lambda: losses.exponentiated_mse(ROWS, ROWS, COLUMN),
        lambda: losses.softmax_q_target(COLUMN, TERMINAL, ROWS, 1.0, 0.9),
        lambda: losses.softmax_q_target(ROWS[0], TERMINAL.unsqueeze(1), ROWS, 1.0, 0.9),
    ],
)
def test_inputs_are_not_broadcast(loss) -> None:
    """A column against a row would give a matrix of pairs that do not belong together."""
    with pytest.raises(CepnbError, match=r"has shape .*; use that of"):
        loss()


@pytest.mark.parametrize("number", [2, 2.0, np.float32(2), np.float64(2), np.int64(2)])
def test_numbers_are_python_floats_after_their_check(number) -> None:
    for check in (check_beta, check_scale):
        assert type(check(number)) is float and check(number) == 2


@pytest.mark.parametrize("value", [True, "2", None, [2.0], np.ones(1), torch.tensor(2.0), 10**400])
def test_other_types_than_numbers_are_named(value) -> None:
    for check in (check_beta, check_scale):
        with pytest.raises(CepnbError, match="use a finite number"):
            check(value)
