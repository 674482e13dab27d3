"""Figures of many runs' scores: sweeps, tasks in comparison, and ablations of one setting."""

import math
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cepnb.densities.metrics import mean_interval
from cepnb.experiments.scores import Line, Row, ablations, summed_up, task_name
from cepnb.notebook.plots import COLOURS, METHOD_LABELS, figure, score_panel

SCORE = "D4RL-normalised score"


class _SweepPanel(NamedTuple):
    task: str
    title: str
    ylabel: str
    lines: list[Line]
    width: int = 1  # in columns
    overview: bool = False  # compares options at the headline scale, and starts a row


def _sweep_panels(lines: list[Line], columns: int) -> list[_SweepPanel]:
    """One panel for a task of one option; else an overview and a panel per grid of scales."""
    panels = []
    for task in dict.fromkeys(line.task for line in lines):
        of_task = [line for line in lines if line.task == task]
        options = list(dict.fromkeys(line.option for line in of_task))
        if len(options) == 1:
            panels.append(_SweepPanel(task, task, SCORE, of_task))
            continue
        ylabel = f"{task}\n{SCORE}"
        headline = [line for line in of_task if line.headline]
        width = min(columns, math.ceil(len(options) / 4))
        title = "at the headline scale"
        panels.append(_SweepPanel(task, title, ylabel, headline, width, overview=True))
        for option in options:
            of_option = [line for line in of_task if line.option == option]
            scales = {line.scale for line in of_option if line.scale}
            if len(scales) > 1:
                panels.append(_SweepPanel(task, option, ylabel, of_option))
    return panels


def sweep_figure(lines: list[Line], columns: int = 4) -> Figure:
    """Plot mean scores over s with 95 % intervals over seeds, one panel per task and option.

    A task with several options starts a row with an overview: all options at the headline scale.
    Options without a grid of scales appear only there.
    """
    panels = _sweep_panels(lines, columns)
    row, left, places = 0, 0, []
    for panel in panels:
        if left and (panel.overview or left + panel.width > columns):
            row, left = row + 1, 0
        places.append((row, left))
        left += panel.width
    across = max(left + panel.width for (_, left), panel in zip(places, panels))
    down = row + 1

    made = plt.figure(figsize=(3.4 * across, 3.4 * down), layout="constrained")
    plt.close(made)
    grid = made.add_gridspec(down, across)
    first_of_task: dict[str, Axes] = {}
    handles = {}
    for panel, (row, left) in zip(panels, places):
        first = first_of_task.get(panel.task)
        axes = made.add_subplot(grid[row, left : left + panel.width], sharey=first)
        first_of_task.setdefault(panel.task, axes)
        axes.tick_params(labelleft=first is None or left == 0)
        if panel.overview:
            _comparison_panel(axes, panel.lines, "option")
        else:
            score_panel(axes, _scores(panel.lines))
        axes.set_title(panel.title, fontsize=10)
        if left == 0:
            axes.set_ylabel(panel.ylabel)
        for handle, label in zip(*axes.get_legend_handles_labels()):
            handles[label] = handle
    made.legend(
        handles.values(), handles.keys(), fontsize=8, loc="outside lower center", ncols=2 * across
    )
    return made


def task_figure(lines: list[Line]) -> Figure:
    """Plot mean scores of all tasks at the headline scale with 95 % intervals over seeds."""
    headline = [line for line in lines if line.headline]
    tasks = len({line.task for line in headline})
    made, axes = plt.subplots(figsize=(2 + 1.0 * tasks, 3.6), layout="constrained")
    plt.close(made)
    _comparison_panel(axes, headline, "task")
    axes.set_ylabel(SCORE)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return made


def ablation_figure(rows: list[Row], columns: int = 4) -> Figure:
    """Plot what a change of one setting adds to CEP's score, one panel per task and setting.

    A point is the mean difference to the option "base" over paired seeds, with a 95 % interval by
    Student's t (none for one seed). Each scale that all options share is a line; the headline's is
    filled. A task starts a row and ends with base's own scores. Raises `CepnbError` without a base.
    """
    tasks: dict[tuple, list[Row]] = {}
    for row in rows:
        tasks.setdefault((row["dataset"], row["environment"]), []).append(row)
    settings = {task: ablations(of_task) for task, of_task in tasks.items()}
    columns = min(columns, 1 + max(map(len, settings.values())))
    heights = [math.ceil((len(changed) + 1) / columns) for changed in settings.values()]
    made, axes = figure(columns, sum(heights), size=2.8)
    top = 0
    for (task, changed), height in zip(settings.items(), heights):
        panels = axes[top : top + height].ravel()
        top += height
        name, lines = task_name(*task), summed_up(tasks[task])
        cep = [line for line in lines if line.method == "cep"]
        for place, (setting, options) in enumerate(changed.items()):
            panels[place].sharey(panels[0])
            _ablation_panel(panels[place], setting, options, cep)
            if place == 0:
                panels[place].legend(fontsize=7)
            if place % columns == 0:
                panels[place].set_ylabel(f"{name}\nscore less base, seed by seed")
        base = panels[len(changed)]
        score_panel(base, _scores([line for line in lines if line.option == "base"]))
        base.set_title(f"{name}, base", fontsize=10)
        base.set_ylabel(SCORE)
        legend = base.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        legend.set_in_layout(base in axes[:, -1])  # elsewhere, removed panels leave room for it
        for panel in panels[len(changed) + 1 :]:
            panel.remove()
    return made


def _ablation_panel(
    axes: Axes, setting: str, options: list[tuple[object, str]], lines: list[Line]
) -> None:
    """Plot differences to base over the values of one setting; `options` pairs value and option."""
    of_option = {
        option: {line.scale: line for line in lines if line.option == option}
        for _, option in options
    }
    axes.axhline(0, color=COLOURS["behaviour"], linewidth=1)
    for scale in sorted(set.intersection(*map(set, of_option.values()))):
        base = of_option["base"][scale]
        differences = [of_option[option][scale].less(base) for _, option in options]
        means, halves = zip(*map(mean_interval, differences))
        axes.errorbar(
            range(len(options)),
            means,
            np.nan_to_num(halves),
            marker="o",
            capsize=3,
            color=COLOURS["cep" if base.headline else "cep_raw"],
            markerfacecolor=None if base.headline else "white",
            label=f"CEP, s = {scale:g}",
        )
    numeric = isinstance(options[0][0], (int, float))
    names = [f"{v:g}" if numeric else str(v).replace("_", "\n") for v, _ in options]
    axes.set_xticks(range(len(options)), names)
    axes.set_xlim(-0.5, len(options) - 0.5)
    axes.set_title(setting, fontsize=10)


def _comparison_panel(axes: Axes, lines: list[Line], attribute: str) -> None:
    """Plot the methods side by side at each value of an attribute of the lines."""
    values = list(dict.fromkeys(getattr(line, attribute) for line in lines))
    methods = list(dict.fromkeys(line.method for line in lines))
    for index, method in enumerate(methods):
        of_method = [line for line in lines if line.method == method]
        shift = 0.5 * ((index + 0.5) / len(methods) - 0.5)
        places = [values.index(getattr(line, attribute)) + shift for line in of_method]
        _, _, means, errors = zip(*_scores(of_method))
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


def _scores(lines: list[Line]) -> list[tuple[str, float | None, float, float]]:
    """(method, scale, mean, half the 95 % interval) of each line; the half is 0 for one seed."""
    return [(line.method, line.scale, line.mean[0], np.nan_to_num(line.mean[1])) for line in lines]
