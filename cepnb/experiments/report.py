"""Tables of scores as Markdown: means at the headline scale, paired differences, the whole grid, published scores."""

import math
from collections.abc import Iterable

import numpy as np

from cepnb.densities.metrics import interquartile_mean, mean_interval, stratified_interval
from cepnb.experiments.published_scores import MEANS, PAPERS, QGPO, published_name, suite_of
from cepnb.experiments.scores import Line, Row, summed_up, task_name


def report(rows: list[Row]) -> str:
    """Return all tables of the rows of scores as Markdown."""
    lines = summed_up(rows)
    headline = [line for line in lines if line.headline]
    sections = [
        (
            "At the headline scale",
            "D4RL-normalised scores (0 random, 100 expert): mean over training seeds, and its 95 % interval by "
            "Student's t. The headline scale is `headline_scale` of the settings, fixed beforehand.",
            score_table(headline),
        ),
        (
            "Left out",
            "What could not be scored is in no mean here, which is then over fewer seeds than those of other methods.",
            left_out_table(rows),
        ),
        (
            "All tasks together",
            "Interquartile mean over tasks and seeds at the headline scale, and its 95 % interval by stratified "
            "bootstrap over seeds (Agarwal et al. 2021). Tasks are fixed, and few seeds make the interval too narrow.",
            aggregate_table(headline),
        ),
        (
            "Differences seed by seed",
            "CEP less each other method at the headline scale. Methods of one seed share behaviour and Q, so "
            "that the interval (95 %, Student's t) is that of the mean of paired differences.",
            difference_table(headline),
        ),
        (
            "Options less base, seed by seed",
            "CEP at the headline scale. Runs of one seed share what their settings have in common.",
            option_table(headline),
        ),
        ("The whole grid of scales", "", score_table(lines)),
        (
            "Runs",
            "Seconds are of all steps, those taken over from another option included.",
            run_table(rows),
        ),
        ("Beside published scores", *published_section(headline)),
        (
            "",
            "Means over all sets of a suite, likewise published on D4RL's own data.",
            means_table(headline),
        ),
    ]
    parts = []
    for title, text, table in sections:
        if table:
            parts += [part for part in (title and f"### {title}", text, table) if part]
    return "\n\n".join(parts)


def score_table(lines: Iterable[Line]) -> str:
    """Return the mean, the interval and the score of every seed for each line."""
    head = ("task", "option", "method", "scale s", "seeds", "mean", "95 % interval", "each seed")
    rows = []
    for line in lines:
        scale = f"{line.scale:g}" if line.scale else ""
        scores = list(line.scores.values())
        rows.append((line.task, line.option, line.method, scale, *_statistics(scores)))
    return markdown_table(head, rows)


def left_out_table(rows: list[Row]) -> str:
    """Return the runs with policies that could not be scored, and the reasons; empty without such runs."""
    faults = {
        (task_name(row["dataset"], row["environment"]), row["option"], row["seed"]): row["faults"]
        for row in rows
        if row.get("faults")
    }
    table = [(*run, "; ".join(reasons)) for run, reasons in faults.items()]
    return markdown_table(("task", "option", "seed", "left out"), table)


def aggregate_table(headline: list[Line]) -> str:
    """Return interquartile means over all tasks, for the seeds that all tasks share; empty for a single task."""
    task_count = len({line.task for line in headline})
    if task_count < 2:
        return ""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in headline:
        groups.setdefault((line.option, line.method), []).append(line)
    rows = []
    for (option, method), lines in groups.items():
        seeds = sorted(set.intersection(*(set(line.scores) for line in lines)))
        if len(lines) < task_count or not seeds:
            continue
        scores = np.array([[line.scores[seed] for line in lines] for seed in seeds])
        interval = _range(*stratified_interval(scores, np.random.default_rng(0)))
        mean = f"{interquartile_mean(scores):.1f}"
        rows.append((option, method, task_count, len(seeds), mean, interval))
    head = ("option", "method", "tasks", "seeds", "interquartile mean", "95 % interval")
    return markdown_table(head, rows)


