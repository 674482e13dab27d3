"""Time the costly parts of the package, and compare them with the machine's limit and the peer."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from cepnb.datasets.hdf5 import load_hdf5
from cepnb.datasets.waypoint import collect_maze
from cepnb.densities.methods import toy_energy_loss, toy_energy_net
from cepnb.densities.toys import density
from cepnb.diffusion.training import Plan, StepLoss, seeded, training
from cepnb.experiments.report import markdown_table
from cepnb.progress import progress_bar
from cepnb.qgpo.behaviour import behaviour_loss
from cepnb.qgpo.critic import critic_loss, critic_net, polyak_update
from cepnb.qgpo.energy import energy_loss
from cepnb.qgpo.policy import guided_policy
from cepnb.qgpo.support import sample_support
from cepnb.tools.bench import timing
from cepnb.tools.bench.inputs import (
    ACTION_DIM,
    BETA,
    EPISODES,
    SETTINGS,
    STATE_DIM,
    SUPPORT_STATES,
    TOY,
    Inputs,
)
from cepnb.tools.bench.options import selected
from cepnb.tools.bench.peer import Peer, quiet
from cepnb.tools.bench.timing import Call

MAZE_ROWS = 5_000


@dataclass(frozen=True)
class Row:
    """One timed call, which processes `count` units.

    `bytes` is the data it moves; if 0, its floating-point operations are counted instead.
    """

    call: Call
    size: str
    unit: str = "steps"
    count: int = 1
    bytes: int = 0


def behaviour(inputs: Inputs, precision: str = "float32") -> Row:
    """A training step of ε_θ, with matrix products in this precision."""
    settings, data = replace(inputs.settings, behaviour_precision=precision), inputs.data
    loss = behaviour_loss(inputs.eps, data.states, data.actions, settings)
    step = _training_step(loss, {"net": inputs.eps}, settings.behaviour_rate)
    size = f"batch {settings.behaviour_batch}, {STATE_DIM} + {ACTION_DIM} dimensions"
    return Row(step, size)


def critic_cep(inputs: Inputs) -> Row:
    """A training step of Q_ψ (Eq. 22) and one of f_φ (Eq. 20)."""
    settings, data, q, energy = inputs.settings, inputs.data, inputs.q, inputs.energy
    target = critic_net(*inputs.shape, settings, 0).requires_grad_(False)
    loss = critic_loss(q, target, data, inputs.support, settings)
    update = lambda: polyak_update(q, target, settings.target_rate)
    critic_step = _training_step(loss, {"q": q, "target": target}, settings.q_rate, update)
    labels = torch.randn(inputs.support.shape[:2], generator=seeded(0, "bench labels"))
    loss = energy_loss("cep", energy, data.distinct, inputs.support, labels, settings)
    energy_step = _training_step(loss, {"net": energy}, settings.energy_rate)

    def call() -> None:
        critic_step()
        energy_step()

    return Row(call, f"batch {settings.q_batch}, K = {settings.K}")


def support(inputs: Inputs, precision: str = "float32") -> Row:
    """K actions of μ_θ for some states, with ε_θ in this precision."""
    settings = replace(inputs.settings, support_precision=precision)
    net, states, K = inputs.eps, inputs.data.distinct[: SUPPORT_STATES + 1], settings.K
    size = f"{SUPPORT_STATES} transitions, K = {K}, {settings.sampler_steps} evaluations"
    call = lambda: sample_support(net, states, K, settings, 0, progress=False)
    return Row(call, size, "actions", len(states) * K)


def evaluation(inputs: Inputs) -> Row:
    """One action for `EPISODES` states at every scale in one batch; scale 0 is the behaviour."""
    settings, scales = inputs.settings, (0.0, *inputs.settings.scales)
    states = inputs.data.states[:EPISODES].repeat(len(scales), 1)
    each = torch.tensor(scales).repeat_interleave(EPISODES)
    policy = guided_policy(inputs.eps, inputs.energy, each, ACTION_DIM, settings)
    generator = seeded(0, "bench evaluation")
    size = f"{EPISODES} states at {len(scales)} scales, {settings.sampler_steps} evaluations"
    return Row(lambda: policy(states, generator), size, "actions", len(states))


def toy(inputs: Inputs) -> Row:
    """A training step of f_φ on eight Gaussians."""
    gaussians = density("8gaussians")
    net = toy_energy_net(gaussians, TOY, 0)
    loss = toy_energy_loss("cep_self", net, gaussians, BETA, TOY, 0)
    step = _training_step(loss, {"net": net}, TOY.rate)
    return Row(step, f"K = {TOY.K}, width {TOY.width}")


def loading(inputs: Inputs) -> Row:
    """Loading a dataset from a D4RL file."""
    path, rows = inputs.file, inputs.settings.transitions
    tensors = [value for value in vars(inputs.dataset).values() if isinstance(value, Tensor)]
    size = sum(tensor.nbytes for tensor in tensors)
    return Row(lambda: load_hdf5(path), f"HDF5 file of {rows} rows", "rows", rows, size)


def maze(inputs: Inputs) -> Row:
    """Collecting a maze dataset."""
    call = lambda: collect_maze("large", MAZE_ROWS, 0, progress=False)
    size = sum(array.nbytes for array in call().values())
    return Row(call, f"maze2d-large, {MAZE_ROWS} rows", "rows", MAZE_ROWS, size)


def frames(inputs: Inputs) -> Row:
    """Packing an explorer: energy, its gradient and samples of four methods over β and t."""
    from cepnb.notebook.sliders.frames import Panel, beta_slider, pack, time_slider
    from cepnb.notebook.sliders.layers import Arrows, Field, Points

    values = [index / 8 for index in range(9)]
    sliders = beta_slider(values, 0.0), time_slider(values, 0.0)
    names, generator = tuple(slider.name for slider in sliders), seeded(0, "bench frames")

    def random(*shape: int) -> Tensor:
        return torch.rand(9, 9, *shape, generator=generator)

    panels = []
    for index in range(4):
        field, arrows = Field(random(32, 32), names), Arrows(random(11, 11, 2), names)
        panels.append(Panel(str(index), (field, arrows, Points(random(500, 2), names))))
    call = lambda: pack(sliders, panels, "", 4)
    _, packed = call()
    return Row(call, "4 panels of 81", "frames", 4 * 81, len(packed))


# All rows by name, in the order of `ROW_NAMES`.
ROWS: dict[str, Callable[[Inputs], Row]] = {
    "behaviour": behaviour,
    "behaviour_bfloat16": partial(behaviour, precision="bfloat16"),
    "critic_cep": critic_cep,
    "support": support,
    "support_bfloat16": partial(support, precision="bfloat16"),
    "evaluation": evaluation,
    "toy": toy,
    "loading": loading,
    "maze": maze,
    "frames": frames,
}


def _training_step(
    loss: StepLoss, modules: dict[str, nn.Module], rate: float, after_step: Call | None = None
) -> Call:
    """Return a call that runs one step of the package's training loop and records its loss."""
    plan = Plan(steps=10**9, learning_rate=rate, record_every=1)
    steps = training(loss, modules, plan, seeded(0, "bench"), after_step=after_step, progress=False)
    return lambda: next(steps)


