"""Test how work grows with its size: Python calls, operations, evaluations, bytes."""

import json
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cepnb.cli import main
from cepnb.datasets.hdf5 import load_hdf5
from cepnb.densities import metrics
from cepnb.densities.metrics import mmd
from cepnb.diffusion.training import draw, seeded
from cepnb.qgpo.critic import critic_loss, critic_net, support_values
from cepnb.qgpo.energy import energy_loss, energy_net
from cepnb.qgpo.settings import qgpo_settings
from cepnb.qgpo.support import sample_support
from cepnb.qgpo.transitions import prepare, with_jitter
from cepnb.tools.bench import growth
from cepnb.tools.bench.growth import exponent, peak_bytes
from cepnb.tools.bench.inputs import ACTION_DIM, Inputs
from cepnb.tools.bench.options import SERIES
from cepnb.tools.bench.timing import operations

SETTINGS = qgpo_settings("ci", K=4, energy_K=4, energy_states=0, sampler_steps=3)
FEW_ROWS, MANY_ROWS = 2_000, 16_000


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrink all series to two small sizes."""
    sizes = {"rows": (2_500, 5_000), "width": (8, 16), "points": (20, 40)}
    series = {name: replace(s, sizes=sizes.get(s.of, (2, 4))) for name, s in SERIES.items()}
    monkeypatch.setattr(growth, "SERIES", series)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Inputs]:
    folder = tmp_path_factory.mktemp("growth")
    sizes = (FEW_ROWS, MANY_ROWS)
    by_rows = {rows: Inputs(folder, replace(SETTINGS, transitions=rows)) for rows in sizes}
    for each in by_rows.values():
        assert len(each.support) > len(each.data.states)
    return by_rows.__getitem__


def test_the_command_measures_all_series(small: None, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "--growth", "--repeats", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [series["series"] for series in record["series"]] == list(SERIES)
    assert record["threads"] == torch.get_num_threads()
    for series in record["series"]:
        assert len(series["sizes"]) == len(series["seconds"]) == len(series["bytes"]) == 2
        assert all(seconds > 0 for seconds in series["seconds"]) and series["error"] >= 0
        assert series["expected"] == list(SERIES[series["series"]].expected)


def test_the_command_prints_a_table(small: None, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "--growth", "--repeats", "2", "--rows", "mmd", "w2"]) == 0
    header, _, first, second, empty, machine = capsys.readouterr().out.splitlines()
    assert header.startswith("| what | grows with |") and not empty
    assert f"threads: {torch.get_num_threads()}," in machine
    assert first.startswith("| mmd | points, 20 to 40 |") and first.endswith("| 2 |")
    assert second.endswith("| 2 to 3 |")


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (
            ["--growth", "--rows", "behaviour"],
            f"series 'behaviour' is unknown; choose from {', '.join(SERIES)}",
        ),
        (["--growth", "--repeats", "0"], "--repeats 0 is too small; use at least 1"),
        (["--growth", "--peer", "nowhere"], "--peer cannot be combined with --growth"),
        (["--full"], "--full needs --growth"),
    ],
)
def test_bad_input_gives_one_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["bench", *arguments]) == 2
    assert capsys.readouterr().err == f"cepnb: error: {expected}\n"


def test_a_full_disk_is_found_before_the_measurements(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Namespace(free=10**9))
    assert main(["bench", "--growth", "--full", "--rows", "prepare"]) == 2
    error = "--full needs 12 GB, but 1.0 GB are free; free space or set TMPDIR to another disk\n"
    assert capsys.readouterr().err.endswith(error)


def test_the_exponent_and_its_error() -> None:
    sizes, generator = (10, 20, 40, 80), seeded(0, "times")
    slope, error = exponent(sizes, [[0.1 * n**1.5] * 3 for n in sizes])
    assert slope == pytest.approx(1.5) and error < 1e-6
    deviations = []
    for _ in range(200):
        noise = [(0.1 * torch.randn(5, generator=generator)).exp() for _ in sizes]
        times = [(n**2 * factors).tolist() for n, factors in zip(sizes, noise)]
        slope, error = exponent(sizes, times)
        deviations.append((slope - 2) / error)
    t = torch.tensor(deviations)  # Student's t with 18 degrees of freedom: deviation 1.06
    assert abs(t.mean()) < 0.3 and 0.8 < t.std() < 1.3


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the peak")
def test_peak_memory_is_measured() -> None:
    assert 95e6 < peak_bytes(lambda: torch.ones(2, 50_000_000 // 4).sum()) < 120e6


def python_calls(call: Callable[[], object]) -> int:
    """Count the Python and C functions that Python calls during the second run of `call`."""
    count = 0

    def counted(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    call()  # the first run may include set-up
    sys.setprofile(counted)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


class Largest(TorchDispatchMode):
    """Record the bytes of the largest tensor that torch creates."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.bytes = max(self.bytes, result.numel() * result.element_size())
        return result


