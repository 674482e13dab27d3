"""QGPO end to end: the five steps in a folder, each skipped when its file is there and resumed when it is half done."""

import platform
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from cepnb.errors import CepnbError
from cepnb.files import load_tensors, read_json, save_tensors, write_json
from cepnb.guidance import EnergyFunction, dps_energy
from cepnb.networks import EpsNet, TwinQ
from cepnb.offline.behaviour import behaviour_net, train_behaviour
from cepnb.offline.critic import critic_net, support_values, train_critic
from cepnb.offline.data import OfflineDataset, check_rewards_vary
from cepnb.offline.energy import energy_net, train_energy
from cepnb.offline.evaluation import evaluate
from cepnb.offline.gain import q_gains
from cepnb.offline.maze import maze_of
from cepnb.offline.policy import behaviour_policy, best_of_policy, guided_policy
from cepnb.offline.scaling import Scaling, Transitions, prepare, with_jitter
from cepnb.offline.support import sample_support
from cepnb.profiles import Settings
from cepnb.runs import Run
from cepnb.schedule import VPSchedule
from cepnb.training import draw, seeded


@dataclass(frozen=True)
class Trained:
    """Everything that the steps before evaluation make."""

    data: Transitions
    scaling: Scaling
    eps: EpsNet
    q: TwinQ
    contrast_states: Tensor  # (n, ds), of step 4
    contrast_actions: Tensor  # (n, energy_K, da), of μ_θ
    values: Tensor  # (n, energy_K), their Q
    energies: dict[str, EnergyFunction]  # of `settings.guidance`


def train_qgpo(dataset: OfflineDataset, settings: Settings, seed: int, run: Run, progress: bool = True) -> Trained:
    """Steps 1 to 4 for one seed: behaviour, support set, critic and the energies of `settings.guidance`.

    With `settings.state_jitter` steps 2 to 4 see jittered copies of the data beside it. With `settings.energy_states` the
    energies are trained on so many of these states, with fresh actions of μ_θ and their Q: the minimiser of Eq. 20 does
    not depend on how states are distributed, and needs nothing but the trained models.
    """
    schedule = VPSchedule()
    data, scaling = prepare(dataset)
    ds, da = data.states.shape[1], data.actions.shape[1]
    seen = with_jitter(data, settings.state_jitter, seeded(seed, "jitter")) if settings.state_jitter else data
    eps = run.module(
        "behaviour", lambda: behaviour_net(ds, da, settings, schedule, seed),
        lambda path: train_behaviour(data.states, data.actions, settings, schedule, seed, path, progress))
    support = _support(run, "support", eps, seen.distinct, settings.K, settings, schedule, seed, progress)
    q = run.module("critic", lambda: critic_net(data, settings, seed),
                   lambda path: train_critic(seen, support, settings, seed, path, progress))
    states, actions = seen.distinct, support
    if settings.energy_states:
        (states,) = draw(seeded(seed, "energy states"), settings.energy_states, seen.distinct)
        actions = _support(run, "energy_support", eps, states, settings.energy_K, settings, schedule, seed, progress)
    values = support_values(q, states, actions)
    energies = {
        method: dps_energy(eps, lambda a, s: -q(s, a.clamp(-1, 1)), settings.beta, schedule) if method == "dps" else run.module(
            f"energy_{method}", lambda: energy_net(ds, da, settings, schedule, seed),
            lambda path, method=method: train_energy(
                method, states, actions, values, settings, schedule, seed, path, progress))
        for method in settings.guidance}
    return Trained(data, scaling, eps, q, states, actions, values, energies)


