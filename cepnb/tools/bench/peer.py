"""The paper's own public code, from a checkout of the reader's, doing what `rows` does on the same inputs.

Nothing of it is in this package: its modules are imported from the folder that is named. It was written for a GPU and for
D4RL with MuJoCo 2.1; here "cuda" in a default is replaced by the device of the inputs, and `gym` and `d4rl` are stand-ins
that hand over our dataset.
"""

import importlib
import io
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from cepnb.densities.mixtures import Density
from cepnb.densities.toys import density
from cepnb.diffusion.networks import parameter_count
from cepnb.diffusion.training import seeded
from cepnb.errors import CepnbError
from cepnb.tools.bench.rows import EPISODES, SUPPORT_STATES, TOY, Inputs

FOLDER = "Offline_RL_2D"
MODULES = ("schedule", "loss", "model", "unconditional_model")
BETA = 3.0  # of both its energies; its "alpha"


class Peer:
    """Its networks, datasets and steps. Raises `CepnbError` if `path` does not hold its code or another version of it."""

    def __init__(self, path: Path, inputs: Inputs) -> None:
        self.inputs = inputs
        with _importable(path, inputs):
            try:
                parts = [importlib.import_module(f"diffusion_SDE.{name}") for name in MODULES]
                self.schedule, self.loss, self.model, self.unconditional = parts
                self.dataset = importlib.import_module("dataset.dataset")
                self.schedule.marginal_prob_std.__defaults__ = (inputs.device,)
                self.arguments = Namespace(
                    env="", device=inputs.device, alpha=BETA, q_alpha=1.0, method="CEP"
                )
                self.data = self.dataset.D4RL_dataset(self.arguments)
                self.net = self.model.ScoreNet(
                    sum(inputs.shape),
                    inputs.shape[1],
                    self.schedule.marginal_prob_std,
                    args=self.arguments,
                ).to(inputs.device)
            except (ImportError, AttributeError, TypeError) as error:
                raise CepnbError(
                    f"{path}: not the version of the paper's code that is known here ({error})"
                ) from error
        self.critic = self.net.q[0]
        self._check(path)

    def calls(self) -> dict[str, Callable[[], Callable[[], object]]]:
        """For each row that has a counterpart what makes the call to be timed."""
        return {
            "behaviour": self.behaviour,
            "behaviour_bfloat16": self.behaviour,
            "critic_cep": self.critic_cep,
            "support": self.support,
            "support_bfloat16": self.support,
            "evaluation": self.evaluation,
            "toy": self.toy,
        }

    def behaviour(self) -> Callable[[], object]:
        """A step of its train_behavior.py, loader included."""
        batches = _endless(
            DataLoader(self.data, batch_size=self.inputs.settings.behaviour_batch, shuffle=True)
        )
        adam = torch.optim.Adam(self.net.parameters(), lr=self.inputs.settings.behaviour_rate)

        def step() -> None:
            batch = next(batches)
            self.net.condition = batch["s"]
            error = self.loss.loss_fn(self.net, batch["a"], self.schedule.marginal_prob_std)
            adam.zero_grad()
            error.backward()
            adam.step()

        return step

    def critic_cep(self) -> Callable[[], object]:
        """A step of its train_critic.py, of the first half, in which Q is still learned."""
        batches = self._with_support()

        def step() -> None:
            batch = next(batches)
            self.critic.update_q0(batch)
            self.critic.update_qt(batch)

        return step

    def cep(self) -> Callable[[], object]:
        """A step of it, of the second half, in which the energy alone is learned."""
        batches = self._with_support()
        return lambda: self.critic.update_qt(next(batches))

    def _with_support(self) -> Iterator[dict[str, Tensor]]:
        support = self.inputs.support
        self.data.fake_actions = support[: len(self.data)]
        self.data.fake_next_actions = support[self.inputs.data.next_row]
        return _endless(
            DataLoader(self.data, batch_size=self.inputs.settings.q_batch, shuffle=True)
        )

    def support(self) -> Callable[[], object]:
        """Support actions of states and of next states, as its train_critic.py has them sampled, guidance at scale 0."""
        few = (
            self.data.states[:SUPPORT_STATES].cpu().numpy(),
            self.data.next_states[:SUPPORT_STATES].cpu().numpy(),
        )

        def sample() -> list[np.ndarray]:
            self.critic.guidance_scale = 0.0
            return [
                self.net.sample(states, self.inputs.settings.K, self.inputs.settings.sampler_steps)
                for states in few
            ]

        return sample

    def evaluation(self) -> Callable[[], object]:
        """Actions of `EPISODES` states at one scale after the other, 0 the first."""
        states = self.data.states[:EPISODES].cpu().numpy()

        def act() -> list[list[np.ndarray]]:
            actions = []
            for scale in (0.0, *self.inputs.settings.scales):
                self.critic.guidance_scale = scale
                actions.append(self.net.select_actions(states, self.inputs.settings.sampler_steps))
            return actions

        return act

    def toy(self) -> Callable[[], object]:
        """A step of the energy in its bandit_toy.py, on samples of our density: its class would make its own on a GPU."""
        return self.toy_model(density("8gaussians"), BETA, TOY.K * 100).energy_step

    def toy_model(self, of: Density, beta: float, points: int) -> "ToyModel":
        """Its two networks for a density, untrained, and so many samples of it."""
        examples = object.__new__(self.dataset.Toy_dataset)
        x, energy = of.sample(points, seeded(0, "bench toy"))
        examples.datanum, examples.datas, examples.energy = (
            points,
            x,
            -energy.unsqueeze(1),
        )  # its energies are high where p_0 is
        arguments = Namespace(**{**vars(self.arguments), "alpha": beta})
        net = self.unconditional.Bandit_MlpScoreNet(
            2, 2, self.schedule.marginal_prob_std, args=arguments
        )
        return ToyModel(
            net,
            self.loss.loss_fn,
            self.schedule.marginal_prob_std,
            DataLoader(examples, batch_size=TOY.K, shuffle=True),
        )

    def _check(self, path: Path) -> None:
        """That both have networks of one size, but for the linear layer and frequencies of its time embedding."""
        for name, ours, theirs in (
            ("behaviour", self.inputs.eps, self.net),
            ("energy", self.inputs.energy, self.critic.qt),
            ("twin Q", self.inputs.q, self.critic.q0),
        ):
            extra = parameter_count(theirs.embed) if hasattr(theirs, "embed") else 0
            if parameter_count(theirs) - extra != parameter_count(ours):
                raise CepnbError(
                    f"{path}: its {name} has {parameter_count(theirs) - extra} parameters without its time "
                    f"embedding, expected {parameter_count(ours)}"
                )


