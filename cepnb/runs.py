"""A folder of results: each step's file is there or not, and what is there is not made again."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from torch import nn

from cepnb.errors import CepnbError
from cepnb.files import cache_dir, load_module, load_tensors, read_json, save_tensors, write_json
from cepnb.kinds import anything, listed, maybe, number, shown, tabled, text, whole, wrong_in
from cepnb.profiles import completed

RUN = {"dataset": text, "environment": text, "rows": whole, "profile": text, "seed": whole, "settings": tabled(anything),
       "threads": whole, "seconds": tabled(number), "scores": listed(anything)}  # needed of a run
SINCE = {"gains": listed(anything), "versions": tabled(text), "q_mean": maybe(number), "beta_times_q_spread": maybe(number),
         "digest": text, "device": text, "faults": listed(text)}  # which not all have
SCORE = {"method": text, "scale": maybe(number), "normalised": number, "episodes": whole}
SPREAD = {"return_mean": number, "return_se": number, "normalised_se": number}
GAIN = {"method": text, "scale": maybe(number), "gain": number}


class Run:
    """A folder of results: `settings.json`, one file a finished step, `metrics.json` at the end.

    Raises `CepnbError` as `refuse_other` if a configuration is given. A setting that is not in the folder's, since there was no
    choice then, counts as what was done.
    """

    def __init__(self, folder: Path, configuration: dict | None = None) -> None:
        self.folder = folder
        if configuration is not None:
            refuse_other(folder, configuration)
            if not (folder / "settings.json").exists():
                write_json(folder / "settings.json", configuration)
        self._lock = FileLock(folder / ".lock")

    @property
    def seconds(self) -> dict[str, float]:
        """What each finished step took, whichever process has made it."""
        path = self.folder / "seconds.json"
        return read_json(path) if path.exists() else {}

    def timed(self, step: str, work: Callable[[], object]) -> object:
        """Run one step and remember how long it took (of a resumed step, its last part)."""
        begun = time.perf_counter()
        result = work()
        write_json(self.folder / "seconds.json", self.seconds | {step: round(time.perf_counter() - begun, 2)})
        return result

    def kept(self, path: Path, make: Callable[[], None]) -> Path:
        """`path`, by `make` if it is not there. Of two processes that want the same step one makes it, and one waits."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock:  # a step may ask for another
                if not path.exists():
                    make()
        return path

    def module(self, step: str, build: Callable[[], nn.Module], fit: Callable[[Path], nn.Module]) -> nn.Module:
        """A trained network: loaded from its file, else fitted from its checkpoint or from nothing."""
        path, checkpoint = self.folder / f"{step}.safetensors", self.folder / f"{step}.checkpoint.safetensors"

        def make() -> None:
            save_tensors(path, self.timed(step, lambda: fit(checkpoint)).state_dict())

        self.kept(path, make)
        checkpoint.unlink(missing_ok=True)
        net = build()
        load_module(net, load_tensors(path)[0], path)
        return net.requires_grad_(False)


def cached_run(configuration: dict) -> Run:
    """A run in the cache, which all who ask for the same configuration share. Its folder is named by environment, profile, seed
    and a digest of the rest, so that changed settings, of a reader's or of a later version's, get another one."""
    digest = hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()
    name = "{environment}-{profile}-seed{seed}".format_map(configuration)
    return Run(cache_dir() / "runs" / f"{name}-{digest[:8]}", configuration)


def read_metrics(path: Path) -> dict:
    """A run's `metrics.json`; raises `CepnbError` naming what of it is not there, or is not what it has to be."""
    metrics, finished = read_json(path), "expected the metrics.json of a finished run"
    if wrong := wrong_in(metrics, RUN, SINCE):
        raise CepnbError(f"{path}: {wrong}, {finished}")
    for key, needed, known in (("scores", SCORE, SPREAD), ("gains", GAIN, {})):
        for record in metrics.get(key, []):
            if wrong_in(record, needed, known):
                *others, last = needed
                raise CepnbError(f"{path}: {key}: found {shown(record)}, expected records with {', '.join(others)} and {last}")
    if not metrics["scores"] and not metrics.get("faults"):
        raise CepnbError(f"{path}: has no score in it, {finished}")
    return metrics


def left_out(path: Path, metrics: dict) -> str:
    """What of a finished run could not be scored, as its `faults` say, in a line that names the file; nothing if all could."""
    faults, others = metrics.get("faults"), "all other scores are there" if metrics["scores"] else "no score is there"
    return f"{path}: {'; '.join(faults)}; {others}" if faults else ""


def refuse_other(folder: Path, configuration: dict) -> None:
    """Raises `CepnbError` if a folder was begun, or its run has finished, with another configuration than this one, and if its
    `metrics.json` is damaged."""
    if (folder / "metrics.json").exists():
        read_metrics(folder / "metrics.json")
    for path in (folder / "settings.json", folder / "metrics.json"):
        if path.exists():
            refuse_changes(path, configuration)


def refuse_changes(path: Path, configuration: dict) -> None:
    """Raises `CepnbError` naming the first entry in which a run's settings or metrics differ from the configuration asked for.

    One that names no device is of a processor, and one without a digest of its data was made before there were any: by name and
    number of rows it is taken for the same.
    """
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("settings"), dict):
        raise CepnbError(f"{path}: not the settings of a run, expected a folder of its own for each")
    stored, wanted = ({"device": "cpu"} | completed(c | c.pop("settings")) for c in (found, json.loads(json.dumps(configuration))))
    stored = {"digest": wanted.get("digest")} | stored
    for key, value in wanted.items():
        if stored.get(key) != value:
            raise CepnbError(f"{path}: made with {key} {stored.get(key)}, now {value}; use another folder")