def measured(names: Sequence[str] = (), repeats: int = 7, peer: Path | None = None) -> dict:
    """Measure the named rows (default: all of `ROWS`) in `repeats` turns and return a record.

    A turn calls our code, the machine's limit, and the paper's code if `peer` is a checkout of it.
    Raises `CepnbError` on an unknown row, on fewer than one repeat, and on a wrong `peer`.
    """
    names = selected("row", names, ROWS, repeats)
    with tempfile.TemporaryDirectory() as folder, quiet():
        inputs = Inputs(Path(folder), SETTINGS)
        theirs = Peer(peer, inputs).rows() if peer else {}
        bar = progress_bar(names, desc="rows", leave=False)
        rows = [_measured_row(name, inputs, theirs.get(name), repeats) for name in bar]
    return timing.conditions() | {"turns": repeats, "rows": rows}


def _measured_row(
    name: str, inputs: Inputs, prepare_peer: Callable[[], Call] | None, repeats: int
) -> dict:
    row = ROWS[name](inputs)
    work = row.bytes or timing.operations(row.call)
    limit, limit_work = timing.copy() if row.bytes else timing.matrix_product()
    calls = {"ours": row.call, "limit": limit}
    if prepare_peer is not None:
        calls["peer"] = prepare_peer()
    for call in calls.values():
        call()
    seconds = timing.in_turns(calls, repeats)
    ours = seconds["ours"]
    return {
        "row": name,
        "size": row.size,
        "unit": row.unit,
        "seconds": median(ours),
        "per_second": row.count / median(ours),
        "limit": "bytes" if row.bytes else "operations",
        "work": work,
        "limit_per_second": limit_work / median(seconds["limit"]),
        "share": work / limit_work * timing.median_ratio(seconds["limit"], ours),
        "ratio": timing.median_ratio(seconds["peer"], ours) if "peer" in seconds else None,
    }


def rows_markdown(record: dict) -> str:
    """Format a record of `measured` as a table with the machine below it."""
    last = ("share of the machine's limit", "times the paper's code")
    head = ("row", "size", "a call", "speed", *last)
    lines = []
    for row in record["rows"]:
        milliseconds = f"{1e3 * row['seconds']:.3g} ms"
        speed = f"{row['per_second']:.3g} {row['unit']}/s"
        limit = "copying" if row["limit"] == "bytes" else "matrix products"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.1f}"
        share = f"{row['share']:.1%} of {limit}"
        lines.append((row["row"], row["size"], milliseconds, speed, share, ratio))
    return f"{markdown_table(head, lines)}\n\n{timing.conditions_text(record)}"
