"""Figures of many runs' scores: sweeps, tasks side by side, and what changing one setting does."""

import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cepnb.densities.metrics import mean_interval
from cepnb.experiments.scores import Line, Row, ablations, summed_up, task_name
from cepnb.notebook.plots import COLOURS, METHOD_LABELS, figure, score_panel


def sweep_figure(lines: list[Line], columns: int = 4) -> Figure:
    """Mean scores with 95 % intervals over seeds: for each task a panel for each option, over the scales.

    A task of several options begins a row, and has as many rows as it needs. Its first panel, as wide as they need, shows all of them at the
    headline scale, which is the only place of those that have no other scale.
    """
    cells: list[
        tuple[str, str | None, int]
    ] = []  # task, option (None: all of them) and width of each panel
    tasks = {
        task: [line for line in lines if line.task == task]
        for task in dict.fromkeys(line.task for line in lines)
    }
    several = {task: len({line.option for line in own}) > 1 for task, own in tasks.items()}
    for task, own in tasks.items():
        scales: dict[str, set] = {}
        for line in own:
            scales.setdefault(line.option, set()).add(line.scale or None)
        if several[task]:
            cells.append((task, None, min(columns, math.ceil(len(scales) / 4))))
        cells += [
            (task, option, 1)
            for option, found in scales.items()
            if len(found - {None}) > 1 or not several[task]
        ]
    places = _flow(
        [width for *_, width in cells], [option is None for _, option, _ in cells], columns
    )
    across, down = (
        max(left + width for (_, left), (*_, width) in zip(places, cells)),
        1 + places[-1][0],
    )
    made = plt.figure(figsize=(3.4 * across, 3.4 * down), layout="constrained")
    plt.close(made)
    grid, first = made.add_gridspec(down, across), {}
    for (task, option, width), (row, left) in zip(cells, places):
        panel = made.add_subplot(grid[row, left : left + width], sharey=first.get(task))
        panel.tick_params(labelleft=first.setdefault(task, panel) is panel or left == 0)
        if option is None:
            _beside_panel(panel, [line for line in tasks[task] if line.headline], "option")
        else:
            score_panel(
                panel,
                [
                    (line.method, line.scale, *_bar(line))
                    for line in tasks[task]
                    if line.option == option
                ],
            )
        panel.set_title(
            "at the headline scale" if option is None else option if several[task] else task,
            fontsize=10,
        )
        if left == 0:
            panel.set_ylabel(
                f"{task}\nD4RL-normalised score" if several[task] else "D4RL-normalised score"
            )
    named = {
        label: handle
        for panel in made.axes
        for handle, label in zip(*panel.get_legend_handles_labels())
    }
    made.legend(
        named.values(), named.keys(), fontsize=8, loc="outside lower center", ncols=2 * across
    )
    return made


def _flow(widths: list[int], breaks: list[bool], columns: int) -> list[tuple[int, int]]:
    """(row, first column) of panels set one after the other, each in one row, with a new row where it breaks."""
    places, row, left = [], 0, 0
    for width, begins in zip(widths, breaks, strict=True):
        if left and (begins or left + width > columns):
            row, left = row + 1, 0
        places.append((row, left))
        left += width
    return places


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
        panels = axes[first : first + height].ravel()
        own, last, lines = panels[: len(values)], panels[len(values)], summed_up(tasks[task])
        for panel, (setting, options) in zip(own, values.items()):
            panel.sharey(own[0])
            _ablation_panel(
                panel, setting, options, [line for line in lines if line.method == "cep"]
            )
        for panel in own[::columns]:  # the first of each row
            panel.set_ylabel(f"{task_name(*task)}\nscore less base, seed by seed")
        for panel in own[:1]:
            panel.legend(fontsize=7)
        score_panel(
            last,
            [(line.method, line.scale, *_bar(line)) for line in lines if line.option == "base"],
        )
        last.set_title(f"{task_name(*task)}, base", fontsize=10)
        last.set_ylabel("D4RL-normalised score")
        legend = last.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        legend.set_in_layout(
            last in axes[:, -1]
        )  # else it is where panels were removed, and has room enough
        for panel in panels[len(values) + 1 :]:
            panel.remove()
    return made


def _ablation_panel(
    axes: Axes, setting: str, values: list[tuple[object, str]], lines: list[Line]
) -> None:
    of_option = {
        option: {line.scale: line for line in lines if line.option == option}
        for _, option in values
    }
    axes.axhline(0, color=COLOURS["behaviour"], linewidth=1)
    for scale in sorted(set.intersection(*(set(own) for own in of_option.values()))):
        base = of_option["base"][scale]
        means, halves = zip(
            *(mean_interval(of_option[option][scale].less(base)) for _, option in values)
        )
        axes.errorbar(
            range(len(values)),
            means,
            np.nan_to_num(halves),
            marker="o",
            capsize=3,
            color=COLOURS["cep" if base.headline else "cep_raw"],
            markerfacecolor=None if base.headline else "white",
            label=f"CEP, s = {scale:g}",
        )
    names = [
        f"{value:g}" if isinstance(value, (int, float)) else str(value).replace("_", "\n")
        for value, _ in values
    ]
    axes.set_xticks(range(len(values)), names)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_title(setting, fontsize=10)


def _beside_panel(axes: Axes, lines: list[Line], name: str) -> None:
    """One line a method at each value of an attribute of the lines, side by side."""
    values, methods = (
        list(dict.fromkeys(getattr(line, key) for line in lines)) for key in (name, "method")
    )
    for index, method in enumerate(methods):
        own = [line for line in lines if line.method == method]
        places = [
            values.index(getattr(line, name)) + 0.5 * ((index + 0.5) / len(methods) - 0.5)
            for line in own
        ]
        means, errors = zip(*map(_bar, own))
        axes.errorbar(
            places,
            means,
            errors,
            marker="o",
            linestyle="",
            capsize=3,
            color=COLOURS[method],
            label=METHOD_LABELS[method],
        )
    axes.set_xticks(range(len(values)), values, rotation=30, ha="right", fontsize=8)
    axes.set_xlim(-0.5, len(values) - 0.5)


def _bar(line: Line) -> tuple[float, float]:
    mean, half = line.mean
    return mean, 0.0 if np.isnan(half) else half  # one seed has no interval
