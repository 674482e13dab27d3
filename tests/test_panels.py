"""Panels of energies and samples show the method, β and t in their titles."""

import pytest
import torch

from cepnb.densities import benchmark
from cepnb.densities.metrics import w2
from cepnb.diffusion.training import seeded
from cepnb.notebook.sliders.frames import Panel, beta_slider, time_slider
from cepnb.notebook.sliders.layers import Arrows, Field, Points, arrow_places, cells
from cepnb.notebook.sliders.panels import comparison_times, energy_frames, method_panels

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
    assert ratios["exact"] < 1.4 and ratios["cep_beta"] < 1.5 < min(ratios["mse"], ratios["dps"]), (
        ratios
    )


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
