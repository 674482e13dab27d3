"""The paper's whole training of one task on one device, steps 1 to 4 at their full sizes: how long each part takes there."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn

from cepnb.datasets.dataset import OfflineDataset
from cepnb.diffusion.capture import WARM_UP
from cepnb.diffusion.devices import device_named
from cepnb.diffusion.networks import TwinQ
from cepnb.diffusion.training import training
from cepnb.errors import CepnbError
from cepnb.qgpo.critic import support_values
from cepnb.qgpo.seeds import Fit, behaviour_fit, critic_fit, energy_fit
from cepnb.qgpo.settings import Settings
from cepnb.qgpo.support import sample_support
from cepnb.tools.bench.peer import Peer, quiet
from cepnb.tools.bench.rows import SCHEDULE, SUPPORT_STATES, Inputs
from cepnb.tools.bench.turns import conditions

LEAST = (
    10  # steps, calls of the paper's code and states that are measured, however small the fraction
)
PEER_CALLS = 200  # of the paper's code at most: each takes as long as any other


@dataclass(frozen=True)
class BenchConfig:
    """How it is run: `seeds` in one model; `fraction` of each part, the rest being reckoned at its rate."""

    device: str = "cuda"
    seeds: int = 1
    fraction: float = 1.0
    capture: bool = True  # steps are replayed as CUDA graphs
    compiled: bool = False  # networks are compiled by torch.compile
    tf32: bool = False  # products of matrices are of TensorFloat-32 where the device has it, in the paper's code too

    def __post_init__(self) -> None:
        device_named(self.device)
        if self.seeds < 1:
            raise CepnbError(f"--seeds {self.seeds}: expected at least 1")
        if not 0 < self.fraction <= 1:
            raise CepnbError(f"--fraction {self.fraction:g}: expected a number above 0, at most 1")


def whole_run(
    settings: Settings,
    way: BenchConfig,
    dataset: OfflineDataset | None = None,
    peer: Path | None = None,
    progress: bool = True,
) -> dict:
    """A record of the device and of each part: behaviour, support set, critic, labels, energy (CEP on the support set).

    On random numbers of halfcheetah's size, `settings.transitions` of them, or on a `dataset`. With `peer` the paper's
    code, in a checkout there, makes its steps on the same device and data, and is reckoned as long. Where less than all
    is run, what was not sampled of the support set and labels are random numbers: times do not depend on them.
    """
    with tempfile.TemporaryDirectory() as folder, _matrix_products(way.tf32):
        device = device_named(way.device)
        inputs = Inputs(Path(folder), settings, settings.transitions, dataset, device)
        parts = _parts(inputs, way, progress)
        record = (
            conditions(device)
            | vars(way)
            | {
                "transitions": len(inputs.data.states),
                "states": len(inputs.data.distinct),
                "parts": parts,
            }
        )
        theirs = _of_the_peer(peer, inputs, way) if peer else {}
    record["groups"] = _groups({part["part"]: part["seconds"] for part in parts}, theirs, way.seeds)
    return record


def _parts(inputs: Inputs, way: BenchConfig, progress: bool) -> list[dict]:
    settings, data, seeds, parts = inputs.settings, inputs.data, range(way.seeds), []
    few = _share(way.fraction, len(data.distinct))

    def fitted(part: str, fit: Fit) -> list[nn.Module]:
        parts.append(_timed_fit(part, fit, way, inputs.device, progress))
        return [net.requires_grad_(False) for net in fit.result()]

    def of_states(
        part: str, work: Callable[[int, int], Tensor], rest: Callable[[], Tensor]
    ) -> list[Tensor]:
        """`work` of a seed on the first states, for each seed; behind it the `rest`, for the states that were left out."""
        work(0, LEAST)
        begun, results = _now(inputs.device), [work(seed, few) for seed in seeds]
        each = (_now(inputs.device) - begun) / (few * way.seeds)
        count = len(data.distinct) * way.seeds
        parts.append(
            {
                "part": part,
                "count": count,
                "unit": "states",
                "measured": few * way.seeds,
                "each": each,
                "seconds": each * count,
            }
        )
        return (
            results
            if few == len(data.distinct)
            else [torch.cat([result, rest()[few:]]) for result in results]
        )

    behaviours = fitted(
        "behaviour", behaviour_fit(data.states, data.actions, settings, SCHEDULE, seeds)
    )
    supports = of_states(
        "support",
        lambda seed, count: sample_support(
            behaviours[seed],
            data.distinct[:count],
            settings.K,
            settings,
            SCHEDULE,
            seed,
            progress=False,
        ),
        lambda: inputs.support,
    )
    critics = fitted("critic", critic_fit(data, supports, settings, seeds))
    values = of_states(
        "labels",
        lambda seed, count: support_values(
            critics[seed], data.distinct[:count], supports[seed][:count]
        ),
        lambda: inputs.support.sum(dim=2),
    )
    fitted("energy", energy_fit("cep", data.distinct, supports, values, settings, SCHEDULE, seeds))
    return parts


def _timed_fit(part: str, fit: Fit, way: BenchConfig, device: torch.device, progress: bool) -> dict:
    """The first steps, in which a graph is recorded or a network compiled, as they were; all others at the rate of the rest."""
    steps = _share(way.fraction, fit.plan.steps)
    every = max(1, min(fit.plan.record_every, steps // 5))
    if way.compiled:
        for module in fit.modules.values():
            for net in (module.q1, module.q2) if isinstance(module, TwinQ) else (module,):
                net.compile(
                    dynamic=False
                )  # a size that may vary is more than torch has for networks side by side
    begun = _now(device)
    times = {0: begun} | {
        record.step: _now(device)
        for record in training(
            fit.loss,
            fit.modules,
            replace(fit.plan, steps=steps, record_every=every, checkpoint_every=every),
            fit.streams,
            after_step=fit.after_step,
            label=part,
            progress=progress,
            capture=way.capture,
        )
    }
    first = next((step for step in times if WARM_UP < step < steps), 0)
    each = (times[steps] - times[first]) / (steps - first)
    return {
        "part": part,
        "count": fit.plan.steps,
        "unit": "steps",
        "measured": steps,
        "each": each,
        "seconds": times[first] - begun + each * (fit.plan.steps - first),
    }


def _of_the_peer(path: Path, inputs: Inputs, way: BenchConfig) -> dict[str, float]:
    """Seconds that the paper's code would take for one seed, by the median of its calls. It has its states sampled twice, as
    states and as next states, and trains the energy beside the critic and after it."""
    settings = inputs.settings
    with quiet():
        peer = Peer(path, inputs)

        def each(call: Callable[[], object], count: int) -> float:
            seconds = []
            for _ in range(1 + max(1, min(PEER_CALLS, _share(way.fraction, count)))):
                begun = _now(inputs.device)
                call()
                seconds.append(_now(inputs.device) - begun)
            return median(seconds[1:])  # the first call sets things up

        chunks = len(inputs.data.states) / min(SUPPORT_STATES, len(inputs.data.states))
        alone = max(0, settings.energy_steps - settings.q_steps)
        return {
            "behaviour": settings.behaviour_steps
            * each(peer.behaviour(), settings.behaviour_steps),
            "support": chunks * each(peer.support(), round(chunks)),
            "critic, labels and energy": settings.q_steps
            * each(peer.critic_cep(), settings.q_steps)
            + alone * each(peer.cep(), alone),
        }


def _groups(seconds: dict[str, float], theirs: dict[str, float], seeds: int) -> list[dict]:
    """Seconds of what both codes have, and the ratio: of all seeds, which the paper's code would train one after the other."""
    ours = {
        "behaviour": seconds["behaviour"],
        "support": seconds["support"],
        "critic, labels and energy": seconds["critic"] + seconds["labels"] + seconds["energy"],
    }
    ours["all"], theirs = (
        sum(ours.values()),
        theirs | ({"all": sum(theirs.values())} if theirs else {}),
    )
    return [
        {
            "group": name,
            "seconds": taken,
            "peer_seconds": seeds * theirs[name] if theirs else None,
            "ratio": seeds * theirs[name] / taken if theirs else None,
        }
        for name, taken in ours.items()
    ]


