"""What a table of scores says: means at the headline scale, differences seed by seed, the whole grid, published scores beside."""

import math
from collections.abc import Iterable

import numpy as np

from cepnb.densities.metrics import interquartile_mean, mean_interval, stratified_interval
from cepnb.experiments.published_scores import MEANS, PAPERS, QGPO, published_name, suite_of
from cepnb.experiments.scores import Line, Row, summed_up, task_name


def report(rows: list[Row]) -> str:
    """All tables of rows of scores, as markdown."""
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
    parts = [
        "\n\n".join(filter(None, (title and f"### {title}", text, table)))
        for title, text, table in sections
        if table
    ]
    return "\n\n".join(parts)


def score_table(lines: Iterable[Line]) -> str:
    """Mean, interval and every seed's own score of each line."""
    return markdown_table(
        ("task", "option", "method", "scale s", "seeds", "mean", "95 % interval", "each seed"),
        [
            (
                line.task,
                line.option,
                line.method,
                f"{line.scale:g}" if line.scale else "",
                len(line.scores),
                *_interval(*line.mean),
                ", ".join(f"{score:.1f}" for score in line.scores.values()),
            )
            for line in lines
        ],
    )


def left_out_table(rows: list[Row]) -> str:
    """The runs of which not all could be scored, and why; empty if all could."""
    faults = {
        (task_name(row["dataset"], row["environment"]), row["option"], row["seed"]): row["faults"]
        for row in rows
        if row.get("faults")
    }
    return markdown_table(
        ("task", "option", "seed", "left out"),
        [(*run, "; ".join(found)) for run, found in faults.items()],
    )


def aggregate_table(headline: list[Line]) -> str:
    """Each option and method over all tasks, by the seeds that all of them have; empty for a single task."""
    tasks = {line.task for line in headline}
    rows = []
    for option, method in dict.fromkeys((line.option, line.method) for line in headline):
        own = [line for line in headline if (line.option, line.method) == (option, method)]
        seeds = sorted(set.intersection(*(set(line.scores) for line in own)))
        if len(tasks) < 2 or len(own) < len(tasks) or not seeds:
            continue
        scores = np.array([[line.scores[seed] for line in own] for seed in seeds])
        low, high = stratified_interval(scores, np.random.default_rng(0))
        rows.append(
            (
                option,
                method,
                len(own),
                len(seeds),
                f"{interquartile_mean(scores):.1f}",
                _range(low, high),
            )
        )
    return markdown_table(
        ("option", "method", "tasks", "seeds", "interquartile mean", "95 % interval"), rows
    )


def difference_table(headline: list[Line]) -> str:
    """CEP less every other method of the same task and option, by the seeds that both have."""
    rows = []
    for cep in (line for line in headline if line.method == "cep"):
        for other in headline:
            if (
                (other.task, other.option) == (cep.task, cep.option)
                and other is not cep
                and (differences := cep.less(other))
            ):
                rows.append(
                    (cep.task, cep.option, f"cep − {other.method}", *_differences(differences))
                )
    return markdown_table(
        ("task", "option", "difference", "seeds", "mean", "95 % interval", "each seed"), rows
    )


def option_table(headline: list[Line]) -> str:
    """CEP under each option less CEP under the option "base" of the same task; empty where there is none of that name."""
    of_base = {
        line.task: line for line in headline if line.method == "cep" and line.option == "base"
    }
    rows = [
        (line.task, line.option, *_differences(differences))
        for line in headline
        if line.method == "cep"
        and line.option != "base"
        and line.task in of_base
        and (differences := line.less(of_base[line.task]))
    ]
    return markdown_table(("task", "option", "seeds", "mean", "95 % interval", "each seed"), rows)


def run_table(rows: list[Row]) -> str:
    """How much went into each task and option."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault(
            (task_name(row["dataset"], row["environment"]), row["option"]), []
        ).append(row)
    table = []
    for (task, option), own in groups.items():
        seconds, threads = ([row[key] for row in own] for key in ("seconds", "threads"))
        table.append(
            (
                task,
                option,
                own[0]["profile"],
                own[0]["rows"],
                ", ".join(map(str, sorted({row["seed"] for row in own}))),
                own[0]["episodes"],
                f"{min(seconds):.0f} to {max(seconds):.0f}",
                ", ".join(map(str, sorted(set(threads)))),
            )
        )
    return markdown_table(
        (
            "task",
            "option",
            "profile",
            "rows",
            "seeds",
            "episodes of each",
            "seconds a seed",
            "torch threads",
        ),
        table,
    )


def published_section(headline: list[Line]) -> tuple[str, str]:
    """Ours and QGPO's published score, in columns of their own, where D4RL has a set of a task's name: (text, table)."""
    rows = []
    for line in headline:
        name = published_name(line.dataset)
        if line.method == "cep" and name:
            mean, interval = _interval(*line.mean)
            ours = f"{mean} ({interval})" if interval else mean
            of = f"{name}-v0" if name.startswith("antmaze") else name
            rows.append((line.task, line.option, ours, f"{QGPO[name]:.1f} on {of}", PAPERS["QGPO"]))
    if not rows:
        return "", "No score of QGPO on a published set of these tasks' names is known here."
    text = (
        "**Other data:** the published scores are on D4RL's own data, ours on that which a task's name says, and only names that "
        "begin with d4rl/ are D4RL's own. Second-hand, from tables of later papers."
    )
    return text, markdown_table(
        ("task", "option", "ours, on this task", "QGPO, on D4RL's own data", "method of"), rows
    )


def means_table(headline: list[Line]) -> str:
    """Published means of QGPO and other methods over the suites of the tasks."""
    names = filter(None, (published_name(line.dataset) for line in headline))
    return markdown_table(
        ("suite", "method", "mean on D4RL's own data", "method of"),
        [
            (suite, method, f"{mean:.1f}", PAPERS[method])
            for suite in dict.fromkeys(map(suite_of, names))
            for method, mean in MEANS[suite].items()
        ],
    )


def markdown_table(head: tuple[str, ...], rows: list[tuple]) -> str:
    """A table without the columns that are empty throughout; nothing without rows."""
    if not rows:
        return ""
    shown = [index for index in range(len(head)) if any(row[index] != "" for row in rows)]
    lines = [[row[index] for index in shown] for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(
        "|" + "|".join("---" if cell == "---" else f" {cell} " for cell in line) + "|"
        for line in lines
    )


def _differences(values: list[float]) -> tuple[int, str, str, str]:
    """Their number, mean, interval, and themselves."""
    return (
        len(values),
        *_interval(*mean_interval(values)),
        ", ".join(f"{value:.1f}" for value in values),
    )


def _interval(mean: float, half: float) -> tuple[str, str]:
    return f"{mean:.1f}", _range(mean - half, mean + half)


def _range(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:.1f} to {high:.1f}"
