"""QGPO end to end: five steps, each saved in the run's folder, so an interrupted run resumes."""

import math
import platform
from collections.abc import Callable
from dataclasses import InitVar, asdict, dataclass
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cepnb.datasets.coordinates import check_coordinates, load_examples, save_examples
from cepnb.datasets.dataset import OfflineDataset, check_rewards_vary, digest
from cepnb.diffusion.guidance import EnergyFunction
from cepnb.diffusion.networks import EpsNet, QEnsemble
from cepnb.diffusion.training import Module, draw, seeded
from cepnb.envs.d4rl_package import normalised_score
from cepnb.envs.registry import episodes_of, family_of
from cepnb.errors import CepnbError, in_a_line
from cepnb.profiles import profile_name
from cepnb.qgpo.behaviour import behaviour_net, train_behaviour
from cepnb.qgpo.critic import critic_net, policy_value, support_values, train_critic
from cepnb.qgpo.diagnostics import critic_errors, q_gains
from cepnb.qgpo.energy import energy_net, policy_dps_energy, train_energy
from cepnb.qgpo.evaluation import PolicyBatch, evaluate, policy_name
from cepnb.qgpo.joint import joint_nets, train_joint
from cepnb.qgpo.pretrained import CPU, Networks, device_of, load_networks
from cepnb.qgpo.record import check_run, left_out, open_run, read_metrics, refuse_other
from cepnb.qgpo.settings import Settings
from cepnb.qgpo.support import sample_support
from cepnb.qgpo.transitions import Transitions, prepare, with_jitter, with_reward_reach
from cepnb.storage.arrays import open_array
from cepnb.storage.files import check_writable, read_json, write_json
from cepnb.storage.runs import Run
from cepnb.storage.tensors import save_tensors
from cepnb.storage.validation import check_path, check_seed, check_type

EXAMPLES = "examples.safetensors"  # rows of the data, to check an environment that is named later
GAIN_STATES = 300  # of the gains in Q
Maker = Callable[..., Module]  # builds or trains a network


