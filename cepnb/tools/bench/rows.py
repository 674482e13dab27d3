"""Define the timed rows: the costly parts of the package at the paper's sizes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cepnb.datasets.dataset import OfflineDataset
from cepnb.datasets.hdf5 import load_hdf5
from cepnb.datasets.local import write_dataset
from cepnb.datasets.waypoint import collect_maze
from cepnb.densities.methods import toy_energy_loss, toy_energy_net
from cepnb.densities.settings import ToySettings
from cepnb.densities.toys import density
from cepnb.diffusion.networks import EnergyNet, EpsNet, TwinQ
from cepnb.diffusion.training import Plan, StepLoss, seeded, training
from cepnb.notebook.explorer.frames import Panel, beta_slider, pack, time_slider
from cepnb.notebook.explorer.layers import Arrows, Field, Points
from cepnb.qgpo.behaviour import behaviour_loss, behaviour_net
from cepnb.qgpo.critic import critic_loss, critic_net, polyak_update
from cepnb.qgpo.energy import energy_loss, energy_net
from cepnb.qgpo.policy import guided_policy
from cepnb.qgpo.settings import Settings
from cepnb.qgpo.support import sample_support
from cepnb.qgpo.transitions import Transitions, prepare
from cepnb.storage.arrays import open_array, write_array
from cepnb.tools.bench.timing import Call

STATE_DIM, ACTION_DIM = 17, 6  # of halfcheetah and walker2d
TRANSITIONS = 200_000  # dataset rows, ten times the size of a processor's cache
CHUNK_ROWS = 50_000  # states whose random support actions are written together
SUPPORT_STATES = 256  # transitions a call, as in the paper's code
EPISODES = 10  # episodes stepped together at each scale, as in the paper's code
MAZE_ROWS = 5_000
TOY = replace(ToySettings(), K=2048, groups=1, width=512)  # the paper's sizes


@dataclass(frozen=True)
class Row:
    """One timed call, which processes `count` units.

    `bytes` is the data it moves; if 0, its floating-point operations are counted instead.
    """

    call: Call
    size: str
    unit: str
    count: int
    bytes: int = 0


class Inputs:
    """Inputs of the rows, created on first use: random data and untrained networks.

    The data has halfcheetah's dimensions and `rows` transitions, unless a `dataset` replaces it.
    Training data is moved to `device`.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings = Settings(),
        rows: int | None = None,
        dataset: OfflineDataset | None = None,
        device: torch.device = torch.device("cpu"),
    ) -> None:
        self.folder, self.settings, self.device = folder, settings, device
        self.rows = rows or TRANSITIONS
        if dataset is not None:
            self.dataset = dataset

    @cached_property
    def file(self) -> Path:
        """A random D4RL file with episodes of 1,000 rows."""
        random, rows = np.random.default_rng(0), self.rows
        arrays = {
            "observations": random.standard_normal((rows, STATE_DIM), dtype=np.float32),
            "actions": random.uniform(-1, 1, (rows, ACTION_DIM)).astype(np.float32),
            "rewards": random.standard_normal(rows, dtype=np.float32),
            "terminals": np.zeros(rows, dtype=bool),
            "timeouts": np.arange(1, rows + 1) % 1_000 == 0,
        }
        path = self.folder / f"random-{rows}.hdf5"
        write_dataset(path, arrays, {})
        return path

    @cached_property
    def dataset(self) -> OfflineDataset:
        return load_hdf5(self.file)

    @cached_property
    def data(self) -> Transitions:
        return prepare(self.dataset)[0].to(self.device)

    @property
    def shape(self) -> tuple[int, int]:
        """Dimensions of states and actions."""
        return self.data.states.shape[1], self.data.actions.shape[1]

    @cached_property
    def support(self) -> Tensor:
        """Random actions (n, K, da), memory-mapped like a support set (copied on a GPU)."""
        shape = (len(self.data.distinct), self.settings.K, self.shape[1])
        path = self.folder / f"support-{self.rows}.npy"

        def chunks(first: int) -> Iterator[Tensor]:
            generator = seeded(0, "bench support")
            for start in range(first * CHUNK_ROWS, shape[0], CHUNK_ROWS):
                rows = min(CHUNK_ROWS, shape[0] - start)
                yield 2 * torch.rand(rows, *shape[1:], generator=generator) - 1

        write_array(path, shape, torch.float32, CHUNK_ROWS, chunks)
        return open_array(path).to(self.device)

    @cached_property
    def support_states(self) -> Tensor:
        """The distinct states of the first `SUPPORT_STATES` transitions, next states included."""
        return self.data.distinct[: SUPPORT_STATES + 1]

    @cached_property
    def eps(self) -> EpsNet:
        return behaviour_net(*self.shape, self.settings, 0)

    @cached_property
    def q(self) -> TwinQ:
        return critic_net(*self.shape, self.settings, 0)

    @cached_property
    def energy(self) -> EnergyNet:
        return energy_net(*self.shape, self.settings, 0)


def behaviour(inputs: Inputs, precision: str = "float32") -> Row:
    """A training step of ε_θ, with matrix products in this precision."""
    settings, data = replace(inputs.settings, behaviour_precision=precision), inputs.data
    loss = behaviour_loss(inputs.eps, data.states, data.actions, settings)
    step = _training_step(loss, {"net": inputs.eps}, settings.behaviour_rate)
    size = f"batch {settings.behaviour_batch}, {STATE_DIM} + {ACTION_DIM} dimensions"
    return Row(step, size, "steps", 1)


def critic_cep(inputs: Inputs) -> Row:
    """A training step of Q_ψ (Eq. 22) and one of f_φ (Eq. 20)."""
    settings, data, q, energy = inputs.settings, inputs.data, inputs.q, inputs.energy
    target = critic_net(*inputs.shape, settings, 0).requires_grad_(False)
    loss = critic_loss(q, target, data, inputs.support, settings)
    critic_step = _training_step(
        loss,
        {"q": q, "target": target},
        settings.q_rate,
        lambda: polyak_update(q, target, settings.target_rate),
    )
    labels = torch.randn(inputs.support.shape[:2], generator=seeded(0, "bench labels"))
    loss = energy_loss("cep", energy, data.distinct, inputs.support, labels, settings)
    energy_step = _training_step(loss, {"net": energy}, settings.energy_rate)

    def call() -> None:
        critic_step()
        energy_step()

    return Row(call, f"batch {settings.q_batch}, K = {settings.K}", "steps", 1)


def support(inputs: Inputs, precision: str = "float32") -> Row:
    """K actions of μ_θ for some states, with ε_θ in this precision."""
    settings = replace(inputs.settings, support_precision=precision)
    net, states, K = inputs.eps, inputs.support_states, settings.K
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
    loss = toy_energy_loss("cep_self", net, gaussians, 3.0, TOY, 0)
    step = _training_step(loss, {"net": net}, TOY.rate)
    return Row(step, f"K = {TOY.K}, width {TOY.width}", "steps", 1)


def loading(inputs: Inputs) -> Row:
    """Loading a dataset from a D4RL file."""
    path, rows = inputs.file, inputs.rows
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
    """One step of the package's training loop, with its record."""
    plan = Plan(steps=10**9, learning_rate=rate, record_every=1)
    steps = training(loss, modules, plan, seeded(0, "bench"), after_step=after_step, progress=False)
    return lambda: next(steps)
