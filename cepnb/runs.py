"""A folder of results: each step's file is there or not, and what is there is not made again."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from torch import nn

from cepnb.errors import CepnbError
from cepnb.files import load_module, load_tensors, read_json, save_tensors, write_json


class Run:
    """A folder of results: `settings.json`, one file a finished step, `metrics.json` at the end.

    Raises `CepnbError` if the folder was begun with another configuration than the one given, if one is.
    """

    def __init__(self, folder: Path, configuration: dict | None = None) -> None:
        self.folder = folder
        path = folder / "settings.json"
        if configuration is not None:
            if path.exists():
                _refuse_changes(path, read_json(path), configuration)
            else:
                write_json(path, configuration)
        self.seconds: dict[str, float] = read_json(folder / "seconds.json") if (folder / "seconds.json").exists() else {}

    def timed(self, step: str, work: Callable[[], object]) -> object:
        """Run one step and remember how long it took (of a resumed step, its last part)."""
        begun = time.perf_counter()
        result = work()
        self.seconds[step] = round(time.perf_counter() - begun, 2)
        write_json(self.folder / "seconds.json", self.seconds)
        return result

    def module(self, step: str, build: Callable[[], nn.Module], fit: Callable[[Path], nn.Module]) -> nn.Module:
        """A trained network: loaded from its file, else fitted from its checkpoint or from nothing."""
        path, checkpoint = self.folder / f"{step}.safetensors", self.folder / f"{step}.checkpoint.safetensors"
        if path.exists():
            net = build()
            load_module(net, load_tensors(path)[0], path)
        else:
            net = self.timed(step, lambda: fit(checkpoint))
            save_tensors(path, net.state_dict())
        checkpoint.unlink(missing_ok=True)
        return net.requires_grad_(False)


def _refuse_changes(path: Path, stored: dict, wanted: dict) -> None:
    """Raises `CepnbError` naming the first entry in which the folder's configuration differs from the one asked for."""
    stored, wanted = (c | c.pop("settings") for c in (dict(stored), json.loads(json.dumps(wanted))))
    for key, value in wanted.items():
        if stored.get(key) != value:
            raise CepnbError(f"{path}: made with {key} {stored.get(key)}, now {value}; use another folder")
