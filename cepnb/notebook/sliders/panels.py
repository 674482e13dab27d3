"""Panels of densities in the plane: energies over t, and four methods side by side over β and t."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.densities.methods import Models
from cepnb.diffusion.guidance import EnergyFunction, EpsFunction, energy_gradient, guided
from cepnb.diffusion.samplers import dpm_solver_pp
from cepnb.diffusion.training import seeded
from cepnb.errors import CepnbError
from cepnb.notebook.plots import METHOD_LABELS
from cepnb.notebook.sliders.frames import (
    ALL_BETA,
    ANY_BETA,
    Panel,
    Slider,
    over_grid,
    panels_over_grid,
)
from cepnb.notebook.sliders.layers import LIMIT, Arrows, Field, Points, arrow_places, cells

VALIDITY = {  # the methods of `method_panels`, which all have an answer at any β
    "exact": ANY_BETA,
    "cep_beta": ALL_BETA,
    "mse": "exact minimiser of the regression, at any β",
    "dps": "no training, at any β",
}
TIMES, STRIDE = 9, 3  # values of t in `method_panels`, and sampler steps between two of them
SIDE, ARROWS = 32, 11  # cells and arrows per axis
MIN_BETA = 0.001  # of Eₜ/β: the rounding errors of Eₜ, about 1e-6, are below a shade of colour


def comparison_times(models: Models) -> list[float]:
    """Return the times from 1 to t_min of the t slider that `method_panels` needs."""
    return models.density.schedule.times(STRIDE * (TIMES - 1))[::STRIDE].tolist()


def energy_layers(
    energy: EnergyFunction, t: float, span: float, limit: float = LIMIT, source: str = ""
) -> tuple[Field, Arrows]:
    """Layers of E_t and −∇E_t at one t: dark for the minimum, brightest for `span` above it."""
    if not 0 <= float(t) <= 1:
        raise CepnbError(f"t {t}: use a time from 0 to 1")
    if not 0 <= float(span) < math.inf:
        raise CepnbError(f"span {span}: use a finite number, 0 or more")
    time = torch.as_tensor(t)
    values = _at_cells(energy, time, limit)
    shades = (values - values.min()) / (float(span) or 1)  # a constant energy has no span
    field = Field(shades, (), "energy, dark for low", source)
    return field, Arrows(_push(energy_gradient(energy), time, limit), (), "downhill")


def energy_frames(
    title: str, energy: EnergyFunction, t: Slider, span: float, source: str = ""
) -> Panel:
    """A panel of `energy_layers` at all values of t."""
    frame = lambda time: [Panel(title, energy_layers(energy, time, span, source=source))]
    return panels_over_grid(frame, [t])[0]


def method_panels(models: Models, beta: Slider, t: Slider, count: int) -> list[Panel]:
    """Panels of E_t/β with −∇E_t for each method, then of its samples over the exact p_t.

    "mse" is the regression's exact minimiser β E[E | x_t]. All methods but "exact" use the learned
    score. `t` has the values of `comparison_times`; `count` samples start from the same noise.
    """

    def root_density(b: float, time: float) -> Tensor:  # the root shows faint parts
        log_p = models.density.tilted(b).log_q(cells(SIDE), torch.tensor(time))
        return (0.5 * (log_p - log_p.max())).exp()

    if min(beta.values) < MIN_BETA:
        raise CepnbError(
            f"β = {min(beta.values):g}: Eₜ/β is lost in rounding; use a β of at least {MIN_BETA}"
        )
    over = ("beta", "t")
    p = Field(over_grid(root_density, beta, t), over, "density of pₜ", ANY_BETA, density=True)
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
    density, schedule = models.density, models.density.schedule
    guidance = {b: _guidance(models, method, b) for b in beta.values}
    x0, _ = density.sample(500, seeded(0, "comparison points"))
    noise = torch.randn(x0.shape, generator=seeded(1, "comparison points"))
    start = torch.randn(count, 2, generator=seeded(0, "comparison start"))

    def field(b: float, time: float) -> Tensor:
        energy, t = guidance[b][0], torch.tensor(time)
        xt = schedule.add_noise(x0, t, noise)
        with torch.no_grad():
            shift = (density.intermediate_energy(xt, t, b) - energy(xt, t, None)).mean()
        return (_at_cells(energy, t) + shift) / b

    def arrows(b: float, time: float) -> Tensor:
        return _push(guidance[b][2], torch.tensor(time))

    def path(b: float) -> Tensor:
        _, eps, gradient = guidance[b]
        times, guided_eps = schedule.times(STRIDE * (TIMES - 1)), guided(eps, gradient, schedule)
        return torch.stack(list(dpm_solver_pp(guided_eps, start, times, schedule))[::STRIDE])

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


@torch.no_grad()
def _at_cells(
    energy: EnergyFunction, t: Tensor, limit: float = LIMIT
) -> Float[Tensor, "side side"]:
    """E_t at a field's cells."""
    return energy(cells(SIDE, limit).reshape(-1, 2), t, None).reshape(SIDE, SIDE)


def _push(
    gradient: EpsFunction, t: Tensor, limit: float = LIMIT
) -> Float[Tensor, "arrows arrows 2"]:
    """Arrows along −∇E_t; their length |∇E_t|/(1 + |∇E_t|) stays below one."""
    push = -gradient(arrow_places(ARROWS, limit).reshape(-1, 2), t).detach()
    length = torch.hypot(*push.unbind(1))[:, None]  # the squares of a steep energy would overflow
    return (push / (1 + length)).unflatten(0, (ARROWS, ARROWS))
