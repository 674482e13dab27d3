"""The command line: bad input is one line on standard error and exit status 2, and starts nothing."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from cepnb.cli import main

UMAZE = ["qgpo", "--dataset", "local/maze2d-umaze", "--profile", "ci"]


def complaint(arguments: list[str], capsys: pytest.CaptureFixture) -> str:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert not printed.out
    (line,) = printed.err.splitlines()
    return line.removeprefix("cepnb: error: ")


@pytest.mark.parametrize(
    "changes, expected",
    [
        (
            ["--dataset", "local/maze2d-tiny"],
            "environment 'maze2d-tiny': expected one of maze2d-umaze, maze2d-medium, maze2d-large",
        ),
        (
            ["--dataset", "nowhere.hdf5"],
            "dataset 'nowhere.hdf5': the name gives no environment; add one",
        ),
        (
            ["--dataset", "nowhere.hdf5", "--environment", "maze2d-umaze"],
            "dataset 'nowhere.hdf5': not found; use local/…, d4rl/…, minari/… or the path of an HDF5 file",
        ),
        (
            ["--dataset", "d4rl/ant-medium-v2"],
            "environment 'ant': expected one of maze2d-umaze, maze2d-medium, maze2d-large, hopper",
        ),
        (
            ["--dataset", "d4rl/maze2d-umaze-v7"],
            "dataset 'd4rl/maze2d-umaze-v7': not in d4rl's table; use a name such as maze2d-umaze-v1",
        ),
        (["--profile", "huge"], "profile 'huge': expected one of ci, laptop, paper"),
        (["--seed", "-1"], "seed -1: expected an integer from 0 to 2147483647"),
        (["--device", "tpu"], "--device tpu: expected cpu or cuda"),
        (["--set", "K=1"], "K 1: expected at least 2"),
        (["--set", "energy_K=1"], "energy_K 1: expected at least 2"),
        (
            ["--set", "energy_states=0"],
            "energy_K 8: expected K, which is 4, if energy_states is 0",
        ),
        (["--set", "beta=0"], "beta 0.0: expected a finite number above 0"),
        (["--set", "beta=-2.5"], "beta -2.5: expected a finite number above 0"),
        (["--set", "beta_q=1e999"], "beta_q inf: expected a finite number above 0"),
        (["--set", "discount=1"], "discount 1.0: expected a number in (0, 1)"),
        (["--set", "episodes=0"], "episodes 0: expected at least 1"),
        (["--set", "state_jitter=-0.1"], "state_jitter -0.1: expected a finite number 0 or more"),
        (["--set", "q_rate=0"], "q_rate 0.0: expected a finite number above 0"),
        (["--set", "scales=()"], "scales: expected at least one value"),
        (
            ["--set", "scales=(1.0,)"],
            "scales (1.0,): expected headline_scale 3.0 among them",
        ),
        (["--set", "episodes=many"], "--set episodes=many: expected NAME=VALUE with a int"),
        (["--set", "episodes=True"], "--set episodes=True: expected NAME=VALUE with a int"),
        (
            ["--set", "behaviour_widths=(64, 'wide')"],
            "--set behaviour_widths=(64, 'wide'): expected NAME=VALUE with a tuple",
        ),
        (["--set", "episodes"], "--set episodes: expected NAME=VALUE with a int"),
        (["--set", "labels=raw"], "labels 'raw': expected one of self_normalised, state_value"),
        (
            ["--set", "guidance=('cep', 'cfg')"],
            "guidance 'cfg': expected one of cep, mse, exp_mse, dps",
        ),
        (["--set", "guidance=cep"], "--set guidance=cep: expected NAME=VALUE with a tuple"),
        (["--set", "name=1"], "setting 'name': expected one of transitions, "),
        (["--set", "family=1"], "setting 'family': expected one of transitions, "),
        (["--set", "beta={[]: 1}"], "--set beta={[]: 1}: expected NAME=VALUE with a float"),
        (
            ["--set", "behaviour_widths=(-5,)"],
            "behaviour_widths -5: expected at least 1",
        ),
        (
            ["--dataset", "x" * 300 + ".hdf5", "--environment", "maze2d-umaze"],
            "OSError: [Errno 36] File name too long",
        ),
        (["--set", "betta=3"], "setting 'betta': expected one of transitions, "),
    ],
)
def test_bad_input_is_one_line(
    changes: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    assert complaint([*UMAZE, "--out", str(out), *changes], capsys).startswith(expected)
    assert not out.exists()


def test_a_damaged_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, rows = tmp_path / "walk.hdf5", 10
    arrays = {
        "observations": np.zeros((rows, 4)),
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
            "'rewards' is missing; expected observations, actions, rewards, terminals",
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


def test_an_out_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert (
        main(["data", "--dataset", "local/maze2d-umaze", "--profile", "ci"]) == 0
    )  # with its progress bar
    capsys.readouterr()
    (tmp_path / "other").mkdir()
    for content, expected in (
        ("{}", "not the settings of a run"),
        ('{"settings": 3}', "not the settings of a run"),
        ("{", "expected a readable JSON file"),
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
    wrong = subprocess.run(
        [sys.executable, "-m", "cepnb", *UMAZE, "--out", "x", "--set", "K=1"],
        capture_output=True,
        text=True,
    )
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "cepnb: error: K 1: expected at least 2\n"


def test_data_prints_where_it_is(capsys: pytest.CaptureFixture) -> None:
    assert main(["data", "--dataset", "local/maze2d-umaze", "--profile", "ci"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path.name == "maze2d-umaze-4000-seed0.hdf5" and path.exists()
    assert complaint(["data", "--dataset", "d4rl/maze2d-umaze-v1"], capsys).startswith(
        "dataset 'd4rl/maze2d-umaze-v1': expected one of"
    )
