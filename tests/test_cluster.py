"""Jobs on a cluster of several workers in processes of their own, some of which are killed under them."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster
from test_jobs import work
from test_sweep import TINY

from cepnb.cli import main
from cepnb.errors import CepnbError
from cepnb.experiments.cluster import jobs_at
from cepnb.experiments.scores import load_scores


@pytest.fixture
def address() -> Iterator[str]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


def test_a_killed_worker_loses_nothing_and_others_go_on(tmp_path: Path, address: str) -> None:
    jobs = [
        (tmp_path / end.replace(" ", "_"), end)
        for end in ("killed once", "bad input", "bug", "well", "well again")
    ]
    ended = []
    failures = jobs_at(address)(work, jobs, 2, ended.append)
    assert {end: message for (_, end), message in failures} == {
        "bad input": "K 1: expected at least 2",
        "bug": "KeyError: 'not foreseen'",
    }
    begun = {end: len(path.read_text().split()) for path, end in jobs}
    assert begun["killed once"] == 2 and set(begun.values()) == {1, 2}
    assert sorted(ended) == sorted(jobs)


def test_a_sweep_whose_worker_is_killed_ends_with_the_table_of_an_unbroken_one(
    tmp_path: Path, address: str
) -> None:
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


def test_an_address_without_a_scheduler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cepnb.experiments.cluster.PATIENCE", 0.5)
    with pytest.raises(CepnbError, match="--cluster tcp://127.0.0.1:9: no scheduler answers there"):
        jobs_at("tcp://127.0.0.1:9")
    with pytest.raises(CepnbError, match="--cluster nonsense://x: no scheduler answers there"):
        jobs_at("nonsense://x")
