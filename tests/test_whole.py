"""Test the benchmark of the whole training at small sizes, with a fake clock."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from cepnb.cli import main
from cepnb.datasets import registry
from cepnb.diffusion.devices import device_named
from cepnb.diffusion.training import Plan, Record
from cepnb.errors import CepnbError
from cepnb.qgpo.settings import qgpo_settings
from cepnb.tools.bench import timing, whole
from cepnb.tools.bench.options import BenchConfig
from cepnb.tools.bench.whole import Part, whole_run

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
PARTS = ["behaviour", "support", "critic", "labels", "energy"]


def run(capsys: pytest.CaptureFixture, *arguments: str, **changes: object) -> tuple[int, str, str]:
    settings = [f"--set={name}={value!r}" for name, value in (SMALL | changes).items()]
    device = [] if "--device" in arguments else ["--device", "cpu"]
    status = main(["bench-run", *device, *settings, *arguments])
    return status, *capsys.readouterr()


def test_a_full_run_is_measured_and_written(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    status, printed, _ = run(capsys, "--json", "--out", str(tmp_path))
    record = json.loads(printed)
    assert status == 0 and record == json.loads(
        (tmp_path / "bench_run.json").read_text(encoding="utf-8")
    )
    # The last row has no next state; the next state of the row before it is a distinct state.
    assert (record["transitions"], record["states"]) == (999, 1_000)
    assert record["device"] == "cpu"
    assert [part["part"] for part in record["parts"]] == PARTS
    counts = [part["count"] for part in record["parts"]]
    assert counts == [part["measured"] for part in record["parts"]] == [40, 1_000, 50, 1_000, 80]
    assert all(part["seconds"] > 0 and part["each"] > 0 for part in record["parts"])
    *groups, last = record["groups"]
    assert last["seconds"] == pytest.approx(sum(part["seconds"] for part in record["parts"]))
    assert all(group["ratio"] is None for group in groups)
    text = (tmp_path / "bench_run.md").read_text(encoding="utf-8")
    assert text.startswith("| part | amount |") and "| all |" in text
    assert "All parts ran in full." in text and "torch.compile" not in text


def test_a_fraction_is_measured_and_extrapolated(capsys: pytest.CaptureFixture) -> None:
    status, printed, _ = run(capsys, "--fraction", "0.3", energy_steps=90)
    lines = printed.splitlines()
    assert status == 0
    assert lines[2].startswith("| behaviour | 40 steps | 12 |")
    assert lines[3].startswith("| support | 1000 states | 300 |")
    assert lines[6].startswith("| energy | 90 steps | 27 |")
    assert "A fraction of 0.3 of each part ran; seconds are extrapolated." in lines[-1]


def test_networks_are_compiled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Record the networks instead of compiling, which takes minutes and fails with shape checks."""
    compiled = []
    monkeypatch.setattr(
        nn.Module, "compile", lambda net, dynamic: compiled.append((type(net).__name__, dynamic))
    )
    status, printed, _ = run(capsys, "--compile", "--fraction", "0.1")
    assert status == 0 and "torch.compile" in printed
    names = ["EpsNet", *["QNet"] * 4, "EnergyNet"]  # both Qs, then their targets
    assert compiled == [(name, False) for name in names]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only the test advances."""
    time = [0.0]
    monkeypatch.setattr(timing, "now", lambda device: time[0])
    return time


def test_slow_first_steps_are_counted_once(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def training(*args: object, **kwargs: object) -> Iterator[Record]:
        for record in original(*args, **kwargs):
            clock[0] += 7.0 if record.step <= 4 else 1.0  # two steps a record
            yield record

    original = whole.training
    monkeypatch.setattr(whole, "training", training)
    settings = qgpo_settings("paper", **SMALL | dict(behaviour_steps=1_000))
    record = whole_run(settings, BenchConfig("cpu", fraction=0.01))
    part = record["parts"][0]
    assert (part["measured"], part["each"], part["seconds"]) == (10, 0.5, 14.0 + 0.5 * 996)


def test_the_time_of_the_papers_code_is_extrapolated(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def now(device: torch.device) -> float:
        """Advance by a second at each reading, so that everything timed takes a second more."""
        clock[0] += 1.0
        return clock[0]

    def takes(seconds: float) -> Callable[[object], Callable[[], None]]:
        return lambda peer: lambda: clock.__setitem__(0, clock[0] + seconds)

    class PeerStandIn(whole.Peer):
        behaviour, support, critic_cep, cep = map(takes, (2.0, 5.0, 3.0, 1.0))

        def __init__(self, path: Path, inputs: object) -> None:
            pass

    def train(timer: object, part: str, loss: object, modules: object, plan: Plan, *rest) -> None:
        timer.parts.append(Part(part, plan.steps, "steps", 1, 1.0, float(plan.steps)))

    monkeypatch.setattr(whole, "Peer", PeerStandIn)
    monkeypatch.setattr(timing, "now", now)
    monkeypatch.setattr(whole._Timer, "train", train)
    settings = qgpo_settings("paper", **SMALL)
    record = whole_run(settings, BenchConfig("cpu"), peer=Path("somewhere"))
    chunks = 999 / 256
    peer = [40 * 3.0, chunks * 6.0, 50 * 4.0 + 30 * 2.0]
    groups = record["groups"]
    assert [group["peer_seconds"] for group in groups] == pytest.approx([*peer, sum(peer)])
    assert [group["seconds"] for group in groups] == pytest.approx([40, 1, 131, 172])
    assert [group["ratio"] for group in groups[::2]] == pytest.approx([3.0, 260 / 131])


@pytest.mark.parametrize("name", ["tpu", "cuda"])
def test_a_missing_device_gives_one_line(
    name: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CepnbError) as error:
        device_named(name)
    assert f"--device {name}" in str(error.value)
    assert run(capsys, "--device", name) == (2, "", f"cepnb: error: {error.value}\n")


@pytest.mark.parametrize("fraction", ["0", "1.5"])
def test_a_wrong_fraction_gives_one_line(fraction: str, capsys: pytest.CaptureFixture) -> None:
    message = f"--fraction {fraction} is out of range; use 0 < fraction ≤ 1"
    assert run(capsys, "--fraction", fraction) == (2, "", f"cepnb: error: {message}\n")


@pytest.mark.parametrize("fraction", ["nan", "2", "-1", "inf"])
def test_a_fraction_that_is_no_share_gives_one_line(
    fraction: str, capsys: pytest.CaptureFixture
) -> None:
    status, printed, error = run(capsys, "--fraction", fraction)
    assert (status, printed) == (2, "") and error.endswith(
        "is out of range; use 0 < fraction ≤ 1\n"
    )


def test_a_wrong_checkout_is_rejected_before_the_data_and_before_the_timing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(registry, "load_dataset", lambda *arguments: pytest.fail("data was loaded"))
    status, printed, error = run(capsys, "--dataset", "local/hopper-medium", "--peer", "nowhere")
    assert (status, printed) == (2, "")
    assert error.startswith(
        "cepnb: error: nowhere: Offline_RL_2D/diffusion_SDE/schedule.py is missing"
    )
    monkeypatch.setattr(whole, "_parts", lambda *arguments: pytest.fail("our code was timed"))
    (tmp_path / "Offline_RL_2D/diffusion_SDE").mkdir(parents=True)
    (tmp_path / "Offline_RL_2D/diffusion_SDE/schedule.py").touch()
    status, printed, error = run(capsys, "--peer", str(tmp_path))
    assert status == 2 and "not the supported version of the paper's code" in error
