"""Your own density: exact answers by reweighted samples, and guidance trained by CEP."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cepnb.densities.metrics import gradient_error, w2
from cepnb.densities.mixtures import GaussianMixture
from cepnb.densities.own import FittedGuidance, fit_guidance, own_density
from cepnb.densities.settings import toy_settings
from cepnb.densities.toys import swiss_roll
from cepnb.diffusion.guidance import energy_gradient
from cepnb.errors import CepnbError

TILT = torch.tensor([0.8, -0.4])
BETA = 1.5
STEPS = 600


def gaussian(count: int, generator: torch.Generator | None = None) -> Tensor:
    return torch.randn(count, 2, generator=generator)


def linear(x: Tensor) -> Tensor:
    return x @ TILT


def test_own_density_agrees_with_the_closed_form() -> None:
    exact = swiss_roll()
    own = own_density(
        lambda count, g: exact.sample(count, g)[0],
        exact.energy,
        20_000,
        torch.Generator().manual_seed(0),
    )
    x0, _ = exact.tilted(3.0).sample(500, torch.Generator().manual_seed(1))
    time = torch.tensor(0.5)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
    xt = exact.schedule.add_noise(x0, time, eps)
    worth = own.effective_samples(xt, time, 3.0)
    assert worth.min() > 100
    error = own.intermediate_energy(xt, time, 3.0) - exact.intermediate_energy(xt, time, 3.0)
    assert (error.abs() < 6 / worth.sqrt()).all()  # the relative error of a self-normalised mean
    near_data = own.effective_samples(xt, torch.tensor(1e-3), 3.0)
    assert near_data.median() < 50  # few points contribute at small t
    assert own.log_partition(3.0).item() == pytest.approx(exact.log_partition(3.0).item(), abs=0.05)
    assert own.sample(10)[0].shape == own.tilted(3.0).sample(10)[0].shape == (10, 2)


def test_own_density_keeps_the_given_energy_and_smooths_it_over_the_points() -> None:
    own = own_density(gaussian, lambda x: (x[..., 0] > 0).float(), 5_000)
    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    assert own.energy(x).tolist() == [0, 1]
    low, high = own.energy(x, 1.0).tolist()
    assert 0 < low < 0.5 < high < 1


def test_own_density_keeps_no_graph_of_a_network_as_energy() -> None:
    net = torch.nn.Linear(2, 1)
    own = own_density(gaussian, lambda x: net(x).squeeze(-1), 100)
    assert not own.energies.requires_grad and not own.sample(5)[1].requires_grad


@pytest.mark.parametrize(
    "sampler, energy, message",
    [
        (lambda n, g: torch.zeros(n), lambda x: x, "sampler: returns shape .* return .10, dim."),
        (lambda n, g: torch.zeros(n, 2), lambda x: x, "energy: returns shape .* return .10,."),
        (lambda n, g: torch.zeros(n, 2).numpy(), lambda x: x, "sampler: returns ndarray"),
        (
            lambda n, g: torch.zeros(n, 2),
            lambda x: x[..., 0] / 0,
            "energy: returns values that are not finite",
        ),
    ],
)
def test_own_density_raises_on_wrong_functions(sampler, energy, message: str) -> None:
    with pytest.raises(CepnbError, match=message):
        own_density(sampler, energy, 10)


@pytest.mark.parametrize(
    "sampler, energy, message",
    [
        (lambda n: torch.zeros(n, 2), linear, r"sampler: .*; let it take \(count, generator\)"),
        (gaussian, lambda: torch.zeros(10), r"energy: .*; let it take \(x\)"),
    ],
)
def test_own_density_raises_on_wrong_arguments(sampler, energy, message: str) -> None:
    with pytest.raises(CepnbError, match=message):
        own_density(sampler, energy, 10)


def test_an_energy_that_changes_its_argument_leaves_the_points() -> None:
    own = own_density(gaussian, lambda x: x.mul_(0)[..., 0], 10)
    assert own.means.abs().min() > 0 and own.sample(5)[0].abs().min() > 0


@pytest.fixture(scope="module")
def fitted() -> FittedGuidance:
    settings = replace(toy_settings("ci"), score_steps=STEPS, steps=STEPS)
    return fit_guidance(gaussian, linear, BETA, settings=settings, progress=False)


def test_fitted_guidance_samples_the_exact_tilt(fitted: FittedGuidance) -> None:
    """A linear energy b·x moves N(0, I) to N(−βb, I)."""
    x = fitted.sample(1_000, seed=1)
    target = -BETA * TILT
    assert x.shape == (1_000, 2) and fitted.beta == BETA
    # The mean has an error of 0.03 from counting; the rest is the training error of small networks.
    assert (x.mean(0) - target).norm() < 0.15 * target.norm()
    assert (x.std(0) - 1).abs().max() < 0.15
    exact = gaussian(1_000, torch.Generator().manual_seed(2)) + target
    unguided = fitted.sample(1_000, seed=1, scale=0.0)
    assert w2(x, exact) < 0.3 * w2(unguided, exact)
    tilted, _ = fitted.density.tilted(BETA).sample(1_000, torch.Generator().manual_seed(3))
    assert w2(x, tilted) < 0.3 * w2(unguided, tilted)


def test_fitted_networks_predict_the_exact_gradient(fitted: FittedGuidance) -> None:
    closed_form = GaussianMixture(
        log_weights=torch.zeros(1),
        energies=torch.zeros(1),
        means=torch.zeros(1, 2),
        deviations=torch.ones(1),
        linear=TILT,
    )
    generator = torch.Generator().manual_seed(0)
    gradient = energy_gradient(fitted.energy)
    times = torch.tensor([0.1, 0.5])
    # 1 is as wrong as no guidance; a few per cent are left after so few steps.
    assert gradient_error(gradient, closed_form, BETA, times, generator=generator).max() < 0.1
    x, t = gaussian(500, generator), torch.tensor(0.3)
    assert (fitted.eps(x, t) - closed_form.eps(x, t)).square().mean() < 0.1


def test_fitted_guidance_depends_on_its_seed_alone() -> None:
    settings = replace(toy_settings("ci"), score_steps=5, steps=5)

    def samples(seed: int) -> Tensor:
        options = {"settings": settings, "seed": seed, "progress": False}
        return fit_guidance(gaussian, linear, BETA, **options).sample(20)

    assert torch.equal(samples(0), samples(0)) and not torch.equal(samples(0), samples(1))


@pytest.mark.parametrize(
    "sampler, beta, message",
    [
        (lambda n, g: torch.zeros(n, 3), 1.0, "sampler: returns 3 coordinates; .* needs 2"),
        (lambda n, g: torch.zeros(n, 2).double(), 1.0, "sampler: returns torch.float64; convert"),
        (gaussian, 0.0, "beta 0.0"),
        (gaussian, float("inf"), "beta inf"),
    ],
)
def test_fit_guidance_raises_on_what_it_cannot_train(
    sampler: Callable, beta: float, message: str
) -> None:
    with pytest.raises(CepnbError, match=message):
        fit_guidance(sampler, lambda x: x[..., 0], beta, profile="ci", progress=False)


def test_a_negative_scale_raises(fitted: FittedGuidance) -> None:
    with pytest.raises(CepnbError, match="scale -1.0 is no guidance scale"):
        fitted.sample(5, scale=-1.0)


def test_any_dimension_has_exact_answers() -> None:
    own = own_density(
        lambda n, g: torch.randn(n, 3, generator=g), lambda x: x.square().sum(-1), 500
    )
    x = torch.zeros(4, 3)
    assert own.intermediate_energy_gradient(x, torch.tensor(0.5), 1.0).shape == (4, 3)


@pytest.mark.parametrize(
    "n, scale, message",
    [
        (-1, 1.0, "n -1: use a number of samples, 0 or more"),
        (5, 1e300, "samples at scale 1e\\+300 are not finite; use a smaller scale"),
    ],
)
def test_bad_samples_are_refused(fitted: FittedGuidance, n, scale, message: str) -> None:
    with pytest.raises(CepnbError, match=message):
        fitted.sample(n, scale=scale)
    assert fitted.sample(0).shape == (0, 2)
