"""Scores of many runs as rows of one table: read from runs, stored as CSV, and averaged over training seeds."""

import csv
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import TypeVar, get_type_hints

from msgspec import Struct, defstruct

from cepnb.datasets.registry import environment_of
from cepnb.errors import CepnbError
from cepnb.qgpo.record import read_metrics
from cepnb.qgpo.settings import Settings
from cepnb.storage.files import write_text
from cepnb.storage.validation import Number, convert

Row = dict[str, object]
Item = TypeVar("Item")

# Settings as JSON stores them. Older results lack some settings: these count as their default.
DEFAULTS = json.loads(json.dumps(asdict(Settings())))
PROVENANCE = ("digest", "device")  # of data and of random numbers; older results lack them
# Settings that decide how much is trained and evaluated, not how: no ablation.
AMOUNTS = ("guidance", "scales", "episodes", "best_of")


class ScoreRow(Struct, kw_only=True):
    """The cells of a row of scores.csv that tables use; a row also has all settings and versions."""

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
    gain: Number | None = None
    q_mean: Number | None = None
    beta_times_q_spread: Number | None = None
    normalised_se: Number | None = None
    faults: list[str] | None = None
    digest: str = ""
    device: str = ""


class UnscoredRow(ScoreRow, kw_only=True):
    """The row of a run without any score; its method is empty."""

    normalised: Number | None
    faults: list[str]


_SETTINGS = get_type_hints(Settings)
_FINITE = {float: Number, tuple[float, ...]: tuple[Number, ...]}
_SettingsRow = defstruct("_SettingsRow", [(k, _FINITE.get(v, v)) for k, v in _SETTINGS.items()])
_TYPES = get_type_hints(ScoreRow) | _SETTINGS


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
        from cepnb.densities.metrics import mean_interval  # imports torch

        return mean_interval(list(self.scores.values()))

    def less(self, other: "Line") -> list[float]:
        """Return this line's scores minus another's, for the seeds in both."""
        seeds = sorted(self.scores.keys() & other.scores.keys())
        return [self.scores[seed] - other.scores[seed] for seed in seeds]


def rows_of(metrics: dict, option: str = "") -> list[Row]:
    """Turn the contents of a run's `metrics.json` into rows, one a method and scale: score, gain in Q, all settings.

    Rows have `faults` if a policy could not be scored. A run without any score gives one row whose method is empty.
    """
    run = {key: metrics[key] for key in ("dataset", "environment", "profile")}
    run |= {"option": option, "seed": metrics["seed"]}
    diagnostics = ("q_mean", "beta_times_q_spread", "threads", "rows")
    details = {key: metrics.get(key) for key in diagnostics}
    details["digest"] = metrics.get("digest", "")
    details["device"] = metrics.get("device", "cpu")  # a run on the CPU names no device
    details["seconds"] = round(sum(metrics["seconds"].values()), 2)
    details |= {f"{name}_version": text for name, text in metrics.get("versions", {}).items()}
    details |= DEFAULTS | metrics["settings"]
    if metrics.get("faults"):
        details["faults"] = metrics["faults"]
    gains = {(gain["method"], gain["scale"]): gain["gain"] for gain in metrics.get("gains", [])}
    scores = metrics["scores"] or [{"method": "", "scale": None, "normalised": None}]
    return [
        run | score | {"gain": gains.get((score["method"], score["scale"]))} | details
        for score in scores
    ]


