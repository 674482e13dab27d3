"""How work grows with its size, in what no machine changes: calls of Python, operations, evaluations and bytes."""

import json
import sys
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
from cepnb.diffusion.schedule import VPSchedule
from cepnb.diffusion.training import draw, seeded
from cepnb.qgpo.critic import critic_loss, critic_net, support_values
from cepnb.qgpo.energy import batch_loss, energy_net
from cepnb.qgpo.settings import qgpo_settings
from cepnb.qgpo.support import sample_support
from cepnb.qgpo.transitions import prepare, with_jitter
from cepnb.tools.bench import growth
from cepnb.tools.bench.growth import SERIES, exponent, peak_bytes
from cepnb.tools.bench.rows import ACTION_DIM, Inputs
from cepnb.tools.bench.turns import operations

SCHEDULE, CHOSEN = (
    VPSchedule(),
    qgpo_settings("ci", K=4, energy_K=4, energy_states=0, sampler_steps=3),
)
LESS, MORE = 2_000, 16_000


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """All series at two sizes of a moment."""
    sizes = {"rows": (2_500, 5_000), "width": (8, 16), "points": (20, 40)}
    monkeypatch.setattr(
        growth,
        "SERIES",
        {
            name: replace(series, sizes=sizes.get(series.of, (2, 4)))
            for name, series in SERIES.items()
        },
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Inputs]:
    made = {rows: Inputs(tmp_path_factory.mktemp("growth"), CHOSEN, rows) for rows in (LESS, MORE)}
    for each in made.values():
        assert len(each.support) > len(each.data.states)
    return made.__getitem__


def test_the_command_gives_all_series(small: None, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "--growth", "--repeats", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [series["series"] for series in record["series"]] == list(SERIES) and record[
        "threads"
    ] == torch.get_num_threads()
    for series in record["series"]:
        assert (
            len(series["sizes"]) == len(series["seconds"]) == len(series["bytes"]) == 2
            and min(series["seconds"]) > 0
        )
        assert series["error"] >= 0 and series["expected"] == list(
            SERIES[series["series"]].expected
        )


def test_the_command_prints_a_table(small: None, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "--growth", "--repeats", "2", "--rows", "mmd", "w2"]) == 0
    header, _, first, second, empty, machine = capsys.readouterr().out.splitlines()
    assert (
        header.startswith("| what | grows with |")
        and not empty
        and f"threads: {torch.get_num_threads()}," in machine
    )
    assert (
        first.startswith("| mmd | points, 20 to 40 |")
        and first.endswith("| 2 |")
        and second.endswith("| 2 to 3 |")
    )


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (
            ["--growth", "--rows", "behaviour"],
            f"series 'behaviour': expected some of {', '.join(SERIES)}",
        ),
        (["--growth", "--repeats", "0"], "--repeats 0: expected at least 1"),
        (["--growth", "--peer", "nowhere"], "--peer cannot be combined with --growth"),
        (["--full"], "--full needs --growth"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture
) -> None:
    assert main(["bench", *arguments]) == 2
    assert capsys.readouterr().err == f"cepnb: error: {expected}\n"


def test_an_exponent_is_found_with_its_error() -> None:
    sizes, generator = (10, 20, 40, 80), seeded(0, "times")
    slope, error = exponent(sizes, [[0.1 * n**1.5] * 3 for n in sizes])
    assert slope == pytest.approx(1.5) and error < 1e-6
    fits = [
        exponent(
            sizes,
            [(n**2 * (0.1 * torch.randn(5, generator=generator)).exp()).tolist() for n in sizes],
        )
        for _ in range(200)
    ]
    off = torch.tensor([(slope - 2) / error for slope, error in fits])
    assert (
        abs(off.mean()) < 0.3 and 0.8 < off.std() < 1.3
    )  # of Student's t with 18 degrees of freedom, 1.06


