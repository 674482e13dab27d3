"""The table over seeds: means and intervals by hand, and runs that do not belong together."""

import json
from pathlib import Path

import pytest

from cepnb.cli import main


def write(path: Path, seed: int, scores: tuple[float, ...], **changes: object) -> Path:
    records = [{"method": method, "scale": scale, "episodes": 50, "normalised": score}
               for (method, scale), score in zip((("behaviour", 0.0), ("best_of_k", None), ("cep", 1.0)), scores)]
    metrics = {"dataset": "local/maze2d-umaze", "rows": 10, "profile": "ci", "seed": seed, "settings": {"beta": 8.0},
               "threads": 2, "seconds": {"critic": 100.0 + seed}, "scores": records}
    path.mkdir()
    (path / "metrics.json").write_text(json.dumps(metrics | changes))
    return path


def test_mean_and_interval(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folders = [write(tmp_path / str(seed), seed, scores)
               for seed, scores in enumerate(((-10.0, 70.0, 80.0), (-10.0, 72.0, 90.0), (-10.0, 74.0, 100.0)))]
    assert main(["scores", *map(str, folders)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| behaviour |  | -10.0 | -10.0 to -10.0 | -10.0, -10.0, -10.0 |"
    # 90 ± t(0.975; 2) 10/√3 with t = 4.3027 from tables
    assert lines[4] == "| cep | 1 | 90.0 | 65.2 to 114.8 | 80.0, 90.0, 100.0 |"
    assert "3 × 50 episodes on local/maze2d-umaze, profile ci; 100 to 102 s a seed, torch threads: 2." in lines[-1]
    assert main(["scores", str(folders[0] / "metrics.json")]) == 0
    assert "| cep | 1 | 80.0 |  | 80.0 |" in capsys.readouterr().out


@pytest.mark.parametrize("changes, seed, complaint", [
    ({"settings": {"beta": 3.0}}, 1, "its settings differs from that of"),
    ({"dataset": "local/maze2d-large"}, 1, "its dataset differs from that of"),
    ({}, 0, "seeds [0, 0]: expected each once"),
    ({"threads": 4}, 1, None),
])
def test_runs_that_do_not_belong_together(tmp_path: Path, capsys: pytest.CaptureFixture, changes: dict, seed: int,
                                          complaint: str | None) -> None:
    one, two = write(tmp_path / "a", 0, (0.0, 0.0, 0.0)), write(tmp_path / "b", seed, (0.0, 0.0, 0.0), **changes)
    if complaint is None:
        metrics = json.loads((two / "metrics.json").read_text())
        del metrics["scores"]
        (two / "metrics.json").write_text(json.dumps(metrics))
        complaint = "'scores' is missing, expected the metrics.json of a finished run"
    assert main(["scores", str(one), str(two)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_a_folder_without_metrics(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["scores", str(tmp_path)]) == 2
    assert "metrics.json: expected a readable JSON file" in capsys.readouterr().err
