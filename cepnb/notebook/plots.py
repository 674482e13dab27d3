"""Figures in one style: one colour per method, equal aspect in sample space, β and t in titles."""

import base64
import html
import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import HTML
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from cepnb.diffusion.guidance import EpsFunction
from cepnb.envs.maze import GOAL_RADIUS, Layout

# Label and colour of every method, from the colour-blind safe palette of Okabe and Ito.
METHODS = {
    "exact": ("exact", "#000000"),
    "behaviour": ("behaviour μ", "#999999"),
    "cep": ("CEP", "#0072B2"),
    "cep_raw": ("CEP (Eq. 12)", "#56B4E9"),
    "mse": ("MSE", "#D55E00"),
    "dps": ("DPS", "#009E73"),
    "exact_energy": ("exact energy", "#555555"),
    "cep_self": ("CEP (Eq. 13)", "#0072B2"),
    "cep_independent": ("CEP (independent)", "#004B78"),
    "cep_beta": ("CEP (all β)", "#7FB8DA"),
    "exp_mse": ("exp. MSE", "#E69F00"),
    "best_of_k": ("best of K by Q", "#CC79A7"),
    "reweighted": ("reweighting", "#777777"),
    "summed": ("E_t summed", "#333333"),
}
METHOD_LABELS = {method: label for method, (label, _) in METHODS.items()}
COLOURS = {method: colour for method, (_, colour) in METHODS.items()}


def figure(columns: int = 1, rows: int = 1, size: float = 3.0) -> tuple[Figure, np.ndarray]:
    """Create a figure of square panels, `size` inches wide each, and its axes (rows, columns).

    pyplot forgets the figure, so that a notebook shows it once, by `picture`.
    """
    shape = (size * columns, size * rows)
    made, axes = plt.subplots(rows, columns, figsize=shape, squeeze=False, layout="constrained")
    plt.close(made)
    return made, axes


def png(figure: Figure, dpi: int = 110, colours: int | None = None) -> bytes:
    """Render the figure as a PNG file; a palette of `colours` cuts its size to a third."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    if colours is None:
        return buffer.getvalue()
    small = io.BytesIO()
    Image.open(buffer).convert("RGB").quantize(colours).save(small, format="png", optimize=True)
    return small.getvalue()


def image(data: bytes, alt: str, kind: str = "png") -> str:
    """An image file as an HTML element with alternative text."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img src="{source}" alt="{html.escape(alt)}" style="max-width:100%">'


def picture(figure: Figure, alt: str) -> HTML:
    """Show the figure as the value of a notebook cell; `alt` describes it."""
    return HTML(image(png(figure), alt))


def sample_panel(
    axes: Axes, x: Float[Tensor, "n 2"], colour: str, title: str = "", limit: float = 4.5
) -> None:
    """Scatter samples with fixed limits and equal aspect."""
    axes.scatter(*x.detach().T.numpy(), s=3, alpha=0.5, color=colour, linewidths=0, rasterized=True)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)


def sample_grid(samples: dict[tuple[str, str, float], Float[Tensor, "n 2"]]) -> Figure:
    """Draw samples of (density, method, β): a row per density, a column per method and β."""
    densities = list(dict.fromkeys(density for density, _, _ in samples))
    columns = list(dict.fromkeys((method, beta) for _, method, beta in samples))
    made, axes = figure(len(columns), len(densities), size=1.1)
    for row, density in zip(axes, densities):
        for panel, (method, beta) in zip(row, columns):
            sample_panel(panel, samples[density, method, beta], COLOURS[method])
        row[0].set_ylabel(density, fontsize=8)
    for panel, (method, beta) in zip(axes[0], columns):
        panel.set_title(f"{METHOD_LABELS[method]}\nβ = {beta:g}", fontsize=7)
    return made


def grid(limit: float = 4.5, points: int = 60) -> Float[Tensor, "points points 2"]:
    """Points of a square grid in [−limit, limit]², x along the second axis."""
    line = torch.linspace(-limit, limit, points)
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)


