"""Panels of densities in the plane: energies over t, and four methods side by side over β and t."""

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.densities.methods import Models
from cepnb.densities.mixtures import Density
from cepnb.diffusion.guidance import EnergyFunction, EpsFunction, energy_gradient, guided
from cepnb.diffusion.samplers import dpm_solver_pp
from cepnb.diffusion.training import seeded
from cepnb.notebook.explorer.frames import (
    ALL_BETA,
    ANY_BETA,
    UNTRAINED,
    Panel,
    Slider,
    over_grid,
    panels_over_grid,
)
from cepnb.notebook.explorer.layers import LIMIT, Arrows, Field, Points, arrow_places, cells
from cepnb.notebook.plots import METHOD_LABELS, push_at

VALIDITY = {  # the methods of `method_panels`, which all have an answer at any β
    "exact": ANY_BETA,
    "cep_beta": ALL_BETA,
    "mse": "exact minimiser of the regression, at any β",
    "dps": UNTRAINED,
}
TIMES, STRIDE = 9, 3  # values of t in `method_panels`, and sampler steps between two of them
SIDE, ARROWS = 32, 11  # cells and arrows per axis


def comparison_times(models: Models) -> list[float]:
    """Return the times from 1 to t_min of the t slider that `method_panels` needs."""
    return models.density.schedule.times(STRIDE * (TIMES - 1))[::STRIDE].tolist()


def energy_layers(
    energy: EnergyFunction, t: float, span: float, limit: float = LIMIT, source: str = ""
) -> tuple[Field, Arrows]:
    """Layers of E_t and −∇E_t at one t: dark for the minimum, brightest for `span` above it."""
    time = torch.tensor(t)
    with torch.no_grad():
        values = energy(cells(SIDE, limit).reshape(-1, 2), time, None)
    field = ((values - values.min()) / span).reshape(SIDE, SIDE)
    arrows = _arrows(energy_gradient(energy), time, limit)
    return Field(field, (), "energy, dark for low", source), Arrows(arrows, (), "downhill")


def energy_frames(
    title: str, energy: EnergyFunction, t: Slider, span: float, source: str = ""
) -> Panel:
    """A panel of `energy_layers` at all values of t."""

    def frame(t: float) -> list[Panel]:
        return [Panel(title, energy_layers(energy, t, span, source=source))]

    return panels_over_grid(frame, [t])[0]


def method_panels(models: Models, beta: Slider, t: Slider, count: int = 500) -> list[Panel]:
    """Panels of E_t/β with −∇E_t for each method, then of its samples over the exact p_t.

    "mse" is the regression's exact minimiser β E[E | x_t]. All methods but "exact" use the learned
    score. `t` has the values of `comparison_times`; `count` samples start from the same noise.
    """
    density = models.density

    def relative_density(b: float, time: float) -> Tensor:
        log_p = density.tilted(b).log_q(cells(SIDE), torch.tensor(time))
        return (0.5 * (log_p - log_p.max())).exp()  # the root shows faint parts

    over = ("beta", "t")
    root_density = over_grid(relative_density, beta, t)
    p = Field(root_density, over, "density of pₜ", ANY_BETA, density=True)
    energy_panels, sample_panels = [], []
    for method, validity in VALIDITY.items():
        style = "cep" if method == "cep_beta" else method
        label = METHOD_LABELS[style]
        fields, arrows, paths = _method_frames(models, method, beta, t, count)
        energy = Field(fields, over, "Eₜ/β, dark for 0"), Arrows(arrows, over, "−∇Eₜ, the push")
        energy_panels.append(Panel(f"Eₜ: {label}", energy))
        samples = Points(paths, over, label, validity, method=style)
        sample_panels.append(Panel(f"samples: {label}", (p, samples)))
    return energy_panels + sample_panels


def _method_frames(
    models: Models, method: str, beta: Slider, t: Slider, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Fields of E_t/β, arrows of −∇E_t and sampling paths of one method over (β, t).

    The constant of E_t is fitted to the exact E_t on average over samples of q_t.
    """
    density = models.density
    guidance = {b: _guidance(models, method, b) for b in beta.values}

    @torch.no_grad()
    def field(b: float, time: float) -> Tensor:
        energy, t = guidance[b][0], torch.tensor(time)
        points = _noised(density, t)
        shift = (density.intermediate_energy(points, t, b) - energy(points, t, None)).mean()
        values = energy(cells(SIDE).reshape(-1, 2), t, None) + shift
        return (values / b).reshape(SIDE, SIDE)

    def arrows(b: float, time: float) -> Tensor:
        return _arrows(guidance[b][2], torch.tensor(time))

    def path(b: float) -> Tensor:
        _, eps, gradient = guidance[b]
        start = torch.randn(count, 2, generator=seeded(0, "comparison start"))
        times = density.schedule.times(STRIDE * (TIMES - 1))
        guided_eps = guided(eps, gradient, density.schedule)
        return torch.stack(
            list(dpm_solver_pp(guided_eps, start, times, density.schedule))[::STRIDE]
        )

    return over_grid(field, beta, t), over_grid(arrows, beta, t), over_grid(path, beta)


def _guidance(
    models: Models, method: str, beta: float
) -> tuple[EnergyFunction, EpsFunction, EpsFunction]:
    """(E_t, ε, ∇E_t) of a method at one β."""
    density = models.density
    if method == "mse":
        energy = lambda xt, t, condition=None: beta * density.mean_energy(xt, t)
        return energy, models.score(), energy_gradient(energy)
    if method == "exact":
        energy = lambda xt, t, condition=None: density.intermediate_energy(xt, t, beta)
    else:
        energy = models.energy(method, beta)
    return energy, *models.guidance(method, beta)


def _noised(density: Density, t: Tensor) -> Float[Tensor, "n 2"]:
    """Samples of q_t, the same on every call."""
    x0, _ = density.sample(500, seeded(0, "comparison points"))
    eps = torch.randn(x0.shape, generator=seeded(1, "comparison points"))
    return density.schedule.add_noise(x0, t, eps)


def _arrows(
    gradient: EpsFunction, t: Tensor, limit: float = LIMIT
) -> Float[Tensor, "arrows arrows 2"]:
    points = arrow_places(ARROWS, limit).reshape(-1, 2)
    return push_at(points, gradient, t).unflatten(0, (ARROWS, ARROWS))
