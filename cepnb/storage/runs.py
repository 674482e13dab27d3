"""A folder of results: each step's file is there or not, and what is there is not made again."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from torch import nn

from cepnb.errors import CepnbError
from cepnb.storage.files import load_module, load_tensors, read_json, save_tensors, write_json


class Run:
    """A folder of results: `settings.json`, one file a finished step, `metrics.json` at the end.

    If a configuration is given, raises `CepnbError` if the folder holds a run of another one. `complete` adds to a stored
    configuration the entries that did not exist when it was written.
    """

    def __init__(
        self,
        folder: Path,
        configuration: dict | None = None,
        complete: Callable[[dict], dict] = dict,
    ) -> None:
        self.folder = folder
        if configuration is not None:
            for path in (folder / "settings.json", folder / "metrics.json"):
                if path.exists():
                    refuse_changes(path, configuration, complete)
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
        write_json(
            self.folder / "seconds.json",
            self.seconds | {step: round(time.perf_counter() - begun, 2)},
        )
        return result

    def kept(self, path: Path, make: Callable[[], None]) -> Path:
        """`path`, by `make` if it is not there. Of two processes that want the same step one makes it, and one waits."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock:  # a step may ask for another
                if not path.exists():
                    make()
        return path

    def module(
        self, step: str, build: Callable[[], nn.Module], fit: Callable[[Path], nn.Module]
    ) -> nn.Module:
        """A trained network: loaded from its file, else fitted from its checkpoint or from nothing."""
        path, checkpoint = (
            self.folder / f"{step}.safetensors",
            self.folder / f"{step}.checkpoint.safetensors",
        )

        def make() -> None:
            save_tensors(path, self.timed(step, lambda: fit(checkpoint)).state_dict())

        self.kept(path, make)
        checkpoint.unlink(missing_ok=True)
        net = build()
        load_module(net, load_tensors(path)[0], path)
        return net.requires_grad_(False)


def refuse_changes(
    path: Path, configuration: dict, complete: Callable[[dict], dict] = dict
) -> None:
    """Raise `CepnbError` naming the first entry in which a run's settings or metrics differ from the configuration asked for."""
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("settings"), dict):
        raise CepnbError(
            f"{path}: not the settings of a run, expected a folder of its own for each"
        )
    stored, wanted = (
        _flat(complete(each)) for each in (found, json.loads(json.dumps(configuration)))
    )
    for key, value in wanted.items():
        if key == "digest" and key not in stored:
            continue  # older runs did not record it
        if stored.get(key) != value:
            raise CepnbError(
                f"{path}: made with {key} {stored.get(key)}, now {value}; use another folder"
            )


def _flat(configuration: dict) -> dict:
    """The entries of a configuration and its settings side by side."""
    return {
        key: value for key, value in configuration.items() if key != "settings"
    } | configuration["settings"]
