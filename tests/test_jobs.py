"""Jobs in processes of their own: killed, failing and interrupted."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cepnb.errors import CepnbError
from cepnb.experiments.executor import TRIES, run_jobs


def work(job: tuple[Path, str]) -> None:
    """Leave a line in the file and then end as the job says."""
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
        case "long story":
            raise CepnbError("long " * 100_000)
        case "endless":
            time.sleep(1000)


def test_each_job_ends_in_its_own_way_and_the_others_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    jobs = [
        (tmp_path / end.replace(" ", "_"), end)
        for end in ("killed once", "killed", "bad input", "long story", "bug", "well", "well again")
    ]
    ended = []
    failures = run_jobs(work, jobs, 2, ended.append)
    assert {end: message[:80] for (_, end), message in failures} == {
        "long story": "long " * 16,
        "killed": f"its process was killed {TRIES} times, the last by SIGKILL",
        "bad input": "K 1: expected at least 2",
        "bug": "KeyError: 'not foreseen'",
    }
    begun = {end: len(path.read_text().split()) for path, end in jobs}
    assert begun == {
        "killed once": 2,
        "killed": TRIES,
        "bad input": 1,
        "long story": 1,
        "bug": 1,
        "well": 1,
        "well again": 1,
    }
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
def test_no_process_outlives_the_one_that_began_it(
    tmp_path: Path, end: signal.Signals, status: int
) -> None:
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from cepnb.experiments.executor import run_jobs
from test_jobs import work
if __name__ == "__main__":
    try:
        run_jobs(work, [(Path({str(tmp_path)!r}) / name, "endless") for name in "ab"], 2)
    except KeyboardInterrupt:
        sys.exit(130)
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    # What is begun in the background of a shell is deaf to Ctrl-C, and tests may be.
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