@pytest.mark.skipif(sys.platform != "linux", reason="the peak as Linux keeps it")
def test_the_peak_of_memory_is_seen() -> None:
    assert 95e6 < peak_bytes(lambda: torch.ones(2, 50_000_000 // 4).sum()) < 120e6


def python_calls(call: Callable[[], object]) -> int:
    """Functions, of Python or of C, that Python calls during `call`."""
    count = 0

    def seen(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    call()  # once before, for what is done only the first time
    sys.setprofile(seen)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that torch makes within it."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.bytes = max(self.bytes, result.numel() * result.element_size())
        return result


def largest(call: Callable[[], object]) -> int:
    with Largest() as seen:
        call()
    return seen.bytes


WORK: dict[str, Callable[[Inputs], Callable[[], object]]] = {
    "loading": lambda i: lambda: load_hdf5(i.file),
    "prepare": lambda i: lambda: prepare(i.dataset, "return_range"),
    "jitter": lambda i: lambda: with_jitter(i.data, 0.1, seeded(0, "jitter")),
    "draw": lambda i: lambda: draw(seeded(0, "draw"), 256, i.data.distinct, i.support),
    "critic": lambda i: _critic(i),
    "energy": lambda i: _energy(i),
}


def _critic(inputs: Inputs) -> Callable[[], object]:
    q, target = (critic_net(inputs.data, CHOSEN, seed) for seed in (0, 1))
    return lambda: (
        critic_loss(q, target, inputs.data, inputs.support, CHOSEN)(seeded(0, "batch"))
        .mean()
        .backward()
    )


def _energy(inputs: Inputs) -> Callable[[], object]:
    net, labels = (
        energy_net(inputs.data.states.shape[1], ACTION_DIM, CHOSEN, SCHEDULE, 0),
        torch.zeros(inputs.support.shape[:2]),
    )
    loss = batch_loss("cep", net, inputs.data.distinct, inputs.support, labels, CHOSEN, SCHEDULE)
    return lambda: loss(seeded(0, "batch")).mean().backward()


@pytest.mark.parametrize("name", WORK)
def test_eight_times_the_rows_are_no_more_calls(inputs: Callable[[int], Inputs], name: str) -> None:
    """A loop over rows would add 14,000 at least; a few depend on whether a file's chunk or an episode more is there."""
    less, more = (python_calls(WORK[name](inputs(rows))) for rows in (LESS, MORE))
    assert abs(more - less) <= 20, (less, more)


@pytest.mark.parametrize("name", ["critic", "energy"])
def test_a_step_is_the_same_work_whatever_the_rows(
    inputs: Callable[[int], Inputs], name: str
) -> None:
    less, more = (WORK[name](inputs(rows)) for rows in (LESS, MORE))
    assert operations(less) == operations(more) > 0 and largest(less) == largest(more) < 2**22


@pytest.mark.parametrize(
    "name, most", [("prepare", 17 * 4 * 1.001), ("jitter", 2 * 17 * 4 * 1.001)]
)
def test_bytes_grow_as_rows_do(inputs: Callable[[int], Inputs], name: str, most: float) -> None:
    """The largest is of the distinct states, a thousandth more than rows, twice of them with jitter."""
    for rows in (LESS, MORE):
        assert largest(WORK[name](inputs(rows))) <= most * rows


def test_scaled_states_are_kept_once(inputs: Callable[[int], Inputs]) -> None:
    data = inputs(LESS).data
    assert data.states.data_ptr() == data.distinct.data_ptr() and len(data.distinct) > len(
        data.states
    )


def test_the_support_set_is_as_much_work_as_its_actions_and_evaluations(
    inputs: Callable[[int], Inputs],
) -> None:
    eps, states = inputs(LESS).eps.requires_grad_(False), inputs(LESS).data.distinct[:20]

    def work(**changes: int) -> int:
        chosen = replace(CHOSEN, **changes)
        return operations(
            lambda: sample_support(eps, states, chosen.K, chosen, SCHEDULE, 0, progress=False)
        )

    one, two, four = (work(K=K, energy_K=K) for K in (4, 8, 16))
    assert (
        four - two == 2 * (two - one) > 0 and two < 2 * one
    )  # what a state costs is paid once for all its actions
    assert work(sampler_steps=6) == 2 * work(sampler_steps=3)
    assert operations(lambda: support_values(inputs(LESS).q, states, inputs(LESS).support[:20])) > 0


def test_mmd_takes_memory_for_points_and_not_for_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(2, 400, 2, generator=seeded(0, "points")).unbind()
    whole = mmd(x, y)
    assert largest(lambda: mmd(x, y)) == 4 * 400 * 400
    monkeypatch.setattr(metrics, "BLOCK", 50)
    assert mmd(x, y) == pytest.approx(
        whole, rel=1e-4
    )  # float32 means of 16 blocks, of numbers near their difference
    assert largest(lambda: mmd(x, y)) == 4 * 50 * 400