def difference_table(headline: list[Line]) -> str:
    """Return CEP's scores minus those of each other method of the same task and option, for shared seeds."""
    rows = []
    for cep in headline:
        if cep.method != "cep":
            continue
        for other in headline:
            same_runs = (other.task, other.option) == (cep.task, cep.option)
            differences = cep.less(other)
            if same_runs and other is not cep and differences:
                name = f"cep − {other.method}"
                rows.append((cep.task, cep.option, name, *_statistics(differences)))
    head = ("task", "option", "difference", "seeds", "mean", "95 % interval", "each seed")
    return markdown_table(head, rows)


def option_table(headline: list[Line]) -> str:
    """Return CEP's scores under each option minus those under "base"; empty without an option of that name."""
    cep_lines = [line for line in headline if line.method == "cep"]
    base_of = {line.task: line for line in cep_lines if line.option == "base"}
    rows = []
    for line in cep_lines:
        if line.option == "base" or line.task not in base_of:
            continue
        differences = line.less(base_of[line.task])
        if differences:
            rows.append((line.task, line.option, *_statistics(differences)))
    return markdown_table(("task", "option", "seeds", "mean", "95 % interval", "each seed"), rows)


def run_table(rows: list[Row]) -> str:
    """Return the data, episodes, seconds and threads of each task and option."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        task = task_name(row["dataset"], row["environment"])
        groups.setdefault((task, row["option"]), []).append(row)
    table = []
    for (task, option), group in groups.items():
        first = group[0]
        seeds, threads = (
            ", ".join(map(str, sorted({row[key] for row in group}))) for key in ("seed", "threads")
        )
        data = task, option, first["profile"], first["rows"], seeds, first["episodes"]
        seconds = [row["seconds"] for row in group]
        table.append((*data, f"{min(seconds):.0f} to {max(seconds):.0f}", threads))
    head = ("task", "option", "profile", "rows", "seeds", "episodes of each")
    return markdown_table((*head, "seconds a seed", "torch threads"), table)


def published_section(headline: list[Line]) -> tuple[str, str]:
    """Return a text and a table of our scores and QGPO's published ones, for tasks that D4RL has a dataset for."""
    rows = []
    for line in headline:
        name = published_name(line.dataset)
        if line.method != "cep" or name is None:
            continue
        mean, interval = _interval(*line.mean)
        ours = f"{mean} ({interval})" if interval else mean
        dataset = f"{name}-v0" if name.startswith("antmaze") else name
        published = f"{QGPO[name]:.1f} on {dataset}"
        rows.append((line.task, line.option, ours, published, PAPERS["QGPO"]))
    if not rows:
        return "", "No score of QGPO on a published set of these tasks' names is known here."
    text = (
        "**Other data:** the published scores are on D4RL's own data, ours on that which a task's name says, and only names that "
        "begin with d4rl/ are D4RL's own. Second-hand, from tables of later papers."
    )
    head = ("task", "option", "ours, on this task", "QGPO, on D4RL's own data", "method of")
    return text, markdown_table(head, rows)


def means_table(headline: list[Line]) -> str:
    """Return published means of QGPO and other methods over the suites of the tasks."""
    names = [published_name(line.dataset) for line in headline]
    suites = dict.fromkeys(suite_of(name) for name in names if name)
    rows = []
    for suite in suites:
        rows += [(suite, name, f"{mean:.1f}", PAPERS[name]) for name, mean in MEANS[suite].items()]
    return markdown_table(("suite", "method", "mean on D4RL's own data", "method of"), rows)


def markdown_table(head: tuple[str, ...], rows: list[tuple]) -> str:
    """Return a Markdown table without its empty columns; an empty text without rows."""
    if not rows:
        return ""
    shown = [index for index in range(len(head)) if any(row[index] != "" for row in rows)]
    lines = ["|" + "".join(f" {row[index]} |" for index in shown) for row in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(shown))
    return "\n".join(lines)


def _statistics(values: list[float]) -> tuple[int, str, str, str]:
    """The number of values, their mean, its interval, and the values themselves."""
    mean, interval = _interval(*mean_interval(values))
    return len(values), mean, interval, ", ".join(f"{value:.1f}" for value in values)


def _interval(mean: float, half_width: float) -> tuple[str, str]:
    return f"{mean:.1f}", _range(mean - half_width, mean + half_width)


def _range(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:.1f} to {high:.1f}"