def score(trained: Trained, environment: str, maze: str, settings: Settings, seed: int, progress: bool = True) -> list[dict]:
    """Step 5: a list of score records for behaviour, best of K, and each energy over the grid of scales."""
    schedule, da = VPSchedule(), trained.contrast_actions.shape[2]
    plain = behaviour_policy(trained.eps, da, settings, schedule)
    best = best_of_policy(trained.eps, trained.q, da, settings, schedule)
    policies = [("behaviour", lambda scales: plain, (0.0,)), ("best_of_k", lambda scales: best, (None,))]
    policies += [
        (method, lambda scales, energy=energy: guided_policy(trained.eps, energy, scales, da, settings, schedule),
         settings.scales) for method, energy in trained.energies.items()]
    generator = seeded(seed, "evaluation")
    return evaluate(policies, environment, maze, settings.episodes, trained.scaling, seed + 10_000, generator, progress)


def run_qgpo(dataset: OfflineDataset, environment: str, settings: Settings, profile: str, seed: int, folder: Path,
             progress: bool = True) -> dict:
    """All five steps into `folder`; returns (and writes) the contents of `metrics.json`.

    `environment` is where the policies are evaluated, such as maze2d-umaze. A folder that was begun is gone on with;
    raises `CepnbError` if it was begun with another dataset, seed or setting.
    """
    check_rewards_vary(dataset)
    maze = maze_of(environment)
    widths = (dataset.observations.shape[1], dataset.actions.shape[1])
    if widths != (4, 2):
        raise CepnbError(f"{dataset.name}: states and actions of width {widths}, expected (4, 2) for {environment}")
    configuration = {"dataset": dataset.name, "rows": len(dataset.rewards), "environment": environment,
                     "profile": profile, "seed": seed, "settings": asdict(settings)}
    run = Run(folder, configuration)
    path = folder / "metrics.json"
    if path.exists():
        return read_json(path)
    trained = train_qgpo(dataset, settings, seed, run, progress)
    scores = run.timed("evaluation", lambda: score(trained, environment, maze, settings, seed, progress))
    (few,) = draw(seeded(seed, "gain states"), 1_000, trained.contrast_states)
    gains = q_gains(trained.eps, trained.q, trained.energies, few, trained.contrast_actions.shape[2], settings,
                    VPSchedule(), seeded(seed, "gain"))
    spread = trained.values.std(dim=1)
    metrics = configuration | {
        "versions": {"python": platform.python_version()} | {p: version(p) for p in ("torch", "mujoco", "numpy")},
        "threads": torch.get_num_threads(),
        "seconds": run.seconds,
        "q_mean": trained.values.mean().item(),
        "beta_times_q_spread": settings.beta * spread.median().item(),  # how far from flat the policy's weights are
        "gains": gains,  # in Q over the behaviour, the measure of exact guidance
        "scores": scores,
    }
    write_json(path, metrics)
    return read_json(path)


def _support(run: Run, step: str, eps: EpsNet, states: Tensor, K: int, settings: Settings, schedule: VPSchedule, seed: int,
             progress: bool) -> Tensor:
    path, chunks = run.folder / f"{step}.safetensors", run.folder / f"{step}_chunks"
    if not path.exists():
        actions = run.timed(step, lambda: sample_support(
            eps, states, K, settings, schedule, seed, chunks, progress, step))
        save_tensors(path, {"actions": actions})
    shutil.rmtree(chunks, ignore_errors=True)
    actions = load_tensors(path)[0].get("actions", torch.empty(0))
    wanted = (len(states), K, eps.out.out_features)
    if actions.shape != wanted:
        raise CepnbError(f"{path}: actions of shape {tuple(actions.shape)}, expected {wanted}")
    return actions


def score_table(records: list[dict]) -> str:
    """Score records as aligned text, one a line."""
    lines = [f"{'method':<12}{'scale':>6}{'episodes':>10}{'return':>18}{'normalised':>18}"]
    for r in records:
        scale = "" if r["scale"] is None else f"{r['scale']:g}"
        lines.append(f"{r['method']:<12}{scale:>6}{r['episodes']:>10}{r['return_mean']:>10.1f} ± {r['return_se']:<5.1f}"
                     f"{r['normalised']:>10.1f} ± {r['normalised_se']:<5.1f}")
    return "\n".join(lines)
