"""QGPO end to end: the five steps in a folder, each skipped when its file is there and resumed when it is half done."""

import math
import platform
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cepnb.datasets.dataset import OfflineDataset, check_rewards_vary, digest
from cepnb.diffusion.guidance import EnergyFunction, dps_energy
from cepnb.diffusion.networks import EpsNet, TwinQ
from cepnb.diffusion.schedule import VPSchedule
from cepnb.diffusion.training import Module, draw, seeded
from cepnb.envs.registry import episodes_of
from cepnb.errors import CepnbError
from cepnb.qgpo.behaviour import behaviour_net, behaviour_plan, train_behaviour
from cepnb.qgpo.critic import critic_net, critic_plan, support_values, train_critic
from cepnb.qgpo.diagnostics import q_gains
from cepnb.qgpo.energy import energy_net, energy_plan, train_energy
from cepnb.qgpo.evaluation import evaluate, policy_name
from cepnb.qgpo.joint import joint_nets, train_joint
from cepnb.qgpo.policy import best_of_policy, guided_policy
from cepnb.qgpo.record import left_out, open_run, read_metrics
from cepnb.qgpo.settings import Settings
from cepnb.qgpo.support import sample_support
from cepnb.qgpo.transitions import Transitions, prepare, with_jitter
from cepnb.storage.arrays import mapped_tensor
from cepnb.storage.files import write_json
from cepnb.storage.runs import Run

CPU = torch.device("cpu")


class Steps:
    """Steps 1 to 4 for one seed, each made on `device` when it is first asked for, and kept in the folder of `run`.

    With `settings.state_jitter` steps 2 to 4 see jittered copies of the data beside it. With `settings.energy_states` the
    energies are trained on so many of these states, with fresh actions of μ_θ and their Q: the minimiser of Eq. 20 does
    not depend on how states are distributed, and needs nothing but the trained models.
    """

    def __init__(
        self,
        dataset: OfflineDataset,
        settings: Settings,
        seed: int,
        run: Run,
        progress: bool = True,
        device: torch.device = CPU,
    ) -> None:
        self.settings, self.seed, self.run, self.progress, self.schedule = (
            settings,
            seed,
            run,
            progress,
            VPSchedule(),
        )
        self.device = device
        data, self.scaling = prepare(dataset, settings.reward_tuning)
        self.data = data.to(device)
        self.state_dim, self.action_dim = self.data.states.shape[1], self.data.actions.shape[1]

    @cached_property
    def seen(self) -> Transitions:
        """What steps 2 to 4 see of the data."""
        jitter = self.settings.state_jitter
        return with_jitter(self.data, jitter, self.stream("jitter")) if jitter else self.data

    @cached_property
    def eps(self) -> EpsNet:
        """1. The behaviour model ε_θ."""
        return self._module(
            "behaviour",
            lambda: behaviour_net(
                self.state_dim, self.action_dim, self.settings, self.schedule, self.seed
            ),
            lambda path: train_behaviour(
                self.data.states,
                self.data.actions,
                self.settings,
                self.schedule,
                self.seed,
                path,
                self.progress,
            ),
        )

    @cached_property
    def support(self) -> Float[Tensor, "n K da"]:
        """2. K actions of μ_θ for each distinct state of `seen`."""
        return self._actions("support", self.seen.distinct, self.settings.K)

    @cached_property
    def joint(self) -> nn.ModuleDict:
        """Steps 3 and 4 together, if `settings.training` is "joint"."""
        support, states, actions = self.support, self.contrast_states, self.contrast_actions
        return self._module(
            "joint",
            lambda: joint_nets(self.data, self.action_dim, self.settings, self.schedule, self.seed),
            lambda path: train_joint(
                self.seen,
                support,
                states,
                actions,
                self.settings,
                self.schedule,
                self.seed,
                path,
                self.progress,
            ),
        )

    @cached_property
    def q(self) -> TwinQ:
        """3. The action value Q_ψ."""
        if self.settings.training == "joint":
            return self.joint["q"]
        support = self.support  # first, so that each step's time is its own
        return self._module(
            "critic",
            lambda: critic_net(self.data, self.settings, self.seed),
            lambda path: train_critic(
                self.seen, support, self.settings, self.seed, path, self.progress
            ),
        )

    @cached_property
    def contrast_states(self) -> Float[Tensor, "n ds"]:
        """The states of step 4."""
        if not self.settings.energy_states:
            return self.seen.distinct
        return draw(self.stream("energy states"), self.settings.energy_states, self.seen.distinct)[
            0
        ]

    @cached_property
    def contrast_actions(self) -> Float[Tensor, "n energy_K da"]:
        """Actions of μ_θ for each of them."""
        if not self.settings.energy_states:
            return self.support
        return self._actions("energy_support", self.contrast_states, self.settings.energy_K)

    @cached_property
    def values(self) -> Float[Tensor, "n energy_K"]:
        """Their Q."""
        return support_values(self.q, self.contrast_states, self.contrast_actions)

    @cached_property
    def energies(self) -> dict[str, EnergyFunction]:
        """4. The energies of `settings.guidance`."""
        return {method: self.energy(method) for method in self.settings.guidance}

    def energy(self, method: str) -> EnergyFunction:
        """f_φ by one method; DPS needs no training, and sees Q of actions held in [-1, 1]."""
        if method == "dps":
            return dps_energy(
                self.eps, lambda a, s: -self.q(s, a.clamp(-1, 1)), self.settings.beta, self.schedule
            )
        if self.settings.training == "joint" and method in self.joint:
            return self.joint[method]
        examples = self.contrast_states, self.contrast_actions, self.values
        return self._module(
            f"energy_{method}",
            lambda: energy_net(
                self.state_dim, self.action_dim, self.settings, self.schedule, self.seed
            ),
            lambda path: train_energy(
                method, *examples, self.settings, self.schedule, self.seed, path, self.progress
            ),
        )

    def stream(self, purpose: str) -> torch.Generator:
        """The random stream of this seed for a purpose, on the device."""
        return seeded(self.seed, purpose, self.device)

    def _module(
        self, step: str, build: Callable[[], Module], fit: Callable[[Path], Module]
    ) -> Module:
        return self.run.module(step, build, fit).to(self.device)

    def _actions(self, step: str, states: Float[Tensor, "n ds"], K: int) -> Float[Tensor, "n K da"]:
        """From their file: on a processor mapped, so that they need not fit into memory."""
        path, eps = self.run.folder / f"{step}.safetensors", self.eps

        def make() -> None:
            self.run.timed(
                step,
                lambda: sample_support(
                    eps,
                    states,
                    K,
                    self.settings,
                    self.schedule,
                    self.seed,
                    path,
                    self.progress,
                    step,
                ),
            )

        actions = mapped_tensor(self.run.kept(path, make), "actions")
        wanted = (len(states), K, self.action_dim)
        if actions.shape != wanted:
            raise CepnbError(f"{path}: actions of shape {tuple(actions.shape)}, expected {wanted}")
        return actions.to(self.device)


