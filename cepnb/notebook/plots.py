"""Figures in one style: one colour a method, equal aspect in sample space, β and t in the titles."""

import base64
import html
import io
from collections.abc import Iterable

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

# One colour a method in every notebook, from the colour-blind safe palette of Okabe and Ito.
COLOURS = {
    "exact": "#000000",
    "behaviour": "#999999",
    "cep": "#0072B2",
    "cep_raw": "#56B4E9",
    "mse": "#D55E00",
    "dps": "#009E73",
    "best_of_k": "#CC79A7",
    "exact_energy": "#555555",
    "cep_self": "#0072B2",
    "cep_independent": "#004B78",
    "cep_beta": "#7FB8DA",
    "exp_mse": "#E69F00",
}
METHOD_LABELS = {
    "exact": "exact",
    "behaviour": "behaviour μ",
    "cep": "CEP",
    "cep_raw": "CEP (Eq. 12)",
    "mse": "MSE",
    "dps": "DPS",
    "exact_energy": "exact energy",
    "cep_self": "CEP (Eq. 13)",
    "cep_independent": "CEP (independent)",
    "cep_beta": "CEP (all β)",
    "exp_mse": "exp. MSE",
    "best_of_k": "best of K by Q",
    "reweighted": "reweighting",
    "summed": "E_t summed",
}


def figure(
    columns: int = 1, rows: int = 1, size: float = 3.0, **kwargs: object
) -> tuple[Figure, np.ndarray]:
    """A figure of square panels; it is closed for pyplot, so that a notebook shows it once, by `picture`."""
    made, axes = plt.subplots(
        rows,
        columns,
        figsize=(size * columns, size * rows),
        squeeze=False,
        layout="constrained",
        **kwargs,
    )
    plt.close(made)
    return made, axes


