"""How time and memory grow with the size of what is worked on: exponents, each beside the one that it should have."""

import contextlib
import ctypes
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from tqdm.auto import tqdm

from cepnb.densities.metrics import mmd, w2
from cepnb.diffusion.training import seeded
from cepnb.qgpo.settings import Settings
from cepnb.qgpo.transitions import prepare
from cepnb.tools.bench.rows import Inputs, critic_cep, loading, support
from cepnb.tools.bench.turns import asked_for, conditions, in_turns, said

ROWS, MORE_ROWS = (
    (100_000, 300_000, 1_000_000),
    (10_000_000,),
)  # of a dataset; the latter take some 12 GB on disk and in memory
FEW = 16  # states whose support actions are sampled
Growing = Callable[["Sizes", int], Callable[[], object]]  # what is to be timed at a size


@dataclass(frozen=True)
class Series:
    """One kind of work at several sizes. `expected` is the range that the exponent of a large size lies in."""

    of: str
    sizes: tuple[int, ...]
    expected: tuple[int, int]
    work: Growing


class Sizes:
    """Inputs of every size, made once: datasets in `folder`, and a support set of few states under changed settings."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._inputs = folder, {}

    def dataset(self, rows: int) -> Inputs:
        return self._inputs.setdefault(rows, Inputs(self.folder, rows=rows))

    def chunk(self, **changes: object) -> Callable[[], object]:
        return support(Inputs(self.folder, replace(Settings(), **changes), FEW + 1)).call


def _points(
    distance: Callable[[torch.Tensor, torch.Tensor], float], count: int
) -> Callable[[], object]:
    x, y = torch.randn(2, count, 2, generator=seeded(0, "bench points")).unbind()
    return lambda: distance(x, y)


SERIES: dict[str, Series] = {
    "prepare": Series(
        "rows",
        ROWS,
        (1, 1),
        lambda sizes, n: lambda: prepare(sizes.dataset(n).dataset, "return_range"),
    ),
    "loading": Series("rows", ROWS, (1, 1), lambda sizes, n: loading(sizes.dataset(n)).call),
    "critic_cep": Series("rows", ROWS, (0, 0), lambda sizes, n: critic_cep(sizes.dataset(n)).call),
    "support_K": Series(
        "actions a state", (4, 8, 16, 32, 64), (1, 1), lambda sizes, n: sizes.chunk(K=n, energy_K=n)
    ),
    "support_steps": Series(
        "evaluations", (5, 10, 20, 40), (1, 1), lambda sizes, n: sizes.chunk(sampler_steps=n)
    ),
    "support_width": Series(
        "width",
        (128, 256, 512, 1024),
        (1, 2),
        lambda sizes, n: sizes.chunk(behaviour_widths=(n, n // 2, n // 4)),
    ),
    "mmd": Series("points", (500, 1_000, 2_000, 4_000), (2, 2), lambda sizes, n: _points(mmd, n)),
    "w2": Series("points", (500, 1_000, 2_000), (2, 3), lambda sizes, n: _points(w2, n)),
}


def growth(
    names: Sequence[str] = (), repeats: int = 7, full: bool = False, progress: bool = True
) -> dict:
    """A record of the machine and of each of the series named (all by default): `repeats` turns through its sizes.

    `full` adds datasets of 10⁷ rows. Raises `CepnbError` on a series that is not known.
    """
    names = asked_for("series", names, SERIES, repeats)
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=len(names) * (1 + repeats), disable=not progress, leave=False) as bar,
    ):
        sizes, series = Sizes(Path(folder)), []
        for name in names:
            bar.set_description(name)
            series.append(_measured(name, sizes, repeats, full, bar.update))
    return conditions(turns=repeats) | {"series": series}


def _measured(
    name: str, made: Sizes, repeats: int, full: bool, watch: Callable[[], object]
) -> dict:
    series = SERIES[name]
    sizes = series.sizes + (MORE_ROWS if full and series.of == "rows" else ())
    calls = {str(size): series.work(made, size) for size in sizes}
    for call in calls.values():
        call()
    memory = [peak_bytes(call) for call in calls.values()]
    watch()
    seconds = list(in_turns(calls, repeats, watch).values())
    slope, error = exponent(sizes, seconds)
    return {
        "series": name,
        "of": series.of,
        "sizes": list(sizes),
        "seconds": [median(times) for times in seconds],
        "bytes": memory,
        "exponent": slope,
        "error": error,
        "expected": list(series.expected),
    }


def exponent(sizes: Sequence[int], seconds: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Slope of log time over log size by least squares through the times of all turns, and its standard error.

    The error is of a straight line: it is large, too, where the times lie on a curve.
    """
    from scipy import stats  # here, because it takes a second

    pairs = torch.tensor(
        [(size, time) for size, times in zip(sizes, seconds, strict=True) for time in times],
        dtype=torch.double,
    )
    line = stats.linregress(*pairs.log().T.numpy())
    return float(line.slope), float(line.stderr)


def peak_bytes(call: Callable[[], object]) -> int | None:
    """How far the memory of this process rises above where it is, during a call; None where the system (not Linux) does not say.

    Mapped files count as far as they are read.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(
            0
        )  # glibc keeps what it was given back, and a call that takes it again would not be seen
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what is there now
    except OSError:
        return None
    before = _status("VmRSS")
    call()
    return max(0, _status("VmHWM") - before)


def _status(key: str) -> int:
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(f"{key}:")
    )
    return 1024 * int(line.split()[1])


def growth_markdown(record: dict) -> str:
    """A record as a table, with what it was measured on below it."""
    lines = [
        "| what | grows with | seconds | memory beside the inputs | exponent of time | expected |",
        "|---|---|---|---|---|---|",
    ]
    for s in record["series"]:
        first, last = s["sizes"][0], s["sizes"][-1]
        memory = (
            ""
            if None in s["bytes"]
            else f"{s['bytes'][0] / 1e6:.0f} to {s['bytes'][-1] / 1e6:.0f} MB"
        )
        low, high = s["expected"]
        lines.append(
            f"| {s['series']} | {s['of']}, {first:,} to {last:,} | {s['seconds'][0]:.3g} to {s['seconds'][-1]:.3g} | {memory} "
            f"| {s['exponent']:.2f} ± {s['error']:.2f} | {low}{'' if low == high else f' to {high}'} |"
        )
    return "\n".join([*lines, "", said(record)])
