"""The whole run, timed: here at sizes of a second on the processor, with a clock of the test where numbers are compared."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from cepnb.cli import main
from cepnb.qgpo.settings import qgpo_settings
from cepnb.tools.bench import whole
from cepnb.tools.bench.whole import BenchConfig, whole_run

SMALL = dict(
    transitions=1_000,
    behaviour_widths=(8,),
    behaviour_embedding=8,
    behaviour_batch=16,
    K=4,
    energy_K=4,
    q_width=8,
    q_depth=2,
    q_batch=8,
    energy_width=8,
    energy_depth=2,
    energy_batch=8,
    sampler_steps=2,
    behaviour_steps=40,
    q_steps=50,
    energy_steps=80,
)
SET = [text for name, value in SMALL.items() for text in ("--set", f"{name}={value!r}")]
PARTS = ["behaviour", "support", "critic", "labels", "energy"]


def run(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str, str]:
    status = main(["bench-run", "--device", "cpu", *SET, *arguments])
    return status, *capsys.readouterr()


def test_all_of_it_is_run_and_written(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    status, printed, _ = run(capsys, "--json", "--out", str(tmp_path))
    record = json.loads(printed)
    assert status == 0 and record == json.loads((tmp_path / "bench_run.json").read_text())
    # Episodes of 1,000 rows: the last of each has no next state recorded, and the row before it one that is no other row's.
    assert (record["transitions"], record["states"], record["device"], record["seeds"]) == (
        999,
        1_000,
        "cpu",
        1,
    )
    assert [part["part"] for part in record["parts"]] == PARTS
    assert (
        [part["count"] for part in record["parts"]]
        == [part["measured"] for part in record["parts"]]
        == [40, 1_000, 50, 1_000, 80]
    )
    assert all(part["seconds"] > 0 and part["each"] > 0 for part in record["parts"])
    *groups, last = record["groups"]
    assert last["seconds"] == pytest.approx(
        sum(part["seconds"] for part in record["parts"])
    ) and all(g["ratio"] is None for g in groups)
    text = (tmp_path / "bench_run.md").read_text()
    assert (
        text.startswith("| part | amount |")
        and "| all |" in text
        and "All of it was run." in text
        and "torch.compile" not in text
    )


def test_a_fraction_of_several_seeds_is_run_and_said(capsys: pytest.CaptureFixture) -> None:
    status, printed, _ = run(
        capsys, "--fraction", "0.3", "--seeds", "2", "--set", "energy_steps=90"
    )
    lines = printed.splitlines()
    assert (
        status == 0
        and lines[2].startswith("| behaviour | 40 steps | 12 |")
        and lines[3].startswith("| support | 2000 states | 600 |")
    )
    assert lines[6].startswith("| energy | 90 steps | 27 |")
    assert (
        "seeds in one model: 2" in lines[-1]
        and "a fraction of 0.3 was run, and the rest is reckoned at its rate" in lines[-1]
    )


def test_networks_are_compiled_where_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As often and as what: compiling itself takes minutes, and cannot be under checks of shapes."""
    compiled = []
    monkeypatch.setattr(
        nn.Module, "compile", lambda net, dynamic: compiled.append((type(net).__name__, dynamic))
    )
    status, printed, _ = run(capsys, "--compile", "--seeds", "2", "--fraction", "0.1")
    assert (
        status == 0 and "torch.compile" in printed and compiled == [("Stacked", False)] * 6
    )  # ε; Q twice, and its targets; f


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still, but for what a test adds to it."""
    time = [0.0]
    monkeypatch.setattr(whole, "_now", lambda device: time[0])
    return time


def test_a_recording_is_counted_once_and_all_other_steps_at_their_rate(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def training(*args: object, **kwargs: object):
        for record in real(*args, **kwargs):
            clock[0] += (
                7.0 if record.step <= 4 else 1.0
            )  # two steps a record, of which the fourth is slow, too
            yield record

    real = whole.training
    monkeypatch.setattr(whole, "training", training)
    record = whole_run(
        qgpo_settings("paper", **SMALL | dict(behaviour_steps=1_000)),
        BenchConfig("cpu", fraction=0.01),
        progress=False,
    )
    part = record["parts"][0]
    assert (part["measured"], part["each"], part["seconds"]) == (10, 0.5, 14.0 + 0.5 * 996)


def test_the_papers_code_is_reckoned_for_as_many_seeds(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def looked_at(device: torch.device) -> float:
        """A second goes by whenever the time is asked for, and so for everything that is timed."""
        clock[0] += 1.0
        return clock[0]

    class Peer:
        def __init__(self, path: Path, inputs: object) -> None:
            pass

        def taking(self, seconds: float) -> Callable[[], None]:
            return lambda: clock.__setitem__(0, clock[0] + seconds)

        behaviour, support, critic_cep, cep = (
            lambda self, s=seconds: self.taking(s) for seconds in (2.0, 5.0, 3.0, 1.0)
        )

    monkeypatch.setattr(whole, "Peer", Peer)
    monkeypatch.setattr(whole, "_now", looked_at)
    monkeypatch.setattr(
        whole,
        "_timed_fit",
        lambda part, fit, *rest: {
            "part": part,
            "count": fit.plan.steps,
            "unit": "steps",
            "measured": 1,
            "each": 1.0,
            "seconds": float(fit.plan.steps),
        },
    )
    record = whole_run(
        qgpo_settings("paper", **SMALL),
        BenchConfig("cpu", seeds=2),
        peer=Path("somewhere"),
        progress=False,
    )
    chunks = 999 / 256
    theirs = [2 * 40 * 3.0, 2 * chunks * 6.0, 2 * (50 * 4.0 + 30 * 2.0)]
    assert [group["peer_seconds"] for group in record["groups"]] == pytest.approx(
        [*theirs, sum(theirs)]
    )
    assert [group["seconds"] for group in record["groups"]] == pytest.approx([40, 1, 131, 172])
    assert [group["ratio"] for group in record["groups"][::2]] == pytest.approx([6.0, 520 / 131])


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--device", "tpu"], "--device tpu: expected cpu or cuda"),
        (
            ["--device", "cuda"],
            f"--device cuda: torch {torch.__version__} finds no GPU on this machine, expected one",
        ),
        (["--seeds", "0"], "--seeds 0: expected at least 1"),
        (["--fraction", "0"], "--fraction 0: expected a number above 0, at most 1"),
        (["--fraction", "1.5"], "--fraction 1.5: expected a number above 0, at most 1"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(capsys, *arguments) == (2, "", f"cepnb: error: {expected}\n")
