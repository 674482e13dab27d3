"""Files that are complete or absent: atomic writes, JSON and safetensors. Nothing is unpickled."""

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

# The exceptions that h5py raises on damaged files.
HDF5_DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError, MemoryError)
STALE = 24 * 3600  # seconds after which a temporary file belongs to a killed write


def cache_dir() -> Path:
    """Return the folder of generated data: `$CEPNB_CACHE`, else the user's cache folder."""
    return Path(os.environ.get("CEPNB_CACHE") or platformdirs.user_cache_dir("cepnb"))


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` if the block succeeds.

    A failed or killed write leaves `path` unchanged. Later writes delete the temporary files of
    killed writes after `STALE` seconds. Raises `CepnbError` if the system refuses the write.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _delete_stale(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp creates private files
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"{path}: could not be written ({reason}); free space or use another folder"
        raise CepnbError(message) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _delete_stale(path: Path) -> None:
    """Delete temporary files of killed writes of `path`, but not those of a write in progress."""
    mkstemp_names = f".{glob.escape(path.name)}.{'?' * 8}.part"
    for part in path.parent.glob(mkstemp_names):
        with suppress(OSError):  # already deleted, or not permitted
            if time.time() - part.stat().st_mtime > STALE:
                part.unlink()


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as indented JSON, atomically; raise `CepnbError` on NaN and infinity."""
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except ValueError as error:
        raise CepnbError(f"{path}: not written ({error}); use finite numbers") from error
    write_text(path, text + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write text in UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | Path) -> object:
    """Read JSON; raise `CepnbError` if the file is missing, not JSON or too deeply nested."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, "JSON", error) from error


def unreadable(path: str | Path, kind: str, error: Exception) -> CepnbError:
    """Return the error for a file that is missing or damaged, in one line."""
    if isinstance(error, FileNotFoundError) or not Path(path).exists():
        return CepnbError(f"{path}: not found; check the path")
    reason = str(error).splitlines()[0]
    return CepnbError(f"{path}: not a complete {kind} file ({reason}); restore or remake it")


def save_tensors(
    path: str | Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write named tensors and string metadata as one safetensors file, atomically."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(stored, str(temporary), metadata=metadata)


def load_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Read (tensors, metadata) from a safetensors file; raise `CepnbError` if it is damaged."""
    try:
        with safe_open(str(path), framework="pt") as stored:
            names = list(stored.keys())
            return {name: stored.get_tensor(name) for name in names}, stored.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise unreadable(path, "safetensors", error) from error


def under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Select the tensors whose names start with `prefix`, and strip the prefix."""
    selected = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors[name] for name in selected}


def load_module(
    module: torch.nn.Module, tensors: dict[str, torch.Tensor], source: str | Path
) -> None:
    """Load weights into `module`; raise `CepnbError` on a missing or misshapen tensor."""
    weights = module.state_dict()
    for name, tensor in weights.items():
        shape = tuple(tensor.shape)
        found = tuple(tensors[name].shape) if name in tensors else None
        if found != shape:
            problem = "is missing" if found is None else f"has shape {found}"
            raise CepnbError(f"{source}: tensor '{name}' {problem}; use weights of shape {shape}")
    module.load_state_dict({name: tensors[name] for name in weights})
