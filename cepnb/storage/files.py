"""Files that are complete or absent: atomic writes and JSON. Needs neither torch nor numpy."""

import errno
import glob
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import platformdirs
from safetensors import SafetensorError

from cepnb.errors import CepnbError, in_a_line, out_of_memory
from cepnb.storage.validation import convert

# The exceptions that h5py raises on damaged files.
HDF5_DAMAGE = (OSError, RuntimeError, KeyError, TypeError, ValueError, MemoryError)
STALE = 24 * 3600  # seconds after which a temporary file belongs to a killed write
# How to fix a refused write, by the system's error number.
WRITE_FIXES = {
    errno.ENOSPC: "free space or use another folder",
    errno.EDQUOT: "free space or use another folder",
    errno.EFBIG: "allow larger files or use another folder",
    errno.EACCES: "allow writing or use another folder",
    errno.EPERM: "allow writing or use another folder",
    errno.EROFS: "use a folder on a disk that is not read-only",
    errno.ENOTDIR: "a file has the name of a folder; rename it or use another folder",
    errno.EEXIST: "a file has the name of a folder; rename it or use another folder",
    errno.EISDIR: "a folder has this name; use another name",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ENOENT: "check the path",
    errno.ENOMEM: "free memory",
}
# How to fix a refused read of a file whose content may be right, by the system's error number.
READ_FIXES = {
    errno.EACCES: "allow reading it",
    errno.EPERM: "allow reading it",
    errno.EAGAIN: "another process has it open; wait for that process or end it",
    errno.EIO: "check the disk, then try again",
    errno.ESTALE: "check the disk, then try again",
    errno.ETIMEDOUT: "check the disk, then try again",
    errno.ENODEV: "copy it to another disk",
    errno.ENOMEM: "free memory or use a smaller file",
    errno.EMFILE: "close other files",
    errno.ENFILE: "close other files",
    errno.ENOTDIR: "a file has the name of a folder; check the path",
    errno.ENAMETOOLONG: "use a shorter name",
}
# How to fix a refused read of an HDF5 file that needs something else, by the text of h5py's error.
HDF5_NEEDS = {
    "can't open directory|filter .* is not registered": "install its filter (package hdf5plugin)",
    "can't open file|external": "restore the other file to which it links",
}
COMPRESSION = 1000  # gzip shrinks data to no less than about a thousandth


def cache_dir() -> Path:
    """Return the folder of generated data: `$CEPNB_CACHE`, else the user's cache folder.

    Raises `CepnbError` if neither is known.
    """
    chosen = os.environ.get("CEPNB_CACHE")
    try:
        folder = os.path.expanduser(chosen) if chosen else platformdirs.user_cache_dir("cepnb")
    except RuntimeError:  # of platformdirs, if there is no home
        folder = "~"
    if folder.startswith("~"):
        raise CepnbError(f"{folder}: no home folder is known; set CEPNB_CACHE to a folder")
    return Path(folder)


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
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def unwritable(path: str | Path, error: Exception) -> CepnbError:
    """Return the error for a refused write, in one line: the system's reason and its fix."""
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    fix = WRITE_FIXES.get(_system_number(error), "use another folder")
    return CepnbError(f"{path}: could not be written ({reason}); {fix}")


def _system_number(error: Exception) -> int | None:
    """Return the system's error number; safetensors and h5py give it only in the text."""
    found = re.search(r"(?:os error|errno =) (\d+)", str(error))
    return getattr(error, "errno", None) or (int(found[1]) if found else None)


def check_writable(path: str | Path, size: int = 0) -> None:
    """Check before long work that `size` bytes can be written to `path`; create nothing.

    Raises `CepnbError` if the folder refuses files, the disk has less free space or the name is not
    UTF-8.
    """
    path = Path(path).absolute()
    check_utf8(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = next(parent for parent in path.parents if parent.exists())
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        raise unwritable(path, error) from error
    if size > free:
        needed = f"needs {size / 1e9:.3g} GB, but {free / 1e9:.3g} GB are free"
        raise CepnbError(f"{path}: {needed}; free space, use another folder or store less")


def check_utf8(path: str | Path) -> None:
    """Raise `CepnbError` on a name that safetensors cannot open: bytes that are not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise CepnbError(f"{ascii(str(path))}: the name is not UTF-8; rename it") from error


def _delete_stale(path: Path) -> None:
    """Delete temporary files of killed writes of `path`, but not those of a write in progress."""
    mkstemp_names = f".{glob.escape(path.name)}.{'?' * 8}.part"
    for part in path.parent.glob(mkstemp_names):
        with suppress(OSError):  # already deleted, or not permitted
            if time.time() - part.stat().st_mtime > STALE:
                part.unlink()


def write_json(path: str | Path, value: object) -> None:
    """Write `value` as indented JSON, atomically; raise `CepnbError` on NaN, infinity and tensors."""
    try:
        text = json.dumps(value, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CepnbError(f"{path}: not written ({error}); use plain finite numbers") from error
    write_text(path, text + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write text in UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | Path, kind: object = Any, fix: str = "restore or remake it") -> Any:
    """Read JSON as plain data, checked against the type `kind`.

    Raises `CepnbError` if the file is missing, not JSON, too deeply nested or of another type; `fix`
    is that of a damaged file.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, "JSON", error, fix) from error
    convert(value, kind, path, fix)
    return value


def unreadable(
    path: str | Path, kind: str, error: Exception, fix: str = "restore or remake it"
) -> CepnbError:
    """Return the error for a file that is missing, closed to this process or damaged, in one line."""
    reason = str(error).partition("\n")[0] or type(error).__name__
    damage = f"{path}: not a complete {kind} file ({reason}); {fix}"
    return not_read(path, error) or CepnbError(damage)


def not_read(path: str | Path, error: Exception) -> CepnbError | None:
    """Return the error for a file whose content was not read; None if it was read and is damaged.

    The file is opened again, because libraries report any failed opening as a missing file.
    """
    if os.path.isdir(path):
        return CepnbError(f"{path}: is a folder; give the path of a file")
    refusal = error if isinstance(error, FileNotFoundError) else None
    number, reason = _system_number(error), in_a_line(error)
    if out_of_memory(error) and not _asks_too_much(path, error):
        number = errno.ENOMEM
    try:
        open(path, "rb").close()
    except OSError as refused:
        refusal, number, reason = refused, refused.errno, refused.strerror
        if number == errno.ENOENT:
            return CepnbError(f"{path}: not found; check the path")
    fix = READ_FIXES.get(number, "try again" if refusal else "")
    if number in READ_FIXES:
        reason = os.strerror(number)
    elif not fix:
        needs = (fix for text, fix in HDF5_NEEDS.items() if re.search(text, reason))
        fix = next(needs, "")
    return CepnbError(f"{path}: could not be read ({reason}); {fix}") if fix else None


def _asks_too_much(path: str | Path, error: Exception) -> bool:
    """Return whether NumPy was asked for an array that cannot be in the file: its header is damaged."""
    itemsize = error.dtype.itemsize if hasattr(error, "dtype") else 1
    size = math.prod(getattr(error, "shape", ())) * itemsize
    return os.path.exists(path) and size > COMPRESSION * os.path.getsize(path)
