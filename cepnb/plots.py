"""Figures in one style: one colour a method, equal aspect in sample space, β and t in the titles."""

import base64
import html
import io
import math
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

from cepnb.guidance import EpsFunction
from cepnb.metrics import mean_interval
from cepnb.offline.maze import GOAL_RADIUS, Layout
from cepnb.offline.scores import Line, Row, ablations, summed_up, task_name

# One colour a method in every notebook, from the colour-blind safe palette of Okabe and Ito.
COLOURS = {"exact": "#000000", "behaviour": "#999999", "cep": "#0072B2", "cep_raw": "#56B4E9", "mse": "#D55E00",
           "dps": "#009E73", "best_of_k": "#CC79A7", "exact_energy": "#555555", "cep_self": "#0072B2",
           "cep_independent": "#004B78", "cep_beta": "#7FB8DA", "exp_mse": "#E69F00"}
LABELS = {"exact": "exact", "behaviour": "behaviour μ", "cep": "CEP", "cep_raw": "CEP (Eq. 12)", "mse": "MSE",
          "dps": "DPS", "exact_energy": "exact energy", "cep_self": "CEP (Eq. 13)",
          "cep_independent": "CEP (independent)", "cep_beta": "CEP (all β)", "exp_mse": "exp. MSE",
          "best_of_k": "best of K by Q", "reweighted": "reweighting"}


def figure(columns: int = 1, rows: int = 1, size: float = 3.0, **kwargs: object) -> tuple[Figure, np.ndarray]:
    """A figure of square panels; it is closed for pyplot, so that a notebook shows it once, by `picture`."""
    made, axes = plt.subplots(rows, columns, figsize=(size * columns, size * rows), squeeze=False,
                              layout="constrained", **kwargs)
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
    return f'<img src="data:image/png;base64,{text}" alt="{html.escape(alt)}" style="max-width:100%">'


def picture(figure: Figure, alt: str) -> HTML:
    """The figure as the value of a notebook cell; `alt` says what it shows."""
    return HTML(image(png(figure), alt))


def sample_panel(axes: Axes, x: Float[Tensor, "n 2"], colour: str, title: str = "", limit: float = 4.5) -> None:
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
                axes[i, j].set_title(f"{LABELS[method]}\nβ = {beta:g}", fontsize=7)
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


def energy_panel(axes: Axes, values: Float[Tensor, "points points"], gradient: EpsFunction, t: Tensor, title: str = "",
                 limit: float = 4.5, span: float | None = None) -> None:
    """An intermediate energy as colour (its least value set to 0, for constants do not matter), −∇E_t as arrows."""
    values = values - values.min()
    axes.imshow(values.numpy(), extent=(-limit, limit) * 2, origin="lower", cmap="cividis", vmin=0, vmax=span)
    places = grid(0.9 * limit, 13).reshape(-1, 2)
    push = push_at(places, gradient, t)
    axes.quiver(*places.T.numpy(), *push.T.numpy(), color="white", angles="xy", scale_units="xy", scale=1.6, width=0.006, pivot="mid")
    axes.set(aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)


def maze_panel(axes: Axes, maze: Layout, title: str = "") -> None:
    """Walls, and the disc around the target in which the reward is 1. Positions are (x, y) of the observations."""
    shift = 0.2  # the body rests at 1.2 but walls stand at cell + 1: a wall of cell i covers i − 0.7 … i + 0.3 in x
    for i, j in zip(*np.nonzero(maze.walls)):
        axes.add_patch(plt.Rectangle((i - 0.5 - shift, j - 0.5 - shift), 1, 1, color="#d9d9d9", linewidth=0))
    axes.add_patch(plt.Circle(tuple(maze.target), GOAL_RADIUS, color="#F0E442", alpha=0.7, linewidth=0))
    rows, columns = maze.walls.shape
    axes.set(xlim=(-0.5, rows - 0.9), ylim=(-0.5, columns - 0.9), aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, fontsize=10)


def path_panel(axes: Axes, maze: Layout, paths: Float[Tensor, "steps n ds"], colour: str, title: str = "") -> None:
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
        style = {"color": COLOURS[method], "label": LABELS[method]}
        if len(points) == 1 and not scales[0]:
            axes.axhspan(values[0] - errors[0], values[0] + errors[0], alpha=0.15, color=COLOURS[method])
            axes.axhline(values[0], **style)
        else:
            axes.errorbar(scales, values, errors, marker="o", capsize=3, **style)
    axes.set_xlabel("guidance scale s (s = 1 is exact)")


def score_figure(records: list[dict]) -> Figure:
    """Normalised score of each method over guidance scale s, with standard errors over episodes."""
    made, axes = figure(size=4.2)
    score_panel(axes[0, 0], [tuple(r[key] for key in ("method", "scale", "normalised", "normalised_se")) for r in records])
    axes[0, 0].set_ylabel("D4RL-normalised score")
    axes[0, 0].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return made


