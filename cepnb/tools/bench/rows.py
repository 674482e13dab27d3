"""What is timed: the parts of this package that take its time, each through the code that does it, at the paper's sizes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cepnb.datasets.dataset import OfflineDataset
from cepnb.datasets.hdf5 import load_hdf5
from cepnb.datasets.local import write_dataset
from cepnb.datasets.waypoint import collect_maze
from cepnb.densities.methods import toy_energy_loss as toy_energy_loss
from cepnb.densities.methods import toy_energy_net as toy_energy_net
from cepnb.densities.settings import ToySettings
from cepnb.densities.toys import density
from cepnb.diffusion.networks import EnergyNet, EpsNet, TwinQ
from cepnb.diffusion.schedule import VPSchedule
from cepnb.diffusion.training import Plan, StepLoss, seeded, training
from cepnb.notebook.explorer.frames import Panel, beta_slider, pack, time_slider
from cepnb.notebook.explorer.layers import Arrows, Field, Points
from cepnb.qgpo.behaviour import behaviour_loss, behaviour_net
from cepnb.qgpo.critic import critic_loss, critic_net, polyak_update
from cepnb.qgpo.energy import batch_loss, energy_net
from cepnb.qgpo.policy import guided_policy
from cepnb.qgpo.settings import Settings
from cepnb.qgpo.support import sample_support
from cepnb.qgpo.transitions import Transitions, prepare
from cepnb.storage.arrays import mapped_tensor, write_pieces

STATE_DIM, ACTION_DIM = 17, 6  # of halfcheetah and walker2d
TRANSITIONS = 200_000  # of the dataset, ten times what a processor's cache holds
PIECE = 50_000  # states whose support actions are made together
SUPPORT_STATES = 256  # of one call; the paper's code takes so many at a time
EPISODES = 10  # stepped together, at each scale; so many has the paper's code
MAZE_ROWS = 5_000
SCHEDULE = VPSchedule()
TOY = replace(
    ToySettings(), K=2048, groups=1, width=512
)  # the paper's own sizes, where the profile has found better ones


@dataclass(frozen=True)
class Row:
    """One call that is timed, and what it does: `count` units. `bytes` if it moves data, else its operations are counted."""

    call: Callable[[], object]
    size: str
    unit: str
    count: int
    bytes: int = 0


class Inputs:
    """What the rows work on, made when it is first asked for: random numbers of the shape of a halfcheetah dataset.

    Of `rows` transitions if they are given, or else of the data of a `dataset`; what is learned from is on `device`.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings = Settings(),
        rows: int | None = None,
        dataset: OfflineDataset | None = None,
        device: torch.device = torch.device("cpu"),
    ) -> None:
        self.folder, self.settings, self.rows, self.device = (
            folder,
            settings,
            rows or TRANSITIONS,
            device,
        )
        if dataset is not None:
            self.dataset = dataset

    @cached_property
    def file(self) -> Path:
        """A D4RL file of episodes of 1,000 rows."""
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
        """Widths of a state and of an action."""
        return self.data.states.shape[1], self.data.actions.shape[1]

    @cached_property
    def support(self) -> Tensor:
        """Actions in the place of a support set of all distinct states, mapped as such a set is (a copy of it on a GPU)."""
        rows, shape = len(self.data.distinct), (self.settings.K, self.shape[1])
        path, generator = self.folder / f"random-{rows}.safetensors", seeded(0, "bench support")
        pieces = (min(PIECE, rows - first) for first in range(0, rows, PIECE))
        write_pieces(
            path,
            "actions",
            (rows, *shape),
            torch.float32,
            PIECE,
            lambda first: (
                2 * torch.rand(piece, *shape, generator=generator) - 1 for piece in pieces
            ),
        )
        return mapped_tensor(path, "actions").to(self.device)

    @cached_property
    def few(self) -> Tensor:
        """The distinct states of `SUPPORT_STATES` transitions in a row: one more than those, if no episode ends there."""
        return self.data.distinct[: SUPPORT_STATES + 1]

    @cached_property
    def eps(self) -> EpsNet:
        return behaviour_net(*self.shape, self.settings, SCHEDULE, 0)

    @cached_property
    def q(self) -> TwinQ:
        return critic_net(self.data, self.settings, 0)

    @cached_property
    def energy(self) -> EnergyNet:
        return energy_net(*self.shape, self.settings, SCHEDULE, 0)


def behaviour(inputs: Inputs, precision: str = "float32") -> Row:
    """A training step of ε_θ, with its products of matrices in this precision."""
    settings = replace(inputs.settings, behaviour_precision=precision)
    loss = behaviour_loss(inputs.eps, inputs.data.states, inputs.data.actions, settings, SCHEDULE)
    batch = inputs.settings.behaviour_batch
    return Row(
        _step(loss, {"net": inputs.eps}, inputs.settings.behaviour_rate),
        f"batch {batch}, {STATE_DIM} + {ACTION_DIM} dimensions",
        "steps",
        1,
    )


def behaviour_bfloat16(inputs: Inputs) -> Row:
    """The same in bfloat16."""
    return behaviour(inputs, "bfloat16")


