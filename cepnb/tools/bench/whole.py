"""Time the paper's whole training of one task on one device, part by part."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn

from cepnb.datasets.dataset import OfflineDataset
from cepnb.diffusion.devices import WARM_UP, device_named
from cepnb.diffusion.networks import TwinQ
from cepnb.diffusion.training import Plan, StepLoss, seeded, training
from cepnb.errors import CepnbError
from cepnb.experiments.report import markdown_table
from cepnb.qgpo.behaviour import behaviour_loss
from cepnb.qgpo.critic import critic_loss, polyak_update, support_values
from cepnb.qgpo.energy import energy_loss
from cepnb.qgpo.settings import Settings
from cepnb.qgpo.support import sample_support
from cepnb.tools.bench.peer import Peer, quiet
from cepnb.tools.bench.rows import SUPPORT_STATES, Inputs
from cepnb.tools.bench.timing import Call, conditions

MIN_COUNT = 10  # steps, states and peer calls that are measured at least
MAX_PEER_CALLS = 200


@dataclass(frozen=True)
class BenchConfig:
    """Options of `whole_run`: a `fraction` of each part runs, and the rest is extrapolated."""

    device: str = "cuda"
    fraction: float = 1.0
    capture: bool = True  # replay training steps as CUDA graphs
    compiled: bool = False  # compile the networks by torch.compile
    tf32: bool = False  # allow TensorFloat-32 in matrix products, for both codes

    def __post_init__(self) -> None:
        device_named(self.device)
        if not 0 < self.fraction <= 1:
            raise CepnbError(f"--fraction {self.fraction:g} is out of range; use 0 < fraction ≤ 1")


def whole_run(
    settings: Settings,
    config: BenchConfig,
    dataset: OfflineDataset | None = None,
    peer: Path | None = None,
    progress: bool = True,
) -> dict:
    """Time behaviour, support set, critic, labels and energy (Eq. 20) and return a record.

    The data is `dataset`, or `settings.transitions` random rows of halfcheetah's size. With `peer`,
    a checkout of the paper's code, its steps are timed on the same device and data, and its total
    is extrapolated. With a fraction below 1, random numbers replace the missing support actions and
    labels; times do not depend on their values.
    """
    device = device_named(config.device)
    with tempfile.TemporaryDirectory() as folder, _matrix_precision(config.tf32):
        inputs = Inputs(Path(folder), settings, settings.transitions, dataset, device)
        parts = _parts(inputs, config, progress)
        peer_seconds = _peer_seconds(peer, inputs, config.fraction) if peer else {}
    counts = {"transitions": len(inputs.data.states), "states": len(inputs.data.distinct)}
    groups = _groups({part["part"]: part["seconds"] for part in parts}, peer_seconds)
    return conditions(device) | vars(config) | counts | {"parts": parts, "groups": groups}


def _parts(inputs: Inputs, config: BenchConfig, progress: bool) -> list[dict]:
    """Run steps 1 to 4 of QGPO one after the other and time each."""
    settings, data, states = inputs.settings, inputs.data, inputs.data.distinct
    timer, count = _Timer(inputs.device, config, progress), _share(config.fraction, len(states))

    net = inputs.eps.to(inputs.device)
    loss = behaviour_loss(net, data.states, data.actions, settings)
    timer.train("behaviour", loss, {"net": net}, settings.plan("behaviour"))

    sample = lambda n: sample_support(net, states[:n], settings.K, settings, 0, progress=False)
    support = timer.label("support", sample, count, len(states))
    if count < len(states):
        support = torch.cat([support, inputs.support[count:]])

    q = inputs.q.to(inputs.device)
    target = deepcopy(q).requires_grad_(False)
    loss = critic_loss(q, target, data, support, settings)
    update = lambda: polyak_update(q, target, settings.target_rate)
    timer.train("critic", loss, {"q": q, "target": target}, settings.plan("q"), update)

    values = lambda n: support_values(target, states[:n], support[:n])
    labels = timer.label("labels", values, count, len(states))
    if count < len(states):
        labels = torch.cat([labels, inputs.support[count:].sum(dim=2)])

    energy = inputs.energy.to(inputs.device)
    loss = energy_loss("cep", energy, states, support, labels, settings)
    timer.train("energy", loss, {"net": energy}, settings.plan("energy"))
    return timer.parts


class _Timer:
    """Time parts of the run and collect them in `parts`."""

    def __init__(self, device: torch.device, config: BenchConfig, progress: bool) -> None:
        self.device, self.config, self.progress = device, config, progress
        self.parts: list[dict] = []

    def train(
        self,
        part: str,
        loss: StepLoss,
        modules: dict[str, nn.Module],
        plan: Plan,
        after_step: Call | None = None,
    ) -> None:
        """Time a share of the steps; extrapolate at the rate after recording and compilation."""
        if self.config.compiled:
            for module in modules.values():
                for net in (module.q1, module.q2) if isinstance(module, TwinQ) else (module,):
                    net.compile(dynamic=False)
        steps = _share(self.config.fraction, plan.steps)
        every = max(1, min(plan.record_every, steps // 5))
        plan_part = replace(plan, steps=steps, record_every=every, checkpoint_every=every)
        options = {"after_step": after_step, "capture": self.config.capture}
        options |= {"label": part, "progress": self.progress}
        times = {0: _now(self.device)}
        generator = seeded(0, part, self.device)
        for record in training(loss, modules, plan_part, generator, **options):
            times[record.step] = _now(self.device)
        for module in modules.values():
            module.requires_grad_(False)
        steady = next((step for step in times if WARM_UP < step < steps), 0)
        each = (times[steps] - times[steady]) / (steps - steady)
        seconds = times[steady] - times[0] + each * (plan.steps - steady)
        self._add(part, plan.steps, "steps", steps, each, seconds)

    def label(self, part: str, work: Callable[[int], Tensor], count: int, states: int) -> Tensor:
        """Time `work` on the first `count` states, extrapolate to all, and return its result."""
        work(MIN_COUNT)
        start = _now(self.device)
        result = work(count)
        each = (_now(self.device) - start) / count
        self._add(part, states, "states", count, each, each * states)
        return result

    def _add(self, *values: object) -> None:
        names = ("part", "count", "unit", "measured", "each", "seconds")
        self.parts.append(dict(zip(names, values, strict=True)))


def _peer_seconds(path: Path, inputs: Inputs, fraction: float) -> dict[str, float]:
    """Extrapolate the seconds of the paper's code from the median of some calls.

    It samples support actions for states and next states, and trains the energy with the critic and
    after it.
    """
    settings = inputs.settings
    chunks = len(inputs.data.states) / min(SUPPORT_STATES, len(inputs.data.states))
    energy_only = max(0, settings.energy_steps - settings.q_steps)

    def total(call: Call, count: int | float) -> float:
        calls = max(1, min(MAX_PEER_CALLS, _share(fraction, round(count))))
        seconds = []
        for _ in range(1 + calls):
            start = _now(inputs.device)
            call()
            seconds.append(_now(inputs.device) - start)
        return count * median(seconds[1:])  # the first call includes set-up

    with quiet():
        peer = Peer(path, inputs)
        critic = total(peer.critic_cep(), settings.q_steps)
        return {
            "behaviour": total(peer.behaviour(), settings.behaviour_steps),
            "support": total(peer.support(), chunks),
            "critic, labels and energy": critic + total(peer.cep(), energy_only),
        }


def _groups(seconds: dict[str, float], peer_seconds: dict[str, float]) -> list[dict]:
    """Compare the groups of parts that both codes have, and their sum."""
    ours = {
        "behaviour": seconds["behaviour"],
        "support": seconds["support"],
        "critic, labels and energy": seconds["critic"] + seconds["labels"] + seconds["energy"],
    }
    groups = [(name, ours[name], peer_seconds.get(name)) for name in ours]
    groups.append(("all", sum(ours.values()), sum(peer_seconds.values()) or None))
    return [
        dict(group=name, seconds=taken, peer_seconds=theirs, ratio=theirs and theirs / taken)
        for name, taken, theirs in groups
    ]


def whole_markdown(record: dict) -> str:
    """Format a record of `whole_run` as two tables with its conditions below."""
    parts = []
    for part in record["parts"]:
        amount, each = f"{part['count']} {part['unit']}", f"{1e3 * part['each']:.3g} ms"
        parts.append((part["part"], amount, part["measured"], each, f"{part['seconds']:.1f}"))
    part_table = markdown_table(("part", "amount", "measured", "each", "seconds"), parts)
    groups = []
    for group in record["groups"]:
        peer = ("", "")
        if group["ratio"]:
            peer = (f"{group['peer_seconds']:.1f}", f"{group['ratio']:.1f}")
        groups.append((group["group"], f"{group['seconds']:.1f}", *peer))
    head = ("group", "seconds", "seconds of the paper's code", "times the paper's code")
    options = {
        "CUDA graphs": record["capture"] and record["device"] == "cuda",
        "torch.compile": record["compiled"],
        "TensorFloat-32": record["tf32"],
    }
    used = ", ".join(name for name, on in options.items() if on) or "plain steps"
    machine = f"{record['machine']}, torch {record['torch']}, {record['date']}"
    notes = [f"{machine}; {record['transitions']} transitions; {used}."]
    if all(part["measured"] == part["count"] for part in record["parts"]):
        notes.append("All parts ran in full.")
    else:
        notes.append(
            f"A fraction of {record['fraction']:g} of each part ran; seconds are extrapolated."
        )
    if record["groups"][0]["ratio"]:
        notes.append("Seconds of the paper's code are extrapolated from the median of some calls.")
    return f"{part_table}\n\n{markdown_table(head, groups)}\n\n{' '.join(notes)}"


def _share(fraction: float, count: int) -> int:
    return min(count, max(MIN_COUNT, round(fraction * count)))


def _now(device: torch.device) -> float:
    """Return the time when the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


@contextmanager
def _matrix_precision(tf32: bool) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
