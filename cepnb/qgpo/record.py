"""Files of a QGPO run: its configuration (`settings.json`) and its results (`metrics.json`)."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from cepnb.errors import CepnbError
from cepnb.qgpo.settings import Settings
from cepnb.storage.files import cache_dir, read_json
from cepnb.storage.runs import Run, refuse_changes
from cepnb.storage.validation import Number, convert


class Score(msgspec.Struct):
    """Score of one policy in the simulator, averaged over episodes; `_se` is a standard error.

    One episode has no standard error.
    """

    method: str  # "behaviour", "best_of_k" or an energy of `Settings.guidance`
    scale: Number | None  # guidance scale s; None without guidance
    normalised: Number  # D4RL score: 0 for the random policy, 100 for the expert
    episodes: int
    return_mean: Number | UnsetType = UNSET  # undiscounted
    return_se: Number | UnsetType = UNSET
    normalised_se: Number | UnsetType = UNSET


class Gain(msgspec.Struct):
    """Gain in Q of one policy over the behaviour; see `cepnb.qgpo.diagnostics.q_gains`."""

    method: str
    scale: Number | None
    gain: Number


class Metrics(msgspec.Struct):
    """Contents of `metrics.json`; fields with a default may be absent."""

    dataset: str
    rows: int  # transitions of the dataset
    profile: str
    seed: int  # training seed
    settings: dict[str, Any]  # fields of `Settings`
    threads: int  # CPU threads of torch
    seconds: dict[str, Number]  # duration of each step
    scores: list[Score]  # empty before the evaluation
    environment: str | UnsetType = UNSET  # absent if the run is trained but not evaluated
    gains: list[Gain] | UnsetType = UNSET
    versions: dict[str, str] | UnsetType = UNSET  # of Python, torch, mujoco and numpy
    q_mean: Number | None | UnsetType = UNSET  # mean Q of contrasted actions
    beta_times_q_spread: Number | None | UnsetType = UNSET  # β times the deviation of Q in a state
    # Errors of the critic; see `cepnb.qgpo.diagnostics.critic_errors`
    agreement: Number | UnsetType = UNSET
    data_less_support: Number | UnsetType = UNSET
    return_rank_correlation: Number | UnsetType = UNSET
    return_bias: Number | UnsetType = UNSET
    digest: str | UnsetType = UNSET  # of the dataset
    device: str | UnsetType = UNSET  # absent on a CPU
    faults: list[str] | UnsetType = UNSET  # what could not be scored, and why


def check_run(folder: Path, file: str | None = None) -> None:
    """Raise `CepnbError` unless a run's folder exists and has a file."""
    fix = "name the folder that the run was given as --out"
    if not folder.is_dir():
        raise CepnbError(f"{folder}: is no folder; {fix}")
    if file and not (folder / file).exists():
        raise CepnbError(f"{folder}: has no {file}; {fix}")


def read_metrics(path: Path, scored: bool = True) -> dict:
    """Read a run's `metrics.json`, with the fields of `Metrics`.

    Raises `CepnbError` naming file and key if it is damaged, and with `scored` if it has neither
    scores nor faults.
    """
    metrics = read_json(path)
    convert(metrics, Metrics, path, "use the metrics.json of a finished run")
    if scored and not metrics["scores"] and not metrics.get("faults"):
        raise CepnbError(f"{path}: has no score; evaluate the run first")
    return metrics


def left_out(path: Path, metrics: dict) -> str:
    """Describe in one line what could not be scored, as `faults` says; empty if nothing."""
    if not metrics.get("faults"):
        return ""
    others = "all other scores are there" if metrics["scores"] else "no score is there"
    return f"{path}: {'; '.join(metrics['faults'])}; {others}"


def open_run(folder: Path, configuration: dict) -> Run:
    """Open the folder of a run; raises `CepnbError` as `refuse_other`."""
    if (folder / "metrics.json").exists():
        read_metrics(folder / "metrics.json", scored=False)
    return Run(folder, configuration, _completion(configuration))


def refuse_other(folder: Path, configuration: dict) -> None:
    """Raise `CepnbError` if a folder holds a run of another configuration, or damaged metrics."""
    if (folder / "metrics.json").exists():
        read_metrics(folder / "metrics.json", scored=False)
    for path in (folder / "settings.json", folder / "metrics.json"):
        if path.exists():
            refuse_changes(path, configuration, _completion(configuration))


def cached_run(configuration: dict) -> Run:
    """Open a run in the cache that all callers with the same configuration share.

    The folder's name holds environment, profile, seed and a digest of the whole configuration.
    """
    digest = hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()
    name = "{environment}-{profile}-seed{seed}".format_map(configuration)
    return open_run(cache_dir() / "runs" / f"{name}-{digest[:8]}", configuration)


def _completion(configuration: dict) -> Callable[[dict], dict]:
    """Return a function that adds to a stored configuration what older versions did not record.

    A missing device is the CPU, a missing digest matches any data, and a missing setting has the
    default of `Settings`.
    """
    defaults = msgspec.to_builtins(Settings())

    def complete(stored: dict) -> dict:
        completed = stored | {"settings": defaults | stored["settings"]}
        completed.setdefault("device", "cpu")
        completed.setdefault("digest", configuration.get("digest"))
        return completed

    return complete
