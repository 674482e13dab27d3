"""Sweeps: a killed sweep ends with the same table as an uninterrupted one, and bad input starts no run."""

import csv
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cepnb.cli import main
from cepnb.errors import CepnbError
from cepnb.experiments import sweep
from cepnb.experiments.report import report
from cepnb.experiments.scores import load_scores
from cepnb.experiments.step_reuse import step_path, training_rounds
from cepnb.experiments.sweep import Job, jobs_of, run_job, run_sweep
from cepnb.experiments.sweep_file import read_sweep
from cepnb.qgpo import pipeline
from cepnb.qgpo.pretrained import Networks
from cepnb.qgpo.record import read_metrics
from cepnb.qgpo.settings import coerce, qgpo_settings
from cepnb.storage.files import read_json, write_json, write_text

TINY = """
datasets = ["local/maze2d-umaze"]
seeds = [0, 1]
profile = "ci"
[set]
transitions = 1000
sampler_steps = 2
behaviour_steps = 100
q_steps = 100
energy_states = 200
energy_steps = 100
guidance = ["cep"]
scales = [1, 3.0]
episodes = 2
best_of = 2
[options.base]
[options.beta_3]
beta = 3
"""


def score(trained: Networks, *_: object) -> tuple[list[dict], list[str]]:
    """Replace the simulator, which is slow: scores that depend on the networks."""
    nets = [("behaviour", 0.0, trained.eps), ("best_of_k", None, trained.q)]
    nets += [
        (method, scale, net)
        for method, net in trained.energies.items()
        for scale in trained.settings.scales
    ]
    sizes = [
        (scale or 1.0) * sum(p.double().norm().item() for p in net.parameters())
        for _, scale, net in nets
    ]
    records = [
        {
            "method": method,
            "scale": scale,
            "episodes": trained.settings.episodes,
            "return_mean": size,
            "return_se": 0.0,
            "normalised": size,
            "normalised_se": 0.0,
        }
        for (method, scale, _), size in zip(nets, sizes)
    ]
    return records, []


def quick_job(job: Job) -> None:
    pipeline.score = score
    write_text(job.folder / "pid", str(os.getpid()))
    run_job(job)


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Use the scores above in jobs of this module, in this and in other processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "score", score)
        patch.setattr(sweep, "run_job", quick_job)
        yield


def run_in_this_process(
    work: Callable, jobs: list[Job], workers: int, ended: Callable, cluster: str | None
) -> list[tuple[Job, str]]:
    for job in jobs:
        work(pickle.loads(pickle.dumps(job)))
        ended(job)
    return []


def rows(folder: Path) -> list[dict]:
    with (folder / "scores.csv").open(newline="") as file:
        return [
            {key: cell for key, cell in row.items() if key != "seconds"}
            for row in csv.DictReader(file)
        ]


