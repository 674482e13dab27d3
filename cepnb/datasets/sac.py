"""Train the agents of the local locomotion data: soft actor-critic of sbx, an optional extra."""

import json
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from cepnb.datasets.agents import Agent, episode_returns
from cepnb.envs.d4rl_package import reference_scores
from cepnb.envs.locomotion import task
from cepnb.errors import CepnbError
from cepnb.storage.files import load_tensors, read_json, save_tensors, write_json
from cepnb.storage.runs import Run

STEPS = 1_000_000  # as for the agents of D4RL's data
EVERY = 2_000  # steps between two saved agents
REPLAY_AGENTS = 20  # at most as many agents make up "medium-replay"
EPISODES = 10  # an agent's return is the mean over these
# Small networks, because one core trains them and the package ships them.
SETTINGS = dict(
    policy_kwargs={"net_arch": {"pi": [128, 128], "qf": [128, 128]}},
    learning_starts=5_000,
    batch_size=128,
    train_freq=64,
    gradient_steps=64,
)
LAYERS = ("Dense_0", "Dense_1", "Dense_2", "Dense_3")


def make_history(name: str, steps: int | None, seed: int, folder: Path) -> Path:
    """Train on a locomotion task, score the agents, and write those that make up the datasets.

    Writes `folder`/NAME.safetensors. The medium agent is the first whose mean return reaches a
    third of D4RL's expert. The expert is the best agent of the last fifth. Up to `REPLAY_AGENTS`
    others are at equal distances up to the medium agent. Killed training restarts; scoring resumes.
    Raises `CepnbError` on an unknown task, without the extra, if no agent becomes medium, and if
    `folder` holds a training with another seed or number of steps.
    """
    environment, training = task(name), folder / f"{name}-training"
    steps = STEPS if steps is None else steps
    if steps < EVERY:
        raise CepnbError(f"steps {steps}: use at least {EVERY}")
    settings = {"environment": name, "steps": steps, "seed": seed, "settings": SETTINGS}
    Run(training, settings)
    if not (training / "ended.json").exists():
        for path in training.glob("*.safetensors"):
            path.unlink()  # from killed training
        _train(name, steps, seed, training)
    paths, scored = sorted(training.glob("*.safetensors")), training / "returns.json"
    returns: dict[str, float] = read_json(scored) if scored.exists() else {}

    def mean_return(path: Path) -> float:
        if path.stem not in returns:
            found = episode_returns(name, agent_of(path), EPISODES, seed=1)
            returns[path.stem] = float(found.mean())
            write_json(scored, returns)
        return returns[path.stem]

    target = reference_scores(f"local/{name}")[1] / 3
    for medium in tqdm(paths, desc="scoring"):
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
    recipe = settings | {"environment": environment, "algorithm": "SAC", "returns": chosen_returns}
    recipe |= {"medium": int(medium.stem), "expert": int(expert.stem)}
    recipe["versions"] = read_json(training / "ended.json")
    file = folder / f"{name}.safetensors"
    save_tensors(file, tensors, {"recipe": json.dumps(recipe)})
    return file


def agent_of(path: Path) -> Agent:
    """Load sbx's actor from a file of the training as an `Agent`."""
    tensors = load_tensors(path)[0]
    names = [f"params/{layer}/{part}" for layer in LAYERS for part in ("kernel", "bias")]
    return Agent(tuple(tensors[name].double().numpy() for name in names))


def _train(name: str, steps: int, seed: int, folder: Path) -> None:
    """Train with sbx and save the actor every `EVERY` steps; `ended.json` marks the end."""
    try:
        import gymnasium
        import jax
        from sbx import SAC
        from stable_baselines3.common.callbacks import BaseCallback
    except ImportError as error:
        remedy = "install the extra: pip install 'cepnb[agents]'"
        raise CepnbError(f"{error.name}: not installed; {remedy}") from error

    class SaveActor(BaseCallback):
        def _on_step(self) -> bool:
            bar.update()
            if self.num_timesteps % EVERY == 0:
                params, tensors = self.model.policy.actor_state.params, {}
                for keys, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
                    tensor_name = "/".join(str(key.key) for key in keys)
                    tensors[tensor_name] = torch.from_numpy(np.array(leaf))
                save_tensors(folder / f"{self.num_timesteps:07d}.safetensors", tensors)
            return True

    with warnings.catch_warnings(), tqdm(total=steps, desc=f"SAC, {name}", mininterval=0.5) as bar:
        warnings.simplefilter("ignore")
        model = SAC("MlpPolicy", gymnasium.make(task(name)), seed=seed, **SETTINGS)
        model.learn(steps, callback=SaveActor())
    packages = ("sbx-rl", "jax", "gymnasium", "mujoco")
    write_json(folder / "ended.json", {package: version(package) for package in packages})
