"""The command line: bad input prints one line, exits with status 2 and writes nothing."""

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from test_report import csv_with

from cepnb.cli import _parser, main
from cepnb.datasets.dataset import OfflineDataset
from cepnb.errors import CepnbError, exit_status
from cepnb.qgpo import pipeline, pretrained
from cepnb.qgpo.settings import CHOICES, coerce, qgpo_settings

ROOT = Path(__file__).parent.parent
UMAZE = ["qgpo", "--dataset", "local/maze2d-umaze", "--profile", "ci"]


def complaint(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert not printed.out
    (line,) = printed.err.splitlines()
    return line.removeprefix("cepnb: error: ")


def refusal(**changes: object) -> str:
    """The message of `coerce`, which names the setting."""
    with pytest.raises(CepnbError, match=next(iter(changes))) as refused:
        coerce(changes)
    return str(refused.value)


@pytest.mark.parametrize(
    "changes, expected",
    [
        (
            ["--dataset", "local/maze2d-tiny"],
            "dataset 'local/maze2d-tiny': use one of local/maze2d-umaze, local/maze2d-umaze-noisy",
        ),
        (
            ["--dataset", "nowhere.hdf5"],
            "dataset 'nowhere.hdf5': not found; use local/…, d4rl/…, minari/… or the path of an HDF5 file",
        ),
        (
            ["--dataset", "minari/mujoco/hopper/medium-v0"],
            "dataset 'minari/mujoco/hopper/medium-v0': the name gives no environment; add --environment",
        ),
        (
            ["--dataset", "nowhere.hdf5", "--environment", "maze2d-umaze"],
            "dataset 'nowhere.hdf5': not found; use local/…, d4rl/…, minari/… or the path of an HDF5 file",
        ),
        (
            ["--dataset", "d4rl/ant-medium-v2"],
            "environment 'ant': use one of maze2d-umaze, maze2d-medium, maze2d-large, hopper",
        ),
        (
            ["--dataset", "d4rl/maze2d-umaze-v7"],
            "dataset 'd4rl/maze2d-umaze-v7': not in d4rl's table; use a name such as maze2d-umaze-v1",
        ),
        (["--profile", "huge"], "profile 'huge' is unknown; use one of ci, laptop, desktop, paper"),
        (["--seed", "-1"], "seed -1: use an integer from 0 to 2147483647"),
        (["--device", "tpu"], "--device tpu: use cpu or cuda"),
        (["--set", "K=1"], "K 1: use at least 2"),
        (["--set", "energy_K=1"], "energy_K 1: use at least 2"),
        (
            ["--set", "energy_states=0"],
            "energy_K 8: use K = 4, or energy_states above 0",
        ),
        (["--set", "beta=0"], "beta 0.0: use a finite number above 0"),
        (["--set", "beta=-2.5"], "beta -2.5: use a finite number above 0"),
        (["--set", "beta_q=1e999"], "beta_q inf: use a finite number above 0"),
        (["--set", "discount=1"], "discount 1.0: use a number in (0, 1)"),
        (["--set", "episodes=0"], "episodes 0: use at least 1"),
        (["--set", "state_jitter=-0.1"], "state_jitter -0.1: use a finite number of at least 0"),
        (["--set", "q_rate=0"], "q_rate 0.0: use a finite number above 0"),
        (["--set", "scales=()"], "scales (): use at least one value"),
        (
            ["--set", "scales=(3.0,)"],
            "scales (3.0,): use headline_scale 1.0 as well",
        ),
        (["--set", "episodes=many"], refusal(episodes="many")),
        (["--set", "episodes=True"], refusal(episodes=True)),
        (["--set", "behaviour_widths=(64, 'wide')"], refusal(behaviour_widths=(64, "wide"))),
        (["--set", "episodes"], "--set episodes: the value is missing; use NAME=VALUE"),
        (
            ["--set", "labels=raw"],
            "labels 'raw': use one of self_normalised, posterior",
        ),
        (
            ["--set", "guidance=('cep', 'cfg')"],
            "guidance 'cfg': use one of cep, mse, exp_mse, dps",
        ),
        (["--set", "guidance=cep"], refusal(guidance="cep")),
        (["--set", "name=1"], "setting 'name': use one of "),
        (["--set", "family=1"], "setting 'family': use one of "),
        (["--set", "beta={[]: 1}"], refusal(beta="{[]: 1}")),
        (
            ["--set", "behaviour_widths=(-5,)"],
            "behaviour_widths -5: use at least 1",
        ),
        (
            ["--dataset", "x" * 300 + ".hdf5", "--environment", "maze2d-umaze"],
            "OSError: [Errno 36] File name too long",
        ),
        (["--set", "betta=3"], "setting 'betta': use one of beta"),
        (["--set", "K=4", "--set", "K=8"], "--set K: given 2 times; give it once"),
        (["--set", "target_rate=2"], "target_rate 2.0: use at most 1.0"),
        (["--set", "target_networks=6"], "target_networks 6: use at most q_networks, 5"),
        (
            ["--set", "q_in_energy=True", "--set", "guidance=('exp_mse',)"],
            "guidance 'exp_mse' with q_in_energy: use q_in_energy False",
        ),
        (["--set", "scales=(1.0, 1.0)"], "scales (1.0, 1.0): use each value once"),
    ],
)
def test_bad_input_is_one_line(
    changes: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    command, *defaults = UMAZE
    for name, value in zip(defaults[::2], defaults[1::2]):
        changes = changes if name in changes else [*changes, name, value]
    assert complaint([command, "--out", str(out), *changes], capsys).startswith(expected)
    assert not out.exists()


def test_a_damaged_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, rows = tmp_path / "walk.hdf5", 10
    arrays = {
        "observations": np.tile([1.0, 1.0, 0.0, 0.0], (rows, 1)),  # at rest in a free cell
        "actions": np.zeros((rows, 2)),
        "rewards": np.arange(rows) / rows,
        "terminals": np.zeros(rows, bool),
        "timeouts": np.zeros(rows, bool),
    }
    arguments = [
        "qgpo",
        "--dataset",
        str(path),
        "--environment",
        "maze2d-umaze",
        "--profile",
        "ci",
        "--out",
        str(tmp_path / "o"),
    ]

    def write(**changes: object) -> None:
        with h5py.File(path, "w") as file:
            for key, value in (arrays | changes).items():
                if value is not None:
                    file[key] = value

    for changes, expected in [
        (
            {"rewards": None},
            "'rewards' is missing; store observations, actions, rewards, terminals",
        ),
        (
            {"rewards": np.zeros(rows - 1)},
            "'rewards' has 9 rows but 'observations' has 10; re-export the file",
        ),
        (
            {"rewards": np.full(rows, np.nan)},
            "'rewards' has values that are not finite; remove them",
        ),
        ({"rewards": np.ones(rows)}, "all rewards are 1; use data with rewards that differ"),
    ]:
        write(**changes)
        assert complaint(arguments, capsys) == f"{path}: {expected}"
    write()
    path.write_bytes(path.read_bytes()[:500])
    assert complaint(arguments, capsys).startswith(f"{path}: not a whole HDF5 file")


def test_an_unwritable_output_folder_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert (
        main(["data", "--dataset", "local/maze2d-umaze", "--profile", "ci"]) == 0
    )  # generates the dataset, which prints a progress bar
    capsys.readouterr()
    (tmp_path / "other").mkdir()
    for content, expected in (
        ("{}", "not the settings of a run"),
        ('{"settings": 3}', "not the settings of a run"),
        ("{", "not a complete JSON file"),
    ):
        (tmp_path / "other" / "settings.json").write_text(content)
        assert complaint([*UMAZE, "--out", str(tmp_path / "other")], capsys).startswith(
            f"{tmp_path}/other/settings.json: {expected}"
        )
    (tmp_path / "file").write_text("in the way")
    line = complaint([*UMAZE, "--out", str(tmp_path / "file" / "run")], capsys)
    assert line.startswith(
        f"{tmp_path}/file/run/settings.json: could not be written (Not a directory)"
    )


def test_the_module_runs_as_a_command() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "cepnb", "--help"], capture_output=True, text=True
    )
    assert listed.returncode == 0 and "qgpo" in listed.stdout
    alone = subprocess.run([sys.executable, "-m", "cepnb"], capture_output=True, text=True)
    assert (alone.returncode, alone.stdout, alone.stderr) == (2, listed.stdout, "")
    wrong = subprocess.run(
        [sys.executable, "-m", "cepnb", *UMAZE, "--out", "x", "--set", "K=1"],
        capture_output=True,
        text=True,
    )
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "cepnb: error: K 1: use at least 2\n"


