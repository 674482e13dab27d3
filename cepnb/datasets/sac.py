"""Train the agents of the local locomotion data: soft actor-critic of sbx, an optional extra.

The variant is CrossQ (Bhatt et al. 2024): batch renormalisation instead of target networks.
"""

import json
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy import ndarray as Array

from cepnb.datasets.agents import Agent, episode_returns
from cepnb.envs.d4rl_package import reference_scores
from cepnb.envs.registry import task
from cepnb.errors import CepnbError
from cepnb.progress import progress_bar
from cepnb.storage.files import read_json, write_json
from cepnb.storage.runs import Run

STEPS = {"hopper": 200_000, "walker2d": 200_000, "halfcheetah": 360_000}
EVERY = 1_000  # steps between two saved agents
REPLAY_AGENTS = 20  # at most as many agents make up "medium-replay"
EPISODES = 10  # an agent's return is the mean over these
# Small networks, because one core trains them and the package ships the actors.
SETTINGS = dict(
    policy_kwargs={"net_arch": {"pi": [128, 128], "qf": [256, 256]}},
    learning_starts=5_000,
    batch_size=256,
    train_freq=8,
    gradient_steps=8,
)
LAYERS = {  # of sbx's actor: linear layer and the normalisation of its input
    "Dense_0": "BatchRenorm_0",
    "Dense_1": "BatchRenorm_1",
    "Dense_2": "BatchRenorm_2",  # mean
    "Dense_3": "BatchRenorm_2",  # log deviation
}
RENORM_EPSILON = 0.001


def make_history(name: str, steps: int | None, seed: int, folder: Path) -> Path:
    """Train on a locomotion task, score the agents, and write those that make up the datasets.

    Writes `folder`/NAME.safetensors. The medium agent is the first whose mean return reaches a
    third of D4RL's expert. The expert is the best agent of the last fifth. Up to `REPLAY_AGENTS`
    others are at equal distances up to the medium agent. Killed training restarts; scoring resumes.
    Raises `CepnbError` on an unknown task, without the extra, if no agent becomes medium, and if
    `folder` holds a training with another seed or number of steps.
    """
    environment, training = task(name), folder / f"{name}-training"
    steps = STEPS[name] if steps is None else steps
    if steps < EVERY:
        raise CepnbError(f"steps {steps}: use at least {EVERY}")
    import torch  # slow to import

    from cepnb.storage.tensors import save_tensors

    settings = {"environment": name, "steps": steps, "seed": seed, "settings": SETTINGS}
    Run(training, settings)
    train_actors(lambda: gymnasium_task(name), steps, EVERY, SETTINGS, seed, training)
    paths, scored = sorted(training.glob("*.safetensors")), training / "returns.json"
    returns: dict[str, float] = read_json(scored) if scored.exists() else {}

    def mean_return(path: Path) -> float:
        if path.stem not in returns:
            found = episode_returns(name, agent_of(path), EPISODES, seed=1)
            returns[path.stem] = float(found.mean())
            write_json(scored, returns)
        return returns[path.stem]

    target = reference_scores(f"local/{name}")[1] / 3
    for medium in progress_bar(paths, desc="scoring"):
        if mean_return(medium) >= target:
            break
    else:
        problem = f"no agent reaches a return of {target:.0f} in {steps} steps"
        raise CepnbError(f"{name}: {problem}; train for more steps")
    expert = max(paths[-len(paths) // 5 :], key=mean_return)
    count = paths.index(medium) + 1
    replay = {paths[count - 1 - i * count // REPLAY_AGENTS] for i in range(REPLAY_AGENTS)}
    chosen, tensors = sorted(replay | {expert}), {}  # the medium agent is in `replay`
    for path in chosen:
        for i, weight in enumerate(agent_of(path).weights):
            tensors[f"{int(path.stem)}.{i}"] = torch.from_numpy(weight.astype(np.float32))
    chosen_returns = {str(int(path.stem)): round(mean_return(path), 1) for path in chosen}
    recipe = settings | {
        "environment": environment,
        "algorithm": "CrossQ",
        "returns": chosen_returns,
    }
    recipe |= {"medium": int(medium.stem), "expert": int(expert.stem)}
    recipe["versions"] = read_json(training / "ended.json")
    file = folder / f"{name}.safetensors"
    save_tensors(file, tensors, {"recipe": json.dumps(recipe)})
    return file


def gymnasium_task(name: str) -> "gymnasium.Env":
    """Create gymnasium's environment of a locomotion task."""
    import gymnasium

    return gymnasium.make(task(name))


def agent_of(path: Path) -> Agent:
    """Load sbx's actor from a file of the training as an `Agent`.

    Each linear layer takes a renormalised input g x + c with g = scale/√(variance + 0.001) and
    c = bias − g mean. So it equals a plain layer with weights g W and offset c W + b.
    """
    from cepnb.storage.tensors import load_tensors  # imports torch

    tensors = {name: tensor.double().numpy() for name, tensor in load_tensors(path)[0].items()}
    weights: list[Array] = []
    for dense, norm in LAYERS.items():
        scale, offset = (tensors[f"params/{norm}/{part}"] for part in ("scale", "bias"))
        gain = scale / np.sqrt(tensors[f"stats/{norm}/var"] + RENORM_EPSILON)
        shift = offset - gain * tensors[f"stats/{norm}/mean"]
        kernel, bias = (tensors[f"params/{dense}/{part}"] for part in ("kernel", "bias"))
        weights += [gain[:, None] * kernel, shift @ kernel + bias]
    return Agent(tuple(weights))


def train_actors(
    make: Callable[[], "gymnasium.Env"],
    steps: int,
    every: int,
    settings: dict,
    seed: int,
    folder: Path,
) -> None:
    """Train by CrossQ of sbx and save the actor every `every` steps; `ended.json` marks the end.

    Returns at once if the training in `folder` has ended; killed training restarts. Raises
    `CepnbError` without the extra.
    """
    if (folder / "ended.json").exists():
        return
    for path in folder.glob("*.safetensors"):
        path.unlink()  # from killed training
    try:
        import jax
        import torch
        from sbx import CrossQ
        from stable_baselines3.common.callbacks import BaseCallback
    except ImportError as error:
        remedy = "install the extra: pip install 'cepnb[agents]'"
        raise CepnbError(f"{error.name}: not installed; {remedy}") from error
    from cepnb.storage.tensors import save_tensors

    class SaveActor(BaseCallback):
        def _on_step(self) -> bool:
            bar.update()
            if self.num_timesteps % every == 0:
                actor, tensors = self.model.policy.actor_state, {}
                parts = {"params": actor.params, "stats": actor.batch_stats}
                for keys, leaf in jax.tree_util.tree_flatten_with_path(parts)[0]:
                    tensor_name = "/".join(str(key.key) for key in keys)
                    tensors[tensor_name] = torch.from_numpy(np.array(leaf))
                save_tensors(folder / f"{self.num_timesteps:07d}.safetensors", tensors)
            return True

    with (
        warnings.catch_warnings(),
        progress_bar(total=steps, desc="CrossQ", mininterval=0.5) as bar,
    ):
        warnings.simplefilter("ignore")
        model = CrossQ("MlpPolicy", make(), seed=seed, **settings)
        model.learn(steps, callback=SaveActor())
    packages = ("sbx-rl", "jax", "gymnasium", "mujoco")
    write_json(folder / "ended.json", {package: version(package) for package in packages})
