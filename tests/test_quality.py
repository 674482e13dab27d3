"""Test the benchmark of training time: its records, stopping rule and table."""

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
from cepnb.tools.bench.inputs import BETA, Inputs
from cepnb.tools.bench.peer import Peer, ToyModel
from cepnb.tools.bench.quality import times_as_long

SMALL = replace(TOY_PROFILES["ci"], steps=20, score_steps=20, sampler_steps=15)


class LatePeer(ToyModel):
    """Stand-in for the paper's networks: exact guidance after `steps` energy steps, none before."""

    def __init__(self, of: Density, beta: float, steps: int) -> None:
        self.of, self.tilted, self.steps = of, of.tilted(beta), steps
        self.counts = {"score": 0, "energy": 0}

    def score_step(self) -> None:
        self.counts["score"] += 1

    def energy_step(self) -> None:
        self.counts["energy"] += 1

    def eps(self, xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.of.eps(xt, t)

    def gradient(self, xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        exact = self.of.score(xt, t) - self.tilted.score(xt, t)
        return exact if self.counts["energy"] >= self.steps else torch.zeros_like(exact)


class Exact(torch.nn.Module):
    """Stand-in for a trained network: an exact function."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.function(xt, t)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "short_settings", lambda: SMALL)
    monkeypatch.setattr(quality, "PEER_POINTS", 100)


def with_peer(monkeypatch: pytest.MonkeyPatch, steps: int, seconds: float) -> list[LatePeer]:
    """Replace the paper's code by `LatePeer`; every timed block lasts `seconds`."""
    models: list[LatePeer] = []
    ticks = iter(range(10**9))

    class PeerStandIn(Peer):
        def __init__(self, path: Path, inputs: Inputs) -> None:
            pass

        def toy_model(self, of: Density, points: int) -> LatePeer:
            assert points == 100
            models.append(LatePeer(of, BETA, steps))
            return models[-1]

    monkeypatch.setattr(quality, "Peer", PeerStandIn)
    monkeypatch.setattr("cepnb.tools.bench.options.check_checkout", lambda path: path)
    monkeypatch.setattr(quality, "perf_counter", lambda: seconds * next(ticks))
    return models


def exact_energy(method: str, of: Density, beta: float, *rest: object, **named: object) -> Exact:
    return Exact(lambda xt, t: of.log_q(xt, t) - of.tilted(beta).log_q(xt, t))


def test_the_command_measures_the_named_densities(
    small: None, capsys: pytest.CaptureFixture
) -> None:
    assert main(["bench", "--toys", "--rows", "moons", "rings", "--repeats", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    cases = [(case["density"], case["seed"]) for case in record["cases"]]
    assert cases == [("moons", 0), ("moons", 1), ("rings", 0), ("rings", 1)]
    assert record["seeds"] == 2 and record["steps"] == SMALL.steps and record["beta"] == BETA
    for case in record["cases"]:
        assert case["seconds"] > 0 and case["w2_ratio"] > 1
        assert case["peer"] == [] and times_as_long(case) is None


def test_the_papers_code_trains_until_it_is_as_good(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A block of its steps lasts as long as our training; the bar needs guidance."""
    monkeypatch.setattr(quality, "BAR", 1.5)
    monkeypatch.setattr(quality, "train_toy_energy", exact_energy)
    monkeypatch.setattr(quality, "train_score", lambda of, *rest, **named: Exact(of.eps))
    block = quality.PEER_BLOCK
    late = with_peer(monkeypatch, steps=5 * block, seconds=1.0)
    assert main(["bench", "--toys", "--peer", "there", "--rows", "8gaussians", "--json"]) == 0
    (case,) = json.loads(capsys.readouterr().out)["cases"]
    assert case["seconds"] == 1.0 and case["w2_ratio"] < 1.5
    assert [check["seconds"] for check in case["peer"]] == [1, 2, 4, 8]
    assert [check["steps"] for check in case["peer"]] == [n * block for n in (1, 2, 4, 8)]
    *early, last = (check["w2_ratio"] for check in case["peer"])
    assert all(ratio > 1.5 for ratio in early) and last < 1.5
    assert late[0].counts == {"score": 8 * block, "energy": 8 * block}
    assert times_as_long(case) == (4, 8)

    with_peer(monkeypatch, steps=10**9, seconds=1.0)
    assert main(["bench", "--toys", "--peer", "there", "--rows", "8gaussians"]) == 0
    row = capsys.readouterr().out.splitlines()[2]
    assert row.startswith("| 8gaussians | 0 | 1 |") and "(20) | not after 20 times |" in row


def test_bad_input_gives_one_line(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    for arguments, expected in (
        (["--rows", "rng"], f"density 'rng' is unknown; choose from {', '.join(DENSITIES)}"),
        (["--repeats", "0"], "--repeats 0 is too small; use at least 1"),
        (["--full"], "--full needs --growth"),
        (["--growth"], "--toys cannot be combined with --growth"),
        (
            ["--peer", str(tmp_path)],
            f"{tmp_path}: Offline_RL_2D/diffusion_SDE/schedule.py is missing; give a checkout of the paper's code",
        ),
    ):
        assert main(["bench", "--toys", *arguments]) == 2
        printed = capsys.readouterr()
        assert (printed.out, printed.err) == ("", f"cepnb: error: {expected}\n")
