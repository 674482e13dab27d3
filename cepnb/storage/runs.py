"""Folders of results: each finished step has a file, and later calls load it."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from cepnb.errors import CepnbError
from cepnb.storage.files import read_json, unwritable, write_json
from cepnb.storage.validation import Number, check_finite

Complete = Callable[[dict], dict]  # adds the defaults of missing entries to a stored configuration


class Run:
    """A folder of results: `settings.json`, a file for each finished step, `metrics.json` at the end.

    `configuration` is written to `settings.json`. Raises `CepnbError` if the folder holds another
    one (`refuse_changes`). `complete` adds defaults to stored configurations.
    """

    def __init__(
        self, folder: str | Path, configuration: dict | None = None, complete: Complete = dict
    ) -> None:
        self.folder = folder = Path(folder)
        if configuration is not None:
            settings = folder / "settings.json"
            for path in (settings, folder / "metrics.json"):
                if path.exists():
                    refuse_changes(path, configuration, complete)
            if not settings.exists():
                write_json(settings, configuration)
        self._lock = FileLock(folder / ".lock")

    @property
    def seconds(self) -> dict[str, float]:
        """The duration of each finished step, in seconds."""
        path = self.folder / "seconds.json"
        return read_json(path, dict[str, Number], "delete it") if path.exists() else {}

    def timed(self, step: str, work: Callable[[], object]) -> object:
        """Run one step and store its duration; a resumed step counts from its last start."""
        _ = self.seconds  # a damaged file fails before the work
        start = time.perf_counter()
        result = work()
        duration = round(time.perf_counter() - start, 2)
        write_json(self.folder / "seconds.json", self.seconds | {step: duration})
        return result

    def ensure(self, path: Path, make: Callable[[], None]) -> Path:
        """Call `make` if the file `path` is missing, while other processes wait; return `path`."""
        if not path.exists():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = self._lock.acquire()
            except OSError as error:
                raise unwritable(path, error) from error
            with lock:  # reentrant: a step may need another step
                if not path.exists():
                    make()
        return path

    def module(
        self,
        step: str,
        build: Callable[[], "torch.nn.Module"],
        fit: Callable[[Path], "torch.nn.Module"],
    ) -> "torch.nn.Module":
        """Return a frozen network: load it, or train it by `fit(checkpoint)` and save it.

        Raises `CepnbError` if trained weights are not finite; then nothing is saved.
        """
        from cepnb.storage.tensors import load_module, load_tensors, save_tensors  # imports torch

        path = self.folder / f"{step}.safetensors"
        checkpoint = self.folder / f"{step}.checkpoint.safetensors"

        def make() -> None:
            weights = self.timed(step, lambda: fit(checkpoint)).state_dict()
            for name, tensor in weights.items():
                what = f"{path}: trained weights '{name}'"
                check_finite(what, tensor, "use a lower learning rate and another folder")
            save_tensors(path, weights)

        self.ensure(path, make)
        checkpoint.unlink(missing_ok=True)
        net = build()
        load_module(net, load_tensors(path)[0], path)
        return net.requires_grad_(False)


def refuse_changes(path: Path, configuration: dict, complete: Complete = dict) -> None:
    """Raise `CepnbError` naming the first entry in which a stored configuration differs."""
    stored = read_json(path)
    if not isinstance(stored, dict) or not isinstance(stored.get("settings"), dict):
        raise CepnbError(f"{path}: not the settings of a run; use another folder")
    stored, wanted = complete(stored), complete(json.loads(json.dumps(configuration)))
    before, now = stored | stored["settings"], wanted | wanted["settings"]
    for name in now:
        if name != "settings" and before.get(name) != now[name]:
            found = f"{name} {before.get(name)}, now {now[name]}"
            raise CepnbError(f"{path}: made with {found}; use another folder")