def png(figure: Figure, dpi: int = 110, colours: int | None = None) -> bytes:
    """The figure as a PNG file; in a palette of `colours`, a third of the size, where it is one of many."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    if colours is None:
        return buffer.getvalue()
    small = io.BytesIO()
    Image.open(buffer).convert("RGB").quantize(colours).save(small, format="png", optimize=True)
    return small.getvalue()


def image(data: bytes, alt: str) -> str:
    """A PNG file as an HTML image with alternative text, for those who cannot see it."""
    text = base64.b64encode(data).decode()
    return (
        f'<img src="data:image/png;base64,{text}" alt="{html.escape(alt)}" style="max-width:100%">'
    )


def picture(figure: Figure, alt: str) -> HTML:
    """The figure as the value of a notebook cell; `alt` says what it shows."""
    return HTML(image(png(figure), alt))


def sample_panel(
    axes: Axes, x: Float[Tensor, "n 2"], colour: str, title: str = "", limit: float = 4.5
) -> None:
    """A scatter of samples with fixed limits and equal aspect."""
    axes.scatter(*x.detach().T.numpy(), s=3, alpha=0.5, color=colour, linewidths=0, rasterized=True)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)


def sample_grid(samples: dict[tuple[str, str, float], Float[Tensor, "n 2"]]) -> Figure:
    """Samples of (density, method, β): a row for each density, and for each method a column for each β."""
    rows = list(dict.fromkeys(name for name, _, _ in samples))
    columns = list(dict.fromkeys((method, beta) for _, method, beta in samples))
    made, axes = figure(len(columns), len(rows), size=1.1)
    for i, name in enumerate(rows):
        for j, (method, beta) in enumerate(columns):
            sample_panel(axes[i, j], samples[name, method, beta], COLOURS[method])
            if i == 0:
                axes[i, j].set_title(f"{METHOD_LABELS[method]}\nβ = {beta:g}", fontsize=7)
        axes[i, 0].set_ylabel(name, fontsize=8)
    return made


def grid(limit: float = 4.5, points: int = 60) -> Float[Tensor, "points points 2"]:
    """Points of a square grid in sample space."""
    line = torch.linspace(-limit, limit, points)
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)


def push_at(places: Float[Tensor, "n 2"], gradient: EpsFunction, t: Tensor) -> Float[Tensor, "n 2"]:
    """−∇E_t as arrows: its direction, and a length that saturates at one."""
    push = -gradient(places, t).detach()
    return push / (1 + push.norm(dim=1, keepdim=True))


def energy_panel(
    axes: Axes,
    values: Float[Tensor, "points points"],
    gradient: EpsFunction,
    t: Tensor,
    title: str = "",
    limit: float = 4.5,
    span: float | None = None,
) -> None:
    """An intermediate energy as colour (its least value set to 0, for constants do not matter), −∇E_t as arrows."""
    values = values - values.min()
    axes.imshow(
        values.numpy(),
        extent=(-limit, limit) * 2,
        origin="lower",
        cmap="cividis",
        vmin=0,
        vmax=span,
    )
    places = grid(0.9 * limit, 13).reshape(-1, 2)
    push = push_at(places, gradient, t)
    axes.quiver(
        *places.T.numpy(),
        *push.T.numpy(),
        color="white",
        angles="xy",
        scale_units="xy",
        scale=1.6,
        width=0.006,
        pivot="mid",
    )
    axes.set(aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)


def maze_panel(axes: Axes, maze: Layout, title: str = "") -> None:
    """Walls, and the disc around the target in which the reward is 1. Positions are (x, y) of the observations."""
    shift = 0.2  # the body rests at 1.2 but walls stand at cell + 1: a wall of cell i covers i − 0.7 … i + 0.3 in x
    for i, j in zip(*np.nonzero(maze.walls)):
        axes.add_patch(
            plt.Rectangle((i - 0.5 - shift, j - 0.5 - shift), 1, 1, color="#d9d9d9", linewidth=0)
        )
    axes.add_patch(
        plt.Circle(tuple(maze.target), GOAL_RADIUS, color="#F0E442", alpha=0.7, linewidth=0)
    )
    rows, columns = maze.walls.shape
    axes.set(
        xlim=(-0.5, rows - 0.9), ylim=(-0.5, columns - 0.9), aspect="equal", xticks=[], yticks=[]
    )
    axes.set_title(title, fontsize=10)


def path_panel(
    axes: Axes, maze: Layout, paths: Float[Tensor, "steps n ds"], colour: str, title: str = ""
) -> None:
    """Paths through a maze, each from its start (dot) on."""
    maze_panel(axes, maze, title)
    axes.plot(paths[:, :, 0].numpy(), paths[:, :, 1].numpy(), color=colour, alpha=0.5, linewidth=1)
    axes.scatter(*paths[0, :, :2].T.numpy(), s=14, color=colour, zorder=3)


def score_panel(axes: Axes, scores: Iterable[tuple[str, float | None, float, float]]) -> None:
    """Scores as (method, scale, value, error) over guidance scale s; a method without a grid of scales is a horizontal band."""
    methods: dict[str, list[tuple[float | None, float, float]]] = {}
    for method, *point in scores:
        methods.setdefault(method, []).append(tuple(point))
    for method, points in methods.items():
        scales, values, errors = zip(*points)
        style = {"color": COLOURS[method], "label": METHOD_LABELS[method]}
        if len(points) == 1 and not scales[0]:
            axes.axhspan(
                values[0] - errors[0], values[0] + errors[0], alpha=0.15, color=COLOURS[method]
            )
            axes.axhline(values[0], **style)
        else:
            axes.errorbar(scales, values, errors, marker="o", capsize=3, **style)
    axes.set_xlabel("guidance scale s (s = 1 is exact)")


def score_figure(records: list[dict]) -> Figure:
    """Normalised score of each method over guidance scale s, with standard errors over episodes."""
    made, axes = figure(size=4.2)
    score_panel(
        axes[0, 0],
        [
            tuple(r[key] for key in ("method", "scale", "normalised", "normalised_se"))
            for r in records
        ],
    )
    axes[0, 0].set_ylabel("D4RL-normalised score")
    axes[0, 0].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return made
