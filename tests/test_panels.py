"""Panels of energies and samples show the method, β and t in their titles."""

import numpy as np
import pytest
import torch

from cepnb.densities import benchmark
from cepnb.densities.metrics import w2
from cepnb.diffusion.training import seeded
from cepnb.envs.antmaze import Floor
from cepnb.envs.maze import LAYOUTS
from cepnb.errors import CepnbError
from cepnb.notebook import plots
from cepnb.notebook.sliders.frames import Panel, beta_slider, time_slider
from cepnb.notebook.sliders.layers import Arrows, Field, Points, arrow_places, cells
from cepnb.notebook.sliders.panels import (
    comparison_times,
    energy_frames,
    energy_layers,
    method_panels,
)

METHODS = ("exact", "cep_beta", "mse", "dps")
BETA = beta_slider([1.0, 10.0], 1.0)


@pytest.fixture(scope="module")
def models() -> benchmark.Models:
    return benchmark.shipped("8gaussians")


@pytest.fixture(scope="module")
def panels(models: benchmark.Models) -> list[Panel]:
    times = comparison_times(models)
    return method_panels(models, BETA, time_slider(times, times[0]), count=400)


def test_samples_reach_each_methods_quality(models: benchmark.Models, panels: list[Panel]) -> None:
    """W2 over its floor at β = 10: 1.0 for exact, 1.1 for CEP, over 1.5 for MSE in the table."""
    p = models.density.tilted(10.0)
    one, two = (p.sample(400, seeded(k, "comparison test"))[0] for k in range(2))
    floor, ratios = w2(one, two), {}
    for method, panel in zip(METHODS, panels[4:]):
        (points,) = [layer for layer in panel.layers if isinstance(layer, Points)]
        assert points.values.shape == (2, 9, 400, 2)
        assert torch.equal(points.values[0, 0], points.values[1, 0])  # the same noise at t = 1
        ratios[method] = w2(points.values[1, -1], one) / floor
    assert ratios["exact"] < 1.4 and ratios["cep_beta"] < 1.5, ratios
    assert ratios["mse"] > 1.5 and ratios["dps"] > 1.5, ratios


def test_energies_agree_as_t_goes_to_0_and_the_mse_energy_scales_with_beta(
    models: benchmark.Models, panels: list[Panel]
) -> None:
    x = cells(32)
    near = models.density.log_q(x, torch.tensor(1e-3)) > -4  # the network is untrained elsewhere
    fields = {}
    for method, panel in zip(METHODS, panels):
        field, push = panel.layers
        assert isinstance(field, Field) and isinstance(push, Arrows)
        assert float(push.values.norm(dim=-1).max()) <= 1
        fields[method] = field.values
    # Gaussians overlap a little, so that the mean energy differs from E_t/β by 0.003 on average.
    for method, within in (("mse", 0.01), ("cep_beta", 0.05)):
        assert (fields[method] - fields["exact"])[1, -1][near].abs().mean() < within
    # Up to a constant, E[E | x_t] is the same at every β, but E_t/β is not.
    spread = {
        method: fields[method][:, 3][:, near].std(dim=1).tolist() for method in ("exact", "mse")
    }
    assert spread["mse"][1] == pytest.approx(spread["mse"][0], rel=1e-3)
    assert spread["exact"][1] != pytest.approx(spread["exact"][0], rel=0.05)


def test_the_push_runs_down_the_energy(panels: list[Panel]) -> None:
    """At a middle time, −∇E_t has a negative mean product with the field's finite differences."""
    for panel in panels[:4]:
        field, push = panel.layers
        values = torch.nn.functional.interpolate(
            field.values[1, 4][None, None],
            size=push.values.shape[2:4],
            mode="bilinear",
            align_corners=True,
        )[0, 0]
        along_y, along_x = torch.gradient(values)
        push_x, push_y = push.values[1, 4].unbind(-1)
        assert (push_x * along_x + push_y * along_y).mean() < 0


def test_energy_frames_start_at_the_minimum_and_push_downhill() -> None:
    """f = t |x|² has its minimum at the centre, and −∇f = −2 t x."""
    panel = energy_frames(
        "bowl",
        lambda x, t, condition: t * x.square().sum(-1),
        time_slider([1.0, 0.5], 1.0),
        span=10.0,
    )
    field, arrows = panel.layers
    square = cells(len(field.values[0])).square().sum(-1)
    for t, values, push in zip((1.0, 0.5), field.values, arrows.values):
        assert torch.allclose(values, t * (square - square.min()) / 10, atol=1e-5)
        slope = -2 * t * arrow_places(len(push))
        assert torch.allclose(push, slope / (1 + slope.norm(dim=-1, keepdim=True)), atol=1e-5)