@dataclass
class Steps:
    """Steps 1 to 4 for one seed, each trained or loaded on first use, in the folder of `run`.

    With `settings.state_jitter`, steps 2 to 4 also use moved copies of the data. With
    `settings.energy_states`, the energies train on that many random states, with fresh actions of
    μ_θ: the minimiser of Eq. 20 does not depend on the distribution of states, so these may also be
    moved off the data (`settings.energy_jitter`), where policies go.
    """

    dataset: InitVar[OfflineDataset]
    settings: Settings
    seed: int
    run: Run
    progress: bool = True
    device: torch.device = CPU

    def __post_init__(self, dataset: OfflineDataset) -> None:
        self.chosen = self.settings, self.seed
        tuning, turned = self.settings.reward_tuning, self.settings.heading_frame
        data, self.scaling = prepare(dataset, tuning, turned)
        self.data = data.to(self.device)
        self.widths = data.states.shape[1], data.actions.shape[1]  # of states and actions

    @cached_property
    def seen(self) -> Transitions:
        """The data and, with `settings.state_jitter`, their moved copies."""
        jitter = self.settings.state_jitter
        return with_jitter(self.data, jitter, self.stream("jitter")) if jitter else self.data

    @cached_property
    def judged(self) -> Transitions:
        """The data of step 3: `seen`, where the rewards of copies fall with `settings.reward_reach`."""
        reach, count = self.settings.reward_reach, len(self.data.states)
        lowered = reach and len(self.seen.states) > count
        return with_reward_reach(self.seen, count, reach) if lowered else self.seen

    @cached_property
    def eps(self) -> EpsNet:
        """1. The behaviour model ε_θ; the scaling of observations is saved with it."""
        path = self.run.folder / "scaling.safetensors"
        moments = {"mean": self.scaling.mean, "deviation": self.scaling.deviation}
        self.run.ensure(path, lambda: save_tensors(path, moments))
        examples = self.data.states, self.data.actions
        return self._network("behaviour", behaviour_net, train_behaviour, *examples)

    @cached_property
    def support(self) -> Float[Tensor, "n K da"]:
        """2. K actions of μ_θ for each distinct state of `seen`."""
        return self._actions("support", self.seen.distinct, self.settings.K)

    @cached_property
    def q(self) -> QEnsemble:
        """3. The action value Q_ψ."""
        if self.settings.training == "joint":
            return self.joint["q"]
        return self._network("critic", critic_net, train_critic, self.judged, self.support)

    @cached_property
    def contrast_states(self) -> Float[Tensor, "n ds"]:
        """The states of step 4; with `settings.energy_jitter`, every second one is moved by noise."""
        count, jitter = self.settings.energy_states, self.settings.energy_jitter
        if not count:
            return self.seen.distinct
        generator = self.stream("energy states")
        (states,) = draw(generator, count, self.seen.distinct)
        if jitter:
            noise = torch.randn(states[1::2].shape, generator=generator, device=self.device)
            states[1::2] += jitter * noise
        return states

    @cached_property
    def contrast_actions(self) -> Float[Tensor, "n energy_K da"]:
        """Actions of μ_θ for each of `contrast_states`."""
        if not self.settings.energy_states:
            return self.support
        return self._actions("energy_support", self.contrast_states, self.settings.energy_K)

    @cached_property
    def values(self) -> Float[Tensor, "n energy_K"]:
        """Q̃ of each of `contrast_actions`: the labels of Eq. 20."""
        value = policy_value(self.q, self.settings)
        return support_values(value, self.contrast_states, self.contrast_actions)

    @cached_property
    def energies(self) -> dict[str, EnergyFunction]:
        """4. The energies of `settings.guidance`."""
        return {method: self.energy(method) for method in self.settings.guidance}

    def energy(self, method: str) -> EnergyFunction:
        """Return f_φ of one method; "dps" needs no training."""
        if method == "dps":
            return policy_dps_energy(self.eps, self.q, self.settings)
        if self.settings.training == "joint" and method in self.joint:
            return self.joint[method]
        examples = self.contrast_states, self.contrast_actions, self.values
        build, fit = partial(energy_net, q_net=self.q), partial(train_energy, q_net=self.q)
        return self._network(f"energy_{method}", build, fit, method, *examples)

    @cached_property
    def joint(self) -> nn.ModuleDict:
        """Steps 3 and 4 together, if `settings.training` is "joint"."""
        examples = self.judged, self.support, self.contrast_states, self.contrast_actions
        return self._network("joint", joint_nets, train_joint, *examples)

    @property
    def networks(self) -> Networks:
        """All networks; those that are missing are trained."""
        q = self.q if self.settings.needs_critic else None
        return Networks(self.eps, q, self.energies, self.scaling, *self.chosen)

    def stream(self, purpose: str) -> torch.Generator:
        """Return this seed's random stream for a purpose, on the device."""
        return seeded(self.seed, purpose, self.device)

    def _network(self, step: str, build: Maker, fit: Maker, *examples: object) -> Module:
        """Load the network of a step into one from `build`; if it is missing, train it by `fit`."""
        new = partial(build, *self.widths, *self.chosen)
        fitted = partial(fit, *examples, *self.chosen, progress=self.progress)
        net = self.run.module(step, new, lambda checkpoint: fitted(checkpoint=checkpoint))
        return net.to(self.device)

    def _actions(self, step: str, states: Float[Tensor, "n ds"], K: int) -> Float[Tensor, "n K da"]:
        """Load or sample the actions of a step; on a CPU they stay memory-mapped."""
        path = self.run.folder / f"{step}.npy"
        inputs = self.eps, states, K, *self.chosen, path, self.progress, step
        self.run.ensure(path, lambda: self.run.timed(step, partial(sample_support, *inputs)))
        actions, shape = open_array(path), (len(states), K, self.widths[1])
        if actions.shape != shape:
            raise CepnbError(f"{path}: shape is {tuple(actions.shape)}, not {shape}; delete it")
        return actions.to(self.device)


def configuration_of(
    dataset: OfflineDataset,
    environment: str | None,
    settings: Settings,
    profile: str,
    seed: int,
    device: str = "cpu",
) -> dict:
    """Return what identifies a run's folder; `environment` None and the CPU are left out.

    Raises `CepnbError` on constant rewards, and if the environment has other widths than the data.
    """
    check_rewards_vary(dataset)
    rows = len(dataset.rewards)
    configuration = {"dataset": dataset.name, "rows": rows, "digest": digest(dataset)}
    if environment is not None:
        widths = dataset.observations.shape[1], dataset.actions.shape[1]
        _check_widths(dataset.name, widths, environment, seed)
        configuration["environment"] = environment
    configuration |= {"profile": profile, "seed": seed, "settings": asdict(settings)}
    return configuration if device == "cpu" else configuration | {"device": device}


