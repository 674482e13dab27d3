"""Scores of many runs as rows of one table: read from runs, kept as CSV, and summed up over training seeds."""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from cepnb.datasets.registry import environment_of
from cepnb.densities.metrics import mean_interval
from cepnb.errors import CepnbError
from cepnb.qgpo.record import read_metrics
from cepnb.qgpo.settings import Settings, completed
from cepnb.storage.files import write_text
from cepnb.storage.kinds import listed, maybe, number, text, whole, wrong_in

SETTINGS = tuple(field.name for field in fields(Settings))
TEXT = {
    "dataset",
    "environment",
    "profile",
    "option",
    "method",
    *(f.name for f in fields(Settings) if f.type is str),
}
PROVENANCE = (
    "digest",
    "device",
)  # of data and of random numbers; None where a result is older than them
# What a row of CSV has, what some have, and what one of a run without a score has instead.
ROW = {
    "seed": whole,
    "normalised": number,
    "episodes": whole,
    "seconds": number,
    "threads": whole,
    "rows": whole,
    "dataset": text,
    "environment": text,
    "profile": text,
    "option": text,
    "method": text,
    "scale": maybe(number),
}
SINCE = {"faults": maybe(listed(text))}
UNSCORED = ROW | {"normalised": maybe(number), "faults": listed(text)}

Row = dict[str, object]


@dataclass(frozen=True)
class Line:
    """The D4RL-normalised scores of one method at one scale, one a training seed."""

    dataset: str
    environment: str
    option: str
    method: str
    scale: float | None
    headline: bool  # at the scale to be judged by, or without any
    scores: dict[int, float]

    @property
    def task(self) -> str:
        return task_name(self.dataset, self.environment)

    @property
    def mean(self) -> tuple[float, float]:
        """Mean over seeds and half the width of its 95 % interval by Student's t, NaN for one seed."""
        return mean_interval(list(self.scores.values()))

    def less(self, other: "Line") -> list[float]:
        """Differences of the scores to another line's, of the seeds that both have."""
        return [
            self.scores[seed] - other.scores[seed]
            for seed in sorted(self.scores.keys() & other.scores.keys())
        ]


def rows_of(metrics: dict, option: str = "") -> list[Row]:
    """The contents of a run's `metrics.json` as rows, one a method and scale: scores, gain in Q, and the whole configuration.

    With `faults` if something could not be scored; a run that has no score at all is one row without a method.
    """
    first = {key: metrics[key] for key in ("dataset", "environment", "profile")} | {
        "option": option,
        "seed": metrics["seed"],
    }
    gains = {
        (record["method"], record["scale"]): record["gain"] for record in metrics.get("gains", [])
    }
    last = {
        key: metrics.get(key)
        for key in ("q_mean", "beta_times_q_spread", "threads", "rows", "digest")
    }
    last["device"] = metrics.get("device", "cpu")  # the one that is not named
    last["seconds"] = round(sum(metrics["seconds"].values()), 2)
    last |= {
        f"{name}_version": version for name, version in metrics.get("versions", {}).items()
    } | completed(metrics["settings"])
    last |= {"faults": metrics["faults"]} if metrics.get("faults") else {}
    records = metrics["scores"] or [{"method": "", "scale": None, "normalised": None}]
    return [
        first | record | {"gain": gains.get((record["method"], record["scale"]))} | last
        for record in records
    ]


def scored(row: Row) -> bool:
    """Whether a row is of a score, and not of a run that has none."""
    return bool(row["method"])


def load_scores(paths: Iterable[Path]) -> list[Row]:
    """The rows of CSV files, of runs' metrics (JSON files), or of folders: their `scores.csv` and the `metrics.json` below.

    Raises `CepnbError` on what is neither, if there is no score in them, and unless runs of one task and option differ in nothing
    but their seeds, as far as is known of `SOURCES`.
    """
    rows, known, seen = [], {}, set()
    for path in paths:
        for file, own in _tables(path):
            for row in own:
                group = row["dataset"], row["environment"], row["option"]
                for key in ("rows", "profile", *SETTINGS, *PROVENANCE):
                    if key in PROVENANCE and row.get(key) is None:
                        continue
                    other, place = known.setdefault((*group, key), (row.get(key), file))
                    if row.get(key) != other:
                        raise CepnbError(
                            f"{file}: its {key} is {row.get(key)}, that of {place} {other}, expected runs of "
                            "different seeds only"
                        )
                case = *group, row["seed"], row["method"], row["scale"]
                if case in seen:
                    raise CepnbError(
                        f"{file}: seed {row['seed']} a second time, expected each once"
                    )
                seen.add(case)
                rows.append(row)
    if rows and not any(map(scored, rows)):
        raise CepnbError(
            f"{file}: no score is there ({'; '.join(rows[0]['faults'])}), expected finished runs with scores"
        )
    return rows