def score(trained: Steps, environment: str, faults: list[str]) -> list[dict]:
    """Step 5: a list of score records for behaviour, best of K, and each energy over the grid of scales.

    A policy whose actions are not finite has no record: `faults` gets a line that names it, and the others go on.
    """
    settings, schedule, da = trained.settings, trained.schedule, trained.action_dim
    batches, behaviour = [], [("behaviour", 0.0)]
    for method, energy in trained.energies.items():
        policies = behaviour + [
            (method, scale) for scale in settings.scales
        ]  # s = 0 beside the others of the first energy
        batches.append(
            (
                policies,
                lambda scales, energy=energy: guided_policy(
                    trained.eps, energy, scales, da, settings, schedule
                ),
            )
        )
        behaviour = []
    if settings.best_of:
        best = best_of_policy(trained.eps, trained.q, da, settings, schedule)
        batches.append(([("best_of_k", None)], lambda scales: best))
    return evaluate(
        batches,
        environment,
        settings.episodes,
        trained.scaling,
        trained.seed + 10_000,
        trained.stream("evaluation"),
        trained.progress,
        faults,
    )


def check_plans(settings: Settings) -> None:
    """Raises `CepnbError` naming the first setting by which a step cannot be trained."""
    for plan in (behaviour_plan, critic_plan, energy_plan):
        plan(settings)