def whole_markdown(record: dict) -> str:
    """A record as two tables, and what was run."""
    lines = ["| part | amount | measured | each | seconds |", "|---|---|---|---|---|"]
    lines += [
        f"| {part['part']} | {part['count']} {part['unit']} | {part['measured']} | {1e3 * part['each']:.3g} ms | {part['seconds']:.1f} |"
        for part in record["parts"]
    ]
    lines += [
        "",
        "| | seconds | of the paper's code | times the paper's code |",
        "|---|---|---|---|",
    ]
    for group in record["groups"]:
        theirs = (
            " | "
            if group["ratio"] is None
            else f"{group['peer_seconds']:.1f} | {group['ratio']:.1f}"
        )
        lines.append(f"| {group['group']} | {group['seconds']:.1f} | {theirs} |")
    whole = all(part["measured"] == part["count"] for part in record["parts"])
    said = (
        "all of it was run"
        if whole
        else f"of each part a fraction of {record['fraction']:g} was run, and the rest is reckoned at its rate"
    )
    ways = [
        name
        for name, on in (
            ("CUDA graphs", record["capture"] and record["device"] == "cuda"),
            ("torch.compile", record["compiled"]),
            ("TensorFloat-32", record["tf32"]),
        )
        if on
    ]
    return "\n".join(
        [
            *lines,
            "",
            f"{record['machine']}, torch {record['torch']}, {record['date']}; {record['transitions']} transitions, "
            f"seeds in one model: {record['seeds']}; {', '.join(ways) or 'steps as they are'}. {said.capitalize()}."
            + (
                " The paper's code is reckoned from the median of some of its steps."
                if record["groups"][0]["ratio"]
                else ""
            ),
        ]
    )


def _share(fraction: float, count: int) -> int:
    return min(count, max(LEAST, round(fraction * count)))


def _now(device: torch.device) -> float:
    """The time when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


@contextmanager
def _matrix_products(tf32: bool) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