def _check_widths(name: str, widths: tuple[int, int], environment: str, seed: int) -> None:
    env = episodes_of(environment, 1, seed)
    if widths != (needed := (env.state_dim, env.action_dim)):
        problem = f"states and actions have widths {widths}, those of {environment} have {needed}"
        raise CepnbError(f"{name}: {problem}; use another environment")


def check_evaluation(environment: str) -> None:
    """Reset an environment once and look up its reference scores, which an evaluation needs.

    Raises `CepnbError`, whatever the simulator or the d4rl package raises.
    """
    try:
        episodes_of(environment, 1, 0).reset()
        normalised_score(f"local/{environment}", 0.0)
    except CepnbError:
        raise
    except Exception as error:
        problem = f"cannot be evaluated here ({in_a_line(error)})"
        home = "set HOME to a folder that you may write, or " if isinstance(error, OSError) else ""
        fix = f"{home}repair the installation"
        raise CepnbError(f"{environment}: {problem}; {fix}") from error


def set_bytes(dataset: OfflineDataset, settings: Settings) -> dict[str, int]:
    """Return about how many bytes each support set of a run takes."""
    if not settings.needs_critic:
        return {}
    rows = len(dataset.rewards) * (2 if settings.state_jitter else 1)
    actions = {"support": rows * settings.K}
    actions["energy_support"] = settings.energy_states * settings.energy_K
    size = getattr(torch, settings.support_storage).itemsize * dataset.actions.shape[1]
    return {step: count * size for step, count in actions.items()}


def stored_bytes(folder: Path, dataset: OfflineDataset, settings: Settings) -> int:
    """Return about how many bytes the missing support sets of a run in `folder` will take."""
    sets = set_bytes(dataset, settings)
    missing = (size for step, size in sets.items() if not (folder / f"{step}.npy").exists())
    partial = sum(path.stat().st_size for path in folder.glob("*.npy.partial"))
    return sum(missing) - partial


def run_qgpo(
    dataset: OfflineDataset,
    environment: str | None,
    settings: Settings,
    profile: str,
    seed: int,
    folder: str | Path,
    progress: bool = True,
    device: str | torch.device = CPU,
    evaluation: bool = True,
) -> dict:
    """Run all five steps in `folder`; return the contents of `metrics.json` (`record.Metrics`).

    Networks run on `device`, simulations on the CPU. A partial run resumes. With `evaluation` False
    nothing is scored and `environment` may be None; `evaluate_run` scores the folder later. Raises
    `CepnbError` before training if the folder holds another run, refuses files or lacks space, or
    if the evaluation cannot work here; and, after all is written, on `faults`: actions that are not
    finite, or a failing environment. To score again, delete `metrics.json`.
    """
    if evaluation and environment is None:
        raise CepnbError("environment is missing; name one, or train with evaluation=False")
    if environment is not None:
        family_of(environment)
    check_type("dataset", dataset, OfflineDataset, "load it by load_task")
    check_type("settings", settings, Settings, "use those of qgpo_settings")
    folder, device, seed = check_path("folder", folder), device_of(device), check_seed(seed)
    profile, path = profile_name(profile), folder / "metrics.json"
    if evaluation and not path.exists():
        check_evaluation(environment)
    configuration = configuration_of(dataset, environment, settings, profile, seed, device.type)
    refuse_other(folder, configuration)
    if path.exists():
        return evaluate_run(folder, environment, progress, device) if evaluation else _read(path)
    if environment is not None:
        check_coordinates(dataset, environment)
    check_writable(folder / "settings.json", stored_bytes(folder, dataset, settings))
    packages = {name: version(name) for name in ("torch", "mujoco", "numpy")}
    # The data may not fit the settings, so the folder is written after this line.
    steps = Steps(dataset, settings, seed, Run(folder), progress, device)
    run = steps.run = open_run(folder, configuration)
    if environment is None:
        run.ensure(folder / EXAMPLES, lambda: save_examples(dataset, folder / EXAMPLES))
    networks, scores, faults = steps.networks, [], []
    if evaluation:
        scores, faults = run.timed("evaluation", lambda: score(networks, environment, progress))
    diagnostics, not_finite = diagnose(steps)
    metrics = configuration | {"versions": {"python": platform.python_version()} | packages}
    metrics |= {"threads": torch.get_num_threads(), "seconds": run.seconds} | diagnostics
    return _written(path, metrics | {"scores": scores}, faults + not_finite)