def configuration_of(
    dataset: OfflineDataset,
    environment: str,
    settings: Settings,
    profile: str,
    seed: int,
    device: str = "cpu",
) -> dict:
    """What a run's folder is told apart by; a processor, where runs are made by default, is not named.

    Raises `CepnbError` on data that cannot be learned from or evaluated there, and as `check_plans`.
    """
    check_plans(settings)
    check_rewards_vary(dataset)
    widths, env = (
        (dataset.observations.shape[1], dataset.actions.shape[1]),
        episodes_of(environment, 1, seed),
    )
    if widths != (env.state_dim, env.action_dim):
        raise CepnbError(
            f"{dataset.name}: states and actions of width {widths}, expected {(env.state_dim, env.action_dim)} "
            f"for {environment}"
        )
    return {
        "dataset": dataset.name,
        "rows": len(dataset.rewards),
        "digest": digest(dataset),
        "environment": environment,
        "profile": profile,
        "seed": seed,
        "settings": asdict(settings),
    } | ({} if device == "cpu" else {"device": device})


def run_qgpo(
    dataset: OfflineDataset,
    environment: str,
    settings: Settings,
    profile: str,
    seed: int,
    folder: Path,
    progress: bool = True,
    device: torch.device = CPU,
) -> dict:
    """All five steps into `folder`; returns (and writes) the contents of `metrics.json`.

    `environment` is where the policies are evaluated, such as maze2d-umaze, and `device` where networks are
    trained and asked; simulations run on the processor. A folder that was begun is gone on with; raises `CepnbError` if it was
    begun with another dataset, seed, setting or device (random numbers of a GPU are others), and, after all others are
    written, if something could not be scored: the actions of a policy are not finite, or the environment fails.
    `metrics.json` names it then as `faults`; without that file it is tried again.
    """
    configuration = configuration_of(dataset, environment, settings, profile, seed, device.type)
    run = open_run(folder, configuration)
    path = folder / "metrics.json"
    if path.exists():
        return _without_faults(path)
    trained, faults = Steps(dataset, settings, seed, run, progress, device), []
    energies = (
        trained.energies
    )  # and with them all that they need, before the time of the evaluation is taken
    scores = run.timed("evaluation", lambda: score(trained, environment, faults))
    (few,) = draw(trained.stream("gain states"), 1_000, trained.contrast_states)
    gains = q_gains(
        trained.eps,
        trained.q,
        energies,
        few,
        trained.action_dim,
        settings,
        trained.schedule,
        trained.stream("gain"),
    )
    faults += [
        f"{policy_name(g['method'], g['scale'])}: a gain in Q that is not finite"
        for g in gains
        if not math.isfinite(g["gain"])
    ]
    spread = trained.values.std(dim=1).median().item()
    levels = {
        "q_mean": trained.values.mean().item(),
        "beta_times_q_spread": settings.beta * spread,
    }  # how far from flat the policy's weights are
    faults += [f"{name}: not finite" for name, level in levels.items() if not math.isfinite(level)]
    metrics = (
        configuration
        | {
            "versions": {"python": platform.python_version()}
            | {p: version(p) for p in ("torch", "mujoco", "numpy")},
            "threads": torch.get_num_threads(),
            "seconds": run.seconds,
            **{name: level for name, level in levels.items() if math.isfinite(level)},
            "gains": [
                g for g in gains if math.isfinite(g["gain"])
            ],  # in Q over the behaviour, the measure of exact guidance
            "scores": scores,
        }
        | ({"faults": faults} if faults else {})
    )
    write_json(path, metrics)
    return _without_faults(path)


def _without_faults(path: Path) -> dict:
    metrics = read_metrics(path)
    if fault := left_out(path, metrics):
        raise CepnbError(fault)
    return metrics


def scores_text(records: list[dict]) -> str:
    """Score records as aligned text, one a line."""
    lines = [f"{'method':<12}{'scale':>6}{'episodes':>10}{'return':>18}{'normalised':>18}"]
    for r in records:
        scale = "" if r["scale"] is None else f"{r['scale']:g}"
        lines.append(
            f"{r['method']:<12}{scale:>6}{r['episodes']:>10}{r['return_mean']:>10.1f} ± {r['return_se']:<5.1f}"
            f"{r['normalised']:>10.1f} ± {r['normalised_se']:<5.1f}"
        )
    return "\n".join(lines)
