"""Your own density: exact answers by reweighted samples, and guidance trained by CEP."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from cepnb.densities.methods import guided_samples, score_net
from cepnb.densities.metrics import gradient_error, w2
from cepnb.densities.mixtures import GaussianMixture
from cepnb.densities.own import FittedGuidance, SampledDensity, fit_guidance, own_density
from cepnb.densities.settings import toy_settings
from cepnb.densities.toys import swiss_roll
from cepnb.diffusion.guidance import energy_gradient
from cepnb.diffusion.training import seeded
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


def test_few_effective_samples_are_named() -> None:
    """For a Gaussian and E = a·x, n_eff/n tends to Z(β)²/Z(2β) = e^{−β²‖a‖²}."""
    own = own_density(gaussian, linear, 20_000, seeded(0, "reliability"))
    share = math.exp(-(BETA**2) * float(TILT @ TILT))
    count, rest = own.reliability(BETA).split(" ", 1)
    assert int(count.replace(",", "")) == pytest.approx(20_000 * share, rel=0.2)
    assert rest == "effective samples of 20,000 at β = 1.5"
    for density in (own, own.standardised()):
        assert density.reliability(5.0).endswith(
            "too few to trust; use a smaller β or more samples"
        )


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


@pytest.mark.usefixtures("as_users_call_it")
@pytest.mark.parametrize(
    "sampler, beta, message",
    [
        (lambda n, g: torch.zeros(n, 3), 1.0, "sampler: returns points of deviation 0 and size up"),
        (lambda n, g: torch.full((n, 2), 0.1), 1.0, "return points that differ by more than round"),
        (lambda n, g: 1e8 + gaussian(n, g), 1.0, "sampler: returns points of .* size up to 1e.08"),
        (gaussian, 0.0, "beta 0.0"),
        (gaussian, float("inf"), "beta inf"),
        (gaussian, 1e38, "beta times the energy: .* values are not finite; use a smaller beta"),
        (gaussian, True, "beta of type bool: use a finite number above 0"),
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


def fitted_tilt(
    scale: float, offset: float, dim: int = 2, dtype: torch.dtype = torch.float32, steps: int = 50
) -> FittedGuidance:
    """Fit N(offset, scale² I) and a linear energy of slope 1/scale in the first coordinate."""
    settings = replace(toy_settings("ci"), score_steps=steps, steps=steps)
    draw = lambda n, g: offset + scale * torch.randn(n, dim, generator=g).to(dtype)
    energy = lambda x: (x[..., 0] - offset) / scale
    return fit_guidance(draw, energy, BETA, settings=settings, progress=False)


@pytest.fixture(scope="module")
def unit_samples() -> Tensor:
    return fitted_tilt(1.0, 0.0).sample(50, seed=1)


@pytest.mark.parametrize(
    "scale, offset, dtype",
    [
        (0.03, 0.0, torch.float32),
        (300.0, 0.0, torch.float32),
        (1.0, 100.0, torch.float32),
        (0.03, -1e4, torch.float64),
    ],
)
def test_units_and_offset_do_not_matter(
    unit_samples: Tensor, scale: float, offset: float, dtype: torch.dtype
) -> None:
    """The same seed gives the same samples in any units, up to rounding."""
    x = fitted_tilt(scale, offset, dtype=dtype).sample(50, seed=1)
    assert x.dtype == dtype
    # At an offset of 100, a coordinate has an error of 4e-6 from the start.
    torch.testing.assert_close(((x - offset) / scale).float(), unit_samples, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dim", [1, 3])
def test_a_tilt_in_another_dimension_than_two(dim: int) -> None:
    """N(m, s²) with the energy x_0/s moves by −β s in its first coordinate."""
    x = (fitted_tilt(20.0, 7.0, dim, steps=600).sample(1_000, seed=1) - 7.0) / 20.0
    assert x.shape == (1_000, dim)
    target = torch.tensor([-BETA, 0.0, 0.0])[:dim]
    # 0.03 from counting; the rest is the training error of small networks.
    assert (x.mean(0) - target).abs().max() < 0.2 and (x.std(0) - 1).abs().max() < 0.25


def test_standardised_points_keep_their_energies() -> None:
    """An energy that is not continuous sees the reader's points, not rounded ones."""
    grid = lambda n, g: 100 + 0.1 * torch.randint(3, (n, 2), generator=g)
    own = own_density(grid, lambda x: (x[..., 0] != x.min()).double(), 200)
    standard = own.standardised()
    assert own.means.min() > 99 and abs(standard.means.mean()) < 1e-3
    assert standard.means.square().mean().item() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(standard.restored(standard.means), own.means)
    x, energy = standard.sample(500, torch.Generator().manual_seed(0))
    assert torch.equal(energy == 0, x[:, 0] < -1) and energy.dtype == torch.float32
    assert own.tilted(50.0).sample(100)[0][:, 0].max() < 100.05  # in the reader's coordinates