def evaluate_run(
    folder: str | Path,
    environment: str,
    progress: bool = True,
    device: str | torch.device = CPU,
) -> dict:
    """Score the policies of a trained folder without its dataset; return its `metrics.json`.

    A folder that is scored already only returns its metrics. Raises `CepnbError` if training is not
    finished, if the folder belongs to another environment, and on faults as `run_qgpo` does.
    """
    family_of(environment)
    folder, device = check_path("folder", folder), device_of(device)
    path = folder / "metrics.json"
    check_run(folder)
    if not path.exists():
        raise CepnbError(f"{folder}: has no metrics.json; finish the training first")
    metrics = read_metrics(path, scored=False)
    if metrics.get("environment", environment) != environment:
        problem = f"trained for {metrics['environment']}, not {environment}"
        raise CepnbError(f"{path}: {problem}; train another run for {environment}")
    if "evaluation" in metrics["seconds"] or metrics["scores"]:
        return _read(path)
    check_writable(folder / "seconds.json")
    check_evaluation(environment)
    if (folder / EXAMPLES).exists():
        check_coordinates(load_examples(folder / EXAMPLES, metrics["dataset"]), environment)
    networks = load_networks(folder, device)
    widths = networks.scaling.width, networks.eps.out.out_features
    _check_widths(str(folder), widths, environment, networks.seed)
    run = Run(folder)
    scores, faults = run.timed("evaluation", lambda: score(networks, environment, progress))
    configuration = read_json(folder / "settings.json")
    write_json(folder / "settings.json", configuration | {"environment": environment})
    metrics |= {"environment": environment, "seconds": run.seconds, "scores": scores}
    return _written(path, metrics, faults + metrics.get("faults", []))


def score(networks: Networks, environment: str, progress: bool) -> tuple[list[dict], list[str]]:
    """Step 5: score behaviour, each energy at each scale, and best of K; return records and faults.

    The behaviour is evaluated in the batch of the first energy, at s = 0, if there is one.
    """
    settings, batches, behaviour = networks.settings, [], [("behaviour", 0.0)]
    if not networks.energies:
        batches.append(PolicyBatch(behaviour, partial(networks.policy, "behaviour")))
    for method in networks.energies:
        policies = behaviour + [(method, scale) for scale in settings.scales]
        batches.append(PolicyBatch(policies, partial(networks.policy, method)))
        behaviour = []
    if settings.best_of:
        batches.append(PolicyBatch([("best_of_k", None)], partial(networks.policy, "best_of_k")))
    task = environment, settings.episodes, networks.scaling, networks.seed + 10_000
    generator = seeded(networks.seed, "evaluation", networks.eps.out.bias.device)
    return evaluate(batches, *task, generator, progress)


def diagnose(steps: Steps) -> tuple[dict, list[str]]:
    """Measure level, spread and errors of Q, and the gains in Q; values that are not finite are faults."""
    if not steps.settings.needs_critic:
        return {}, []
    pools = steps.contrast_states, steps.contrast_actions
    states, actions = draw(steps.stream("gain states"), GAIN_STATES, *pools)
    inputs = steps.energies, states, steps.widths[1], steps.settings, steps.stream("gain")
    gains = q_gains(steps.eps, steps.q, *inputs)
    spread, discount = steps.values.std(dim=1).median().item(), steps.settings.discount
    levels = {"q_mean": support_values(steps.q, states, actions).mean().item()}
    levels["beta_times_q_spread"] = steps.settings.beta * spread  # 0: π's weights are equal
    levels |= critic_errors(steps.q, steps.data, steps.support[: len(steps.data.states)], discount)
    broken = [gain for gain in gains if not math.isfinite(gain["gain"])]
    names = [policy_name(gain["method"], gain["scale"]) for gain in broken]
    faults = [f"{name}: a gain in Q that is not finite" for name in names]
    faults += [f"{name}: not finite" for name, level in levels.items() if not math.isfinite(level)]
    diagnostics = {name: level for name, level in levels.items() if math.isfinite(level)}
    return diagnostics | {"gains": [gain for gain in gains if gain not in broken]}, faults


def _written(path: Path, metrics: dict, faults: list[str]) -> dict:
    """Write the metrics of a run and read them back; raise `CepnbError` if there are faults."""
    write_json(path, metrics | ({"faults": faults} if faults else {}))
    return _read(path)


def _read(path: Path) -> dict:
    """Read the metrics of a run; raise `CepnbError` if they list faults."""
    metrics = read_metrics(path, scored=False)
    if fault := left_out(path, metrics):
        raise CepnbError(fault)
    return metrics
