"""What a QGPO run leaves in its folder: its configuration, and the contents of `metrics.json`."""

import hashlib
import json
from pathlib import Path

from cepnb.errors import CepnbError
from cepnb.qgpo.settings import completed
from cepnb.storage.files import cache_dir, read_json
from cepnb.storage.kinds import (
    anything,
    listed,
    maybe,
    number,
    shown,
    tabled,
    text,
    whole,
    wrong_in,
)
from cepnb.storage.runs import Run, refuse_changes

RUN = {
    "dataset": text,
    "environment": text,
    "rows": whole,
    "profile": text,
    "seed": whole,
    "settings": tabled(anything),
    "threads": whole,
    "seconds": tabled(number),
    "scores": listed(anything),
}  # needed of a run
SINCE = {
    "gains": listed(anything),
    "versions": tabled(text),
    "q_mean": maybe(number),
    "beta_times_q_spread": maybe(number),
    "digest": text,
    "device": text,
    "faults": listed(text),
}  # which not all have
SCORE = {"method": text, "scale": maybe(number), "normalised": number, "episodes": whole}
SPREAD = {"return_mean": number, "return_se": number, "normalised_se": number}
GAIN = {"method": text, "scale": maybe(number), "gain": number}


def open_run(folder: Path, configuration: dict) -> Run:
    """The folder of a QGPO run; raises `CepnbError` as `refuse_other`."""
    refuse_other(folder, configuration)
    return Run(folder, configuration, completed_configuration)


def completed_configuration(stored: dict) -> dict:
    """A stored configuration with the entries that did not exist when it was written.

    One that names no device is of the CPU; one without a digest of its data matches any digest.
    """
    return {"device": "cpu"} | stored | {"settings": completed(stored["settings"])}


def cached_run(configuration: dict) -> Run:
    """A run in the cache, which all who ask for the same configuration share. Its folder is named by environment, profile, seed
    and a digest of the rest, so that changed settings, of a reader's or of a later version's, get another one."""
    digest = hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()
    name = "{environment}-{profile}-seed{seed}".format_map(configuration)
    return open_run(cache_dir() / "runs" / f"{name}-{digest[:8]}", configuration)


def read_metrics(path: Path) -> dict:
    """A run's `metrics.json`; raises `CepnbError` naming what of it is not there, or is not what it has to be."""
    metrics, finished = read_json(path), "expected the metrics.json of a finished run"
    if wrong := wrong_in(metrics, RUN, SINCE):
        raise CepnbError(f"{path}: {wrong}, {finished}")
    for key, needed, known in (("scores", SCORE, SPREAD), ("gains", GAIN, {})):
        for record in metrics.get(key, []):
            if wrong_in(record, needed, known):
                *others, last = needed
                raise CepnbError(
                    f"{path}: {key}: found {shown(record)}, expected records with {', '.join(others)} and {last}"
                )
    if not metrics["scores"] and not metrics.get("faults"):
        raise CepnbError(f"{path}: has no score in it, {finished}")
    return metrics


def left_out(path: Path, metrics: dict) -> str:
    """What of a finished run could not be scored, as its `faults` say, in a line that names the file; nothing if all could."""
    faults, others = (
        metrics.get("faults"),
        "all other scores are there" if metrics["scores"] else "no score is there",
    )
    return f"{path}: {'; '.join(faults)}; {others}" if faults else ""


def refuse_other(folder: Path, configuration: dict) -> None:
    """Raises `CepnbError` if a folder was begun, or its run has finished, with another configuration than this one, and if its
    `metrics.json` is damaged."""
    if (folder / "metrics.json").exists():
        read_metrics(folder / "metrics.json")
    for path in (folder / "settings.json", folder / "metrics.json"):
        if path.exists():
            refuse_changes(path, configuration, completed_configuration)