def test_exact_guidance_of_another_scale_than_one_raises() -> None:
    """Sampling starts from N(0, I), which is no end of the forward process of these points."""
    own = own_density(lambda n, g: 300 * gaussian(n, g), lambda x: x[..., 0] / 300, 500)
    settings = replace(toy_settings("ci"), samples=300)

    def samples(density: SampledDensity) -> Tensor:
        gradient = lambda x, t, c=None: density.intermediate_energy_gradient(x, t, BETA)
        return guided_samples(density.eps, gradient, density, settings, seeded(0, "own"))

    with pytest.raises(CepnbError, match="density: deviation 3.. .*; use standardised"):
        samples(own)
    with pytest.raises(CepnbError, match="density: deviation 3.. around means"):
        score_net(own, settings, 0)
    x = own.standardised().restored(samples(own.standardised())) / 300
    tilted = own.tilted(BETA).sample(300)[0] / 300
    assert (x.mean(0) - tilted.mean(0)).abs().max() < 0.3


def test_an_energy_in_float64_gives_the_type_of_the_points() -> None:
    own = own_density(gaussian, lambda x: x[..., 0].double(), 100)
    x, t = torch.zeros(3, 2), torch.tensor(0.5)
    assert own.intermediate_energy(x, t, 1.0).dtype == own.energy(x).dtype == torch.float32
    assert own.sample(5)[1].dtype == torch.float32


def test_a_sampler_that_changes_its_shape_later_raises() -> None:
    own = own_density(lambda n, g: torch.randn(n, 2 if n == 100 else 1), linear, 100)
    with pytest.raises(CepnbError, match=r"sampler: returns shape \(7, 1\) for 7 points"):
        own.sample(7)


@pytest.mark.usefixtures("as_users_call_it")
def test_numbers_of_numpy_are_numbers(fitted: FittedGuidance) -> None:
    x = fitted.sample(np.int64(4), scale=np.float32(0.5))
    assert torch.equal(x, fitted.sample(4, scale=0.5))
    with pytest.raises(CepnbError, match="n True: use a number of samples"):
        fitted.sample(True)


def trained_samples(energy: Callable, draw: Callable = gaussian, steps: int = 50) -> Tensor:
    settings = replace(toy_settings("ci"), score_steps=steps, steps=steps)
    return fit_guidance(draw, energy, BETA, settings=settings, progress=False).sample(50, seed=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_in_the_energy_does_not_matter(unit_samples: Tensor, dtype) -> None:
    """Float32 keeps no digit of x_0 next to 10⁹; float64 does."""
    draw = lambda n, g: gaussian(n, g).to(dtype)
    x = trained_samples(lambda x: x[..., 0].double() + 1e9, draw)
    torch.testing.assert_close(x.float(), unit_samples, atol=1e-4, rtol=1e-4)
    raised, plain = (
        own_density(draw, lambda x: x[..., 0].double() + c, 500, seeded(0, "own"))
        for c in (1e9, 0.0)
    )
    torch.testing.assert_close(
        raised.tilted(3.0).log_weights, plain.tilted(3.0).log_weights, atol=1e-4, rtol=1e-4
    )
    assert raised.tilted(3.0).energies.min() > 9e8


def test_energies_that_differ_by_rounding_only_are_refused() -> None:
    for size in (1e9, 1e8):
        with pytest.raises(CepnbError, match="energy: .* subtract a constant, or return float64"):
            own_density(gaussian, lambda x: x[..., 0] + size, 500)
    assert own_density(gaussian, lambda x: x[..., 0] > 0, 500).energies.max() == 1


@pytest.mark.parametrize("scale", [(50.0, 0.5), (1000.0, 1.0), (1.0, 1e-6)])
def test_each_coordinate_has_its_own_unit(unit_samples: Tensor, scale: tuple) -> None:
    units = torch.tensor(scale)
    x = trained_samples(lambda x: x[..., 0] / scale[0], lambda n, g: units * gaussian(n, g))
    torch.testing.assert_close(x / units, unit_samples, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e8])
