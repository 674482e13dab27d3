"""The trained agents whose rollouts are the local locomotion data, as they come with the package."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array
from tqdm.auto import tqdm

from cepnb.envs.locomotion import TASKS, LocomotionEnv
from cepnb.errors import CepnbError
from cepnb.storage.files import load_tensors

QUALITIES = ("medium", "medium-replay", "medium-expert")
FOLDER = Path(__file__).parents[1] / "assets/agents"
SHIPPED = tuple(
    name for name in TASKS if (FOLDER / f"{name}.safetensors").exists()
)  # tasks with agents
TOGETHER = 20  # episodes stepped together


@dataclass(frozen=True)
class Agent:
    """A policy a = tanh(m(s) + e^{l(s)} z), z ~ N(0, I), of soft actor-critic (Haarnoja et al. 2018): two ReLU layers,
    then a linear one each for m and l (held in [-20, 2]). `weights` are W_i and b_i in that order: s W + b."""

    weights: tuple[Float[Array, "..."], ...]

    def __call__(
        self, observations: Float[Array, "n ds"], random: np.random.Generator
    ) -> Float[Array, "n da"]:
        w1, b1, w2, b2, wm, bm, wl, bl = self.weights
        h = np.maximum(observations @ w1 + b1, 0)
        h = np.maximum(h @ w2 + b2, 0)
        deviation = np.exp(np.clip(h @ wl + bl, -20, 2))
        return np.tanh(h @ wm + bm + deviation * random.standard_normal(deviation.shape))


@dataclass(frozen=True)
class History:
    """One training run: agents by the number of environment steps they had had, and how the run was made."""

    agents: dict[int, Agent]
    medium: int  # steps of the first agent to reach a third of D4RL's expert
    expert: int  # steps of the best one at the end of the run
    recipe: dict

    def of(self, quality: str) -> list[Agent]:
        """Agents that share the rows of a dataset equally, in this order."""
        if quality == "medium":
            return [self.agents[self.medium]]
        if quality == "medium-expert":
            return [self.agents[self.medium], self.agents[self.expert]]
        return [self.agents[steps] for steps in sorted(self.agents) if steps <= self.medium]


def shipped_agents(name: str) -> History:
    """The agents of a task. Made by `python -m cepnb agent --environment NAME --out FOLDER`.

    Raises `CepnbError` on a task that has none, or if their file is damaged.
    """
    if name not in SHIPPED:
        raise CepnbError(f"agents of '{name}': expected one of {', '.join(SHIPPED)}")
    return read_history(FOLDER / f"{name}.safetensors")


def shipped_digest(name: str) -> str:
    """SHA-256 of the file of a task's agents, weights and recipe alike. The task must be in `SHIPPED`."""
    return hashlib.sha256((FOLDER / f"{name}.safetensors").read_bytes()).hexdigest()


def read_history(path: Path) -> History:
    """What `cepnb.datasets.sac` has written; raises `CepnbError` on another file."""
    tensors, metadata = load_tensors(path)
    try:
        recipe = json.loads(metadata["recipe"])
        agents = {
            int(steps): Agent(tuple(tensors[f"{steps}.{i}"].double().numpy() for i in range(8)))
            for steps in recipe["returns"]
        }
        return History(agents, recipe["medium"], recipe["expert"], recipe)
    except KeyError as error:
        raise CepnbError(f"{path}: has no {error}, expected a history of agents") from error


def roll(
    name: str, agent: Agent, transitions: int, seed: int, progress: bool = True
) -> dict[str, Array]:
    """`transitions` rows of whole episodes of an agent, the last one cut, as arrays in D4RL's layout.

    A fall is a terminal; the end of an episode by time, or by the cut, is a timeout. Raises `CepnbError` on fewer than two
    rows, on an unknown task, and where the simulator fails.
    """
    if transitions < 2:
        raise CepnbError(f"transitions {transitions}: expected at least 2")
    parts, rows, batch = [], 0, 0
    with tqdm(
        total=transitions, desc=name, disable=not progress, leave=False, mininterval=0.5
    ) as bar:
        while rows < transitions:
            for episode in _episodes(name, agent, np.random.SeedSequence((seed, batch))):
                parts.append(episode)
                rows += len(episode["rewards"])
            bar.update(min(rows, transitions) - bar.n)
            batch += 1
    arrays = {key: np.concatenate([part[key] for part in parts])[:transitions] for key in parts[0]}
    arrays["timeouts"][-1] = not arrays["terminals"][-1]
    return arrays


def collect_locomotion(
    name: str, quality: str, transitions: int, seed: int, progress: bool = True
) -> dict[str, Array]:
    """`transitions` rows of a local locomotion dataset.

    By D4RL's recipe: "medium" is an agent that has reached a third of the expert; "medium-expert" half of it and half of
    the best agent; "medium-replay" what the learner has seen up to the medium agent. The last is made again here, by
    rolling out the agents of the run at even distances: the buffer itself is not kept.
    """
    agents = shipped_agents(name).of(quality)
    counts = [
        transitions * (i + 1) // len(agents) - transitions * i // len(agents)
        for i in range(len(agents))
    ]
    parts = [
        roll(name, agent, count, 1000 * seed + i, progress)
        for i, (agent, count) in enumerate(zip(agents, counts))
    ]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def episode_returns(name: str, agent: Agent, episodes: int, seed: int) -> Float[Array, "episodes"]:
    """Undiscounted returns of whole episodes."""
    found = _episodes(name, agent, np.random.SeedSequence(seed), episodes)
    return np.array([episode["rewards"].sum(dtype=np.float64) for episode in found])


def _episodes(
    name: str, agent: Agent, seeds: np.random.SeedSequence, count: int = TOGETHER
) -> list[dict[str, Array]]:
    start, noise = seeds.spawn(2)
    env, random = (
        LocomotionEnv(name, count, int(start.generate_state(1)[0])),
        np.random.default_rng(noise),
    )
    states, alive, steps = env.reset(), np.ones(count, dtype=bool), []
    while alive.any():
        actions = agent(states, random)
        after, rewards, terminated, truncated = env.step(actions)
        steps.append(
            (states, actions, after, rewards, terminated, truncated & ~terminated, alive.copy())
        )
        alive &= ~(terminated | truncated)
        states = after
    *columns, alive = (np.stack(column) for column in zip(*steps))
    keys = ("observations", "actions", "next_observations", "rewards", "terminals", "timeouts")
    kinds = (np.float32,) * 4 + (bool,) * 2
    return [
        {
            key: column[alive[:, row], row].astype(kind)
            for key, column, kind in zip(keys, columns, kinds)
        }
        for row in range(count)
    ]
