"""Download large files over unreliable connections: resumable, size-checked, complete or absent."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from cepnb.errors import CepnbError
from cepnb.progress import progress_bar
from cepnb.storage.files import check_writable, read_json, unwritable, write_json

CHUNK = 1 << 16  # bytes; a broken connection loses at most one chunk
RETRYABLE = (408, 429)  # client errors that may pass: timeout, too many requests
ATTEMPTS = 5  # failures in a row without new bytes, after which a download fails
PATIENCE = 30.0  # seconds of silence after which a connection counts as broken
PAUSE = 1.0  # seconds before the first retry; doubled before each next one


def download(url: str, path: Path, accept: Callable[[Path], bool]) -> Path:
    """Download `url` to `path`, unless the file exists, and return `path`.

    Bytes are stored in `.NAME.part` next to `path`, which is renamed once it has the announced size
    and `accept` returns true. Broken connections, and later calls, resume; if the server's file
    changed (its ETag or date), they restart. A lock makes other processes wait. Raises `CepnbError`
    if the download fails, `accept` rejects an existing file, or the disk refuses a write.
    """
    try:
        if not path.exists():  # else write nothing: another program may manage this folder
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f".{path.name}.lock")):
                if not path.exists():  # else another process downloaded it
                    _fetch(url, path, accept)
    except OSError as error:  # from the disk: `_fetch` catches network errors
        raise unwritable(path, error) from error
    if not accept(path):
        raise CepnbError(f"{path}: the file is incomplete; delete it to download it again")
    return path


def _fetch(url: str, path: Path, accept: Callable[[Path], bool]) -> None:
    """Request the file until it is complete, then move it to `path`."""
    import requests

    part = path.with_name(f".{path.name}.part")
    failures, most, complete = 0, _size(part), False
    while not complete:
        try:
            complete = _request(url, part) or accept(part)
            if not complete:
                raise requests.ConnectionError(f"{_size(part):,} bytes of an unannounced number")
        except requests.RequestException as error:
            size = _size(part)  # may shrink: a server without ranges restarts each time
            failures = 0 if size > most else failures + 1
            most = max(size, most)
            if failures >= ATTEMPTS:
                problem = f"not downloaded after {ATTEMPTS} attempts ({_reason(error)})"
                remedy = f"{size:,} bytes are stored, run it again to resume"
                raise CepnbError(f"{url}: {problem}; {remedy}") from error
            time.sleep(PAUSE * 2 ** max(failures - 1, 0))
    if not accept(part):
        part.unlink()  # such as a proxy's error page
        raise CepnbError(f"{url}: the server sent another kind of file; check the address")
    with part.open("rb") as whole:
        os.fsync(whole.fileno())
    part.replace(path)
    _notes(part).unlink(missing_ok=True)


def _request(url: str, part: Path) -> bool:
    """Request the missing bytes once; return whether the server confirms that the file is complete.

    False means that only the end of the connection marks the end of the file. Raises requests'
    exceptions if a retry may help, else `CepnbError`.
    """
    import requests

    stored, version = _size(part), _stored_version(part, url)
    headers = {"Accept-Encoding": "identity"}  # byte ranges of compressed data do not fit together
    if stored and version:
        headers |= {"Range": f"bytes={stored}-", "If-Range": version}
    with requests.get(url, headers=headers, stream=True, timeout=PATIENCE) as answer:
        status, fields = answer.status_code, answer.headers
        content_range = fields.get("Content-Range", "")
        if status == 416:  # no bytes follow: the part is complete, or belongs to another file
            if content_range == f"bytes */{stored}":
                return True
            part.unlink()
            raise requests.ConnectionError("the stored part does not belong to the file")
        resumed, encoding = status == 206, fields.get("Content-Encoding", "identity")
        refusal = None
        if 400 <= status < 500 and status not in RETRYABLE:
            refusal = f"{status} {answer.reason}"
        elif encoding != "identity":
            refusal = f"the server sent the encoding {encoding}, which cannot resume"
        elif resumed and not content_range.startswith(f"bytes {stored}-"):
            refusal = f"requested bytes from {stored:,} on, received '{content_range}'"
        if refusal:
            raise CepnbError(f"{url}: not downloaded ({refusal}); check the address")
        answer.raise_for_status()
        # A range may be shorter than requested, so its own length is not the file's.
        length = content_range.rpartition("/")[2] if resumed else fields.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        check_writable(part, (total or 0) - (stored if resumed else 0))
        version = fields.get("ETag") or fields.get("Last-Modified")
        if version and version.startswith("W/"):
            version = None  # a weak ETag does not promise equal bytes
        write_json(_notes(part), {"url": url, "version": version})
        bar = dict(desc=url.rpartition("/")[2], unit="B", unit_scale=True, leave=False)
        with (
            part.open("ab" if resumed else "wb") as file,
            progress_bar(total=total, initial=stored if resumed else 0, **bar) as bar,
        ):
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and _size(part) != total:
        raise requests.ConnectionError(f"{_size(part):,} of {total:,} bytes")
    chunked = fields.get("Transfer-Encoding") == "chunked"  # its last chunk marks the end
    return total is not None or chunked


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _notes(part: Path) -> Path:
    """Return the file with the address and version (ETag or date) of a stored part."""
    return part.with_suffix(".part.json")


def _stored_version(part: Path, url: str) -> str | None:
    """Return the version of a stored part, or None if it did not come from `url`."""
    try:
        notes = read_json(_notes(part), dict[str, str | None])
    except CepnbError:
        return None
    return notes.get("version") if notes.get("url") == url else None


def _reason(error: Exception) -> str:
    """Return the first line of the innermost connection error."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    return str(getattr(error, "reason", error)).splitlines()[0]
