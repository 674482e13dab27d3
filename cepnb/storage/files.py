"""Files that are either whole or absent: atomic writes, JSON and safetensors. Nothing is ever unpickled."""

import glob
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from cepnb.errors import CepnbError

HDF5_DAMAGE = (
    OSError,
    RuntimeError,
    KeyError,
    TypeError,
    ValueError,
    MemoryError,
)  # of them h5py raises any, by where a file is damaged
STALE = 24 * 3600  # no write pauses for as long


def cache_dir() -> Path:
    """Where generated data is kept: `$CEPNB_CACHE` if set, else the user's cache folder."""
    return Path(os.environ.get("CEPNB_CACHE") or platformdirs.user_cache_dir("cepnb"))


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it into place only if the block ends without an exception.

    A reader sees the old file or the new one, never a part of it; a failed or killed write leaves `path` untouched. What a killed
    one has left beside it goes with a later write, when nothing was written to it for `STALE` seconds.
    Raises `CepnbError` where the system refuses the write (full disk, no permission, a folder in the way).
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files private; a result is an ordinary file
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CepnbError(
            f"{path}: could not be written ({reason}); what was there before is unchanged"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    """Remove what killed writes of `path` have left, and not what another process may be writing now."""
    for part in path.parent.glob(
        f".{glob.escape(path.name)}.{'?' * 8}.part"
    ):  # as tempfile names it
        with suppress(OSError):  # another has removed it, or may not be robbed of it
            if time.time() - part.stat().st_mtime > STALE:
                part.unlink()


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as indented JSON, atomically. Raises `CepnbError` on NaN and infinities: they are not JSON."""
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except ValueError as error:
        raise CepnbError(f"{path}: not written ({error}), expected finite numbers") from error
    write_text(path, text + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write text in UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | Path) -> object:
    """Read JSON; raises `CepnbError` naming the file if it is missing, not JSON or too deeply nested."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CepnbError(
            f"{path}: expected a readable JSON file ({str(error).splitlines()[0]})"
        ) from error


def save_tensors(
    path: str | Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write named tensors (and string metadata) as one safetensors file, atomically."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(whole, str(temporary), metadata=metadata)


def load_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read what `save_tensors` wrote: (tensors, metadata). Raises `CepnbError` on a missing or damaged file."""
    path = Path(path)
    try:
        with safe_open(str(path), framework="pt") as stored:
            names = list(stored.keys())
            return {name: stored.get_tensor(name) for name in names}, stored.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CepnbError(
            f"{path}: expected a whole safetensors file ({str(error).splitlines()[0]})"
        ) from error


def under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with `prefix`, by what follows it: one module's of several in a file."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def load_module(
    module: torch.nn.Module, tensors: dict[str, torch.Tensor], source: str | Path
) -> None:
    """Load weights into `module`; raises `CepnbError` naming the first tensor that is missing or of another shape."""
    wanted = module.state_dict()
    for name, tensor in wanted.items():
        if name not in tensors:
            raise CepnbError(
                f"{source}: tensor '{name}' is missing, expected shape {tuple(tensor.shape)}"
            )
        if tensors[name].shape != tensor.shape:
            found = tuple(tensors[name].shape)
            raise CepnbError(
                f"{source}: tensor '{name}' has shape {found}, expected {tuple(tensor.shape)}"
            )
    module.load_state_dict({name: tensors[name] for name in wanted})
