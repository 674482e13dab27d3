"""How the agents of the local locomotion data are trained: soft actor-critic of the library sbx, an optional extra."""

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

STEPS = {"hopper": 400_000, "walker2d": 300_000, "halfcheetah": 300_000}
EVERY = 2_000  # steps between the agents that are kept while training
KEPT = 20  # of these up to the medium one
EPISODES = 10  # by which an agent is judged
SETTINGS = dict(
    policy_kwargs={"net_arch": {"pi": [64, 64], "qf": [128, 128]}},
    learning_starts=5_000,
    batch_size=128,
    train_freq=8,
    gradient_steps=8,
)  # small networks: two cores, and agents that are shipped
LAYERS = ("Dense_0", "Dense_1", "Dense_2", "Dense_3")


def make_history(
    name: str, steps: int | None, seed: int, folder: Path, progress: bool = True
) -> Path:
    """Train on a locomotion task, judge the agents on the way, and write those that the datasets are made of.

    Into `folder`/NAME.safetensors: the medium agent is the first whose mean return over `EPISODES` episodes is a third of
    D4RL's expert, the expert the best of the last fifth, and at most `KEPT` others lie at even distances up to the
    medium one. A killed training begins anew; judging goes on where it was. Raises `CepnbError` on an unknown task, without
    the extra, if no agent gets as far as the medium one, and on what another seed or number of steps has left in `folder`.
    """
    task(name)
    steps = STEPS[name] if steps is None else steps
    if steps < EVERY:
        raise CepnbError(f"steps {steps}: expected at least {EVERY}")
    kept = folder / f"{name}-training"
    Run(kept, {"environment": name, "steps": steps, "seed": seed, "settings": SETTINGS})
    if not (kept / "ended.json").exists():
        for path in kept.glob("*.safetensors"):
            path.unlink()  # of a training that was killed
        _train(name, steps, seed, kept, progress)
    paths = sorted(kept.glob("*.safetensors"))
    judged: dict[str, float] = (
        read_json(kept / "returns.json") if (kept / "returns.json").exists() else {}
    )
    wanted = reference_scores(f"local/{name}")[1] / 3

    def mean_return(path: Path) -> float:
        if path.stem not in judged:
            judged[path.stem] = float(
                episode_returns(name, agent_of(path), EPISODES, seed=1).mean()
            )
            write_json(kept / "returns.json", judged)
        return judged[path.stem]

    medium = next(
        (
            path
            for path in tqdm(paths, desc="judging", disable=not progress)
            if mean_return(path) >= wanted
        ),
        None,
    )
    if medium is None:
        raise CepnbError(
            f"{name}: no agent has reached a return of {wanted:.0f} in {steps} steps, expected more steps"
        )
    expert = max(paths[-len(paths) // 5 :], key=mean_return)
    before = paths[: paths.index(medium) + 1]
    chosen = {before[-1 - i * len(before) // KEPT] for i in range(KEPT)} | {medium, expert}
    recipe = {
        "environment": task(name),
        "algorithm": "SAC",
        "settings": SETTINGS,
        "steps": steps,
        "seed": seed,
        "medium": int(medium.stem),
        "expert": int(expert.stem),
        "returns": {str(int(path.stem)): round(mean_return(path), 1) for path in sorted(chosen)},
        "versions": read_json(kept / "ended.json"),
    }
    tensors = {
        f"{int(path.stem)}.{i}": torch.from_numpy(w.astype(np.float32))
        for path in sorted(chosen)
        for i, w in enumerate(agent_of(path).weights)
    }
    save_tensors(folder / f"{name}.safetensors", tensors, {"recipe": json.dumps(recipe)})
    return folder / f"{name}.safetensors"


def agent_of(path: Path) -> Agent:
    """The agent that sbx's actor is, from the file that the training keeps."""
    tensors = load_tensors(path)[0]
    return Agent(
        tuple(
            tensors[f"params/{layer}/{part}"].double().numpy()
            for layer in LAYERS
            for part in ("kernel", "bias")
        )
    )


def _train(name: str, steps: int, seed: int, folder: Path, progress: bool) -> None:
    try:
        import gymnasium
        import jax
        from sbx import SAC
        from stable_baselines3.common.callbacks import BaseCallback
    except ImportError as error:
        raise CepnbError(
            f"{error.name}: not installed, expected the extra: pip install 'cepnb[agents]'"
        ) from error

    class Keep(BaseCallback):
        """Keeps the actor's weights every so often."""

        def _on_step(self) -> bool:
            bar.update()
            if self.num_timesteps % EVERY == 0:
                leaves = jax.tree_util.tree_flatten_with_path(self.model.policy.actor_state.params)[
                    0
                ]
                save_tensors(
                    folder / f"{self.num_timesteps:07d}.safetensors",
                    {
                        "/".join(str(key.key) for key in keys): torch.from_numpy(np.array(leaf))
                        for keys, leaf in leaves
                    },
                )
            return True

    with (
        warnings.catch_warnings(),
        tqdm(total=steps, desc=f"SAC, {name}", disable=not progress, mininterval=0.5) as bar,
    ):
        warnings.simplefilter("ignore")
        SAC("MlpPolicy", gymnasium.make(task(name)), seed=seed, **SETTINGS).learn(
            steps, callback=Keep()
        )
    write_json(
        folder / "ended.json",
        {package: version(package) for package in ("sbx-rl", "jax", "gymnasium", "mujoco")},
    )