def test_a_constant_coordinate_stays_constant(value: float, dtype: torch.dtype) -> None:
    def draw(n: int, g: torch.Generator) -> Tensor:
        return torch.stack(
            [gaussian(n, g)[:, 0].to(dtype), torch.full((n,), value, dtype=dtype)], 1
        )

    x = trained_samples(lambda x: x[..., 0], draw, steps=200)
    assert abs(x[:, 0].std() - 1) < 0.3 and abs(x[:, 0].mean() + BETA) < 0.5
    torch.testing.assert_close(x[:, 1], torch.full((50,), value, dtype=dtype))


def test_a_coordinate_that_differs_by_rounding_only_is_refused() -> None:
    draw = lambda n, g: gaussian(n, g) * torch.tensor([4.0, 1.0]) + torch.tensor([1e8, 0.0])
    with pytest.raises(CepnbError, match="size up to 1e.08 in coordinate 0; return points that"):
        own_density(draw, linear, 500)


def test_exact_gradients_keep_their_digits_far_from_the_origin() -> None:
    draw = lambda n, g: 1e6 + gaussian(n, g)
    energy = lambda x: x[..., 0].double() - 1e6
    time = torch.tensor(0.5)
    rough, exact = (
        own_density(lambda n, g: draw(n, g).to(dtype), energy, 2_000, seeded(0, "own"))
        for dtype in (torch.float32, torch.float64)
    )
    x = rough.schedule.alpha(time) * rough.means[:5]
    truth = exact.intermediate_energy_gradient(x.double(), time.double(), BETA)
    error = rough.intermediate_energy_gradient(x, time, BETA).double() - truth
    assert error.abs().max() < 0.01 * truth.abs().max()


@pytest.mark.usefixtures("as_users_call_it")
@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda n, g: torch.empty(n, 2).cauchy_(generator=g), "sampler: the outermost 2 % .* cut"),
        (lambda n, g: gaussian(n, g) > 0, "sampler: returns torch.bool; return float32 or float64"),
        (lambda n, g: torch.complex(gaussian(n, g), gaussian(n, g)), "sampler: returns torch.comp"),
        (lambda n, g: gaussian(n, g) / (n == 20_000), "sampler: returns values that are not fin"),
    ],
)
def test_samplers_that_training_cannot_use_are_named(draw: Callable, message: str) -> None:
    """The last one returns infinities after the first draw."""
    with pytest.raises(CepnbError, match=message):
        fit_guidance(draw, lambda x: x[..., 0].real.float(), 1.0, profile="ci", progress=False)


def test_one_outlier_is_refused() -> None:
    def draw(n: int, g: torch.Generator) -> Tensor:
        x = gaussian(n, g)
        x[0, 1] = 1e4
        return x

    with pytest.raises(CepnbError, match="the outermost 2 % .*; cut its heavy tails off"):
        fit_guidance(draw, linear, 1.0, profile="ci", progress=False)


@pytest.mark.usefixtures("as_users_call_it")
def test_energies_and_points_of_other_shapes_raise() -> None:
    own = own_density(gaussian, lambda x: x[..., 0] if x.ndim == 2 else x, 100)
    for density in (own, own.standardised()):
        with pytest.raises(CepnbError, match=r"points have shape \(4, 1\); use \(\*batch, 2\)"):
            density.energy(torch.zeros(4, 1))
        with pytest.raises(CepnbError, match="energy has shape .*; use that of x"):
            density.energy(torch.zeros(3, 4, 2))


@pytest.mark.usefixtures("as_users_call_it")
@pytest.mark.parametrize("seed", [True, 1.0, None, "a", -1, 2**40])
def test_seeds_that_are_no_integers_are_refused(fitted: FittedGuidance, seed: object) -> None:
    for use in (
        lambda: fitted.sample(3, seed=seed),
        lambda: fit_guidance(gaussian, linear, BETA, profile="ci", seed=seed, progress=False),
    ):
        with pytest.raises(CepnbError, match="^seed .*: use an integer from 0 to 2147483647$"):
            use()


@pytest.mark.usefixtures("as_users_call_it")
@pytest.mark.parametrize("count", [0, -1, True, 2.5, None])
def test_own_density_needs_a_number_of_points(count: object) -> None:
    with pytest.raises(CepnbError, match=f"^count {count}: use a number of points, 1 or more$"):
        own_density(gaussian, linear, count)


@pytest.mark.usefixtures("as_users_call_it")
def test_generators_and_settings_of_another_type_are_refused() -> None:
    with pytest.raises(CepnbError, match="^generator of type int: use a torch.Generator or None"):
        own_density(gaussian, linear, 10, 0)
    for settings in ({}, "ci", 0):
        with pytest.raises(CepnbError, match="^settings of type .*: use those of toy_settings$"):
            fit_guidance(gaussian, linear, 1.0, settings=settings)
