"""Figures of scores: one run, sweeps, tasks in comparison, and ablations of one setting."""

import itertools
import math
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cepnb.densities.metrics import mean_interval
from cepnb.errors import CepnbError
from cepnb.experiments.scores import Line, Row, ablations, summed_up, task_name
from cepnb.notebook.plots import COLOURS, METHOD_LABELS, figure, say

SCORE = "D4RL-normalised score"
Score = tuple[str, float | None, float, float]  # method, scale, mean, error
COLUMNS = 4
OUTSIDE = {"fontsize": 8, "loc": "upper left", "bbox_to_anchor": (1, 1)}  # legend right of a panel


class _SweepPanel(NamedTuple):
    task: str
    title: str
    ylabel: str
    lines: list[Line]
    width: int = 1  # in columns
    overview: bool = False  # compares options at the headline scale, and starts a row


def results_folder() -> Path:
    """Return the folder `results` of the checkout that holds the package or the current folder.

    Raises `CepnbError` without such a folder: an installed package has no results.
    """
    for checkout in (Path(__file__).parents[2], Path.cwd(), *Path.cwd().parents):
        if (checkout / "results" / "toys-laptop").is_dir():
            return checkout / "results"
    raise CepnbError("results: not found; run the notebook in a checkout of the repository")


def score_figure(records: list[dict]) -> Figure:
    """Plot each method's normalised score over s, with standard errors over episodes."""
    _refuse_none(records)
    keys = ("method", "scale", "normalised", "normalised_se")
    made, ((axes,),) = figure(size=4.2)
    _scale_panel(axes, [tuple(record.get(key, math.nan) for key in keys) for record in records])
    axes.set_ylabel(SCORE)
    axes.legend(**OUTSIDE)
    return made


def toy_figure(records: list[dict]) -> Figure:
    """Plot W2 over its floor of toy densities at one β, with 95 % intervals over seeds."""
    _refuse_none(records)
    names = list(dict.fromkeys(record["density"] for record in records))
    methods = list(dict.fromkeys(record["method"] for record in records))
    made = Figure((2 + len(names), 3.6), layout="constrained")
    axes = made.subplots()
    for index, method in enumerate(methods):
        shift = 0.6 * ((index + 0.5) / len(methods) - 0.5)
        cases = [
            [r["w2_ratio"] for r in records if (r["density"], r["method"]) == (name, method)]
            for name in names
        ]
        means, errors = zip(*(mean_interval(values) for values in cases))
        lower = [min(error, 0.9 * mean) for mean, error in zip(means, errors)]  # the axis is log
        style = {"color": COLOURS[method], "label": METHOD_LABELS[method]}
        places = [place + shift for place in range(len(names))]
        bars = (lower, errors)
        axes.errorbar(places, means, bars, marker="o", linestyle="", capsize=3, **style)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(yscale="log", ylim=(0.5, 200), ylabel="$W_2$ / floor")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(range(len(names)), names)
    axes.set_title(f"β = {records[0]['beta']:g}", fontsize=10)
    axes.legend(**OUTSIDE)
    return made


def sweep_figure(lines: list[Line]) -> Figure:
    """Plot mean scores over s with 95 % intervals over seeds, one panel per task and option.

    A task with several options starts a row with an overview: all options at the headline scale.
    Options without a grid of scales appear only there.
    """
    _refuse_none(lines)
    panels = _sweep_panels(lines)
    rows: list[list] = [[]]  # the number of the panel in each cell of the figure
    for number, panel in enumerate(panels):
        if rows[-1] and (panel.overview or len(rows[-1]) + panel.width > COLUMNS):
            rows.append([])
        rows[-1] += [number] * panel.width
    across = max(map(len, rows))
    made = Figure((3.4 * across, 3.4 * len(rows)), layout="constrained")
    all_axes = made.subplot_mosaic([row + ["."] * (across - len(row)) for row in rows])

    first_of_task: dict[str, Axes] = {}
    handles = {}
    for panel, axes in zip(panels, all_axes.values()):
        left = axes.get_subplotspec().is_first_col()
        first = first_of_task.setdefault(panel.task, axes)
        if axes is not first:
            axes.sharey(first)
            axes.tick_params(labelleft=left)
        if panel.overview:
            _comparison_panel(axes, panel.lines, "option")
        else:
            _scale_panel(axes, _scores(panel.lines))
        axes.set_title(panel.title, fontsize=10)
        axes.set_ylabel(panel.ylabel if left else "")
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels())}
    style = {"fontsize": 8, "loc": "outside lower center", "ncols": 2 * across}
    made.legend(handles.values(), handles.keys(), **style)
    return made


