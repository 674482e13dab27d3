"""Figures in one style: one colour per method, equal aspect in sample space, β and t in titles."""

import base64
import html
import inspect
import io
import textwrap
from collections.abc import Callable

import numpy as np
import torch
from IPython.display import HTML
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from PIL import Image
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from torch import Tensor

from cepnb.envs.antmaze import REACHED, Floor
from cepnb.envs.maze import GOAL_RADIUS, Layout
from cepnb.errors import CepnbError
from cepnb.storage.validation import check_finite

WALL, GOAL = "#d9d9d9", "#F0E442"  # colours of mazes
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
    "cep_posterior": ("CEP (averaged labels)", "#00325A"),
    "cep_beta": ("CEP (all β)", "#7FB8DA"),
    "particles": ("particles", "#8C6BB1"),
    "exp_mse": ("exp. MSE", "#E69F00"),
    "best_of_k": ("best of K by Q", "#CC79A7"),
    "reweighted": ("reweighting", "#777777"),
    "summed": ("E_t summed", "#333333"),
}
METHOD_LABELS = {method: label for method, (label, _) in METHODS.items()}
COLOURS = {method: colour for method, (_, colour) in METHODS.items()}


def figure(columns: int = 1, rows: int = 1, size: float = 3.0) -> tuple[Figure, np.ndarray]:
    """Create a figure of square panels, `size` inches wide each, and its axes (rows, columns)."""
    made = Figure((size * columns, size * rows), layout="constrained")
    return made, made.subplots(rows, columns, squeeze=False)


def png(figure: Figure, dpi: int = 110, colours: int = 0) -> bytes:
    """Render the figure as a PNG file; a palette of `colours` cuts its size to a third."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    if colours:
        small = Image.open(buffer).convert("RGB").quantize(colours)
        small.save(buffer := io.BytesIO(), format="png", optimize=True)
    return buffer.getvalue()


def image(data: bytes, alt: str, kind: str = "png") -> str:
    """An image file as an HTML element with alternative text."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img src="{source}" alt="{html.escape(alt)}" style="max-width:100%">'


def picture(figure: Figure, alt: str) -> HTML:
    """Show the figure as the value of a notebook cell; `alt` describes it."""
    return HTML(image(png(figure), alt))


def source(*objects: Callable) -> HTML:
    """Show the source code of functions as the value of a notebook cell.

    Long lines scroll. JupyterLab would break them at any letter, as it does in all HTML outputs.
    """
    texts = [textwrap.dedent(inspect.getsource(shown)) for shown in objects]
    scrolled = HtmlFormatter(prestyles="overflow-x: auto; white-space: pre; word-break: normal")
    return HTML(highlight("\n\n".join(texts), PythonLexer(), scrolled))


def square(
    axes: Axes, title: str, limit: float = 4.5, centre: tuple[float, float] | None = None
) -> None:
    """Show [−limit, limit]² with equal aspect and a title; around a `centre`, also show ticks."""
    x, y = centre or (0.0, 0.0)
    axes.set(xlim=(x - limit, x + limit), ylim=(y - limit, y + limit), aspect="equal")
    axes.set_title(title, fontsize=10)
    if centre is None:
        axes.set(xticks=[], yticks=[])
    axes.tick_params(labelsize=7)


def fitting_limit(*samples: Float[Tensor, "_ 2"]) -> float:
    """Return the `limit` of a panel that shows all these samples, such as those at both ends of t."""
    if not any(x.numel() for x in samples):
        raise CepnbError("samples are missing; pass at least one")
    largest = [float(x.abs().max()) for x in samples if x.numel()]
    check_finite("samples", largest, "pass finite samples")
    return 1.1 * max(largest) or 1.0


def fitting_view(*samples: Float[Tensor, "_ 2"]) -> tuple[float, tuple[float, float]]:
    """Return `limit` and `centre` of a `sample_panel` that fits these samples, in any units."""
    fitting_limit(*samples)  # refuses missing and infinite samples
    points = torch.cat(samples).double()
    centre = (points.amin(dim=0) + points.amax(dim=0)) / 2
    return fitting_limit(points - centre), tuple(centre.tolist())


def sample_panel(
    axes: Axes,
    x: Float[Tensor, "n 2"],
    colour: str,
    title: str = "",
    limit: float = 4.5,
    centre: tuple[float, float] | None = None,
) -> None:
    """Scatter samples in a `square`; say so if some are not finite or most are outside."""
    square(axes, title, limit, centre)
    x = x.detach()
    axes.scatter(*x.T.numpy(), s=3, alpha=0.5, color=colour, linewidths=0, rasterized=True)
    wrong = ~x.isfinite().all(dim=1)
    outside = ((x - x.new_tensor(centre or (0.0, 0.0))).abs() > limit).any(dim=1)
    if wrong.any():
        say(axes, f"{wrong.sum()} of {len(x)} samples are not finite")
    elif outside.sum() > len(x) / 2:
        say(axes, f"{outside.sum()} of {len(x)} samples are outside")


def say(axes: Axes, text: str) -> None:
    """Write what the panel cannot show at its lower edge."""
    axes.text(0.5, 0.01, text, transform=axes.transAxes, ha="center", fontsize=7, color="#D55E00")


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


def maze_panel(axes: Axes, maze: Layout, title: str = "") -> None:
    """Draw the walls and the disc around the target with reward 1, in the observations' (x, y)."""
    # D4RL's point rests at 1.2, but its walls start at cell + 1: cell i covers i − 0.7 … i + 0.3.
    shift = 0.2
    for i, j in zip(*np.nonzero(maze.walls)):
        corner = (i - 0.5 - shift, j - 0.5 - shift)
        axes.add_patch(Rectangle(corner, 1, 1, color=WALL, linewidth=0))
    axes.add_patch(Circle(maze.target, GOAL_RADIUS, color=GOAL, alpha=0.7, linewidth=0))
    rows, columns = maze.walls.shape
    square(axes, title)
    axes.set(xlim=(-0.5, rows - 0.9), ylim=(-0.5, columns - 0.9))


def path_panel(
    axes: Axes, maze: Layout, paths: Float[Tensor, "steps n ds"], colour: str, title: str = ""
) -> None:
    """Draw paths through a maze, with a dot at each start."""
    maze_panel(axes, maze, title)
    _paths(axes, paths, colour)


def ant_path_panel(
    axes: Axes,
    floor: Floor,
    paths: Float[Tensor, "steps n ds"],
    colour: str,
    title: str = "",
) -> None:
    """Draw paths of ants through their maze, with a dot at each start."""
    walls = floor.walls
    for left, low, right, high in walls:
        size = (right - left, high - low)
        axes.add_patch(Rectangle((left, low), *size, color=WALL, linewidth=0))
    axes.add_patch(Circle(tuple(floor.goal), REACHED, color=GOAL, linewidth=0))
    _paths(axes, paths, colour)
    square(axes, title)
    low, high = walls[:, :2].min(axis=0), walls[:, 2:].max(axis=0)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))


def _paths(axes: Axes, paths: Float[Tensor, "steps n ds"], colour: str) -> None:
    if wrong := int((~paths.isfinite()).any(dim=(0, 2)).sum()):
        say(axes, f"{wrong} of {paths.shape[1]} paths are not finite")
    axes.plot(paths[:, :, 0].numpy(), paths[:, :, 1].numpy(), color=colour, alpha=0.5, linewidth=1)
    axes.scatter(*paths[0, :, :2].T.numpy(), s=14, color=colour, zorder=3)
