"""What the benchmarks measure, and checks of their options that need no torch."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from cepnb.diffusion.devices import device_named
from cepnb.errors import CepnbError

ROW_NAMES = (
    "behaviour",
    "behaviour_bfloat16",
    "critic_cep",
    "support",
    "support_bfloat16",
    "evaluation",
    "toy",
    "loading",
    "maze",
    "frames",
)
DATASET_ROWS = (100_000, 300_000, 1_000_000)
MIN_COUNT = 10  # steps, states and peer calls that are measured at least


@dataclass(frozen=True)
class Series:
    """One kind of work at several sizes; `expected` is the range of its exponent in theory."""

    of: str
    sizes: tuple[int, ...]
    expected: tuple[int, int]


SERIES: dict[str, Series] = {
    "prepare": Series("rows", DATASET_ROWS, (1, 1)),
    "loading": Series("rows", DATASET_ROWS, (1, 1)),
    "critic_cep": Series("rows", DATASET_ROWS, (0, 0)),
    "support_K": Series("actions a state", (4, 8, 16, 32, 64), (1, 1)),
    "support_steps": Series("evaluations", (5, 10, 20, 40), (1, 1)),
    "support_width": Series("width", (128, 256, 512, 1024), (1, 2)),
    "mmd": Series("points", (500, 1_000, 2_000, 4_000), (2, 2)),
    "w2": Series("points", (500, 1_000, 2_000), (2, 3)),
}


@dataclass(frozen=True)
class BenchConfig:
    """Options of `whole_run`: a `fraction` of each part runs, and the rest is extrapolated."""

    device: str = "cuda"
    fraction: float = 1.0
    capture: bool = True  # replay training steps as CUDA graphs
    compiled: bool = False  # compile the networks by torch.compile
    tf32: bool = False  # allow TensorFloat-32 in matrix products, for both codes

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise CepnbError(f"--fraction {self.fraction:g} is out of range; use 0 < fraction ≤ 1")
        device_named(self.device)

    def share(self, count: int) -> int:
        """Return how many of `count` steps or states run."""
        return min(count, max(MIN_COUNT, round(self.fraction * count)))


def selected(
    kind: str, names: Sequence[str], known: Collection[str], repeats: int
) -> tuple[str, ...]:
    """Return the names, or all known ones if none are given.

    Raises `CepnbError` on an unknown name and on fewer than one repeat.
    """
    for name in names:
        if name not in known:
            raise CepnbError(f"{kind} '{name}' is unknown; choose from {', '.join(known)}")
    if repeats < 1:
        raise CepnbError(f"--repeats {repeats} is too small; use at least 1")
    return tuple(names or known)


def check_checkout(path: Path) -> Path:
    """Return the folder with the paper's modules; raise `CepnbError` if it is missing."""
    root, file = path / "Offline_RL_2D", "diffusion_SDE/schedule.py"
    if not (root / file).is_file():
        raise CepnbError(
            f"{path}: {root.name}/{file} is missing; give a checkout of the paper's code"
        )
    return root
