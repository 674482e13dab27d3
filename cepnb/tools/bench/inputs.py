"""Create the inputs of the benchmarks: random data and untrained networks of the paper's sizes."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cepnb.datasets.dataset import OfflineDataset
from cepnb.datasets.hdf5 import load_hdf5
from cepnb.datasets.local import write_dataset
from cepnb.densities.settings import ToySettings
from cepnb.diffusion.networks import EnergyNet, EpsNet, QEnsemble
from cepnb.qgpo.behaviour import behaviour_net
from cepnb.qgpo.critic import critic_net
from cepnb.qgpo.energy import energy_net
from cepnb.qgpo.settings import Settings
from cepnb.qgpo.transitions import Transitions, prepare
from cepnb.storage.arrays import open_array, reserve_array

STATE_DIM, ACTION_DIM = 17, 6  # of halfcheetah and walker2d
SUPPORT_STATES = 256  # transitions a call, as in the paper's code
EPISODES = 10  # episodes stepped together at each scale, as in the paper's code
BETA = 3.0  # for policies and toy densities
# The paper's sizes, with data of ten times the size of a processor's cache.
SETTINGS = replace(Settings(), transitions=200_000)
TOY = replace(ToySettings(), K=2048, groups=1, width=512)


@dataclass
class Inputs:
    """Inputs of the rows, created on first use: data on `device`, and untrained networks.

    The data is `given`, or `settings.transitions` random rows of halfcheetah's dimensions.
    """

    folder: Path
    settings: Settings
    given: OfflineDataset | None = None
    device: torch.device = torch.device("cpu")

    @cached_property
    def file(self) -> Path:
        """A random D4RL file with episodes of 1,000 rows."""
        random, rows = np.random.default_rng(0), self.settings.transitions
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
        return load_hdf5(self.file) if self.given is None else self.given

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
        path = self.folder / f"support-{self.settings.transitions}.npy"
        shape = (len(self.data.distinct), self.settings.K, self.shape[1])
        actions = reserve_array(path, np.dtype("float32"), shape)
        np.random.default_rng(1).random(dtype=np.float32, out=actions)
        actions *= 2
        actions -= 1
        return open_array(path).to(self.device)

    @cached_property
    def eps(self) -> EpsNet:
        return behaviour_net(*self.shape, self.settings, 0)

    @cached_property
    def q(self) -> QEnsemble:
        return critic_net(*self.shape, self.settings, 0)

    @cached_property
    def energy(self) -> EnergyNet:
        return energy_net(*self.shape, self.settings, 0, self.q)
