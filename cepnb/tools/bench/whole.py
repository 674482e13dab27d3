"""Time the paper's whole training of one task on one device, part by part."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from cepnb.datasets.dataset import OfflineDataset
from cepnb.diffusion.devices import WARM_UP, device_named
from cepnb.diffusion.networks import QEnsemble
from cepnb.diffusion.training import Plan, StepLoss, seeded, training
from cepnb.experiments.report import markdown_table
from cepnb.qgpo.behaviour import behaviour_loss
from cepnb.qgpo.critic import critic_loss, polyak_update, support_values
from cepnb.qgpo.energy import energy_loss
from cepnb.qgpo.settings import Settings
from cepnb.qgpo.support import sample_support
from cepnb.tools.bench import timing
from cepnb.tools.bench.inputs import SUPPORT_STATES, Inputs
from cepnb.tools.bench.options import MIN_COUNT, BenchConfig
from cepnb.tools.bench.peer import Peer, quiet
from cepnb.tools.bench.timing import Call

MAX_PEER_CALLS = 200
GROUPS = ("behaviour", "support", "critic, labels and energy", "all")  # of parts of both codes


@dataclass(frozen=True)
class Part:
    """Seconds of one part, extrapolated from the `measured` of its `count` steps or states."""

    part: str
    count: int
    unit: str
    measured: int
    each: float
    seconds: float


def whole_run(
    settings: Settings,
    config: BenchConfig,
    dataset: OfflineDataset | None = None,
    peer: Path | None = None,
) -> dict:
    """Time behaviour, support set, critic, labels and energy (Eq. 20) and return a record.

    The data is `dataset`, or `settings.transitions` random rows of halfcheetah's size. With `peer`,
    a checkout of the paper's code, its steps are timed on the same device and data, and its total
    is extrapolated. With a fraction below 1, random numbers replace the missing support actions and
    labels; times do not depend on their values.
    """
    device = device_named(config.device)
    with tempfile.TemporaryDirectory() as folder, _matrix_precision(config.tf32):
        inputs = Inputs(Path(folder), settings, dataset, device)
        with quiet():
            code = Peer(peer, inputs) if peer else None  # a wrong checkout fails before the timing
        parts = _parts(inputs, config)
        theirs = _peer_seconds(code, inputs, config) if code else None
    counts = {"transitions": len(inputs.data.states), "states": len(inputs.data.distinct)}
    results = {"parts": [asdict(part) for part in parts], "groups": _groups(parts, theirs)}
    return timing.conditions(device) | asdict(config) | counts | results


def _parts(inputs: Inputs, config: BenchConfig) -> list[Part]:
    """Run steps 1 to 4 of QGPO one after the other and time each."""
    settings, data, states = inputs.settings, inputs.data, inputs.data.distinct
    timer = _Timer(inputs.device, config)

    net = inputs.eps.to(inputs.device)
    loss = behaviour_loss(net, data.states, data.actions, settings)
    timer.train("behaviour", loss, {"net": net}, settings.plan("behaviour"))

    sample = lambda n: sample_support(net, states[:n], settings.K, settings, 0, progress=False)
    support = timer.label("support", sample, inputs.support)

    q = inputs.q.to(inputs.device)
    target = deepcopy(q).requires_grad_(False)
    loss = critic_loss(q, target, data, support, settings)
    update = lambda: polyak_update(q, target, settings.target_rate)
    timer.train("critic", loss, {"q": q, "target": target}, settings.plan("q"), update)

    values = lambda n: support_values(target, states[:n], support[:n])
    labels = timer.label("labels", values, inputs.support.sum(dim=2))

    energy = inputs.energy.to(inputs.device)
    loss = energy_loss("cep", energy, states, support, labels, settings)
    timer.train("energy", loss, {"net": energy}, settings.plan("energy"))
    return timer.parts


@dataclass(frozen=True)
class _Timer:
    """Time parts of the run and collect them in `parts`."""

    device: torch.device
    config: BenchConfig
    parts: list[Part] = field(default_factory=list)

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
                for net in module.nets if isinstance(module, QEnsemble) else (module,):
                    net.compile(dynamic=False)
        steps = self.config.share(plan.steps)
        every = max(1, min(plan.record_every, steps // 5))
        plan_part = replace(plan, steps=steps, record_every=every, checkpoint_every=every)
        options = {"after_step": after_step, "capture": self.config.capture, "label": part}
        times = {0: timing.now(self.device)}
        for record in training(loss, modules, plan_part, seeded(0, part, self.device), **options):
            times[record.step] = timing.now(self.device)
        for module in modules.values():
            module.requires_grad_(False)
        steady = next((step for step in times if WARM_UP < step < steps), 0)
        each = (times[steps] - times[steady]) / (steps - steady)
        seconds = times[steady] - times[0] + each * (plan.steps - steady)
        self.parts.append(Part(part, plan.steps, "steps", steps, each, seconds))

    def label(self, part: str, work: Callable[[int], Tensor], filler: Tensor) -> Tensor:
        """Time `work` on the first states; return its result, completed by rows of `filler`."""
        count = self.config.share(len(filler))
        work(MIN_COUNT)
        start = timing.now(self.device)
        result = work(count)
        each = (timing.now(self.device) - start) / count
        self.parts.append(Part(part, len(filler), "states", count, each, each * len(filler)))
        return torch.cat([result, filler[count:].to(result)])


def _peer_seconds(peer: Peer, inputs: Inputs, config: BenchConfig) -> list[float]:
    """Extrapolate the seconds of the paper's code, a group each, from the median of some calls.

    It samples support actions for states and next states. It trains the energy together with the
    critic, and alone after the critic's last step.
    """
    settings = inputs.settings
    chunks = len(inputs.data.states) / min(SUPPORT_STATES, len(inputs.data.states))
    energy_only = max(0, settings.energy_steps - settings.q_steps)

    def total(call: Call, count: int | float) -> float:
        call()  # includes set-up
        calls = max(1, min(MAX_PEER_CALLS, config.share(round(count))))
        return count * median(timing.in_turns({"peer": call}, calls, inputs.device)["peer"])

    with quiet():
        behaviour = total(peer.behaviour(), settings.behaviour_steps)
        support = total(peer.support(), chunks)
        critic = total(peer.critic_cep(), settings.q_steps) + total(peer.cep(), energy_only)
    return [behaviour, support, critic]


def _groups(parts: list[Part], theirs: list[float] | None) -> list[dict]:
    """Compare groups of parts, and their sum, with the paper's code if it was timed."""
    behaviour, support, *critic_and_energy = (part.seconds for part in parts)
    ours = [behaviour, support, sum(critic_and_energy)]
    groups = []
    for index, (group, taken) in enumerate(zip(GROUPS, [*ours, sum(ours)], strict=True)):
        peer = [*theirs, sum(theirs)][index] if theirs else None
        groups.append(
            dict(group=group, seconds=taken, peer_seconds=peer, ratio=peer and peer / taken)
        )
    return groups