def task_figure(lines: list[Line]) -> Figure:
    """Plot mean scores of all tasks at the headline scale with 95 % intervals over seeds."""
    headline = [line for line in lines if line.headline]
    _refuse_none(headline)
    made = Figure((2 + len(_by("task", headline)), 3.6), layout="constrained")
    axes = made.subplots()
    _comparison_panel(axes, headline, "task")
    axes.set_ylabel(SCORE)
    axes.legend(**OUTSIDE)
    return made


def ablation_figure(rows: list[Row], columns: int = COLUMNS) -> Figure:
    """Plot what a change of one setting adds to CEP's score, one panel per task and setting.

    A point is the mean difference to the option "base" over paired seeds, with a 95 % interval by
    Student's t (none for one seed). Each scale that all options share is a line; the headline's is
    filled. A task starts a row and ends with base's own scores. Raises `CepnbError` without a base.
    """
    _refuse_none(rows)
    tasks: dict[str, list[Row]] = {}
    for row in rows:
        tasks.setdefault(task_name(row["dataset"], row["environment"]), []).append(row)
    settings = {task: ablations(of_task) for task, of_task in tasks.items()}
    columns = min(columns, 1 + max(map(len, settings.values())))
    heights = {task: math.ceil((len(found) + 1) / columns) for task, found in settings.items()}
    made, axes = figure(columns, sum(heights.values()), size=2.8)
    free = iter(axes.flat)
    for task, changed in settings.items():
        panels = list(itertools.islice(free, columns * heights[task]))
        lines = summed_up(tasks[task])
        for place, (setting, options) in enumerate(changed.items()):
            panels[place].sharey(panels[0])
            _ablation_panel(panels[place], setting, options, lines)
            if place == 0:
                panels[place].legend(fontsize=7)
            if place % columns == 0:
                panels[place].set_ylabel(f"{task}\nscore less base, seed by seed")
        base = panels[len(changed)]
        _scale_panel(base, _scores(_by("option", lines)["base"]))
        base.set_title(f"{task}, base", fontsize=10)
        base.set_ylabel(SCORE)
        legend = base.legend(**OUTSIDE)
        legend.set_in_layout(base is panels[-1])  # elsewhere, removed panels leave room for it
        for panel in panels[len(changed) + 1 :]:
            panel.remove()
    return made


def _refuse_none(scores: list) -> None:
    if not scores:
        raise CepnbError("scores are missing; pass at least one to plot")


def _sweep_panels(lines: list[Line]) -> list[_SweepPanel]:
    """One panel for a task of one option; else an overview and a panel per grid of scales."""
    panels = []
    for task, of_task in _by("task", lines).items():
        options = _by("option", of_task)
        if len(options) == 1:
            panels.append(_SweepPanel(task, task, SCORE, of_task))
            continue
        title, ylabel = "at the headline scale", f"{task}\n{SCORE}"
        headline = [line for line in of_task if line.headline]
        width = min(COLUMNS, math.ceil(len(options) / 4))
        panels.append(_SweepPanel(task, title, ylabel, headline, width, overview=True))
        for option, of_option in options.items():
            if len({line.scale for line in of_option if line.scale}) > 1:
                panels.append(_SweepPanel(task, option, ylabel, of_option))
    return panels