def push_at(points: Float[Tensor, "n 2"], gradient: EpsFunction, t: Tensor) -> Float[Tensor, "n 2"]:
    """Arrows along −∇E_t; their length |∇E_t|/(1 + |∇E_t|) stays below one."""
    push = -gradient(points, t).detach()
    return push / (1 + push.norm(dim=1, keepdim=True))


def draw_arrows(
    axes: Axes, points: Float[Tensor, "n 2"], arrows: Float[Tensor, "n 2"], unit: float
) -> None:
    """Draw white arrows centred on `points`; an arrow of length 1 is `unit` long in the plot."""
    axes.quiver(
        *points.T.numpy(),
        *arrows.T.numpy(),
        color="white",
        angles="xy",
        scale_units="xy",
        scale=1 / unit,
        width=0.007,
        pivot="mid",
    )


def energy_panel(
    axes: Axes,
    values: Float[Tensor, "points points"],
    gradient: EpsFunction,
    t: Tensor,
    title: str = "",
    limit: float = 4.5,
    span: float | None = None,
) -> None:
    """Draw E_t as colour and −∇E_t as arrows.

    Only differences of E_t matter, so its minimum is subtracted; `span` above it is the brightest.
    """
    shown = (values - values.min()).numpy()
    extent = (-limit, limit) * 2
    axes.imshow(shown, extent=extent, origin="lower", cmap="cividis", vmin=0, vmax=span)
    points = grid(0.9 * limit, 13).reshape(-1, 2)
    draw_arrows(axes, points, push_at(points, gradient, t), unit=0.625)
    axes.set(aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)


def maze_panel(axes: Axes, maze: Layout, title: str = "") -> None:
    """Draw the walls and the disc around the target with reward 1, in the observations' (x, y)."""
    # D4RL's point rests at 1.2, but its walls start at cell + 1: cell i covers i − 0.7 … i + 0.3.
    shift = 0.2
    for i, j in zip(*np.nonzero(maze.walls)):
        corner = (i - 0.5 - shift, j - 0.5 - shift)
        axes.add_patch(plt.Rectangle(corner, 1, 1, color="#d9d9d9", linewidth=0))
    target = tuple(maze.target)
    axes.add_patch(plt.Circle(target, GOAL_RADIUS, color="#F0E442", alpha=0.7, linewidth=0))
    rows, columns = maze.walls.shape
    limits = {"xlim": (-0.5, rows - 0.9), "ylim": (-0.5, columns - 0.9)}
    axes.set(**limits, aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)


def path_panel(
    axes: Axes, maze: Layout, paths: Float[Tensor, "steps n ds"], colour: str, title: str = ""
) -> None:
    """Draw paths through a maze, with a dot at each start."""
    maze_panel(axes, maze, title)
    axes.plot(paths[:, :, 0].numpy(), paths[:, :, 1].numpy(), color=colour, alpha=0.5, linewidth=1)
    axes.scatter(*paths[0, :, :2].T.numpy(), s=14, color=colour, zorder=3)


def score_panel(axes: Axes, scores: Sequence[tuple[str, float | None, float, float]]) -> None:
    """Plot scores (method, scale, value, error) over the guidance scale s.

    A method without a grid of scales becomes a horizontal band.
    """
    for method in dict.fromkeys(method for method, *_ in scores):
        points = [point for name, *point in scores if name == method]
        scales, values, errors = zip(*points)
        colour, label = COLOURS[method], METHOD_LABELS[method]
        if len(points) == 1 and not scales[0]:
            low, high = values[0] - errors[0], values[0] + errors[0]
            axes.axhspan(low, high, alpha=0.15, color=colour)
            axes.axhline(values[0], color=colour, label=label)
        else:
            axes.errorbar(scales, values, errors, marker="o", capsize=3, color=colour, label=label)
    axes.set_xlabel("guidance scale s (s = 1 is exact)")


def score_figure(records: list[dict]) -> Figure:
    """Plot each method's normalised score over s, with standard errors over episodes."""
    keys = ("method", "scale", "normalised", "normalised_se")
    scores = [tuple(record[key] for key in keys) for record in records]
    made, axes = figure(size=4.2)
    score_panel(axes[0, 0], scores)
    axes[0, 0].set_ylabel("D4RL-normalised score")
    axes[0, 0].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return made
