"""Time calls in turns, count their operations, and describe the machine."""

import platform
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cepnb.diffusion.training import seeded

MATRIX_SIDE = 1024  # a product takes 2 · side³ operations, and the matrices fit into a cache
COPIED_VALUES = 2**24  # float32 values of a copy: 64 MiB, more than a cache holds

CPU = torch.device("cpu")
Call = Callable[[], object]


def in_turns(
    calls: dict[str, Call], repeats: int, device: torch.device = CPU
) -> dict[str, list[float]]:
    """Time the calls in the order A B C A B C …; return the seconds of each repeat, by name.

    Other load on the machine then affects all calls alike. Run each call once before, because a
    first call often includes set-up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = now(device)
            call()
            seconds[name].append(now(device) - start)
    return seconds


def now(device: torch.device) -> float:
    """Return the time in seconds when the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """Return the median over the turns of the ratio of two times."""
    return median(a / b for a, b in zip(numerators, denominators, strict=True))


class _OperationCounter(TorchDispatchMode):
    """Count operations of matrix products, forward and backward.

    torch's `FlopCounterMode` uses the same formulas but fails if `torch.autograd.grad`
    differentiates with respect to an input.
    """

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if formula := flop_registry.get(function._overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def operations(call: Call) -> int:
    """Count the multiplications and additions of all matrix products in one call."""
    with _OperationCounter() as counter:
        call()
    return counter.total


def matrix_product() -> tuple[Call, int]:
    """Return a float32 product of square matrices on all torch threads, and its operations."""
    sides, generator = (3, MATRIX_SIDE, MATRIX_SIDE), seeded(0, "bench matrices")
    a, b, out = torch.randn(*sides, generator=generator).unbind()
    return lambda: torch.mm(a, b, out=out), 2 * MATRIX_SIDE**3


def copy() -> tuple[Call, int]:
    """Return a memory copy on all torch threads, and the bytes it copies."""
    source, target = torch.ones(COPIED_VALUES), torch.zeros(COPIED_VALUES)
    return lambda: target.copy_(source), 4 * COPIED_VALUES


def conditions(device: torch.device = CPU) -> dict:
    """Return the first entries of a record: machine, threads, torch version and date."""
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    threads, today = torch.get_num_threads(), date.today().isoformat()
    return {"machine": machine, "threads": threads, "torch": torch.__version__, "date": today}


def conditions_text(record: dict) -> str:
    """Return the conditions of a record as one line."""
    turns = f"; medians of {record['turns']} turns" if "turns" in record else ""
    machine = f"{record['machine']}, threads: {record['threads']}"
    return f"{machine}, torch {record['torch']}, {record['date']}{turns}."


def processor() -> str:
    """Return the processor's name as the system reports it."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return model[1].strip() if model else platform.processor() or platform.machine()