def test_an_unknown_option_is_named_with_the_one_that_is_meant(
    capsys: pytest.CaptureFixture,
) -> None:
    for arguments, expected in (
        (["toy", "--densty", "moons"], "unknown arguments --densty moons; use --density"),
        (["report", "a", "--jsn"], "unknown arguments --jsn; see python -m cepnb report --help"),
        (["toi"], "argument COMMAND: invalid choice: 'toi' (choose from"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        error = capsys.readouterr().err
        assert ended.value.code == 2 and error.count("\n") == 1 and expected in error


def test_settings_are_listed_with_value_and_meaning(capsys: pytest.CaptureFixture) -> None:
    assert main(["settings", "--profile", "ci", "--environment", "hopper"]) == 0
    printed = capsys.readouterr().out
    assert main(["settings", "--profile", "ci", "--dataset", "local/hopper-medium"]) == 0
    assert capsys.readouterr().out == printed
    rows = {line.split()[0]: line for line in printed.splitlines() if "  " in line}
    settings = qgpo_settings("ci", "hopper")
    assert list(rows) == [field.name for field in fields(settings)]
    for name, line in rows.items():
        value, meaning = re.split(r"  +", line.removeprefix(name).strip(), maxsplit=1)
        assert value == str(getattr(settings, name)) and len(meaning) > 8, line
        if name in CHOICES:
            assert line.endswith(f"({', '.join(CHOICES[name])})")


def examples() -> list[str]:
    """The examples of all commands, each once, without those that need a GPU or an hour."""
    (commands,) = [action.choices for action in _parser()._actions if action.choices]
    lines = []
    for name, command in commands.items():
        title, *found = command.epilog.splitlines()
        assert title == "examples:" and found and command.description.count(". "), name
        lines += [line.strip() for line in found if name != "agent"]
    return [line for line in dict.fromkeys(lines) if "--device cuda" not in line]


def test_the_examples_run_in_order(tmp_path: Path) -> None:
    """In one shell and in an empty folder, with the text of the help."""
    folder = str(Path(sys.executable).parent)
    environment = os.environ | {"CEPNB_PROFILE": "ci", "PYTHONPATH": str(ROOT)}
    environment["PATH"] = folder + os.pathsep + environment["PATH"]
    script = "set -e\n" + "\n".join(examples())
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    made = ("umaze/metrics.json", "umaze-later/metrics.json", "hopper/metrics.json")
    assert all((tmp_path / "runs" / name).exists() for name in (*made, "small/table.md"))
    assert (tmp_path / "umaze.safetensors").exists()
    assert (tmp_path / "report.md").read_text(encoding="utf-8").startswith("### At the headline")


def test_data_prints_its_path(capsys: pytest.CaptureFixture) -> None:
    assert main(["data", "--dataset", "local/maze2d-umaze", "--profile", "ci"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.name == "maze2d-umaze-4000-seed0.hdf5" and path.exists()
    assert complaint(["data", "--dataset", "d4rl/maze2d-umaze-v1"], capsys).startswith(
        "dataset 'd4rl/maze2d-umaze-v1': use one of"
    )


def test_qgpo_trains_without_an_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """For a file whose name implies no environment, and for a dataset whose name does."""
    assert main(["data", "--dataset", "local/maze2d-umaze", "--profile", "ci"]) == 0
    file = capsys.readouterr().out.strip()
    calls = []

    def fake_run_qgpo(dataset: OfflineDataset, *arguments: object, **options: object) -> dict:
        calls.append((dataset.name, *arguments, options))
        return {"scores": [], "seconds": {}}

    monkeypatch.setattr(pipeline, "run_qgpo", fake_run_qgpo)
    for name, environment in ((file, None), ("local/maze2d-umaze", "maze2d-umaze")):
        arguments = ["--profile", "ci", "--out", str(tmp_path), "--no-evaluation"]
        assert main(["qgpo", "--dataset", name, "--seed", "3", *arguments]) == 0
        *call, options = calls.pop()
        plain = {} if environment else {"state_jitter": 0.0, "reward_reach": 0.0}
        assert call == [name, environment, qgpo_settings("ci", **plain), "ci", 3, tmp_path]
        assert options["evaluation"] is False and options["device"].type == "cpu"
        hint = f"python -m cepnb evaluate {tmp_path} --environment {environment or 'NAME'}\n"
        assert capsys.readouterr().out.endswith(hint)
        assert main(["settings", "--profile", "ci", "--dataset", name]) == 0
        printed = capsys.readouterr().out  # the settings that were used
        assert re.search(rf"^state_jitter +{call[2].state_jitter} ", printed, re.MULTILINE)
        assert re.search(rf"^reward_reach +{call[2].reward_reach} ", printed, re.MULTILINE)


def test_evaluate_prints_the_scores_of_a_trained_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    score = {"method": "cep", "scale": 3.0, "episodes": 2, "return_mean": 1.0, "return_se": 0.5}
    score |= {"normalised": 12.5, "normalised_se": 2.0}

    def fake_evaluate_run(folder: Path, environment: str, **options: object) -> dict:
        assert (folder, environment, options["device"].type) == (tmp_path, "maze2d-umaze", "cpu")
        return {"scores": [score]}

    (tmp_path / "settings.json").write_text("{}")

    monkeypatch.setattr(pipeline, "evaluate_run", fake_evaluate_run, raising=False)
    assert main(["evaluate", str(tmp_path), "--environment", "maze2d-umaze"]) == 0
    printed = capsys.readouterr().out
    assert "cep" in printed and "12.5" in printed
    arguments = ["evaluate", str(tmp_path), "--environment", "maze2d-umaze", "--device", "tpu"]
    assert complaint(arguments, capsys).startswith("--device tpu: use cpu or cuda")


def test_export_writes_a_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    calls = []
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "settings.json").write_text("{}")
    monkeypatch.setattr(
        pretrained, "export_policy", lambda run, path: calls.append((run, path)), raising=False
    )
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "policy.safetensors")]) == 0
    assert calls == [(tmp_path / "run", tmp_path / "policy.safetensors")]
    assert capsys.readouterr().out == f"{tmp_path / 'policy.safetensors'}\n"


