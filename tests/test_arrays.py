"""Arrays on disk: written by chunks, resumed bit for bit after a kill, read by memory map."""

import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cepnb.diffusion.training import seeded
from cepnb.errors import CepnbError
from cepnb.storage import arrays
from cepnb.storage.arrays import open_array, write_array

SHAPE, ROWS = (50, 4, 2), 8  # seven chunks, the last of two rows
linux = pytest.mark.skipif(sys.platform != "linux", reason="memory limits and /proc as on Linux")


def chunk(index: int) -> Tensor:
    rows = min(ROWS, SHAPE[0] - index * ROWS)
    return torch.randn(rows, *SHAPE[1:], generator=seeded(index, "arrays"))


def chunks(first: int) -> Iterator[Tensor]:
    return (chunk(index) for index in range(first, 7))


def write(path: Path, dtype: torch.dtype = torch.float32, made: list[int] | None = None) -> None:
    def recorded(first: int) -> Iterator[Tensor]:
        for index in range(first, 7):
            if made is not None:
                made.append(index)
            yield chunk(index)

    write_array(path, SHAPE, dtype, ROWS, recorded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_array_on_disk_equals_the_chunks(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "folder" / "set.npy"
    write(path, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapped = open_array(path)
    expected = torch.cat(list(chunks(0))).to(dtype)
    assert mapped.dtype == dtype and torch.equal(mapped, expected)
    assert np.array_equal(np.load(path), expected.numpy())  # numpy reads the same file
    assert list(path.parent.iterdir()) == [path]


def _write_until_killed(path: Path, kill_at: int, counted: bool) -> None:
    """Die by SIGKILL when chunk number `kill_at` is on the disk, before or after it is counted."""
    write_json = arrays.write_json

    def write_counter(counter: Path, progress: dict) -> None:
        if counted:
            write_json(counter, progress)
        if progress["chunks"] > kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        write_json(counter, progress)

    arrays.write_json = write_counter
    write(path)


def test_a_killed_write_resumes_bit_for_bit(tmp_path: Path) -> None:
    write(tmp_path / "whole.npy")
    path, made = tmp_path / "killed.npy", []
    for kill_at, counted in ((2, False), (2, True), (5, False)):
        process = multiprocessing.get_context("fork").Process(
            target=_write_until_killed, args=(path, kill_at, counted)
        )
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL and not path.exists()
    write(path, made=made)
    assert made == [5, 6]  # chunk 5 was written but not counted
    assert path.read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {"whole.npy", "killed.npy"}


@pytest.mark.parametrize("finished", [0, 3, 7])
def test_only_counted_chunks_survive_a_power_cut(tmp_path: Path, finished: int) -> None:
    """A power cut may leave anything in the rows that are not counted."""
    path, made = tmp_path / "set.npy", []
    write(path)
    complete = path.read_bytes()
    path.unlink()

    def interrupted(first: int) -> Iterator[Tensor]:
        yield from (chunk(index) for index in range(first, finished))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_array(path, SHAPE, torch.float32, ROWS, interrupted)
    partial = np.load(tmp_path / "set.npy.partial", mmap_mode="r+")
    partial[finished * ROWS :] = np.nan
    partial.flush()
    write(path, made=made)
    assert path.read_bytes() == complete and made == list(range(finished, 7))


def test_each_chunk_is_on_the_disk_before_it_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, flush, write_json = [], np.memmap.flush, arrays.write_json
    monkeypatch.setattr(np.memmap, "flush", lambda array: calls.append("flush") or flush(array))
    monkeypatch.setattr(
        arrays, "write_json", lambda *pair: calls.append("count") or write_json(*pair)
    )
    write(tmp_path / "set.npy")
    assert calls == ["flush", "count"] * 8  # the empty file, and seven chunks


# A process that may allocate 64 MB writes a larger array and draws from it.
LIMITED = """
import resource, sys
from pathlib import Path
import torch
from cepnb.storage.arrays import open_array, write_array
from cepnb.diffusion.training import draw, seeded
path, rows = Path(sys.argv[1]), int(sys.argv[2])
torch.ones(100, 100) @ torch.ones(100, 100)
draw(seeded(0, "first"), 10, torch.ones(10, 3).half())
(data,) = [line for line in open("/proc/self/status") if line.startswith("VmData:")]
limit = int(data.split()[1]) * 1024 + 2**26
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
chunk = torch.ones(2**15, 16)
chunks = lambda first: (chunk for _ in range(first, rows // 2**15))
write_array(path, (rows, 16), torch.float32, 2**15, chunks)
actions, generator = open_array(path), seeded(0, "draws")
for _ in range(200):
    (batch,) = draw(generator, 256, actions)
assert batch.dtype == torch.float32 and len(actions) == rows
try:
    actions.clone()
except RuntimeError as error:
    print(type(error).__name__)
"""


@linux
def test_an_array_of_400_megabytes_is_written_and_drawn_from_in_64(tmp_path: Path) -> None:
    path, rows = tmp_path / "set.npy", 6 * 2**20
    command = [sys.executable, "-c", LIMITED, str(path), str(rows)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert path.stat().st_size > 2**28 + 2**27
    assert done.stdout.strip() == "RuntimeError"  # a copy of all does not fit


@linux
def test_an_array_may_be_larger_than_the_memory_of_the_machine(tmp_path: Path) -> None:
    """A sparse file of twice the memory; only its first rows were written."""
    path, row = tmp_path / "set.npy", 2 * 4 * 2
    rows = 2 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // row
    try:
        stored = np.lib.format.open_memmap(path, "w+", np.dtype("float16"), (rows, 4, 2))
    except OSError as error:
        pytest.skip(f"the file system refuses a file of that size: {error}")
    stored[:5] = 1
    actions = open_array(path)
    assert actions.shape == (rows, 4, 2) and actions[:5].sum() == 5 * 4 * 2
    assert actions[torch.tensor([rows // 2, rows - 1])].sum() == 0
    path.unlink()


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The space is reserved first: a mapped write to a full disk would kill the process."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(CepnbError, match=r"set.npy: could not be written \(No space left on dev"):
        write(tmp_path / "set.npy")
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())
    write(tmp_path / "set.npy")
    assert [file.name for file in tmp_path.iterdir()] == ["set.npy"]


def test_an_array_larger_than_the_free_space_is_refused_before_it_is_allocated(
    tmp_path: Path,
) -> None:
    path, shape = tmp_path / "set.npy", (2**40, 10**6, 2)
    with pytest.raises(CepnbError, match=r"set.npy: needs 8.8e\+09 GB, but .* GB are free; free"):
        write_array(path, shape, torch.float32, ROWS, chunks)
    assert not list(tmp_path.iterdir())


def test_a_partial_array_that_cannot_be_counted_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, value: object) -> None:
        raise CepnbError(f"{path}: could not be written")

    monkeypatch.setattr(arrays, "write_json", refuse)
    with pytest.raises(CepnbError, match="set.npy.progress: could not be written"):
        write(tmp_path / "set.npy")
    assert not list(tmp_path.iterdir())


def test_a_partial_array_of_another_layout_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npy"
    with pytest.raises(
        CepnbError, match="set.npy: 2 chunks of 8 rows do not fill 50 rows; yield more"
    ):
        write_array(path, SHAPE, torch.float32, ROWS, lambda first: iter([chunk(0), chunk(1)]))
    for shape, dtype, rows in (
        ((51, 4, 2), torch.float32, ROWS),
        (SHAPE, torch.float16, ROWS),
        (SHAPE, torch.float32, ROWS + 1),
    ):
        with pytest.raises(
            CepnbError, match="set.npy.partial: holds a part of another array; delete it"
        ):
            write_array(path, shape, dtype, rows, chunks)
    partial = tmp_path / "set.npy.partial"
    complete = partial.read_bytes()
    partial.write_bytes(complete[:100])
    with pytest.raises(CepnbError, match="set.npy.partial: is damaged .*; delete it"):
        write(path)
    partial.write_bytes(complete)
    write(path)
    assert torch.equal(open_array(path), torch.cat(list(chunks(0))))


def damaged(tmp_path: Path) -> dict[str, Callable[[], object]]:
    """Calls that must fail, by the pattern of their message."""
    (tmp_path / "torn").write_bytes(b"1234")
    np.save(tmp_path / "integers.npy", np.arange(3))
    np.save(tmp_path / "pickled.npy", np.array([None]), allow_pickle=True)
    write(tmp_path / "whole.npy")
    (tmp_path / "short.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-1])
    ones = torch.ones(1, 2)
    too_many = lambda first: iter([ones] * 4)
    return {
        "none: not found; check the path": lambda: open_array(tmp_path / "none"),
        "torn: not a complete .npy file": lambda: open_array(tmp_path / "torn"),
        "short.npy: not a complete .npy file": lambda: open_array(tmp_path / "short.npy"),
        "pickled.npy: not a complete .npy": lambda: open_array(tmp_path / "pickled.npy"),
        "integers.npy: holds int64; convert it to float32 or float16": lambda: open_array(
            tmp_path / "integers.npy"
        ),
        r"many.npy: chunk 3 has shape \(1, 2\); yield \(0, 2\)": lambda: write_array(
            tmp_path / "many.npy", (3, 2), torch.float32, 1, too_many
        ),
        "torn/set.npy: could not be written": lambda: write(tmp_path / "torn" / "set.npy"),
    }


def test_damaged_files_and_failed_writes_are_one_line(tmp_path: Path) -> None:
    for reason, work in damaged(tmp_path).items():
        with pytest.raises(CepnbError, match=reason) as caught:
            work()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"layout": {}, "chunks": -1}', "99"])
def test_a_counter_of_another_type_is_refused(tmp_path: Path, text: str) -> None:
    path, counter = tmp_path / "set.npy", tmp_path / "set.npy.progress"
    with pytest.raises(CepnbError, match="do not fill 50 rows"):
        write_array(path, SHAPE, torch.float32, ROWS, lambda first: iter([chunk(0)]))
    if text == "99":
        text = counter.read_text().replace('"chunks": 1', '"chunks": 99')
    counter.write_text(text)
    with pytest.raises(CepnbError, match="set.npy.progress: .*; delete it$"):
        write(path)
    counter.unlink()
    write(path)
    assert torch.equal(open_array(path), torch.cat(list(chunks(0))))
