"""Tables of scores as Markdown: means at the headline scale, paired differences, the whole grid, published scores."""

import math
from collections.abc import Iterable

import numpy as np

from cepnb.densities.metrics import interquartile_mean, mean_interval, stratified_interval
from cepnb.experiments.published_scores import MEANS, QGPO, SUITES, published_name, suite_of
from cepnb.experiments.scores import Line, Row, grouped, summed_up, task_name

STATISTICS = ("seeds", "mean", "95 % interval", "each seed")  # columns that `_statistics` fills
OTHER_DATA = (
    "**Other data:** published scores are on D4RL's own data; ours are on the dataset that the task names, which is "
    "D4RL's own only if the name begins with d4rl/. Second-hand, from tables of later papers."
)


def report(rows: list[Row]) -> str:
    """Return all tables of the rows of scores as Markdown; empty tables are left out."""
    lines = summed_up(rows)
    headline = [line for line in lines if line.headline]
    published = published_table(headline)
    sections = (
        (
            "At the headline scale",
            "D4RL-normalised scores (0 random, 100 expert): mean over training seeds, and its 95 % interval by "
            "Student's t. The headline scale is `headline_scale` of the settings, fixed beforehand.",
            score_table(headline),
        ),
        (
            "Left out",
            "These policies could not be scored. Their means are over fewer seeds than those of other methods.",
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
            "CEP minus each other method at the headline scale. Methods of one seed share behaviour and Q, so the "
            "differences are paired: mean and 95 % interval by Student's t.",
            difference_table(headline),
        ),
        (
            "Options minus base, seed by seed",
            "CEP at the headline scale. Runs of one seed share the steps whose settings are equal.",
            option_table(headline),
        ),
        ("The whole grid of scales", "", score_table(lines)),
        ("Runs", "Seconds include steps that a run reuses from another option.", run_table(rows)),
        (
            "Published scores",
            OTHER_DATA if published else "",
            published or "No score of QGPO is known for these tasks.",
        ),
        ("Published means", "Means over D4RL's own datasets of a suite.", means_table(headline)),
    )
    shown = [(f"### {title}", text, table) for title, text, table in sections if table]
    return "\n\n".join(part for section in shown for part in section if part)


def scores_text(records: list[dict]) -> str:
    """Format score records as aligned text, one per line."""
    lines = [f"{'method':<12}{'scale':>6}{'episodes':>10}{'return':>18}{'normalised':>18}"]
    for r in records:
        scale = "" if r["scale"] is None else f"{r['scale']:g}"
        line = f"{r['method']:<12}{scale:>6}{r['episodes']:>10}"
        for mean, error in (("return_mean", "return_se"), ("normalised", "normalised_se")):
            spread = f"{r[error]:.1f}" if error in r else "–"  # one episode has no error
            line += f"{r[mean]:>10.1f} ± {spread:<5}"
        lines.append(line)
    return "\n".join(lines)


def score_table(lines: Iterable[Line]) -> str:
    """Return the mean, the interval and the score of every seed for each line."""
    rows = []
    for line in lines:
        scale = f"{line.scale:g}" if line.scale else ""
        statistics = _statistics(line.scores.values())
        rows.append((line.task, line.option, line.method, scale, *statistics))
    return markdown_table(("task", "option", "method", "scale s", *STATISTICS), rows)


def left_out_table(rows: list[Row]) -> str:
    """Return the runs with policies that could not be scored, and the reasons; empty without such runs."""
    faults = {(*_task_and_option(row), row["seed"]): row.get("faults") for row in rows}
    table = [(*run, "; ".join(reasons)) for run, reasons in faults.items() if reasons]
    return markdown_table(("task", "option", "seed", "left out"), table)


