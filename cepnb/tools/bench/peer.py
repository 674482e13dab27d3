"""Run the paper's public code, imported from a local checkout, on the same inputs as `rows`.

That code expects a GPU, and D4RL with MuJoCo 2.1. Our device replaces its default "cuda", and
stand-ins for `gym` and `d4rl` return our dataset.
"""

import importlib
import io
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from cepnb.densities.mixtures import Density
from cepnb.densities.toys import density
from cepnb.diffusion.networks import parameter_count
from cepnb.diffusion.training import seeded
from cepnb.errors import CepnbError
from cepnb.tools.bench.inputs import BETA, EPISODES, SUPPORT_STATES, TOY, Inputs
from cepnb.tools.bench.options import check_checkout
from cepnb.tools.bench.timing import Call

MODULES = (
    "diffusion_SDE.schedule",
    "diffusion_SDE.loss",
    "diffusion_SDE.model",
    "diffusion_SDE.unconditional_model",
    "dataset.dataset",
)
REPLACED = ("gym", "d4rl", "dataset", "diffusion_SDE")  # packages imported for the checkout only
COLUMNS = ("observations", "actions", "next_observations", "rewards", "terminals")


class Peer:
    """Networks, dataset and training steps of the paper's code.

    Raises `CepnbError` if `path` is not a checkout of the code or if its networks have other sizes
    than ours.
    """

    def __init__(self, path: Path, inputs: Inputs) -> None:
        self.inputs, self.settings, device = inputs, inputs.settings, inputs.device
        self.arguments = Namespace(env="", device=device, alpha=BETA, q_alpha=1.0, method="CEP")
        with _importable(path, inputs):
            try:
                modules = [importlib.import_module(name) for name in MODULES]
                schedule, self.loss, model, self.unconditional, self.dataset = modules
                self.marginal = schedule.marginal_prob_std
                self.marginal.__defaults__ = (device,)
                self.data = self.dataset.D4RL_dataset(self.arguments)
                dims = sum(inputs.shape), inputs.shape[1]
                net = model.ScoreNet(*dims, self.marginal, args=self.arguments)
            except (ImportError, AttributeError, TypeError) as error:
                raise CepnbError(
                    f"{path}: not the supported version of the paper's code ({error}); "
                    "use a checkout of its public version"
                ) from error
        self.net = net.to(device)
        self.critic = self.net.q[0]
        self._check_sizes(path)

    def rows(self) -> dict[str, Callable[[], Call]]:
        """Return functions that prepare the counterparts of our rows, by row name."""
        methods = (self.behaviour, self.critic_cep, self.support, self.evaluation, self.toy)
        rows = {method.__name__: method for method in methods}
        return rows | {f"{name}_bfloat16": rows[name] for name in ("behaviour", "support")}

    def behaviour(self) -> Call:
        """Prepare a step of train_behavior.py, including its data loader."""
        batches = _batches(self.data, self.settings.behaviour_batch)
        return self._score_step(self.net, batches, self.settings.behaviour_rate)

    def critic_cep(self) -> Call:
        """Prepare a step of train_critic.py in its first half, which trains Q and the energy."""
        batches = self._support_batches()

        def step() -> None:
            batch = next(batches)
            self.critic.update_q0(batch)
            self.critic.update_qt(batch)

        return step

    def cep(self) -> Call:
        """Prepare a step of train_critic.py in its second half, which trains the energy only."""
        batches = self._support_batches()
        return lambda: self.critic.update_qt(next(batches))

    def support(self) -> Call:
        """Prepare support sampling as in train_critic.py (states and next states, scale 0)."""
        columns = (self.data.states, self.data.next_states)
        batches = [column[:SUPPORT_STATES].cpu().numpy() for column in columns]

        def sample() -> None:
            self.critic.guidance_scale = 0.0
            for states in batches:
                self.net.sample(states, self.settings.K, self.settings.sampler_steps)

        return sample

    def evaluation(self) -> Call:
        """Prepare sampling of one action for `EPISODES` states at one scale after the other."""
        states = self.data.states[:EPISODES].cpu().numpy()

        def act() -> None:
            for scale in (0.0, *self.settings.scales):
                self.critic.guidance_scale = scale
                self.net.select_actions(states, self.settings.sampler_steps)

        return act

    def toy(self) -> Call:
        """Prepare an energy step of bandit_toy.py on samples of our eight Gaussians."""
        return self.toy_model(density("8gaussians"), TOY.K * 100).energy_step

    def toy_model(self, of: Density, points: int) -> "ToyModel":
        """Build the paper's untrained toy networks, with `points` samples of a density as data."""
        x, energy = of.sample(points, seeded(0, "bench toy"))
        examples = object.__new__(self.dataset.Toy_dataset)  # its own samples need a GPU
        examples.datanum, examples.datas = points, x
        examples.energy = -energy.unsqueeze(1)  # the paper's code uses the opposite sign
        net = self.unconditional.Bandit_MlpScoreNet(2, 2, self.marginal, args=self.arguments)
        batches = _batches(examples, TOY.K)
        energy_step = lambda: net.q[0].update_qt(next(batches))
        return ToyModel(net, self.marginal, self._score_step(net, batches, 1e-4), energy_step)

    def _score_step(self, net: nn.Module, batches: Iterator[dict], rate: float) -> Call:
        """Prepare a step of the score network; toy batches have no states "s"."""
        adam = torch.optim.Adam(net.parameters(), lr=rate)

        def step() -> None:
            batch = next(batches)
            net.condition = batch.get("s")
            error = self.loss.loss_fn(net, batch["a"], self.marginal)
            adam.zero_grad()
            error.backward()
            adam.step()

        return step

    def _support_batches(self) -> Iterator[dict[str, Tensor]]:
        support = self.inputs.support
        self.data.fake_actions = support[: len(self.data)]
        self.data.fake_next_actions = support[self.inputs.data.next_row]
        return _batches(self.data, self.settings.q_batch)

    def _check_sizes(self, path: Path) -> None:
        """Compare parameter counts; the time embedding is left out because it differs by design."""
        ours = {"behaviour": self.inputs.eps, "energy": self.inputs.energy, "critic": self.inputs.q}
        for (name, net), peer in zip(ours.items(), (self.net, self.critic.qt, self.critic.q0)):
            embedding = parameter_count(peer.embed) if hasattr(peer, "embed") else 0
            found, count = parameter_count(peer) - embedding, parameter_count(net)
            if found != count:
                raise CepnbError(
                    f"{path}: the {name} network has {found} parameters besides its time embedding, "
                    f"but ours has {count}; use the paper's settings"
                )


