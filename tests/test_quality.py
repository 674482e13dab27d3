"""The time to a given W2: what is compared, what is stopped when, and what is said of it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cepnb.cli import main
from cepnb.densities.mixtures import Density
from cepnb.densities.settings import TOY_PROFILES
from cepnb.densities.toys import DENSITIES
from cepnb.tools.bench import quality
from cepnb.tools.bench.peer import Peer
from cepnb.tools.bench.quality import BETA, times_as_long
from cepnb.tools.bench.rows import Inputs

SMALL = replace(TOY_PROFILES["ci"], steps=20, score_steps=20, sampler_steps=15)


class Late:
    """In the place of the paper's networks: no guidance at all for so many steps of the energy, and the exact one from then on."""

    def __init__(self, of: Density, beta: float, steps: int) -> None:
        self.of, self.tilted, self.steps = of, of.tilted(beta), steps
        self.done = {"score": 0, "energy": 0}

    def score_step(self) -> None:
        self.done["score"] += 1

    def energy_step(self) -> None:
        self.done["energy"] += 1

    def eps(self, xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.of.eps(xt, t)

    def gradient(self, xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        exact = self.of.score(xt, t) - self.tilted.score(xt, t)
        return exact if self.done["energy"] >= self.steps else torch.zeros_like(exact)


class Known(torch.nn.Module):
    """What is known exactly in the place of a trained network."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.function(xt, t)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "chosen", lambda: SMALL)
    monkeypatch.setattr(quality, "POINTS", 100)


def with_peer(monkeypatch: pytest.MonkeyPatch, steps: int, seconds: float) -> list[Late]:
    """Has the paper's code be `Late`, and each call of ours or a block of theirs last so many seconds; networks made, as they are."""
    made: list[Late] = []
    ticks = iter(range(10**9))

    class Stand(Peer):
        def __init__(self, path: Path, inputs: Inputs) -> None:
            pass

        def toy_model(self, of: Density, beta: float, points: int) -> Late:
            assert (beta, points) == (BETA, 100)
            made.append(Late(of, beta, steps))
            return made[-1]

    monkeypatch.setattr(quality, "Peer", Stand)
    monkeypatch.setattr(quality, "perf_counter", lambda: seconds * next(ticks))
    return made


def test_the_command_gives_the_densities_named(small: None, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "--toys", "--rows", "moons", "rings", "--repeats", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [(case["density"], case["seed"]) for case in record["cases"]] == [
        ("moons", 0),
        ("moons", 1),
        ("rings", 0),
        ("rings", 1),
    ]
    assert record["seeds"] == 2 and record["steps"] == SMALL.steps and record["beta"] == BETA
    assert all(
        case["seconds"] > 0
        and case["w2_ratio"] > 1
        and case["peer"] == []
        and times_as_long(case) is None
        for case in record["cases"]
    )


def test_the_papers_code_is_looked_at_until_it_is_as_good(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A block of theirs lasts as long as a training of ours; the bar is above what an untrained network has."""
    monkeypatch.setattr(quality, "BAR", 1.5)
    monkeypatch.setattr(
        quality,
        "train_energy",
        lambda method, of, beta, *rest, **named: Known(
            lambda xt, t: of.log_q(xt, t) - of.tilted(beta).log_q(xt, t)
        ),
    )
    monkeypatch.setattr(quality, "train_score", lambda of, *rest, **named: Known(of.eps))
    late = with_peer(monkeypatch, steps=5 * quality.BLOCK, seconds=1.0)
    assert main(["bench", "--toys", "--peer", "there", "--rows", "8gaussians", "--json"]) == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert case["seconds"] == 1.0 and case["w2_ratio"] < 1.5
    assert [check["seconds"] for check in case["peer"]] == [1, 2, 4, 8]
    assert [check["steps"] for check in case["peer"]] == [
        steps * quality.BLOCK for steps in (1, 2, 4, 8)
    ]
    assert (
        all(check["w2_ratio"] > 1.5 for check in case["peer"][:-1])
        and case["peer"][-1]["w2_ratio"] < 1.5
    )
    assert late[0].done == {
        "score": 8 * quality.BLOCK,
        "energy": 8 * quality.BLOCK,
    } and times_as_long(case) == (4, 8)
    with_peer(monkeypatch, steps=10**9, seconds=1.0)
    assert main(["bench", "--toys", "--peer", "there", "--rows", "8gaussians"]) == 0
    row = capsys.readouterr().out.splitlines()[2]
    assert row.startswith("| 8gaussians | 0 | 1 |") and "(20) | not after 20 times |" in row


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    for arguments, expected in (
        (["--rows", "rng"], f"density 'rng': expected some of {', '.join(DENSITIES)}"),
        (["--repeats", "0"], "--repeats 0: expected at least 1"),
        (["--full"], "--full needs --growth"),
        (["--growth"], "--toys cannot be combined with --growth"),
        (
            ["--peer", str(tmp_path)],
            f"{tmp_path}: no Offline_RL_2D/diffusion_SDE/schedule.py, expected a checkout of the paper's code",
        ),
    ):
        assert main(["bench", "--toys", *arguments]) == 2
        printed = capsys.readouterr()
        assert (printed.out, printed.err) == ("", f"cepnb: error: {expected}\n")