def wait_for(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def unbroken(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that ran in this process, job after job."""
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "run_jobs", run_in_this_process)
        assert run_sweep(read_sweep(config), folder, 2)[1] == []
    return folder


def test_the_table_of_a_sweep(unbroken: Path) -> None:
    found = rows(unbroken)
    assert [(row["option"], row["seed"], row["method"], row["scale"]) for row in found] == [
        (option, seed, method, scale)
        for seed in "01"
        for option in ("base", "beta_3")
        for method, scale in (
            ("behaviour", "0.0"),
            ("best_of_k", ""),
            ("cep", "1.0"),
            ("cep", "3.0"),
        )
    ]
    for row in found:
        assert (row["dataset"], row["environment"], row["profile"]) == (
            "local/maze2d-umaze",
            "maze2d-umaze",
            "ci",
        )
        assert (
            row["beta"] == ("3.0" if row["option"] == "beta_3" else "60.0")
            and row["scales"] == "[1.0, 3.0]"
        )
        assert row["headline_scale"] == "1.0" and row["episodes"] == "2" and row["threads"] == "1"
    # Both options share all networks but the energies, and the start states.
    plain = {
        (row["option"], row["seed"]): row["normalised"]
        for row in found
        if row["method"] == "behaviour"
    }
    assert plain["base", "0"] == plain["beta_3", "0"] != plain["base", "1"]


def test_options_share_equal_steps(unbroken: Path) -> None:
    for seed in ("seed0", "seed1"):
        base, other = (
            unbroken / "local-maze2d-umaze" / option / seed for option in ("base", "beta_3")
        )
        for step in ("behaviour", "support", "critic", "energy_support"):
            assert os.path.samefile(step_path(base, step), step_path(other, step))
        assert (base / "energy_cep.safetensors").read_bytes() != (
            other / "energy_cep.safetensors"
        ).read_bytes()


def test_a_killed_sweep_resumes_to_the_same_table(
    config: Path, unbroken: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    arguments = ["sweep", str(config), "--out", str(tmp_path), "--workers", "2"]
    caller = subprocess.Popen(
        [sys.executable, "-m", "cepnb", *arguments], stderr=subprocess.DEVNULL
    )
    wait_for(lambda: list(tmp_path.rglob("behaviour.safetensors")))
    caller.kill()
    caller.wait()
    assert not list(tmp_path.rglob("metrics.json"))

    worker = tmp_path / "local-maze2d-umaze" / "base" / "seed0"
    killed = []

    def kill_worker() -> None:
        wait_for(lambda: (worker / "pid").exists() and (worker / "critic.safetensors").exists())
        killed.append(int((worker / "pid").read_text()))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_worker)
    killer.start()
    assert main(arguments) == 0
    killer.join()
    assert killed and killed[0] != int(
        (worker / "pid").read_text()
    )  # another process resumed its run
    assert rows(tmp_path) == rows(unbroken)
    printed = capfd.readouterr()
    assert (
        "### At the headline scale" in printed.out
        and (tmp_path / "table.md").read_text().strip() in printed.out
    )
    assert (
        "4/4" in printed.err and "Traceback" not in printed.err and "behaviour" not in printed.err
    )  # one bar for all runs
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_ctrl_c_is_one_line(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """test_executor tests the end of the workers."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cepnb.experiments.executor.wait", interrupted)
    assert main(["sweep", str(config), "--out", str(tmp_path), "--workers", "2"]) == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("cepnb: interrupted; ")
    assert not multiprocessing.active_children()


def test_a_finished_sweep_runs_nothing(
    config: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr(sweep, "run_jobs", lambda work, jobs, *_: started.extend(jobs) or [])
    run_sweep(read_sweep(config), unbroken, 2)
    assert started == []


def test_a_failed_run_is_named_and_the_others_are_saved(
    config: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(unbroken, folder)
    failing = folder / "local-maze2d-umaze" / "base" / "seed1"
    shutil.rmtree(failing)
    failing.write_text("in the way")
    assert main(["sweep", str(config), "--out", str(folder), "--workers", "1"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(
        f"cepnb: error: 1 runs failed, all others are saved ({failing}: {failing}/pid: "
    )
    expected = [row for row in rows(unbroken) if (row["option"], row["seed"]) != ("base", "1")]
    assert rows(folder) == expected and (folder / "table.md").exists()


def test_every_sweep_names_the_faults_of_finished_runs(
    config: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(unbroken, folder)
    failing = folder / "local-maze2d-umaze" / "beta_3" / "seed1" / "metrics.json"
    found, fault = read_json(failing), "cep at s = 3: actions that are not finite"
    other_scores = [
        record for record in found["scores"] if (record["method"], record["scale"]) != ("cep", 3.0)
    ]
    for scores, others in ((other_scores, "all other scores are there"), ([], "no score is there")):
        write_json(failing, found | {"scores": scores, "faults": [fault]})
        for _ in range(2):
            assert main(["sweep", str(config), "--out", str(folder)]) == 2
            printed = capsys.readouterr()
            assert printed.err.splitlines()[-1] == (
                f"cepnb: error: 1 runs failed, all others are saved ({failing.parent}: "
                f"{failing}: {fault}; {others})"
            )
            line = f"| local/maze2d-umaze | beta_3 | 1 | {fault} |"
            assert (
                line in printed.out
                and line in (folder / "table.md").read_text()
                and line in report(load_scores([folder]))
            )
    for path in folder.rglob("metrics.json"):
        write_json(path, read_json(path) | {"scores": [], "faults": [fault]})
    assert main(["sweep", str(config), "--out", str(folder)]) == 2
    assert "4 runs failed, all others are saved" in capsys.readouterr().err


def test_a_run_that_fails_with_faults_is_named_once(
    config: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(unbroken, folder)
    path = folder / "local-maze2d-umaze" / "base" / "seed1" / "metrics.json"
    found = read_json(path) | {"faults": ["cep at s = 3: a gain in Q that is not finite"]}
    path.unlink()

    def failing(
        work: Callable, jobs: list[Job], workers: int, ended: Callable, cluster: str | None
    ) -> list[tuple[Job, str]]:
        for job in jobs:
            write_json(job.metrics, found)
            ended(job)
        return [(job, "not finite") for job in jobs]

    monkeypatch.setattr(sweep, "run_jobs", failing)
    _, failures = run_sweep(read_sweep(config), folder, 2)
    assert [(job.metrics, reason) for job, reason in failures] == [(path, "not finite")]


def test_a_folder_with_other_settings_is_rejected(
    config: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(TINY.replace("beta = 3", "beta = 4"))
    assert main(["sweep", str(other), "--out", str(unbroken)]) == 2
    assert (
        "beta_3/seed0/settings.json: made with beta 3.0, now 4.0; use another folder"
        in capsys.readouterr().err
    )
    assert len(load_scores([unbroken])) == 16


def metrics_refusal(folder: Path, metrics: object) -> str:
    """The message of `read_metrics`, without the file's name."""
    path = folder / "refused.json"
    write_json(path, metrics)
    with pytest.raises(CepnbError) as refused:
        read_metrics(path)
    return str(refused.value).removeprefix(f"{path}: ")


def test_damaged_runs_and_runs_of_other_settings_are_rejected_before_any_run(
    config: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(unbroken, folder)
    shutil.rmtree(folder / "local-maze2d-umaze" / "base" / "seed0")  # the first run of the sweep
    path = folder / "local-maze2d-umaze" / "beta_3" / "seed1" / "metrics.json"
    found = read_json(path)
    (path.parent / "settings.json").unlink()
    for metrics, expected in [
        (
            found | {"settings": found["settings"] | {"beta": 4.0}},
            "made with beta 4.0, now 3.0; use another folder",
        ),
        (found | {"seed": 7}, "made with seed 7, now 1; use another folder"),
        (found | {"digest": "0"}, f"made with digest 0, now {found['digest']}; use another folder"),
        ([1], metrics_refusal(tmp_path, [1])),
        (found | {"scores": [{}]}, metrics_refusal(tmp_path, found | {"scores": [{}]})),
    ]:
        write_json(path, metrics)
        assert main(["sweep", str(config), "--out", str(folder), "--workers", "1"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f"cepnb: error: {path}: {expected}"
        assert (
            not (path.parent / "settings.json").exists()
            and not (folder / "local-maze2d-umaze" / "base" / "seed0").exists()
        )


def refusal(**changes: object) -> str:
    """The message of `coerce`."""
    with pytest.raises(CepnbError, match=next(iter(changes))) as refused:
        coerce(changes)
    return str(refused.value)


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ('["local/maze2d-umaze"]', "[]", "datasets: expected `array` of length >= 1; see"),
        (
            'datasets = ["local/maze2d-umaze"]',
            "",
            "object missing required field `datasets`; see the example in docs/options.md",
        ),
        (
            '["local/maze2d-umaze"]',
            '"local/maze2d-umaze"',
            "datasets: expected `array`, got `str`; see",
        ),
        ('["local/maze2d-umaze"]', "[3]", "datasets[0]: expected `str | object`, got `int`; see"),
        (
            '["local/maze2d-umaze"]',
            '[{name = "x"}]',
            "datasets[0]: object contains unknown field `name`; see",
        ),
        (
            '["local/maze2d-umaze"]',
            '[{dataset = ""}]',
            "datasets[0].dataset: expected `str` of length >= 1; see",
        ),
        (
            '["local/maze2d-umaze"]',
            '["local/maze2d-tiny"]',
            "datasets: dataset 'local/maze2d-tiny': use one of local/maze2d-umaze, ",
        ),
        (
            '["local/maze2d-umaze"]',
            '["nowhere.hdf5"]',
            "datasets: dataset 'nowhere.hdf5': not found; use local/…, d4rl/…",
        ),
        (
            '["local/maze2d-umaze"]',
            '[{dataset = "nowhere.hdf5", environment = "maze2d-umaze"}]',
            "datasets: dataset 'nowhere.hdf5': not found; use local/",
        ),
        (
            '["local/maze2d-umaze"]',
            '["d4rl/maze2d-umaze-v7"]',
            "datasets: dataset 'd4rl/maze2d-umaze-v7': not in d4rl's table",
        ),
        (
            '["local/maze2d-umaze"]',
            '["local/maze2d-umaze", "local/maze2d-umaze"]',
            "datasets: 'local/maze2d-umaze in maze2d-umaze' occurs 2 times; list it once",
        ),
        (
            '["local/maze2d-umaze"]',
            '["local/maze2d-umaze", {dataset = "local/maze2d-umaze", environment = "maze2d-umaze"}]',
            "datasets: 'local/maze2d-umaze in maze2d-umaze' occurs 2 times; list it once",
        ),
        ("[0, 1]", "[0, 0]", "seeds: 0 occurs 2 times; list it once"),
        ("[1, 3.0]", "[1, 3, 3.0]", "options.base: scales (1.0, 3.0, 3.0): use each value once"),
        ("[0, 1]", "[0, true]", "seeds[1]: expected `int`, got `bool`; see"),
        ("[0, 1]", "[0, -1]", "seeds[1]: expected `int` >= 0; see"),
        ("[0, 1]", "3", "seeds: expected `array`, got `int`; see"),
        ('"ci"', '"huge"', "profile 'huge' is unknown; use one of ci, laptop, desktop, paper"),
        ('"ci"', "7", "profile: expected `str | null`, got `int`; see"),
        ("seeds", "sedes", "object contains unknown field `sedes`; see"),
        ("[set]", "[[set]]", "set: expected `object`, got `array`; see"),
        ("q_steps", "q_stepps", f"set: {refusal(q_stepps=100)}"),
        ("episodes = 2", "episodes = 2.5", f"set: {refusal(episodes=2.5)}"),
        ('["cep"]', '"cep"', f"set: {refusal(guidance='cep')}"),
        ("[1, 3.0]", "[1, true]", f"set: {refusal(scales=[1, True])}"),
        ("beta = 3", 'beta = "3"', f"options.beta_3: {refusal(beta='3')}"),
        ("beta = 3", "beta = -3", "options.beta_3: beta -3.0: use"),
        (
            "beta = 3",
            "checkpoint_every = 150",
            "options.beta_3: checkpoint_every 150: use a multiple of 100",
        ),
        (
            "beta = 3",
            "beta = 60",
            "options.beta_3: same settings as options.base for maze2d-umaze; remove one of the two",
        ),
        ("beta_3", "base", "cannot be read as TOML (Cannot declare ('options', 'base') twice"),
        (
            "beta_3",
            '"../beta"',
            "options.../beta: cannot name a folder; use letters, digits, '_', '.' and '-'",
        ),
        ("beta = 3", "beta =", "cannot be read as TOML (Invalid value"),
    ],
)
def test_a_wrong_file_is_one_line(
    old: str, new: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path, out = tmp_path / "sweep.toml", tmp_path / "out"
    assert TINY.count(old) == 1
    path.write_text(TINY.replace(old, new))
    assert main(["sweep", str(path), "--out", str(out)]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith(f"cepnb: error: {path}: {expected}") and not printed.out
    assert not out.exists()


def test_other_bad_input(tmp_path: Path, config: Path, capsys: pytest.CaptureFixture) -> None:
    for arguments, expected in [
        (
            [str(tmp_path / "none.toml")],
            f"{tmp_path}/none.toml: not found; check the path",
        ),
        ([str(config), "--workers", "0"], "--workers 0: use at least 1"),
        ([str(config), "--device", "tpu"], "--device tpu: use cpu or cuda"),
    ]:
        assert main(["sweep", *arguments]) == 2
        assert capsys.readouterr().err == f"cepnb: error: {expected}\n"


def test_the_documented_example(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "docs" / "options.md").read_text()
    path = tmp_path / "ablation.toml"
    path.write_text(text.split("```toml\n")[1].split("```")[0])
    read = read_sweep(path)
    assert len(jobs_of(read, tmp_path)) == 2 * 3 * 2 and read.profile == "laptop"
    assert training_rounds(read.tasks[0].options) == {"base": 0, "eq_20": 1}


def test_tasks_and_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(
        'datasets = ["local/hopper-medium", {dataset = "a/b c.hdf5", environment = "maze2d-umaze"}]\nseeds = [4]'
    )
    monkeypatch.setenv("CEPNB_PROFILE", "ci")
    read = read_sweep(path)
    assert read.profile == "ci" and list(read.tasks[0].options) == ["base"]
    jobs = jobs_of(read, Path("out"))
    assert [(str(job.folder), job.environment) for job in jobs] == [
        ("out/local-hopper-medium/base/seed4", "hopper"),
        ("out/a-b-c.hdf5-in-maze2d-umaze/base/seed4", "maze2d-umaze"),
    ]
    assert [job.settings for job in jobs] == [
        qgpo_settings("ci", "locomotion"),
        qgpo_settings("ci"),
    ]
    with pytest.raises(CepnbError, match="a/b c.hdf5': not found"):
        run_job(jobs[1])


def test_workers_get_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A job loads its file from any current folder, and names it as the sweep file does."""
    assert main(["data", "--dataset", "local/maze2d-umaze", "--profile", "ci"]) == 0
    shutil.copy(capsys.readouterr().out.strip(), tmp_path / "my.hdf5")
    text = TINY.replace(
        '"local/maze2d-umaze"', '{dataset = "my.hdf5", environment = "maze2d-umaze"}'
    )
    (tmp_path / "tiny.toml").write_text(text, encoding="utf-8-sig")  # with a byte-order mark
    monkeypatch.chdir(tmp_path)
    jobs = []
    monkeypatch.setattr(sweep, "run_jobs", lambda work, some, *_: jobs.extend(some) or [])
    run_sweep(read_sweep("tiny.toml"), "out", 1, cluster="tcp://host:1")
    assert len(jobs) == 4
    assert {job.source for job in jobs} == {str(tmp_path / "my.hdf5")}
    assert all(job.folder.is_relative_to(tmp_path / "out") for job in jobs)
    monkeypatch.chdir("/")
    assert jobs[0].load().name == jobs[0].dataset == "my.hdf5"


def test_a_sweep_checks_its_folder_and_environments_first(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "run_jobs", lambda *_: pytest.fail("jobs start"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CepnbError, match="scores.csv: could not be written .*; a file has the"):
        run_sweep(read_sweep(config), tmp_path / "file", 1)
    monkeypatch.setattr(pipeline, "normalised_score", lambda *_: open("/no/home", "rb"))
    with pytest.raises(CepnbError, match="^maze2d-umaze: cannot be evaluated here .FileNotFound"):
        run_sweep(read_sweep(config), tmp_path / "new", 1)
    assert not (tmp_path / "new").exists()


def test_a_job_restores_the_number_of_threads(
    config: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Dask worker runs other code, too."""
    shutil.copytree(unbroken, tmp_path, dirs_exist_ok=True)
    seen = []
    monkeypatch.setattr(sweep, "run_qgpo", lambda *_, **__: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    run_job(jobs_of(read_sweep(config), tmp_path, threads=before + 1)[0])
    assert seen == [before + 1] and torch.get_num_threads() == before


@pytest.fixture
def row_file(tmp_path: Path) -> Callable[..., None]:
    """Return a function that writes a maze dataset of one complete episode."""

    def write(name: str) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with h5py.File(tmp_path / name, "w") as file:
            file["observations"] = np.random.default_rng(0).normal(size=(10, 4))
            file["actions"], file["rewards"] = np.zeros((10, 2)), np.arange(10) / 10
            file["terminals"], file["timeouts"] = np.zeros(10, bool), np.arange(10) == 9

    return write


def two_datasets(folder: Path, one: str, two: str) -> Path:
    """Write a sweep file of two datasets in the large maze."""
    entry = '{dataset = "%s", environment = "maze2d-large"}'
    text = TINY.replace('"local/maze2d-umaze"', f"{entry % one}, {entry % two}")
    (folder / "two.toml").write_text(text)
    return folder / "two.toml"


def test_other_files_do_not_share_a_folder(
    row_file: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row_file("data/x.hdf5")
    row_file("data-x.hdf5")
    message = "datasets: 'data/x.hdf5' and 'data-x.hdf5': both would use the folder data-x.hdf5-in"
    with pytest.raises(CepnbError, match=message):
        read_sweep(two_datasets(tmp_path, "data/x.hdf5", "data-x.hdf5"))
    (tmp_path / "linked.hdf5").symlink_to(tmp_path / "data-x.hdf5")
    for same in (str(tmp_path / "data-x.hdf5"), "data/../data-x.hdf5", "linked.hdf5"):
        with pytest.raises(CepnbError, match="data-x.hdf5 in maze2d-large' occurs 2 times; list"):
            read_sweep(two_datasets(tmp_path, "data-x.hdf5", same))


def test_data_that_cannot_be_trained_on_starts_no_run(
    row_file: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data has one complete episode, so its returns have no range."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "run_jobs", lambda *_: pytest.fail("jobs start"))
    monkeypatch.setattr("cepnb.datasets.coordinates.check_coordinates", lambda *_: None)
    row_file("one.hdf5")
    text = TINY.replace("[set]", '[set]\nreward_tuning = "return_range"')
    entry = '{dataset = "one.hdf5", environment = "maze2d-umaze"}'
    (tmp_path / "one.toml").write_text(text.replace('"local/maze2d-umaze"', entry))
    message = "one.toml: datasets: one.hdf5: every episode has a return of 4.5; use another"
    with pytest.raises(CepnbError, match=message):
        run_sweep(read_sweep("one.toml"), "out", 1)
    assert not Path("out").exists()


def test_a_sweep_checks_all_its_files_first(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sweep, "run_jobs", lambda *_: pytest.fail("jobs start"))
    for name in ("scores.csv", "table.md", "scores.png"):
        out = tmp_path / name.replace(".", "-")
        (out / name).mkdir(parents=True)
        assert main(["sweep", str(config), "--out", str(out)]) == 2
        line = f"{out / name}: could not be written (Is a directory); a folder has this name"
        assert line in capsys.readouterr().err


def test_a_cluster_needs_its_library_before_data_is_loaded(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Job, "load", lambda job: pytest.fail("data is loaded"))
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(CepnbError, match="--cluster: the library distributed is missing"):
        run_sweep(read_sweep(config), tmp_path, 1, cluster="tcp://host:1")


def test_the_space_of_all_runs_is_checked_first(
    config: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both options share their support sets, so two seeds need two of each; sets that exist, none."""
    sizes = []
    monkeypatch.setattr(sweep, "run_jobs", lambda *_: [])
    monkeypatch.setattr(sweep, "check_writable", lambda path, size=0: sizes.append(size))
    run_sweep(read_sweep(config), tmp_path / "new", 1)
    job = jobs_of(read_sweep(config), tmp_path)[0]
    expected = 2 * sum(pipeline.set_bytes(job.load(), job.settings).values())
    assert max(sizes) == sizes[-1] == expected > 0
    shutil.copytree(unbroken, tmp_path / "old")
    shutil.rmtree(tmp_path / "old/local-maze2d-umaze/beta_3")
    run_sweep(read_sweep(config), tmp_path / "old", 1)
    assert sizes[-1] == 0