def aggregate_table(headline: list[Line]) -> str:
    """Return interquartile means over all tasks, for the seeds that all tasks share; empty for a single task."""
    task_count = len({line.task for line in headline})
    rows = []
    for case, lines in grouped(headline, lambda line: (line.option, line.method)).items():
        seeds = sorted(set.intersection(*(set(line.scores) for line in lines)))
        if task_count < 2 or len(lines) < task_count or not seeds:
            continue
        scores = np.array([[line.scores[seed] for line in lines] for seed in seeds])
        interval = _range(*stratified_interval(scores, np.random.default_rng(0)))
        rows.append((*case, task_count, len(seeds), f"{interquartile_mean(scores):.1f}", interval))
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
            if same_runs and other is not cep and (differences := cep.less(other)):
                name = f"cep − {other.method}"
                rows.append((cep.task, cep.option, name, *_statistics(differences)))
    return markdown_table(("task", "option", "difference", *STATISTICS), rows)


def option_table(headline: list[Line]) -> str:
    """Return CEP's scores under each option minus those under "base"; empty without an option of that name."""
    cep_lines = [line for line in headline if line.method == "cep"]
    base_of = {line.task: line for line in cep_lines if line.option == "base"}
    rows = []
    for line in cep_lines:
        base = base_of.get(line.task, line)
        if base is not line and (differences := line.less(base)):
            rows.append((line.task, line.option, *_statistics(differences)))
    return markdown_table(("task", "option", *STATISTICS), rows)


def run_table(rows: list[Row]) -> str:
    """Return the data, episodes, seconds and threads of each task and option."""
    table = []
    for case, group in grouped(rows, _task_and_option).items():
        first, seconds = group[0], [row["seconds"] for row in group]
        seeds, threads = (
            ", ".join(map(str, sorted({row[key] for row in group}))) for key in ("seed", "threads")
        )
        data = first["profile"], first["rows"], seeds, first["episodes"]
        table.append((*case, *data, f"{min(seconds):.0f} to {max(seconds):.0f}", threads))
    head = ("task", "option", "profile", "rows", "seeds", "episodes of each")
    return markdown_table((*head, "seconds a seed", "torch threads"), table)


def published_table(headline: list[Line]) -> str:
    """Return CEP's scores and QGPO's published ones, for tasks that D4RL has a dataset for."""
    rows = []
    for line in headline:
        name = published_name(line.dataset)
        if line.method == "cep" and name:
            _, mean, interval, _ = _statistics(line.scores.values())
            ours = f"{mean} ({interval})" if interval else mean
            version = "-v0" if name.startswith("antmaze") else ""
            published = f"{QGPO[name]:.1f} on {name}{version}"
            rows.append((line.task, line.option, ours, published, MEANS["QGPO"][-1]))
    head = ("task", "option", "ours, on this task", "QGPO, on D4RL's own data", "method of")
    return markdown_table(head, rows)


def means_table(headline: list[Line]) -> str:
    """Return published means of QGPO and other methods over the suites of the tasks."""
    names = filter(None, (published_name(line.dataset) for line in headline))
    rows = [
        (suite, method, f"{means[SUITES.index(suite)]:.1f}", paper)
        for suite in dict.fromkeys(map(suite_of, names))
        for method, (*means, paper) in MEANS.items()
        if means[SUITES.index(suite)]
    ]
    return markdown_table(("suite", "method", "mean on D4RL's own data", "method of"), rows)


def markdown_table(head: tuple[str, ...], rows: list[tuple]) -> str:
    """Return a Markdown table without its empty columns; an empty text without rows."""
    if not rows:
        return ""
    shown = [index for index in range(len(head)) if any(row[index] != "" for row in rows)]
    lines = ["|" + "".join(f" {row[index]} |" for index in shown) for row in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(shown))
    return "\n".join(lines)


def _task_and_option(row: Row) -> tuple[str, str]:
    return task_name(row["dataset"], row["environment"]), row["option"]


def _statistics(scores: Iterable[float]) -> tuple[int, str, str, str]:
    """The number of scores, their mean, its interval, and the scores themselves."""
    scores = list(scores)
    mean, half_width = mean_interval(scores)
    interval = _range(mean - half_width, mean + half_width)
    return len(scores), f"{mean:.1f}", interval, ", ".join(f"{score:.1f}" for score in scores)


def _range(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:.1f} to {high:.1f}"