def largest(call: Callable[[], object]) -> int:
    with Largest() as recorded:
        call()
    return recorded.bytes


WORK: dict[str, Callable[[Inputs], Callable[[], object]]] = {
    "loading": lambda i: lambda: load_hdf5(i.file),
    "prepare": lambda i: lambda: prepare(i.dataset, "return_range"),
    "jitter": lambda i: lambda: with_jitter(i.data, 0.1, seeded(0, "jitter")),
    "draw": lambda i: lambda: draw(seeded(0, "draw"), 256, i.data.distinct, i.support),
    "critic": lambda i: _critic(i),
    "energy": lambda i: _energy(i),
}


def _critic(inputs: Inputs) -> Callable[[], object]:
    q, target = (critic_net(*inputs.shape, SETTINGS, seed) for seed in (0, 1))
    loss = critic_loss(q, target, inputs.data, inputs.support, SETTINGS)
    return lambda: loss(seeded(0, "batch")).mean().backward()


def _energy(inputs: Inputs) -> Callable[[], object]:
    net = energy_net(inputs.data.states.shape[1], ACTION_DIM, SETTINGS, 0)
    labels = torch.zeros(inputs.support.shape[:2])
    loss = energy_loss("cep", net, inputs.data.distinct, inputs.support, labels, SETTINGS)
    return lambda: loss(seeded(0, "batch")).mean().backward()


@pytest.mark.parametrize("name", WORK)
def test_eight_times_the_rows_take_no_more_calls(
    inputs: Callable[[int], Inputs], name: str
) -> None:
    """A loop over rows would add 14,000 calls; a further file chunk or episode adds a few."""
    less, more = (python_calls(WORK[name](inputs(rows))) for rows in (FEW_ROWS, MANY_ROWS))
    assert abs(more - less) <= 20, (less, more)


@pytest.mark.parametrize("name", ["critic", "energy"])
def test_the_work_of_a_step_does_not_depend_on_rows(
    inputs: Callable[[int], Inputs], name: str
) -> None:
    less, more = (WORK[name](inputs(rows)) for rows in (FEW_ROWS, MANY_ROWS))
    assert operations(less) == operations(more) > 0 and largest(less) == largest(more) < 2**22


@pytest.mark.parametrize(
    "name, most", [("prepare", 17 * 4 * 1.001), ("jitter", 2 * 17 * 4 * 1.001)]
)
def test_bytes_grow_with_rows(inputs: Callable[[int], Inputs], name: str, most: float) -> None:
    """The largest tensor holds the distinct states, 0.1 % more than rows; jitter doubles it."""
    for rows in (FEW_ROWS, MANY_ROWS):
        assert largest(WORK[name](inputs(rows))) <= most * rows


def test_scaled_states_are_stored_once(inputs: Callable[[int], Inputs]) -> None:
    data = inputs(FEW_ROWS).data
    assert data.states.data_ptr() == data.distinct.data_ptr()
    assert len(data.distinct) > len(data.states)


def test_the_work_of_a_support_set_grows_with_actions_and_evaluations(
    inputs: Callable[[int], Inputs],
) -> None:
    eps, states = inputs(FEW_ROWS).eps.requires_grad_(False), inputs(FEW_ROWS).data.distinct[:20]

    def work(**changes: int) -> int:
        settings = replace(SETTINGS, **changes)
        return operations(
            lambda: sample_support(eps, states, settings.K, settings, 0, progress=False)
        )

    four, eight, sixteen = (work(K=K, energy_K=K) for K in (4, 8, 16))
    assert sixteen - eight == 2 * (eight - four) > 0
    assert eight < 2 * four  # the K actions of a state share its embedding
    assert work(sampler_steps=6) == 2 * work(sampler_steps=3)
    support = inputs(FEW_ROWS).support[:20]
    assert operations(lambda: support_values(inputs(FEW_ROWS).q, states, support)) > 0


def test_mmd_takes_memory_for_points_and_not_for_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(2, 400, 2, generator=seeded(0, "points")).unbind()
    whole = mmd(x, y)
    assert largest(lambda: mmd(x, y)) == 4 * 400 * 400
    monkeypatch.setattr(metrics, "BLOCK", 50)
    # float32 means of 16 blocks differ by rounding, and their difference is small.
    assert mmd(x, y) == pytest.approx(whole, rel=1e-4)
    assert largest(lambda: mmd(x, y)) == 4 * 50 * 400
