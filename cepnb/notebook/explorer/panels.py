"""Panels of densities in the plane: energies with their push, over t; several methods side by side, over β and t."""

from collections.abc import Sequence

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
    over_all,
    over_grid,
)
from cepnb.notebook.explorer.layers import LIMIT, Arrows, Field, Points, arrow_places, cells
from cepnb.notebook.plots import METHOD_LABELS, push_at

VALIDITY = {
    "exact": ANY_BETA,
    "mse": "the function that regression tends to, at any β",
    "dps": UNTRAINED,
    "cep_beta": ALL_BETA,
}
STRIDE = 3  # steps of the sampler from one value of t to the next
SIDE, PLACES = 32, 11  # of the fields, and of the grid of arrows


def comparison_times(models: Models, count: int = 9) -> list[float]:
    """`count` times from 1 to t_min at which the sampler of `method_panels` stops by: the values of its t slider."""
    return models.density.schedule.times(STRIDE * (count - 1))[::STRIDE].tolist()


def energy_layers(
    energy: EnergyFunction, t: float, span: float, limit: float = LIMIT, source: str = ""
) -> tuple[Field, Arrows]:
    """E_t at one t with −∇E_t: dark for its least value, brightest for `span` above it."""
    time = torch.tensor(t)
    with torch.no_grad():
        values = energy(cells(SIDE, limit).reshape(-1, 2), time, None)
    field = ((values - values.min()) / span).reshape(SIDE, SIDE)
    return (
        Field(field, (), "energy, dark for low", source),
        Arrows(_push(energy_gradient(energy), time, limit), (), "downhill"),
    )


def energy_frames(
    title: str, energy: EnergyFunction, t: Slider, span: float, source: str = ""
) -> Panel:
    """A panel of `energy_layers` at all values of t."""
    return over_all(lambda t: [Panel(title, energy_layers(energy, t, span, source=source))], [t])[0]


def method_panels(
    models: Models,
    beta: Slider,
    t: Slider,
    methods: Sequence[str] = ("exact", "cep_beta", "mse", "dps"),
    count: int = 500,
) -> list[Panel]:
    """For each method a panel of E_t/β with its push, then for each one of guided samples over the exact p_t.

    Only methods that have an answer at any β: the keys of `SOURCES`. "mse" is the minimiser of the regression, β E[E | x_t],
    with nothing left to learn. All but "exact" use the learned score. `t` must have the values of `comparison_times`.
    """
    density = models.density
    points = {time: _noised(density, time) for time in t.values}
    p = Field(
        over_grid(lambda b, time: _relative_density(density, b, time), beta, t),
        ("beta", "t"),
        "density of pₜ",
        ANY_BETA,
        density=True,
    )
    energies, samples = [], []
    for method in methods:
        label, colour = ("CEP", "cep") if method == "cep_beta" else (METHOD_LABELS[method], method)
        energy = {b: _energy(models, method, b) for b in beta.values}
        guidance = {b: _guidance(models, method, b) for b in beta.values}

        def energy_at(b: float, time: float) -> Tensor:
            return _energy_field(energy[b], density, b, torch.tensor(time), points[time])

        def push_at(b: float, time: float) -> Tensor:
            return _push(guidance[b][1], torch.tensor(time))

        energies.append(
            Panel(
                f"Eₜ: {label}",
                (
                    Field(over_grid(energy_at, beta, t), ("beta", "t"), "Eₜ/β, dark for 0"),
                    Arrows(over_grid(push_at, beta, t), ("beta", "t"), "−∇Eₜ, the push"),
                ),
            )
        )
        paths = over_grid(lambda b: _path(*guidance[b], density, len(t.values), count), beta)
        samples.append(
            Panel(
                f"samples: {label}",
                (p, Points(paths, ("beta", "t"), label, VALIDITY[method], method=colour)),
            )
        )
    return energies + samples


def _energy(models: Models, method: str, beta: float) -> EnergyFunction:
    density = models.density
    if method == "exact":
        return lambda xt, t, condition=None: density.intermediate_energy(xt, t, beta)
    if method == "mse":
        return lambda xt, t, condition=None: beta * density.mean_energy(xt, t)
    return models.energy(method, beta)


def _guidance(models: Models, method: str, beta: float) -> tuple[EpsFunction, EpsFunction]:
    """(ε, ∇E_t) as in `Models.guidance`, with the exact minimiser for the regression."""
    if method == "mse":
        return models.score(), energy_gradient(_energy(models, method, beta))
    return models.guidance(method, beta)


def _noised(density: Density, time: float, count: int = 500) -> Float[Tensor, "count 2"]:
    """Samples of q_t."""
    x0, _ = density.sample(count, seeded(0, "comparison points"))
    return density.schedule.add_noise(
        x0, torch.tensor(time), torch.randn(x0.shape, generator=seeded(1, "comparison points"))
    )


@torch.no_grad()
def _energy_field(
    energy: EnergyFunction, density: Density, beta: float, t: Tensor, points: Float[Tensor, "n 2"]
) -> Float[Tensor, "side side"]:
    """E_t/β, with the constant at which it agrees with the exact one on average over samples of q_t."""
    shift = (density.intermediate_energy(points, t, beta) - energy(points, t, None)).mean()
    return ((energy(cells(SIDE).reshape(-1, 2), t, None) + shift) / beta).reshape(SIDE, SIDE)


def _push(
    gradient: EpsFunction, t: Tensor, limit: float = LIMIT
) -> Float[Tensor, "places places 2"]:
    """`push_at` of the places of arrows."""
    return push_at(arrow_places(PLACES, limit).reshape(-1, 2), gradient, t).reshape(
        PLACES, PLACES, 2
    )


def _relative_density(density: Density, beta: float, time: float) -> Float[Tensor, "side side"]:
    """√(p_t/max p_t): the root, for the faint parts to be seen."""
    log_p = density.tilted(beta).log_q(cells(SIDE), torch.tensor(time))
    return (0.5 * (log_p - log_p.max())).exp()


def _path(
    eps: EpsFunction, gradient: EpsFunction, density: Density, times: int, count: int
) -> Float[Tensor, "times count 2"]:
    """The guided sampler from one start for all methods and β, at every `STRIDE`-th step."""
    schedule = density.schedule
    start = torch.randn(count, 2, generator=seeded(0, "comparison start"))
    steps = dpm_solver_pp(
        guided(eps, gradient, schedule), start, schedule.times(STRIDE * (times - 1)), schedule
    )
    return torch.stack(list(steps)[::STRIDE])
