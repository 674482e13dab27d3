"""Parallel jobs, local and on a Dask cluster: failing, killed and interrupted."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster
from test_sweep import TINY

from cepnb.cli import main
from cepnb.errors import CepnbError
from cepnb.experiments.executor import TRIES, run_jobs
from cepnb.experiments.scores import load_scores


def work(job: tuple[Path, str]) -> None:
    """Append the process id to the job's file, then end as the job's text says."""
    path, end = job
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    match end:
        case "killed once" if len(path.read_text().split()) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "bad input":
            raise CepnbError("K 1: expected at least 2")
        case "bug":
            raise KeyError("not foreseen")
        case "no memory":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        case "long story":
            raise CepnbError("long " * 100_000)
        case "endless":
            time.sleep(1000)


def jobs_ending(folder: Path, *ends: str) -> list[tuple[Path, str]]:
    return [(folder / end.replace(" ", "_"), end) for end in ends]


def attempts(jobs: list[tuple[Path, str]]) -> dict[str, int]:
    return {end: len(path.read_text().split()) for path, end in jobs}


def test_each_job_ends_in_its_own_way_and_the_others_continue(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    jobs = jobs_ending(
        tmp_path,
        *("killed once", "killed", "bad input", "long story", "bug", "no memory"),
        *("well", "well again"),
    )
    ended = []
    failures = run_jobs(work, jobs, 2, ended.append)
    assert {end: message[:80] for (_, end), message in failures} == {
        "long story": "long " * 16,
        "killed": f"its process was killed {TRIES} times, the last by SIGKILL",
        "bad input": "K 1: expected at least 2",
        "bug": "KeyError: 'not foreseen'",
        "no memory": "RuntimeError: DefaultCPUAllocator: can't allocate memory; use fewer rows or stat",
    }
    assert attempts(jobs) == {
        "killed once": 2,
        "killed": TRIES,
        "bad input": 1,
        "long story": 1,
        "bug": 1,
        "no memory": 1,
        "well": 1,
        "well again": 1,
    }
    assert len({pid for path, _ in jobs for pid in path.read_text().split()}) == 8 + TRIES
    assert sorted(ended) == sorted(jobs)
    printed = capfd.readouterr().err
    assert printed.count("Traceback") == 1 and "not foreseen" in printed  # of the bug alone


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("end, status", [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_workers_end_with_their_parent(tmp_path: Path, end: signal.Signals, status: int) -> None:
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from cepnb.experiments.executor import run_jobs
from test_executor import work
if __name__ == "__main__":
    try:
        run_jobs(work, [(Path({str(tmp_path)!r}) / name, "endless") for name in "abc"], 2)
    except KeyboardInterrupt:
        sys.exit(130)
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    # A shell starts background commands with Ctrl-C ignored, and the tests may run as one.
    caller = subprocess.Popen(
        [sys.executable, str(script)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    files = [tmp_path / name for name in "ab"]
    deadline = time.monotonic() + 300
    while not all(path.exists() and path.read_text().endswith("\n") for path in files):
        assert time.monotonic() < deadline and caller.poll() is None
        time.sleep(0.05)
    if end is signal.SIGINT:
        os.killpg(caller.pid, end)  # Ctrl-C reaches every process of the terminal
    else:
        caller.kill()
    assert caller.wait(timeout=300) == status
    assert caller.stderr.read() == ""
    children = [int(path.read_text()) for path in files]
    while any(map(alive, children)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not (tmp_path / "c").exists()  # the job that waited


@pytest.fixture
def address() -> Iterator[str]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


def test_a_job_restarts_if_its_dask_worker_dies_and_the_others_continue(
    tmp_path: Path, address: str
) -> None:
    jobs = jobs_ending(tmp_path, "killed once", "bad input", "bug", "well", "well again")
    ended = []
    failures = run_jobs(work, jobs, 2, ended.append, address)
    assert {end: message for (_, end), message in failures} == {
        "bad input": "K 1: expected at least 2",
        "bug": "KeyError: 'not foreseen'",
    }
    counts = attempts(jobs)
    assert counts["killed once"] == 2 and set(counts.values()) == {1, 2}
    assert sorted(ended) == sorted(jobs)


def test_a_sweep_resumes_the_run_of_a_killed_dask_worker(tmp_path: Path, address: str) -> None:
    config = tmp_path / "tiny.toml"
    config.write_text(TINY.split("[options.base]")[0])
    with Client(address) as client:
        victim = next(iter(client.run(os.getpid).values()))

    def kill_in_the_middle() -> None:
        while len(list((tmp_path / "cluster").rglob("behaviour.safetensors"))) < 2:
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)

    threading.Thread(target=kill_in_the_middle, daemon=True).start()
    assert (
        main(["sweep", str(config), "--out", str(tmp_path / "cluster"), "--cluster", address]) == 0
    )
    assert main(["sweep", str(config), "--out", str(tmp_path / "here")]) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(victim, 0)
    broken, unbroken = (
        {
            (row["seed"], row["method"], row["scale"]): row["normalised"]
            for row in load_scores([tmp_path / name])
        }
        for name in ("cluster", "here")
    )
    assert broken == unbroken and len(broken) == 8


@pytest.mark.parametrize("nowhere", ["tcp://127.0.0.1:9", "nonsense://x"])
def test_an_address_without_a_scheduler_is_rejected(
    nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cepnb.experiments.executor.CONNECT_TIMEOUT", 0.5)
    with pytest.raises(CepnbError, match=f"--cluster {nowhere}: no scheduler answers; start one"):
        run_jobs(work, jobs_ending(tmp_path, "well"), 2, cluster=nowhere)
    assert not list(tmp_path.iterdir())
