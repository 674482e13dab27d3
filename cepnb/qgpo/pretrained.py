"""Trained policies: load them from a run's folder, an exported file or the package; export them.

The shipped policies are exported from the runs that
`python -m cepnb qgpo --dataset local/NAME --profile laptop --seed 10 --out RUN` makes.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray as Array
from torch import Tensor

from cepnb.diffusion.devices import device_named
from cepnb.diffusion.guidance import EnergyFunction
from cepnb.diffusion.networks import EpsNet, QEnsemble
from cepnb.diffusion.training import Module, seeded
from cepnb.errors import CepnbError, in_a_line
from cepnb.qgpo.behaviour import behaviour_net
from cepnb.qgpo.critic import critic_net
from cepnb.qgpo.energy import TRAINED_ENERGIES, energy_net, policy_dps_energy
from cepnb.qgpo.policy import Policy, behaviour_policy, best_of_policy, guided_policy
from cepnb.qgpo.settings import Settings, coerce
from cepnb.qgpo.transitions import Scaling
from cepnb.storage.files import check_writable, read_json
from cepnb.storage.tensors import load_module, load_tensors, save_tensors, under
from cepnb.storage.validation import check_path, check_scale, check_seed

SHIPPED = Path(__file__).parents[1] / "assets/policies"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Networks:
    """Trained networks of one run, with the scaling and the settings of its policies."""

    eps: EpsNet
    q: QEnsemble | None  # None in a file without a critic
    energies: dict[str, EnergyFunction]  # by method, in the order of `settings.guidance`
    scaling: Scaling  # of observations
    settings: Settings
    seed: int

    @property
    def methods(self) -> list[str]:
        """The methods of `policy`: "behaviour", energies such as "cep", and perhaps "best_of_k"."""
        best_of = ["best_of_k"] if self.q is not None and self.settings.best_of else []
        return ["behaviour", *self.energies, *best_of]

    def policy(self, method: str, scale: float | Tensor) -> Policy:
        """Return the policy of scaled states for a method; `scale` is used by energies only."""
        action_dim = self.eps.out.out_features
        if method == "behaviour":
            return behaviour_policy(self.eps, action_dim, self.settings)
        if method == "best_of_k":
            return best_of_policy(self.eps, self.q, action_dim, self.settings)
        return guided_policy(self.eps, self.energies[method], scale, action_dim, self.settings)


class TrainedPolicy:
    """A trained policy with its own random stream: `policy(observations)` samples actions."""

    def __init__(self, networks: Networks, method: str, scale: float, seed: int) -> None:
        self._policy = networks.policy(method, scale)
        self._scaling = networks.scaling
        self._generator = seeded(seed, "policy")

    def __call__(self, observations: object) -> Array | Tensor:
        """Sample an action in [-1, 1] per observation: (..., ds) → (..., da), float32.

        Returns a tensor for a tensor, else a NumPy array. Raises `CepnbError` on observations that
        are not numbers, of another width, or not finite, and on actions that are not finite.
        """
        is_tensor, width = isinstance(observations, Tensor), self._scaling.width
        try:
            numbers = observations if is_tensor else np.array(observations, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise CepnbError(
                f"observations are no array of numbers ({in_a_line(error)})"
            ) from error
        states = torch.as_tensor(numbers, dtype=torch.float32)
        if states.ndim == 0 or states.shape[-1] != width:
            raise CepnbError(f"observations have shape {tuple(states.shape)}; use (..., {width})")
        if not states.isfinite().all():
            raise CepnbError("observations are not finite; check the environment")
        flat = self._scaling(states.cpu().reshape(-1, width))
        actions = self._policy(flat, self._generator)
        if not actions.isfinite().all():
            raise CepnbError(
                "actions are not finite; use a smaller scale or check the observations"
            )
        actions = actions.clamp(-1, 1).reshape(*states.shape[:-1], actions.shape[-1])
        return actions.to(observations.device) if is_tensor else actions.numpy()


def load_policy(
    path: str | Path, method: str = "cep", scale: float | None = None, seed: int = 0
) -> TrainedPolicy:
    """Load a policy that is called as `policy(observations)`.

    `path` is as in `load_networks`, `method` one of `Networks.methods`. `scale` is the guidance scale
    s; None is the run's headline scale. The same seed gives the same actions. Raises `CepnbError` on
    a missing or damaged path, an unknown method, a scale below 0, or another seed than 0 to 2³¹ − 1.
    """
    seed = check_seed(seed)
    networks = load_networks(path)
    if method not in networks.methods:
        raise CepnbError(f"{path}: has no '{method}'; use one of {', '.join(networks.methods)}")
    scale = check_scale(networks.settings.headline_scale if scale is None else scale)
    return TrainedPolicy(networks, method, scale, seed)


def export_policy(run: str | Path, path: str | Path) -> None:
    """Write the networks, observation scaling and settings of a trained run as one file."""
    run = check_path("run", run)
    check_writable(check_path("file", path))
    tensors, configuration = _read_run(run)
    _networks(tensors, configuration, run, CPU)  # raises `CepnbError` on damaged tensors
    save_tensors(path, tensors, {"run": json.dumps(configuration)})


def device_of(device: str | torch.device) -> torch.device:
    """Return a device given by name or as itself; raise `CepnbError` if it is missing or unknown."""
    if not isinstance(device, torch.device):
        return device_named(device)
    device_named(device.type)
    return device


def load_networks(path: str | Path, device: str | torch.device = CPU) -> Networks:
    """Load networks from a run's folder, an exported file or the name of a shipped policy."""
    path, device = check_path("policy", path), device_of(device)
    if path.is_dir():
        return _networks(*_read_run(path), path, device)
    file = path if path.exists() else SHIPPED / f"{path}.safetensors"
    if not file.exists():
        names = ", ".join(sorted(shipped.stem for shipped in SHIPPED.glob("*.safetensors")))
        fix = f"use a run's folder, an exported file, or one of {names}"
        raise CepnbError(f"policy '{path}' was not found; {fix}")
    tensors, metadata = load_tensors(file)
    try:
        configuration = json.loads(metadata["run"])
    except (KeyError, ValueError) as error:
        fix = "not an exported policy; use a file of `cepnb export`"
        raise CepnbError(f"{file}: {fix} ({in_a_line(error)})") from error
    return _networks(tensors, configuration, file, device)


