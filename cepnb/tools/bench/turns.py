"""Times taken in turns, so that what else a machine does falls on all that is compared, and the machine: name and limits."""

import platform
from collections.abc import Callable, Collection, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cepnb.errors import CepnbError

SIDE = 1024  # of the matrices of the product: 2 SIDE³ operations, in memory near the cores
COPIED = 2**24  # float32 values of a copy: 64 MiB, which no cache holds


def in_turns(
    calls: dict[str, Callable[[], object]], repeats: int, watch: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each call, A B C A B C ...: the i-th of every list were taken right after each other.

    `watch` is called after each turn. The calls should have run once before, for what they do only the first time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = perf_counter()
            call()
            seconds[name].append(perf_counter() - start)
        watch()
    return seconds


def asked_for(
    what: str, names: Sequence[str], known: Collection[str], repeats: int
) -> tuple[str, ...]:
    """The names, or all that are known if there are none. Raises `CepnbError` on a name that is not, and on less than one turn."""
    for name in names:
        if name not in known:
            raise CepnbError(f"{what} '{name}': expected some of {', '.join(known)}")
    if repeats < 1:
        raise CepnbError(f"--repeats {repeats}: expected at least 1")
    return tuple(names) or tuple(known)


def median_ratio(above: list[float], below: list[float]) -> float:
    """Median over the turns of one time over another."""
    return median(a / b for a, b in zip(above, below, strict=True))


class _Counted(TorchDispatchMode):
    """Counts the operations of all that torch computes within it, a backward pass included.

    `FlopCounterMode` of torch has the same formulas, but cannot be around `torch.autograd.grad` with respect to an input.
    """

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function._overloadpacket in flop_registry:
            self.total += flop_registry[function._overloadpacket](
                *args, **(kwargs or {}), out_val=result
            )
        return result


def operations(call: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products of one call, a multiplication and an addition each being one."""
    with _Counted() as counted:
        call()
    return counted.total


def matrix_product() -> tuple[Callable[[], object], int]:
    """A float32 product of square matrices on all threads of torch, and its operations."""
    a, b, out = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE), torch.empty(SIDE, SIDE)
    return lambda: torch.mm(a, b, out=out), 2 * SIDE**3


def copy() -> tuple[Callable[[], object], int]:
    """A copy from memory to memory on all threads of torch, and its bytes (each is read and written, and counted once)."""
    source, target = torch.ones(COPIED), torch.zeros(COPIED)
    return lambda: target.copy_(source), 4 * COPIED


def conditions(device: torch.device = torch.device("cpu"), **counts: int) -> dict:
    """What a record of times begins with: on what they were taken and when, and in how many `turns` or with how many `seeds`."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else machine()
    return {
        "machine": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        **counts,
    }


def said(record: dict) -> str:
    """The conditions of a record in a line."""
    turns = f"; medians of {record['turns']} turns" if "turns" in record else ""
    return f"{record['machine']}, threads: {record['threads']}, torch {record['torch']}, {record['date']}{turns}."


def machine() -> str:
    """The kind of processor, as the system names it."""
    try:
        names = [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