def test_repeated_options_are_refused(capsys: pytest.CaptureFixture) -> None:
    for arguments, repeated in (
        (["--seed", "1", "--seed", "1"], "--seed 1"),
        (["--method", "mse", "--method", "dps", "--method", "mse"], "--method mse"),
    ):
        line = complaint(["toy", "--table", "--profile", "ci", *arguments], capsys)
        assert line == f"{repeated}: given 2 times; give it once"


def test_output_folders_are_checked_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in (
        "cepnb.densities.benchmark.table",
        "cepnb.densities.benchmark.record",
        "cepnb.datasets.sac.make_history",
        "cepnb.tools.bench.whole.whole_run",
        "cepnb.qgpo.pretrained._read_run",
        "cepnb.datasets.registry.load_task",
    ):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("work starts"))
    (tmp_path / "file").write_text("in the way")
    out = ["--out", str(tmp_path / "file" / "out")]
    for arguments, fix in (
        (["toy", "--table", "--profile", "ci", *out], "a file has the name of a folder"),
        (["toy", "--density", "moons", "--method", "mse", "--beta", "3", *out], "a file has the"),
        (["agent", "--environment", "hopper", *out], "a file has the name of a folder"),
        (["bench-run", "--device", "cpu", *out], "a file has the name of a folder"),
        ([*UMAZE, *out], "a file has the name of a folder"),
        (["export", "run", str(tmp_path)], "a folder has this name; use another name"),
    ):
        line = complaint(arguments, capsys)
        assert line.startswith(str(tmp_path)) and f"); {fix}" in line


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."),
    ],
)
def test_a_lack_of_memory_is_one_line(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "settings.json").write_text("{}")
    command = ["export", str(tmp_path), str(tmp_path / "file")]

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(pretrained, "export_policy", fails)
    line = complaint(command, capsys)
    assert line.endswith("; use fewer rows or states, a smaller K or a smaller batch")
    monkeypatch.setattr(pretrained, "export_policy", lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size|size mismatch|1D tensors"):
        main(command)  # a bug


def test_output_that_the_encoding_lacks_is_replaced(tmp_path: Path) -> None:
    """In latin-1 there is no minus sign, which every report prints."""
    table = csv_with(scale="1.0") + csv_with(scale="1.0", method="mse").splitlines()[1]
    (tmp_path / "scores.csv").write_text(table, encoding="utf-8")
    for encoding, minus in (("latin-1", "?"), ("utf-8", "−")):
        done = subprocess.run(
            [sys.executable, "-m", "cepnb", "report", str(tmp_path)],
            capture_output=True,
            env=os.environ | {"PYTHONIOENCODING": encoding},
        )
        assert done.returncode == 0, done.stderr
        assert f"| base | cep {minus} mse | 1 | 0.0 | 0.0 |" in done.stdout.decode(encoding)
    help_text = subprocess.run(
        [sys.executable, "-OO", "-m", "cepnb", "toy", "--help"],  # also without docstrings
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )
    assert help_text.returncode == 0 and b"inverse temperature ? > 0" in help_text.stdout


def test_results_that_are_folders_are_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in ("cepnb.densities.benchmark.table", "cepnb.tools.bench.whole.whole_run"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("work starts"))
    toy, bench = ["toy", "--table", "--profile", "ci"], ["bench-run", "--device", "cpu"]
    for command, name in (
        (toy, "table.md"),
        (toy, "samples.png"),
        (bench, "bench_run.json"),
        (bench, "bench_run.md"),
    ):
        (tmp_path / name / name).mkdir(parents=True)
        line = complaint([*command, "--out", str(tmp_path / name)], capsys)
        assert line.startswith(f"{tmp_path / name / name}: could not be written (Is a directory)")


@pytest.mark.parametrize(
    "arguments",
    [
        ["toy", "--scale", "1", "--scale", "2"],
        ["toy", "--out", "a", "--out", "b"],
        ["qgpo", "--seed", "1", "--seed", "2"],
        ["sweep", "a.toml", "--out", "a", "--out", "b"],
        ["bench", "--rows", "a", "--rows", "b"],
        ["evaluate", "run", "--device", "cpu", "--dev", "cuda"],
    ],
)
def test_an_option_that_is_no_list_is_given_once(
    arguments: list[str], capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert printed.endswith("given more than once; give it once\n") and "argument --" in printed


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments, status", [("settings", 141), ("--help", 0), ("", 2)])
def test_a_reader_that_leaves_gets_no_message(arguments: str, status: int, unbuffered: str) -> None:
    command = [sys.executable, "-m", "cepnb", *arguments.split()]
    assert without_reader(command, unbuffered) == (status, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_errors_are_told_without_a_reader(unbuffered: str) -> None:
    def outcome(raised: str) -> tuple[int, str]:
        code = f"from cepnb.errors import *\ndef f():\n print(1, end='')\n raise {raised}\n"
        program = [sys.executable, "-c", code + "sys.exit(exit_status('p', f))"]
        return without_reader(program, unbuffered)

    if not unbuffered:  # else `print` itself fails
        assert outcome("CepnbError('bad; fix it')") == (2, "p: error: bad; fix it\n")
        status, printed = outcome("ValueError('a bug')")
        assert status == 1 and printed.endswith("ValueError: a bug\n")
    assert outcome("BrokenPipeError(32, 'x')")[0] == 141


def test_a_broken_pipe_elsewhere_is_an_error(capsys: pytest.CaptureFixture) -> None:
    def worker_died() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    assert exit_status("p", worker_died) == 2
    assert capsys.readouterr().err == "p: error: BrokenPipeError: [Errno 32] Broken pipe\n"


def without_reader(command: list[str], unbuffered: str) -> tuple[int, str]:
    """The status and the messages of a command whose output nobody reads."""
    read, write = os.pipe()
    os.close(read)
    env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=env)
    os.close(write)
    return done.returncode, done.stderr
