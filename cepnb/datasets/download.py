"""Large files over an unreliable line: downloads that resume, know their size, and are never seen half done."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import requests
from filelock import FileLock
from tqdm.auto import tqdm

from cepnb.errors import CepnbError
from cepnb.storage.files import read_json, write_json

CHUNK = 1 << 16  # bytes; so many may be lost where a line breaks


def download(
    url: str,
    path: Path,
    accept: Callable[[Path], bool] = lambda path: True,
    progress: bool = True,
    attempts: int = 5,
    patience: float = 30.0,
    pause: float = 1.0,
) -> Path:
    """Fetch `url` into `path`, unless that exists, and return `path`.

    What arrives is kept beside `path` as `.NAME.part` and moved there only when as many bytes are in as the server has
    announced; if it announces none, when `accept` takes them for the whole file. A line that breaks, or is silent for
    `patience` seconds, is taken up again where it broke: by this call, until `attempts` in a row have brought no more
    than there was before (waiting `pause`, 2 `pause`, 4 `pause` ... seconds), or by a later one. If the file on the server
    has changed meanwhile (its ETag or date), it is begun anew. What has all arrived and `accept` refuses (the page of a
    proxy, say) is dropped. Two processes that want the same file wait for one another. Raises `CepnbError` naming the
    address if it cannot be had, and naming `path` if it exists and `accept` refuses it.
    """
    if path.exists():  # before anything is written: its folder may be one that others keep
        return _stored(path, accept)
    part, notes = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.part.json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if path.exists():
                return _stored(path, accept)
            failures, most = 0, part.stat().st_size if part.exists() else 0
            while True:
                try:
                    if not _continue(
                        url, part, notes, path.name, patience, progress
                    ) and not accept(part):
                        raise _Short(
                            f"{part.stat().st_size:,} bytes of a number that it does not announce"
                        )
                    break
                except _Refused as error:
                    raise CepnbError(f"{url}: not downloaded ({error})") from error
                except (requests.RequestException, _Short) as error:
                    kept = part.stat().st_size if part.exists() else 0
                    failures, most = (
                        (0, kept) if kept > most else (failures + 1, most)
                    )  # a server without ranges begins anew each time
                    if failures >= attempts:
                        raise CepnbError(
                            f"{url}: not downloaded after {attempts} attempts ({_reason(error)}); the {kept:,} "
                            "bytes so far are kept, and the same call goes on from there"
                        ) from error
                    time.sleep(pause * 2 ** max(failures - 1, 0))
            if not accept(part):
                part.unlink()
                raise CepnbError(
                    f"{url}: not downloaded (what the server sent is not the kind of file that is expected)"
                )
            with part.open("rb") as whole:
                os.fsync(whole.fileno())
            part.replace(path)
            notes.unlink(missing_ok=True)
    except OSError as error:  # of the disk: those of the line are caught above
        raise CepnbError(f"{path}: could not be written ({error.strerror or error})") from error
    return path


def _stored(path: Path, accept: Callable[[Path], bool]) -> Path:
    if not accept(path):
        raise CepnbError(
            f"{path}: not the whole file that is expected there; delete it to have it downloaded again"
        )
    return path


class _Refused(Exception):
    """An answer that the same question will get again."""


class _Short(Exception):
    """Fewer bytes than announced."""


def _continue(
    url: str, part: Path, notes: Path, name: str, patience: float, progress: bool
) -> bool:
    """One request for what is missing. Returns True when all has arrived, False when the line's end alone says so."""
    have, known = (part.stat().st_size, _read(notes)) if part.exists() else (0, {})
    headers = {"Accept-Encoding": "identity"}  # compressed ranges are ranges of something else
    if have and known.get("version") and known.get("url") == url:
        headers |= {"Range": f"bytes={have}-", "If-Range": known["version"]}
    with requests.get(url, headers=headers, stream=True, timeout=patience) as answer:
        if (
            answer.status_code == 416
        ):  # there is nothing from there on: it is whole, or part of another file
            if answer.headers.get("Content-Range") == f"bytes */{have}":
                return True
            part.unlink()
            raise _Short("the kept part does not belong to the file")
        if 400 <= answer.status_code < 500 and answer.status_code not in (408, 429):
            raise _Refused(f"{answer.status_code} {answer.reason}")
        answer.raise_for_status()
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise _Refused(
                f"it was sent in the encoding {answer.headers['Content-Encoding']}, expected none"
            )
        resumed = answer.status_code == 206
        if resumed and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise _Refused(
                f"asked for bytes from {have:,} on, got {answer.headers.get('Content-Range')}"
            )
        start = have if resumed else 0
        # A range may be of less than is missing, so its length is not asked.
        length = (
            answer.headers["Content-Range"].rpartition("/")[2]
            if resumed
            else answer.headers.get("Content-Length", "")
        )
        total = int(length) if length.isdecimal() else None
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if version and version.startswith("W/"):
            version = None  # a weak tag does not promise equal bytes
        write_json(notes, {"url": url, "version": version})
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm(
                total=total,
                initial=start,
                desc=name,
                unit="B",
                unit_scale=True,
                disable=not progress,
                leave=False,
            ) as bar,
        ):
            for chunk in answer.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise _Short(f"{part.stat().st_size:,} of {total:,} bytes")
    return (
        total is not None or answer.headers.get("Transfer-Encoding") == "chunked"
    )  # whose last chunk says that it is


def _read(notes: Path) -> dict:
    try:
        return read_json(notes)
    except CepnbError:
        return {}


def _reason(error: Exception) -> str:
    while (
        isinstance(error, requests.ConnectionError)
        and error.args
        and isinstance(error.args[0], Exception)
    ):
        error = error.args[0]
    return str(getattr(error, "reason", error)).splitlines()[0]
