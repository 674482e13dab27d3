"""Tests of downloads from a local server that cuts, stalls, changes its file and refuses."""

import fcntl
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import h5py
import numpy as np
import pytest
from serving import Server, serving

from cepnb.datasets import download as module
from cepnb.datasets.d4rl import is_whole_hdf5
from cepnb.datasets.download import CHUNK, download
from cepnb.errors import CepnbError

CONTENT = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(CONTENT) as server:
        yield server


@pytest.fixture(autouse=True)
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE", 0.01)
    monkeypatch.setattr(module, "PATIENCE", 0.5)


def get(
    server: Server,
    folder: Path,
    attempts: int = module.ATTEMPTS,
    accept: Callable[[Path], bool] = lambda path: True,
) -> Path:
    with mock.patch.object(module, "ATTEMPTS", attempts):
        return download(server.url, folder / "data.hdf5", accept)


def test_broken_and_silent_connections_resume(server: Server, tmp_path: Path) -> None:
    server.faults = [503, "cut", "stall", "ok"]
    path = get(server, tmp_path)
    assert path.read_bytes() == CONTENT
    first, second, third, fourth = server.requests
    assert (
        (first, second) == (None, None)
        and third == f"bytes={5 * CHUNK}-"
        and fourth == f"bytes={10 * CHUNK}-"
    )
    assert {p.name for p in tmp_path.iterdir()} - {".data.hdf5.lock"} == {"data.hdf5"}
    get(server, tmp_path)
    assert len(server.requests) == 4  # no request for an existing file


def test_later_call_resumes_and_no_partial_file_shows(server: Server, tmp_path: Path) -> None:
    server.faults = ["cut", *[503] * 3]
    with pytest.raises(
        CepnbError,
        match=r"not downloaded after 3 attempts \(503 .*\); 327,680 bytes are stored, run it again to resume",
    ):
        get(server, tmp_path, attempts=3)
    assert not (tmp_path / "data.hdf5").exists()
    assert (
        get(server, tmp_path).read_bytes() == CONTENT
        and server.requests[-1] == f"bytes={5 * CHUNK}-"
    )


def test_new_version_or_server_without_ranges_restarts(server: Server, tmp_path: Path) -> None:
    server.faults = ["cut"]
    with pytest.raises(CepnbError):
        get(server, tmp_path, attempts=0)
    server.content, server.tag = CONTENT[::-1], '"two"'
    assert get(server, tmp_path).read_bytes() == CONTENT[::-1]
    (tmp_path / "data.hdf5").unlink()
    server.faults = ["cut", "whole"]
    assert get(server, tmp_path).read_bytes() == CONTENT[::-1]


def test_server_without_progress_raises(server: Server, tmp_path: Path) -> None:
    server.ranges, server.faults = False, ["cut early", "cut"] * 50
    with pytest.raises(CepnbError, match="not downloaded after 5 attempts"):
        get(server, tmp_path)
    assert len(server.requests) < 10
    server.ranges, server.faults = True, ["gzip"]
    with pytest.raises(
        CepnbError,
        match=r"not downloaded \(the server sent the encoding gzip, which cannot resume\); check the address$",
    ):
        get(server, tmp_path)


def test_part_that_is_complete_or_too_long(server: Server, tmp_path: Path) -> None:
    server.faults = ["cut"]
    with pytest.raises(CepnbError):
        get(server, tmp_path, attempts=0)
    part = tmp_path / ".data.hdf5.part"
    part.write_bytes(CONTENT)  # killed between the last byte and the move
    assert get(server, tmp_path).read_bytes() == CONTENT
    (tmp_path / "data.hdf5").unlink()
    server.faults = ["cut"]
    with pytest.raises(CepnbError):
        get(server, tmp_path, attempts=0)
    part.write_bytes(CONTENT + b"more")
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_range_shorter_than_requested_is_not_the_end(server: Server, tmp_path: Path) -> None:
    server.faults = ["cut", "part", "part"]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, *(f"bytes={chunks * CHUNK}-" for chunks in (5, 8, 11))]


def test_end_without_announced_size_counts_only_if_the_file_is_whole(
    server: Server, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "source.hdf5", "w") as file:
        file["rewards"] = np.random.default_rng(0).random(100_000)
    server.content, server.faults = (tmp_path / "source.hdf5").read_bytes(), ["unsized", "unsized"]
    path = get(server, tmp_path, accept=is_whole_hdf5)
    assert path.read_bytes() == server.content
    assert server.requests == [None, *(f"bytes={times * (5 * CHUNK + 100)}-" for times in (1, 2))]
    path.unlink()
    server.content = server.content[:-100]
    for fault, requests in (("unsized", 2), ("chunked", 1)):
        server.faults, server.requests = [fault], []
        with pytest.raises(
            CepnbError, match="the server sent another kind of file; check the address"
        ):
            get(server, tmp_path, accept=is_whole_hdf5)
        assert not path.exists() and len(server.requests) == requests
    path.write_bytes(server.content)  # d4rl itself leaves this after a broken download
    with pytest.raises(
        CepnbError,
        match=f"^{path}: the file is incomplete; delete it to download it again",
    ):
        get(server, tmp_path, accept=is_whole_hdf5)
    assert path.exists()


def test_refusal_is_not_retried_and_unreachable_server_raises_one_line(
    server: Server, tmp_path: Path
) -> None:
    server.faults = [404]
    with pytest.raises(
        CepnbError, match=r"data.hdf5: not downloaded \(404 Not Found\); check the address$"
    ):
        get(server, tmp_path)
    assert len(server.requests) == 1
    with (
        mock.patch.object(server, "url", "http://127.0.0.1:9/x"),
        pytest.raises(CepnbError, match="not downloaded after 2 attempts") as caught,
    ):
        get(server, tmp_path / "x", attempts=2)
    assert "\n" not in str(caught.value)
    with pytest.raises(CepnbError, match="the server sent another kind of file; check the address"):
        get(server, tmp_path, accept=lambda path: False)
    assert not {".data.hdf5.part", "data.hdf5"} & {path.name for path in tmp_path.iterdir()}
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CepnbError, match="could not be written"):
        get(server, tmp_path / "file")


def test_missing_space_and_a_locked_file_are_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.hdf5"
    with monkeypatch.context() as small:
        small.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))
        with pytest.raises(CepnbError, match="needs 0.00105 GB, but 1e-06 GB are free; free space"):
            get(server, tmp_path)
    with h5py.File(path, "w") as file:
        file["rewards"] = np.zeros(3)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CepnbError, match=f"^{path}: could not be read .*; another process has"):
            get(server, tmp_path, accept=is_whole_hdf5)
