"""Download large files over unreliable connections: resumable, size-checked, complete or absent."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from tqdm.auto import tqdm

from cepnb.errors import CepnbError
from cepnb.storage.files import read_json, write_json

CHUNK = 1 << 16  # bytes; a broken connection loses at most one chunk
RETRYABLE = (408, 429)  # client errors that may pass: timeout, too many requests


class _Refused(Exception):
    """An answer that a retry would get again."""


class _Incomplete(Exception):
    """An answer with fewer bytes than announced."""


def download(
    url: str,
    path: Path,
    accept: Callable[[Path], bool] = lambda path: True,
    progress: bool = True,
    attempts: int = 5,
    patience: float = 30.0,
    pause: float = 1.0,
) -> Path:
    """Download `url` to `path`, unless the file exists, and return `path`.

    Bytes are stored in `.NAME.part` next to `path` and moved once the announced size is reached.
    Without an announced size, `accept` decides. A connection that breaks, or is silent for
    `patience` seconds, resumes after a wait of `pause`, 2 `pause`, 4 `pause` ... seconds. The call
    fails after `attempts` failures in a row without new bytes; later calls resume. If the server's
    file changes (its ETag or date), the download restarts. A complete file that `accept` rejects,
    such as a proxy's error page, is deleted. A lock makes other processes wait. Raises `CepnbError`
    if the download fails, `accept` rejects an existing file, or the disk refuses a write.
    """
    import requests

    if path.exists():  # before anything is written: another program may manage this folder
        return _existing(path, accept)
    part, notes = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.part.json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if path.exists():  # from another process
                return _existing(path, accept)
            failures, most = 0, _size(part)
            while True:
                try:
                    complete = _request(url, part, notes, path.name, patience, progress)
                    if not complete and not accept(part):
                        raise _Incomplete(f"{_size(part):,} bytes of an unannounced number")
                    break
                except _Refused as error:
                    raise CepnbError(f"{url}: not downloaded ({error})") from error
                except (requests.RequestException, _Incomplete) as error:
                    size = _size(part)  # may shrink: a server without ranges restarts each time
                    failures = 0 if size > most else failures + 1
                    most = max(size, most)
                    if failures >= attempts:
                        problem = f"not downloaded after {attempts} attempts ({_reason(error)})"
                        remedy = f"{size:,} bytes are stored, run it again to resume"
                        raise CepnbError(f"{url}: {problem}; {remedy}") from error
                    time.sleep(pause * 2 ** max(failures - 1, 0))
            if not accept(part):
                part.unlink()
                raise CepnbError(f"{url}: the server sent another kind of file; check the address")
            with part.open("rb") as whole:
                os.fsync(whole.fileno())
            part.replace(path)
            notes.unlink(missing_ok=True)
    except OSError as error:  # from the disk: network errors are caught above
        raise CepnbError(f"{path}: could not be written ({error.strerror or error})") from error
    return path


def _existing(path: Path, accept: Callable[[Path], bool]) -> Path:
    if not accept(path):
        raise CepnbError(f"{path}: the file is incomplete; delete it to download it again")
    return path


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _request(url: str, part: Path, notes: Path, name: str, patience: float, progress: bool) -> bool:
    """Request the missing bytes once; return whether the server confirms that the file is complete.

    False means that only the end of the connection marks the end of the file.
    """
    import requests

    stored = _size(part)
    headers = {"Accept-Encoding": "identity"}  # byte ranges of compressed data do not fit together
    version = _stored_version(notes, url)
    if stored and version:
        headers |= {"Range": f"bytes={stored}-", "If-Range": version}
    with requests.get(url, headers=headers, stream=True, timeout=patience) as answer:
        status, fields = answer.status_code, answer.headers
        content_range = fields.get("Content-Range", "")
        if status == 416:  # no bytes follow: the part is complete, or belongs to another file
            if content_range == f"bytes */{stored}":
                return True
            part.unlink()
            raise _Incomplete("the stored part does not belong to the file")
        if 400 <= status < 500 and status not in RETRYABLE:
            raise _Refused(f"{status} {answer.reason}")
        answer.raise_for_status()
        encoding = fields.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise _Refused(f"the server sent the encoding {encoding}; expected none")
        resumed = status == 206
        if resumed and not content_range.startswith(f"bytes {stored}-"):
            raise _Refused(f"requested bytes from {stored:,} on, received '{content_range}'")
        # A range may be shorter than requested, so its own length is not the file's.
        length = content_range.rpartition("/")[2] if resumed else fields.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        version = fields.get("ETag") or fields.get("Last-Modified")
        if version and version.startswith("W/"):
            version = None  # a weak ETag does not promise equal bytes
        write_json(notes, {"url": url, "version": version})
        bar_style = dict(desc=name, unit="B", unit_scale=True, disable=not progress, leave=False)
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm(total=total, initial=stored if resumed else 0, **bar_style) as bar,
        ):
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and _size(part) != total:
        raise _Incomplete(f"{_size(part):,} of {total:,} bytes")
    chunked = fields.get("Transfer-Encoding") == "chunked"  # its last chunk marks the end
    return total is not None or chunked


def _stored_version(notes: Path, url: str) -> str | None:
    """Return the version (ETag or date) of the stored part if it came from `url`."""
    try:
        stored = read_json(notes)
    except CepnbError:
        return None
    return stored.get("version") if stored.get("url") == url else None


def _reason(error: Exception) -> str:
    """Return the first line of the innermost connection error."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    return str(getattr(error, "reason", error)).splitlines()[0]