def test_a_constant_energy_is_dark_and_a_steep_one_keeps_its_arrows() -> None:
    """Squares of a slope of 1e30 overflow float32; the arrow's length is |∇E|/(1 + |∇E|) = 1."""
    field, _ = energy_layers(lambda x, t, _: 0 * x.sum(-1) + 3.0, 0.5, span=0.0)
    assert (field.values == 0).all()
    _, arrows = energy_layers(lambda x, t, _: 1e30 * x.sum(-1), 0.5, span=1.0)
    assert torch.allclose(arrows.values.norm(dim=-1), torch.ones(11, 11))


def test_a_beta_whose_energies_are_rounding_errors_is_rejected(models: benchmark.Models) -> None:
    times = comparison_times(models)
    for least in (1e-8, 0.0):
        with pytest.raises(CepnbError, match=f"β = {least:g}: Eₜ/β is lost in rounding; use a β"):
            method_panels(models, beta_slider([least, 1.0], 1.0), time_slider(times, 1.0), 10)


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda x: x, []),
        (lambda x: x.index_fill(0, torch.tensor([1, 4]), float("nan")), ["2 of 9 samples are not"]),
        (lambda x: 50 * x, ["9 of 9 samples are outside"]),
    ],
)
def test_a_panel_says_which_samples_it_does_not_show(change, text: list[str]) -> None:
    made, axes = plots.figure()
    plots.sample_panel(axes[0, 0], change(torch.ones(9, 2)), "black")
    assert [found.get_text()[: len(text[0])] for found in axes[0, 0].texts] == text
    plots.png(made)


@pytest.mark.parametrize("scale, offset", [(1.0, 0.0), (50.0, 0.0), (1.0, 20.0), (1e-3, -7.0)])
def test_a_fitted_panel_shows_samples_of_any_unit_and_their_numbers(
    scale: float, offset: float
) -> None:
    x = scale * torch.randn(200, 2, generator=seeded(0, "panel")) + offset
    made, axes = plots.figure()
    plots.sample_panel(axes[0, 0], x, "black", "", *plots.fitting_view(x, x[:0]))
    plots.png(made)
    spans = torch.tensor([axes[0, 0].get_xlim(), axes[0, 0].get_ylim()]).T
    assert (spans[0] < x.amin(dim=0)).all() and (x.amax(dim=0) < spans[1]).all()
    share = (x.amax(dim=0) - x.amin(dim=0)) / (spans[1] - spans[0])
    assert share.max().item() == pytest.approx(1 / 1.1, rel=1e-3)  # the samples fill the panel
    assert len(axes[0, 0].get_xticks()) > 2 and not axes[0, 0].texts
    plots.sample_panel(
        axes[0, 0], 3 * x - 2 * offset + 9 * scale, "black", "", *plots.fitting_view(x)
    )
    assert "samples are outside" in axes[0, 0].texts[0].get_text()


def test_equal_samples_have_a_panel_too() -> None:
    assert plots.fitting_view(torch.full((3, 2), 7.0)) == (1.0, (7.0, 7.0))
    assert plots.fitting_limit(torch.zeros(3, 2)) == 1.0


def test_paths_that_are_not_finite_are_named() -> None:
    paths = torch.ones(4, 3, 2)
    paths[2, 1, 0] = float("inf")
    made, axes = plots.figure()
    plots.path_panel(axes[0, 0], LAYOUTS["umaze"], paths, "black")
    assert [text.get_text() for text in axes[0, 0].texts] == ["1 of 3 paths are not finite"]
    plots.png(made)


def test_paths_of_ants_are_drawn_between_walls() -> None:
    walls = np.array([[-6.0, -6, -2, -2], [2, -2, 6, 2]])
    paths = torch.linspace(-1, 1, 60).reshape(5, 4, 3)
    _, axes = plots.figure()
    plots.ant_path_panel(axes[0, 0], Floor(walls, np.array([1.0, 8.0])), paths, "black", "ants")
    first, second, goal = axes[0, 0].patches
    assert (first.get_xy(), first.get_width(), second.get_height()) == ((-6, -6), 4, 4)
    assert (goal.center, goal.radius) == ((1.0, 8.0), 0.5)
    assert axes[0, 0].get_xlim() == (-6, 6) and axes[0, 0].get_ylim() == (-6, 2)
    np.testing.assert_array_equal(axes[0, 0].lines[2].get_xydata(), paths[:, 2, :2])


@pytest.mark.parametrize(
    "t, span, message",
    [
        (-1.0, 1.0, "t -1.0: use a time from 0 to 1"),
        (2.0, 1.0, "t 2.0: use a time from 0 to 1"),
        (float("nan"), 1.0, "t nan: use a time from 0 to 1"),
        (0.5, -1.0, "span -1.0: use a finite number, 0 or more"),
        (0.5, float("nan"), "span nan: use a finite number, 0 or more"),
    ],
)
def test_energy_layers_take_times_and_spans(t: float, span: float, message: str) -> None:
    with pytest.raises(CepnbError, match=message):
        energy_layers(lambda x, t, _: x.sum(-1), t, span)