def whole_markdown(record: dict) -> str:
    """Format a record of `whole_run` as two tables with its conditions below."""
    parts, groups = [], []
    for part in record["parts"]:
        amount, each = f"{part['count']} {part['unit']}", f"{1e3 * part['each']:.3g} ms"
        parts.append((part["part"], amount, part["measured"], each, f"{part['seconds']:.1f}"))
    for group in record["groups"]:
        times = [group[key] for key in ("seconds", "peer_seconds", "ratio")]
        groups.append((group["group"], *("" if x is None else f"{x:.1f}" for x in times)))
    part_table = markdown_table(("part", "amount", "measured", "each", "seconds"), parts)
    peer_head = ("seconds of the paper's code", "times the paper's code")
    group_table = markdown_table(("group", "seconds", *peer_head), groups)
    options = {
        "CUDA graphs": record["capture"] and record["device"] == "cuda",
        "torch.compile": record["compiled"],
        "TensorFloat-32": record["tf32"],
    }
    used = ", ".join(name for name, on in options.items() if on) or "plain steps"
    notes = [timing.conditions_text(record), f"{record['transitions']} transitions; {used}."]
    if all(part["measured"] == part["count"] for part in record["parts"]):
        notes.append("All parts ran in full.")
    else:
        share = f"{record['fraction']:g} of each part"
        notes.append(f"A fraction of {share} ran; seconds are extrapolated.")
    if record["groups"][0]["ratio"]:
        notes.append("Seconds of the paper's code are extrapolated from the median of some calls.")
    return f"{part_table}\n\n{group_table}\n\n{' '.join(notes)}"


@contextmanager
def _matrix_precision(tf32: bool) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