def write_scores(path: Path, rows: list[Row]) -> None:
    """Write rows as CSV: text as it is, nothing where there is no value, anything else as JSON."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = (row.get(key) for key in columns)
        writer.writerow(
            [
                "" if cell is None else cell if isinstance(cell, str) else json.dumps(cell)
                for cell in cells
            ]
        )
    write_text(path, table.getvalue())


def summed_up(rows: list[Row]) -> list[Line]:
    """One line for each task, option, method and scale that has a score, in the order of their first rows; seeds in order."""

    def key(row: Row) -> tuple:
        return (
            row["dataset"],
            row["environment"],
            row["option"],
            row["method"],
            row["scale"] or None,
        )  # behaviour is kept with 0

    rows = list(filter(scored, rows))
    lines = {
        key(row): Line(*key(row), key(row)[-1] in (None, row.get("headline_scale")), {})
        for row in rows
    }
    for row in sorted(rows, key=lambda row: row["seed"]):
        lines[key(row)].scores[row["seed"]] = row["normalised"]
    return list(lines.values())


def ablations(rows: list[Row]) -> dict[str, list[tuple[object, str]]]:
    """For each setting that options of one task change, its values in ascending order with the option of each, "base" among them.

    How much is trained and evaluated (`guidance`, `scales`, `episodes`, `best_of`) is no ablation. An option that changes several
    settings stands under the first. Raises `CepnbError` without an option "base".
    """
    options = {row["option"]: row for row in rows}
    if "base" not in options:
        raise CepnbError(f"options {', '.join(options)}: expected one named base among them")
    found: dict[str, list[tuple[object, str]]] = {}
    amounts = ("guidance", "scales", "episodes", "best_of")
    for option, row in options.items():
        changed = [
            key for key in SETTINGS if key not in amounts and row[key] != options["base"][key]
        ]
        if changed:
            found.setdefault(changed[0], [(options["base"][changed[0]], "base")]).append(
                (row[changed[0]], option)
            )
    return {setting: sorted(values) for setting, values in found.items()}


def task_name(dataset: str, environment: str) -> str:
    """A task as tables name it: its dataset, and where policies were evaluated unless the dataset's name says so."""
    return dataset if environment == environment_of(dataset) else f"{dataset} in {environment}"


def _tables(path: Path) -> list[tuple[Path, list[Row]]]:
    """The files of what was asked for, each with its rows."""
    if not path.is_dir():
        return [(path, _read_csv(path) if path.suffix == ".csv" else rows_of(read_metrics(path)))]
    table, runs = (
        path / "scores.csv",
        {file: read_metrics(file) for file in sorted(path.rglob("metrics.json"))},
    )
    if table.exists():
        rows = _read_csv(table)
        return [(table, rows), *_later(path, rows, runs)]
    if not runs:
        raise CepnbError(
            f"{path}: no scores.csv and no metrics.json in it, expected the folder of a sweep or of finished runs"
        )
    return [(file, rows_of(metrics)) for file, metrics in runs.items()]


def _later(folder: Path, rows: list[Row], runs: dict[Path, dict]) -> list[tuple[Path, list[Row]]]:
    """Of the runs below a sweep's folder those that are not in its table, since the sweep was killed or is at work.

    A run's option is the name of a folder (TASK/OPTION/seedN); elsewhere a run of the table is one of the same task and seed.
    Rows of a table from before there were `faults` get those of their run. Raises `CepnbError` if the option cannot be told.
    """
    known: dict[tuple, dict[str, list[Row]]] = {}
    for row in rows:
        known.setdefault((row["dataset"], row["environment"], row["seed"]), {}).setdefault(
            row["option"], []
        ).append(row)
    later, strange = [], []
    for file, metrics in runs.items():
        options = known.get((metrics["dataset"], metrics["environment"], metrics["seed"]), {})
        match file.relative_to(folder).parts:
            case (_, option, seed, _) if seed == f"seed{metrics['seed']}":
                if option not in options:
                    later.append((file, rows_of(metrics, option)))
                elif metrics.get("faults"):
                    for row in options[option]:
                        row["faults"] = metrics["faults"]
            case _ if not options:
                strange.append(file)
    if strange:
        raise CepnbError(
            f"{folder}: finished runs that are neither in its scores.csv nor in the folders of a sweep: "
            f"{len(strange)}, such as {strange[0]}; expected them by name, beside {folder / 'scores.csv'}"
        )
    return later


def _read_csv(path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                completed({key: _value(key, cell) for key, cell in row.items()})
                for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CepnbError(
            f"{path}: expected the scores.csv of a sweep ({str(error).splitlines()[0]})"
        ) from error
    if not rows:
        raise CepnbError(f"{path}: has no row, expected the scores.csv of a sweep")
    for line, row in enumerate(rows, start=2):
        if wrong := wrong_in(row, ROW if row.get("method") != "" else UNSCORED, SINCE):
            raise CepnbError(f"{path}: line {line}: {wrong}, expected the scores.csv of a sweep")
    return rows


def _value(key: str | None, cell: str | list | None) -> object:
    if key in PROVENANCE:
        return cell or None
    if key in TEXT or str(key).endswith("_version"):
        return cell
    try:
        return json.loads(cell) if cell else None
    except (ValueError, TypeError, RecursionError):
        return cell
