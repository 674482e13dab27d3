"""Scores of many runs as rows of one table: read from runs, stored as CSV, and averaged over training seeds."""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from msgspec import Struct

from cepnb.datasets.registry import environment_of
from cepnb.densities.metrics import mean_interval
from cepnb.errors import CepnbError
from cepnb.qgpo.record import read_metrics
from cepnb.qgpo.settings import Settings
from cepnb.storage.files import write_text
from cepnb.storage.validation import Number, convert

Row = dict[str, object]

# Settings as JSON stores them. Older results lack some settings: these count as their default.
DEFAULTS = json.loads(json.dumps(asdict(Settings())))
PROVENANCE = ("digest", "device")  # of data and of random numbers; older results lack them
TEXT = {"dataset", "environment", "profile", "option", "method", *PROVENANCE}
TEXT |= {field.name for field in fields(Settings) if field.type is str}
# Settings that decide how much is trained and evaluated, not how: no ablation.
AMOUNTS = ("guidance", "scales", "episodes", "best_of")


class ScoreRow(Struct):
    """The cells that a row of scores.csv needs; it also has all settings and versions."""

    dataset: str
    environment: str
    profile: str
    option: str
    method: str
    scale: Number | None
    seed: int
    normalised: Number
    episodes: int
    seconds: Number
    threads: int
    rows: int
    faults: list[str] | None = None


class UnscoredRow(ScoreRow, kw_only=True):
    """The row of a run without any score; its method is empty."""

    normalised: Number | None
    faults: list[str]


@dataclass(frozen=True)
class Line:
    """The D4RL-normalised scores of one method at one scale, one a training seed."""

    dataset: str
    environment: str
    option: str
    method: str
    scale: float | None
    headline: bool  # at the headline scale, or a method without scales
    scores: dict[int, float]

    @property
    def task(self) -> str:
        return task_name(self.dataset, self.environment)

    @property
    def mean(self) -> tuple[float, float]:
        """The mean over seeds and half the width of its 95 % interval (Student's t), NaN for one seed."""
        return mean_interval(list(self.scores.values()))

    def less(self, other: "Line") -> list[float]:
        """Return this line's scores minus another's, for the seeds in both."""
        seeds = sorted(self.scores.keys() & other.scores.keys())
        return [self.scores[seed] - other.scores[seed] for seed in seeds]


def rows_of(metrics: dict, option: str = "") -> list[Row]:
    """Turn the contents of a run's `metrics.json` into rows, one a method and scale: score, gain in Q, all settings.

    Rows have `faults` if a policy could not be scored. A run without any score gives one row with an empty method.
    """
    run = {key: metrics[key] for key in ("dataset", "environment", "profile")}
    run |= {"option": option, "seed": metrics["seed"]}
    keys = ("q_mean", "beta_times_q_spread", "threads", "rows")
    details = {key: metrics.get(key) for key in keys}
    details["digest"] = metrics.get("digest", "")
    details["device"] = metrics.get("device", "cpu")  # a run on the CPU names no device
    details["seconds"] = round(sum(metrics["seconds"].values()), 2)
    for name, version in metrics.get("versions", {}).items():
        details[f"{name}_version"] = version
    details |= DEFAULTS | metrics["settings"]
    if metrics.get("faults"):
        details["faults"] = metrics["faults"]
    gains = {(gain["method"], gain["scale"]): gain["gain"] for gain in metrics.get("gains", [])}
    rows = []
    for score in metrics["scores"] or [{"method": "", "scale": None, "normalised": None}]:
        gain = gains.get((score["method"], score["scale"]))
        rows.append(run | score | {"gain": gain} | details)
    return rows


def scored(row: Row) -> bool:
    """Whether a row has a score: a run without any score has one row without a method."""
    return bool(row["method"])


def load_scores(paths: Iterable[Path]) -> list[Row]:
    """Load rows from CSV files, runs' metrics (JSON files), or folders: their `scores.csv` and the `metrics.json` below.

    Raises `CepnbError` on other files, if there is no score at all, and if runs of one task and option differ in
    settings, profile, rows, or (where both are recorded) data and device.
    """
    rows: list[Row] = []
    first_values: dict[tuple, tuple[object, Path]] = {}
    seen = set()
    for path in paths:
        for file, row in _rows_in(path):
            group = row["dataset"], row["environment"], row["option"]
            for key in ("rows", "profile", *DEFAULTS, *PROVENANCE):
                value = row.get(key)
                if key in PROVENANCE and not value:
                    continue
                first, place = first_values.setdefault((*group, key), (value, file))
                if value != first:
                    raise CepnbError(
                        f"{file}: {key} is {value}, but {first} in {place}; "
                        "report runs that differ in seeds only"
                    )
            case = *group, row["seed"], row["method"], row["scale"]
            if case in seen:
                raise CepnbError(f"{file}: seed {row['seed']} occurs twice; name each run once")
            seen.add(case)
            rows.append(row)
    if rows and not any(map(scored, rows)):
        reasons = "; ".join(rows[0]["faults"])
        raise CepnbError(f"{file}: no score ({reasons}); name finished runs with scores")
    return rows