def sweep_figure(lines: list[Line]) -> Figure:
    """Mean scores with 95 % intervals over seeds: a row for each task, and in it a panel for each option, over the scales.

    With several options a first panel shows all of them, at the headline scale.
    """
    tasks, options = (list(dict.fromkeys(getattr(line, name) for line in lines)) for name in ("task", "option"))
    several = len(options) > 1
    made, axes = figure(len(options) + several, len(tasks), size=3.4, sharey="row")
    for row, task in zip(axes, tasks):
        here = [line for line in lines if line.task == task]
        for panel, option in zip(row[several:], options):
            score_panel(panel, [(line.method, line.scale, *_bar(line)) for line in here if line.option == option])
            panel.set_title(option, fontsize=10)
        if several:
            _beside_panel(row[0], [line for line in here if line.headline], "option")
            row[0].set_title("at the headline scale", fontsize=10)
        row[0].set_ylabel(f"{task}\nD4RL-normalised score")
    axes[0, -1].legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return made


def task_figure(lines: list[Line]) -> Figure:
    """Mean scores at the headline scale with 95 % intervals over seeds: all tasks along one axis, methods side by side."""
    headline = [line for line in lines if line.headline]
    tasks = len({line.task for line in headline})
    made, axes = plt.subplots(figsize=(2 + 1.0 * tasks, 3.6), layout="constrained")
    plt.close(made)
    _beside_panel(axes, headline, "task")
    axes.set_ylabel("D4RL-normalised score")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return made


def ablation_figure(rows: list[Row], columns: int = 4) -> Figure:
    """What changing one setting adds to CEP's score: for each task a panel for each setting that its options change.

    Each value is shown by its differences to the option "base" seed by seed, which share what the setting does not touch: their
    mean and its 95 % interval by Student's t (none for one seed), one line a guidance scale that all of the options have, the
    headline's filled. The last panel of a task has the scores of base itself, all methods over the scales. A task begins a row,
    and has as many as it needs. Raises `CepnbError` without a base.
    """
    tasks: dict[tuple, list[Row]] = {}
    for row in rows:
        tasks.setdefault((row["dataset"], row["environment"]), []).append(row)
    found = {task: ablations(own) for task, own in tasks.items()}
    columns = min(columns, 1 + max(map(len, found.values())))
    heights = [math.ceil((len(values) + 1) / columns) for values in found.values()]
    made, axes = figure(columns, sum(heights), size=2.8)
    for (task, values), first, height in zip(found.items(), np.cumsum([0, *heights]), heights):
        panels = axes[first:first + height].ravel()
        own, last, lines = panels[:len(values)], panels[len(values)], summed_up(tasks[task])
        for panel, (setting, options) in zip(own, values.items()):
            panel.sharey(own[0])
            _ablation_panel(panel, setting, options, [line for line in lines if line.method == "cep"])
        for panel in own[::columns]:  # the first of each row
            panel.set_ylabel(f"{task_name(*task)}\nscore less base, seed by seed")
        for panel in own[:1]:
            panel.legend(fontsize=7)
        score_panel(last, [(line.method, line.scale, *_bar(line)) for line in lines if line.option == "base"])
        last.set_title(f"{task_name(*task)}, base", fontsize=10)
        last.set_ylabel("D4RL-normalised score")
        legend = last.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        legend.set_in_layout(last in axes[:, -1])  # else it is where panels were removed, and has room enough
        for panel in panels[len(values) + 1:]:
            panel.remove()
    return made


def _ablation_panel(axes: Axes, setting: str, values: list[tuple[object, str]], lines: list[Line]) -> None:
    of_option = {option: {line.scale: line for line in lines if line.option == option} for _, option in values}
    axes.axhline(0, color=COLOURS["behaviour"], linewidth=1)
    for scale in sorted(set.intersection(*(set(own) for own in of_option.values()))):
        base = of_option["base"][scale]
        means, halves = zip(*(mean_interval(of_option[option][scale].less(base)) for _, option in values))
        axes.errorbar(range(len(values)), means, np.nan_to_num(halves), marker="o", capsize=3,
                      color=COLOURS["cep" if base.headline else "cep_raw"],
                      markerfacecolor=None if base.headline else "white", label=f"CEP, s = {scale:g}")
    names = [f"{value:g}" if isinstance(value, (int, float)) else str(value).replace("_", "\n") for value, _ in values]
    axes.set_xticks(range(len(values)), names)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_title(setting, fontsize=10)


def _beside_panel(axes: Axes, lines: list[Line], name: str) -> None:
    """One line a method at each value of an attribute of the lines, side by side."""
    values, methods = (list(dict.fromkeys(getattr(line, key) for line in lines)) for key in (name, "method"))
    for index, method in enumerate(methods):
        own = [line for line in lines if line.method == method]
        places = [values.index(getattr(line, name)) + 0.5 * ((index + 0.5) / len(methods) - 0.5) for line in own]
        means, errors = zip(*map(_bar, own))
        axes.errorbar(places, means, errors, marker="o", linestyle="", capsize=3, color=COLOURS[method], label=LABELS[method])
    axes.set_xticks(range(len(values)), values, rotation=30, ha="right", fontsize=8)
    axes.set_xlim(-0.5, len(values) - 0.5)


def _bar(line: Line) -> tuple[float, float]:
    mean, half = line.mean
    return mean, 0.0 if np.isnan(half) else half  # one seed has no interval
