"""Measure how time and memory grow with the size of the inputs."""

import contextlib
import ctypes
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from cepnb.densities.metrics import mmd, w2
from cepnb.diffusion.training import seeded
from cepnb.errors import CepnbError
from cepnb.experiments.report import markdown_table
from cepnb.progress import progress_bar
from cepnb.qgpo.settings import Settings
from cepnb.qgpo.transitions import prepare
from cepnb.tools.bench.inputs import Inputs
from cepnb.tools.bench.options import SERIES, selected
from cepnb.tools.bench.rows import critic_cep, loading, support
from cepnb.tools.bench.timing import Call, conditions, conditions_text, in_turns

FULL_DATASET_ROWS = 10_000_000
FULL_BYTES = 12 * 10**9  # of these rows, on disk and in memory
SUPPORT_ROWS = 17  # dataset rows, and distinct states, whose support actions are sampled


def growth(names: Sequence[str] = (), repeats: int = 7, full: bool = False) -> dict:
    """Measure the named series (default: all of `SERIES`) in `repeats` turns and return a record.

    `full` adds datasets of 10⁷ rows. Raises `CepnbError` on an unknown series, on fewer than one
    repeat, and if the temporary folder has too little space for `full`.
    """
    names = selected("series", names, SERIES, repeats)
    with tempfile.TemporaryDirectory() as folder:
        free = shutil.disk_usage(folder).free
        if full and free < FULL_BYTES:
            found = f"--full needs {FULL_BYTES / 1e9:g} GB, but {free / 1e9:.1f} GB are free"
            raise CepnbError(f"{folder}: {found}; free space or set TMPDIR to another disk")

        @cache
        def inputs(**changes: object) -> Inputs:
            return Inputs(Path(folder), replace(Settings(), **changes))

        bar = progress_bar(names, desc="series", leave=False)
        found = [_measured_series(name, inputs, repeats, full) for name in bar]
    return conditions() | {"turns": repeats, "series": found}


def _measured_series(name: str, inputs: Callable[..., Inputs], repeats: int, full: bool) -> dict:
    series = SERIES[name]
    sizes = series.sizes
    if full and series.of == "rows":
        sizes += (FULL_DATASET_ROWS,)
    calls = {str(size): _call(name, size, inputs) for size in sizes}
    for call in calls.values():
        call()
    memory = [peak_bytes(call) for call in calls.values()]
    seconds = list(in_turns(calls, repeats).values())
    slope, error = exponent(sizes, seconds)
    medians = [median(times) for times in seconds]
    found = {"seconds": medians, "bytes": memory, "exponent": slope, "error": error}
    return {"series": name} | asdict(series) | {"sizes": sizes} | found


def _call(name: str, size: int, inputs: Callable[..., Inputs]) -> Call:
    """Return the work of a series at one size."""
    few = partial(inputs, transitions=SUPPORT_ROWS)
    match name:
        case "prepare":
            return partial(prepare, inputs(transitions=size).dataset, "return_range")
        case "loading":
            return loading(inputs(transitions=size)).call
        case "critic_cep":
            return critic_cep(inputs(transitions=size)).call
        case "support_K":
            return support(few(K=size, energy_K=size)).call
        case "support_steps":
            return support(few(sampler_steps=size)).call
        case "support_width":
            return support(few(behaviour_widths=(size, size // 2, size // 4))).call
        case "mmd" | "w2":
            x, y = torch.randn(2, size, 2, generator=seeded(0, "bench points")).unbind()
            return partial(mmd if name == "mmd" else w2, x, y)


def exponent(sizes: Sequence[int], seconds: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Fit log time against log size by least squares; return the slope and its standard error.

    The error grows with the spread of the repeats and with the curvature of the points.
    """
    from scipy import stats

    log_sizes, log_times = np.log(sizes), np.log(seconds)  # (n,), (n, repeats)
    line = stats.linregress(log_sizes.repeat(log_times.shape[1]), log_times.ravel())
    return float(line.slope), float(line.stderr)


def peak_bytes(call: Call) -> int | None:
    """Return how far this process's memory rises during a call; None if the system is not Linux.

    Memory-mapped files count as far as the call reads them.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # otherwise the call reuses freed memory unnoticed
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the recorded peak
    except OSError:
        return None
    before = _status_bytes("VmRSS")
    call()
    return max(0, _status_bytes("VmHWM") - before)


def _status_bytes(key: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.search(rf"^{key}:\s*(\d+)", status, re.MULTILINE)[1])


def growth_markdown(record: dict) -> str:
    """Format a record of `growth` as a table with the machine below it."""
    head = ("what", "grows with", "seconds", "memory above inputs", "exponent of time", "expected")
    lines = []
    for series in record["series"]:
        sizes, seconds, memory = series["sizes"], series["seconds"], ""
        if None not in series["bytes"]:
            memory = f"{series['bytes'][0] / 1e6:.0f} to {series['bytes'][-1] / 1e6:.0f} MB"
        work = f"{series['of']}, {sizes[0]:,} to {sizes[-1]:,}"
        times = f"{seconds[0]:.3g} to {seconds[-1]:.3g}"
        slope = f"{series['exponent']:.2f} ± {series['error']:.2f}"
        expected = " to ".join(map(str, sorted(set(series["expected"]))))
        lines.append((series["series"], work, times, memory, slope, expected))
    return f"{markdown_table(head, lines)}\n\n{conditions_text(record)}"