def grouped(items: Iterable[Item], key: Callable[[Item], object]) -> dict[object, list[Item]]:
    """Collect items with equal keys in lists, both in the order of their first appearance."""
    groups: dict[object, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def load_scores(paths: Iterable[str | Path]) -> list[Row]:
    """Load rows from CSV files, runs' metrics (JSON files), or folders: their `scores.csv` and the `metrics.json` below.

    Raises `CepnbError` on other files, if there is no score at all, and if runs of one task and option differ in
    settings, profile, rows, or (where both are recorded) data and device.
    """
    rows: list[Row] = []
    first_values: dict[tuple, tuple[object, Path]] = {}
    seen = set()
    for file, row in (located for path in paths for located in _rows_in(Path(path))):
        group = row["dataset"], row["environment"], row["option"]
        for key in ("rows", "profile", *DEFAULTS, *filter(row.get, PROVENANCE)):
            first, place = first_values.setdefault((*group, key), (row[key], file))
            if row[key] != first:
                raise CepnbError(
                    f"{file}: {key} is {row[key]}, but {first} in {place}; "
                    "report runs that differ in seeds only"
                )
        case = *group, row["seed"], row["method"], row["scale"]
        if case in seen:
            raise CepnbError(f"{file}: seed {row['seed']} occurs twice; name each run once")
        seen.add(case)
        rows.append(row)
    if rows and not any(row["method"] for row in rows):
        reasons = "; ".join(rows[0]["faults"])
        raise CepnbError(f"{file}: no score ({reasons}); name finished runs with scores")
    return rows


def write_scores(path: Path, rows: list[Row]) -> None:
    """Write rows as CSV: text unquoted, None as an empty cell, other values as JSON."""
    table = io.StringIO()
    columns = dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        texts = (v if isinstance(v, str | None) else json.dumps(v) for v in row.values())
        writer.writerow(dict(zip(row, texts)))
    write_text(path, table.getvalue())


def summed_up(rows: list[Row]) -> list[Line]:
    """Collect the scores of each task, option, method and scale over seeds: one line each, in the order of the rows."""

    def key(row: Row) -> tuple:
        scale = row["scale"] or None  # the behaviour's scale is recorded as 0
        return row["dataset"], row["environment"], row["option"], row["method"], scale

    lines = []
    for case, group in grouped((row for row in rows if row["method"]), key).items():
        headline = case[-1] in (None, group[0].get("headline_scale"))
        scores = {row["seed"]: row["normalised"] for row in group}
        lines.append(Line(*case, headline, dict(sorted(scores.items()))))
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
    """Return the rows of a CSV file, a run's metrics or a folder, each with its file.

    The table of a sweep that was killed or still runs can lack finished runs. They are read from TASK/OPTION/seedN. Any
    other run in the folder must have a row of its task and seed in the table, or this raises `CepnbError`.
    """
    if path.suffix == ".csv" and not path.is_dir():
        return [(path, row) for row in _read_csv(path)]
    files = sorted(path.rglob("metrics.json")) if path.is_dir() else [path]
    runs = {file: read_metrics(file) for file in files}
    table = path / "scores.csv"
    if not table.exists():
        if not runs:
            raise CepnbError(
                f"{path}: no scores.csv and no metrics.json; name the folder of a sweep or of finished runs"
            )
        return [(file, row) for file, metrics in runs.items() for row in rows_of(metrics)]
    rows = [(table, row) for row in _read_csv(table)]
    run_key = itemgetter("dataset", "environment", "seed")
    in_table = grouped((row for _, row in rows), run_key)
    for file, metrics in runs.items():
        options = {row["option"] for row in in_table.get(run_key(metrics), [])}
        match file.relative_to(path).parts:
            case (_, option, seed, _) if seed == f"seed{metrics['seed']}":
                if option not in options:
                    rows += [(file, row) for row in rows_of(metrics, option)]
            case _ if not options:
                raise CepnbError(
                    f"{file}: neither in {table} nor in a folder TASK/OPTION/seedN; name it next to the table"
                )
    return rows


def _read_csv(path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            cells = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = str(error).splitlines()[0]
        raise CepnbError(
            f"{path}: cannot be read ({reason}); name the scores.csv of a sweep"
        ) from error
    if not cells:
        raise CepnbError(f"{path}: no rows; name the scores.csv of a sweep")
    rows = []
    for line, texts in enumerate(cells, start=2):
        row = {key: _value(key, text) for key, text in texts.items()}
        kind = UnscoredRow if row.get("method") == "" else ScoreRow
        rows.append(DEFAULTS | row)
        for cells, part in ((row, kind), (rows[-1], _SettingsRow)):
            convert(cells, part, f"{path}: line {line}", "name the scores.csv of a sweep")
    return rows


def _value(key: str | None, cell: str | list | None) -> object:
    """Return a cell's text or its JSON value. Invalid JSON stays text, which the validation rejects."""
    if _TYPES.get(key) is str or str(key).endswith("_version"):
        return cell
    try:
        return json.loads(cell) if cell else None
    except (ValueError, TypeError, RecursionError):
        return cell