def critic_cep(inputs: Inputs) -> Row:
    """A training step of Q_ψ and one of f_φ."""
    settings, data, target = (
        inputs.settings,
        inputs.data,
        critic_net(inputs.data, inputs.settings, 0).requires_grad_(False),
    )
    critic = _step(
        critic_loss(inputs.q, target, data, inputs.support, settings),
        {"q": inputs.q, "target": target},
        settings.q_rate,
        polyak_update(inputs.q, target, settings.target_rate),
    )
    labels = torch.randn(inputs.support.shape[:2], generator=seeded(0, "bench labels"))
    cep = _step(
        batch_loss("cep", inputs.energy, data.distinct, inputs.support, labels, settings, SCHEDULE),
        {"net": inputs.energy},
        settings.energy_rate,
    )
    return Row(lambda: (critic(), cep()), f"batch {settings.q_batch}, K = {settings.K}", "steps", 1)


def support(inputs: Inputs, precision: str = "float32") -> Row:
    """K actions of μ_θ for some states, with ε_θ in this precision."""
    settings, states = replace(inputs.settings, support_precision=precision), inputs.few
    return Row(
        lambda: sample_support(
            inputs.eps, states, settings.K, settings, SCHEDULE, 0, progress=False
        ),
        f"{SUPPORT_STATES} transitions, K = {settings.K}, {settings.sampler_steps} evaluations",
        "actions",
        len(states) * settings.K,
    )


def support_bfloat16(inputs: Inputs) -> Row:
    """The same in bfloat16."""
    return support(inputs, "bfloat16")


def evaluation(inputs: Inputs) -> Row:
    """The policies of all scales in one batch, the behaviour's at s = 0 among them."""
    settings, states = inputs.settings, inputs.data.states[:EPISODES]
    scales, generator = (0.0, *settings.scales), seeded(0, "bench evaluation")
    strength = torch.tensor(scales).repeat_interleave(EPISODES)
    guided = guided_policy(inputs.eps, inputs.energy, strength, ACTION_DIM, settings, SCHEDULE)
    return Row(
        lambda: guided(states.repeat(len(scales), 1), generator),
        f"{EPISODES} states at {len(scales)} scales, {settings.sampler_steps} evaluations",
        "actions",
        len(scales) * EPISODES,
    )


def toy(inputs: Inputs) -> Row:
    """A training step of f_φ on eight Gaussians."""
    gaussians = density("8gaussians")
    net = toy_energy_net(gaussians, TOY, 0)
    return Row(
        _step(toy_energy_loss("cep_self", net, gaussians, 3.0, TOY, 0), {"net": net}, TOY.rate),
        f"K = {TOY.K}, width {TOY.width}",
        "steps",
        1,
    )


def loading(inputs: Inputs) -> Row:
    """A dataset from a file in D4RL's layout."""
    kept = inputs.dataset
    size = sum(t.numel() * t.element_size() for t in vars(kept).values() if isinstance(t, Tensor))
    return Row(
        lambda: load_hdf5(inputs.file),
        f"HDF5 file of {inputs.rows} rows",
        "rows",
        inputs.rows,
        size,
    )


def maze(inputs: Inputs) -> Row:
    """A maze dataset made anew."""
    size = sum(
        array.nbytes for array in collect_maze("large", MAZE_ROWS, 0, progress=False).values()
    )
    return Row(
        lambda: collect_maze("large", MAZE_ROWS, 0, progress=False),
        f"maze2d-large, {MAZE_ROWS} rows",
        "rows",
        MAZE_ROWS,
        size,
    )


def frames(inputs: Inputs) -> Row:
    """Four methods side by side over β and t, as in the explorer: an energy, its push and samples of each."""
    values = [index / 8 for index in range(9)]
    sliders = beta_slider(values, 0.0), time_slider(values, 0.0)
    over, generator = tuple(slider.name for slider in sliders), seeded(0, "bench frames")

    def over_sliders(*shape: int) -> Tensor:
        return torch.rand(9, 9, *shape, generator=generator)

    panels = [
        Panel(
            str(index),
            (
                Field(over_sliders(32, 32), over),
                Arrows(over_sliders(11, 11, 2), over),
                Points(over_sliders(500, 2), over),
            ),
        )
        for index in range(4)
    ]
    _, packed = pack(sliders, panels, "", 4)
    return Row(
        lambda: pack(sliders, panels, "", 4), "4 panels of 81", "frames", 4 * 81, len(packed)
    )


ROWS: dict[str, Callable[[Inputs], Row]] = {
    row.__name__: row
    for row in (
        behaviour,
        behaviour_bfloat16,
        critic_cep,
        support,
        support_bfloat16,
        evaluation,
        toy,
        loading,
        maze,
        frames,
    )
}


def _step(
    loss: StepLoss,
    modules: dict[str, torch.nn.Module],
    rate: float,
    after_step: Callable[[], None] | None = None,
) -> Callable[[], object]:
    """One step of the training loop of everything, with its record."""
    plan = Plan(steps=10**9, learning_rate=rate, record_every=1)
    steps = training(loss, modules, plan, seeded(0, "bench"), after_step=after_step, progress=False)
    return lambda: next(steps)