def write_scores(path: Path, rows: list[Row]) -> None:
    """Write rows as CSV: text unquoted, None as an empty cell, other values as JSON."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    write_text(path, table.getvalue())


def summed_up(rows: list[Row]) -> list[Line]:
    """Collect the scores of each task, option, method and scale over seeds: one line each, in the order of their first rows."""
    groups: dict[tuple, list[Row]] = {}
    for row in filter(scored, rows):
        scale = row["scale"] or None  # the behaviour's scale is recorded as 0
        key = row["dataset"], row["environment"], row["option"], row["method"], scale
        groups.setdefault(key, []).append(row)
    lines = []
    for key, group in groups.items():
        headline = key[-1] in (None, group[0].get("headline_scale"))
        group.sort(key=lambda row: row["seed"])
        lines.append(Line(*key, headline, {row["seed"]: row["normalised"] for row in group}))
    return lines


def ablations(rows: list[Row]) -> dict[str, list[tuple[object, str]]]:
    """List, for each setting that options of one task change, its values in ascending order, each with its option.

    The option "base" is in every list. An option that changes several settings counts for the first of them. Settings
    in `AMOUNTS` are ignored. Raises `CepnbError` without an option "base".
    """
    options = {row["option"]: row for row in rows}
    if "base" not in options:
        raise CepnbError(f"options {', '.join(options)}: none is named base; rename one")
    base = options["base"]
    found: dict[str, list[tuple[object, str]]] = {}
    for option, row in options.items():
        changed = [key for key in DEFAULTS if key not in AMOUNTS and row[key] != base[key]]
        for setting in changed[:1]:
            found.setdefault(setting, [(base[setting], "base")]).append((row[setting], option))
    return {setting: sorted(values) for setting, values in found.items()}


def task_name(dataset: str, environment: str) -> str:
    """Return a task's name in tables: its dataset, and the environment unless the dataset's name implies it."""
    return dataset if environment == environment_of(dataset) else f"{dataset} in {environment}"


def _rows_in(path: Path) -> list[tuple[Path, Row]]:
    """Return the rows of a file or folder, each with its file."""
    if path.is_dir():
        return _rows_in_folder(path)
    rows = _read_csv(path) if path.suffix == ".csv" else rows_of(read_metrics(path))
    return [(path, row) for row in rows]


def _rows_in_folder(folder: Path) -> list[tuple[Path, Row]]:
    """Return the rows of a sweep's table, and of the runs below the folder that the table lacks.

    A sweep that was killed, or still runs, can have such runs; their option is the name of a folder (TASK/OPTION/seedN).
    Raises `CepnbError` on a run outside such folders, unless the table has a run of its task and seed.
    """
    runs = {file: read_metrics(file) for file in sorted(folder.rglob("metrics.json"))}
    table = folder / "scores.csv"
    if not table.exists():
        if not runs:
            raise CepnbError(
                f"{folder}: no scores.csv and no metrics.json; name the folder of a sweep or of finished runs"
            )
        return [(file, row) for file, metrics in runs.items() for row in rows_of(metrics)]
    rows = [(table, row) for row in _read_csv(table)]
    options_of: dict[tuple, set[str]] = {}
    for _, row in rows:
        run = row["dataset"], row["environment"], row["seed"]
        options_of.setdefault(run, set()).add(row["option"])
    unknown = []
    for file, metrics in runs.items():
        run = metrics["dataset"], metrics["environment"], metrics["seed"]
        options = options_of.get(run, set())
        parts = file.relative_to(folder).parts
        if len(parts) == 4 and parts[2] == f"seed{metrics['seed']}":
            option = parts[1]
            if option not in options:
                rows += [(file, row) for row in rows_of(metrics, option)]
        elif not options:
            unknown.append(file)
    if unknown:
        raise CepnbError(
            f"{folder}: {len(unknown)} finished runs are neither in scores.csv nor in TASK/OPTION/seedN, such as "
            f"{unknown[0]}; name them next to {table}"
        )
    return rows


def _read_csv(path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            cells = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = str(error).splitlines()[0]
        raise CepnbError(f"{path}: not the scores.csv of a sweep ({reason})") from error
    if not cells:
        raise CepnbError(f"{path}: no rows; name the scores.csv of a sweep")
    rows = []
    for line, texts in enumerate(cells, start=2):
        row = {key: _value(key, text) for key, text in texts.items()}
        kind = UnscoredRow if row.get("method") == "" else ScoreRow
        convert(row, kind, f"{path}: line {line}", "name the scores.csv of a sweep")
        rows.append(DEFAULTS | row)
    return rows


def _cell(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _value(key: str | None, cell: str | list | None) -> object:
    if key in TEXT or str(key).endswith("_version"):
        return cell
    try:
        return json.loads(cell) if cell else None
    except (ValueError, TypeError, RecursionError):
        return cell  # validation rejects it