def _scale_panel(axes: Axes, scores: list[Score]) -> None:
    """Plot scores over the guidance scale s; a method without scales is a horizontal band."""
    for method in dict.fromkeys(method for method, *_ in scores):
        _, scales, means, errors = zip(*(score for score in scores if score[0] == method))
        style = {"color": COLOURS[method], "label": METHOD_LABELS[method]}
        if any(scales):
            axes.errorbar(scales, means, errors, marker="o", capsize=3, **style)
        elif math.isfinite(means[0]):
            axes.axhline(means[0], **style)
            if math.isfinite(errors[0]):
                low, high = means[0] - errors[0], means[0] + errors[0]
                axes.axhspan(low, high, alpha=0.15, color=COLOURS[method])
    _say_missing(axes, [mean for _, _, mean, _ in scores])
    axes.set_xlabel("guidance scale s")


def _ablation_panel(
    axes: Axes, setting: str, options: list[tuple[object, str]], lines: list[Line]
) -> None:
    """Plot differences to base over the values of one setting; `options` pairs value and option."""
    of_option: dict[str, dict[float | None, Line]] = {option: {} for _, option in options}
    for line in lines:
        if line.method == "cep" and line.option in of_option:
            of_option[line.option][line.scale] = line
    axes.axhline(0, color=COLOURS["behaviour"], linewidth=1)
    shown: list[float] = []
    for scale in sorted(set.intersection(*map(set, of_option.values()))):
        base = of_option["base"][scale]
        differences = [of_option[option][scale].less(base) for _, option in options]
        unknown = (math.nan, math.nan)  # of lines without a common seed
        means, halves = zip(*(mean_interval(d) if d else unknown for d in differences))
        colour, fill = ("cep", None) if base.headline else ("cep_raw", "white")
        style = {"color": COLOURS[colour], "markerfacecolor": fill, "label": f"CEP, s = {scale:g}"}
        axes.errorbar(range(len(options)), means, halves, marker="o", capsize=3, **style)
        shown += means
    _say_missing(axes, shown)
    numeric = isinstance(options[0][0], (int, float))
    names = [f"{v:g}" if numeric else str(v).replace("_", "\n") for v, _ in options]
    axes.set_xticks(range(len(options)), names)
    axes.set_xlim(-0.5, len(options) - 0.5)
    axes.set_title(setting, fontsize=10)


def _comparison_panel(axes: Axes, lines: list[Line], attribute: str) -> None:
    """Plot the methods side by side at each value of an attribute of the lines."""
    values, methods = list(_by(attribute, lines)), _by("method", lines)
    for index, (method, of_method) in enumerate(methods.items()):
        shift = 0.5 * ((index + 0.5) / len(methods) - 0.5)
        places = [values.index(getattr(line, attribute)) + shift for line in of_method]
        _, _, means, errors = zip(*_scores(of_method))
        style = {"color": COLOURS[method], "label": METHOD_LABELS[method]}
        axes.errorbar(places, means, errors, marker="o", linestyle="", capsize=3, **style)
    _say_missing(axes, [line.mean[0] for line in lines])
    axes.set_xticks(range(len(values)), values, rotation=30, ha="right", fontsize=8)
    axes.set_xlim(-0.5, len(values) - 0.5)


def _by(attribute: str, lines: list[Line]) -> dict[str, list[Line]]:
    """Group lines by an attribute, in the order of its first values."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(getattr(line, attribute), []).append(line)
    return groups


def _scores(lines: list[Line]) -> list[Score]:
    """Means with half their 95 % intervals, which are NaN for one seed: no bar is drawn."""
    return [(line.method, line.scale, *line.mean) for line in lines]


def _say_missing(axes: Axes, means: list[float]) -> None:
    """Say in the panel how many scores matplotlib leaves out because they are not finite."""
    if missing := sum(not math.isfinite(mean) for mean in means):
        say(axes, f"{missing} of {len(means)} scores are not finite")