@dataclass
class ToyModel:
    """The paper's score and energy networks for a toy density, with the steps of bandit_toy.py."""

    net: nn.Module
    marginal: Callable
    score_step: Call
    energy_step: Call

    @torch.no_grad()
    def eps(self, xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Predict the noise, ε = −σ_t · score."""
        t = t.expand(len(xt)).to(xt.dtype)
        sigma = self.marginal(t)[1].unsqueeze(1)
        return -sigma * self.net(xt, t)

    def gradient(self, xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return ∇f; the paper's code uses the opposite sign."""
        t = t.expand(len(xt)).to(xt.dtype)
        return -self.net.q[0].calculate_guidance(xt.detach().clone(), t)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings and standard output; restore both and torch's random state at the end."""
    random = torch.random.fork_rng(devices=[])
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), random:
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _importable(path: Path, inputs: Inputs) -> Iterator[None]:
    """Make the checkout importable, with stand-ins for `gym` and `d4rl`; restore all modules."""
    root = check_checkout(path)
    columns = {name: getattr(inputs.dataset, name).numpy() for name in COLUMNS}
    gym, d4rl = ModuleType("gym"), ModuleType("d4rl")
    gym.make = lambda name: None
    d4rl.qlearning_dataset = lambda env: columns
    before = dict(sys.modules)
    sys.modules.update(gym=gym, d4rl=d4rl)
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))
        for name in list(sys.modules):
            if name.split(".")[0] in REPLACED:
                del sys.modules[name]
        sys.modules.update(before)


def _batches(data: Dataset, size: int) -> Iterator[dict[str, Tensor]]:
    """Yield shuffled batches without end, as the paper's code does."""
    loader = DataLoader(data, batch_size=size, shuffle=True)
    while True:
        yield from loader