class ToyModel:
    """Its score and energy of a density, with the steps of its bandit_toy.py and what they have learned in our terms."""

    def __init__(
        self, net: nn.Module, loss: Callable, marginal_prob_std: Callable, loader: DataLoader
    ) -> None:
        self.net, self._loss, self._std, self._batches = (
            net,
            loss,
            marginal_prob_std,
            _endless(loader),
        )
        self._adam = torch.optim.Adam(net.parameters(), lr=1e-4)

    def score_step(self) -> None:
        error = self._loss(self.net, next(self._batches)["a"], self._std)
        self._adam.zero_grad()
        error.backward()
        self._adam.step()

    def energy_step(self) -> None:
        self.net.q[0].update_qt(next(self._batches))

    def eps(self, xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Noise prediction −σ_t · score."""
        t = t.expand(len(xt)).to(xt.dtype)
        with torch.no_grad():
            return -self._std(t)[1].unsqueeze(1) * self.net(xt, t)

    def gradient(self, xt: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """∇f: its energy has the other sign."""
        return -self.net.q[0].calculate_guidance(
            xt.detach().clone(), t.expand(len(xt)).to(xt.dtype)
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Within, what the paper's code prints and warns of is not seen."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _importable(path: Path, inputs: Inputs) -> Iterator[None]:
    """Within, its modules can be imported by the names they have for each other; after that those names are free again."""
    missing = [
        name
        for name in (*(f"diffusion_SDE/{module}.py" for module in MODULES), "dataset/dataset.py")
        if not (path / FOLDER / name).is_file()
    ]
    if missing:
        raise CepnbError(
            f"{path}: no {FOLDER}/{missing[0]}, expected a checkout of the paper's code"
        )
    dataset, before = inputs.dataset, dict(sys.modules)
    columns = {
        name: getattr(dataset, name).numpy()
        for name in ("observations", "actions", "next_observations", "rewards", "terminals")
    }
    gym, d4rl = ModuleType("gym"), ModuleType("d4rl")
    gym.make, d4rl.qlearning_dataset = lambda name: None, lambda env: columns
    sys.modules.update(gym=gym, d4rl=d4rl)
    sys.path.insert(0, str(path / FOLDER))
    try:
        yield
    finally:
        sys.path.remove(str(path / FOLDER))
        for name in [
            name
            for name in sys.modules
            if name.split(".")[0] in ("gym", "d4rl", "dataset", "diffusion_SDE")
        ]:
            del sys.modules[name]
        sys.modules.update(
            {name: module for name, module in before.items() if name not in sys.modules}
        )


def _endless(loader: DataLoader) -> Iterator[dict[str, Tensor]]:
    while True:
        yield from loader