def _read_run(folder: Path) -> tuple[dict[str, Tensor], dict]:
    """Read all networks of a run's folder, with the names of an exported file."""
    configuration = read_json(folder / "settings.json")
    settings = _settings(configuration, folder / "settings.json")
    energies = [method for method in settings.guidance if method in TRAINED_ENERGIES]
    names_in_joint = {"critic": "q"} if settings.needs_critic else {}
    names_in_joint |= {f"energy_{method}": method for method in energies}
    steps, parts, tensors = ["scaling", "behaviour"], {}, {}
    if settings.training == "joint":
        joint = load_tensors(folder / "joint.safetensors")[0]
        parts |= {part: under(joint, f"{name}.") for part, name in names_in_joint.items()}
    else:
        steps += names_in_joint
    parts |= {step: load_tensors(folder / f"{step}.safetensors")[0] for step in steps}
    for part, named in parts.items():
        tensors |= {f"{part}.{name}": tensor for name, tensor in named.items()}
    return tensors, configuration


def _networks(
    tensors: dict[str, Tensor], configuration: dict, source: Path, device: torch.device
) -> Networks:
    """Build the networks from their tensors; the critic and the energies are optional."""
    settings = _settings(configuration, source)
    try:
        moments = tensors["scaling.mean"], tensors["scaling.deviation"]
        scaling = Scaling(*moments, settings.heading_frame)
        chosen = settings, configuration["seed"]
        sizes = len(scaling.mean), len(tensors["behaviour.out.bias"]), *chosen
    except (KeyError, TypeError) as error:
        problem = f"the trained policy is incomplete ({in_a_line(error)}); export it again"
        raise CepnbError(f"{source}: {problem}") from error

    def loaded(net: Module, part: str) -> Module:
        load_module(net, under(tensors, f"{part}."), source)
        return net.requires_grad_(False).to(device)

    parts = {name.partition(".")[0] for name in tensors}
    eps = loaded(behaviour_net(*sizes), "behaviour")
    q = loaded(critic_net(*sizes), "critic") if "critic" in parts else None
    energies = {}
    for method in settings.guidance:
        if f"energy_{method}" in parts:
            energies[method] = loaded(energy_net(*sizes, q), f"energy_{method}")
        elif method == "dps" and q is not None:
            energies[method] = policy_dps_energy(eps, q, settings)
    return Networks(eps, q, energies, scaling, *chosen)


def _settings(configuration: object, source: Path) -> Settings:
    """Read the settings of a configuration; those it does not name have their defaults."""
    try:
        return Settings(**coerce(configuration["settings"]))
    except (KeyError, TypeError, CepnbError) as error:
        problem = f"the run's settings are damaged ({in_a_line(error)}); restore or retrain the run"
        raise CepnbError(f"{source}: {problem}") from error
