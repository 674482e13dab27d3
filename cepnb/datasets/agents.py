"""The trained agents that ship with the package; their rollouts are the local locomotion data."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array

from cepnb.envs.base import Episodes
from cepnb.envs.locomotion import LocomotionEnv
from cepnb.envs.registry import task
from cepnb.errors import CepnbError
from cepnb.progress import progress_bar

FOLDER = Path(__file__).parents[1] / "assets/agents"
BATCH = 20  # episodes stepped together
KEYS = ("observations", "actions", "next_observations", "rewards", "terminals", "timeouts")


@dataclass(frozen=True)
class Agent:
    """A soft actor-critic policy a = tanh(m(s) + e^{l(s)} z), z ~ N(0, I) (Haarnoja et al. 2018).

    Two ReLU layers, then a linear layer each for m and for l, which is clipped to [-20, 2].
    `weights` are W_1, b_1, W_2, b_2, W_m, b_m, W_l, b_l of layers s W + b.
    """

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
    """The agents of one training run by their environment steps, and the recipe of the run."""

    agents: dict[int, Agent]
    medium: int  # steps of the first agent that reaches a third of D4RL's expert return
    expert: int  # steps of the best agent near the end of the run
    recipe: dict
    sha256: str  # of the file, weights and recipe alike

    def of(self, quality: str) -> list[Agent]:
        """Return the agents that share the rows of a dataset equally, in order."""
        if quality == "medium":
            return [self.agents[self.medium]]
        if quality == "expert":
            return [self.agents[self.expert]]
        if quality == "medium-expert":
            return [self.agents[self.medium], self.agents[self.expert]]
        return [self.agents[steps] for steps in sorted(self.agents) if steps <= self.medium]


def shipped_agents(name: str) -> History:
    """Load the shipped agents of a task, made by `python -m cepnb agent --environment NAME`.

    Raises `CepnbError` on an unknown task or a damaged file.
    """
    task(name)
    return read_history(FOLDER / f"{name}.safetensors")


def read_history(path: Path) -> History:
    """Read a file that `cepnb.datasets.sac` wrote; raises `CepnbError` on another file."""
    from cepnb.storage.tensors import load_tensors  # imports torch

    tensors, metadata = load_tensors(path)
    arrays = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    try:
        recipe, agents = json.loads(metadata["recipe"]), {}
        for steps in recipe["returns"]:
            agents[int(steps)] = Agent(tuple(arrays[f"{steps}.{i}"] for i in range(8)))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        return History(agents, recipe["medium"], recipe["expert"], recipe, sha256)
    except KeyError as error:
        raise CepnbError(f"{path}: {error} is missing; use a file of agents") from error


def roll(name: str, agent: Agent, transitions: int, seed: int) -> dict[str, Array]:
    """Collect `transitions` rows of an agent's episodes, the last one cut, in D4RL's layout.

    A fall is a terminal. The end of an episode by time, or by the cut, is a timeout. Raises
    `CepnbError` on fewer than two rows, an unknown task or a failing simulator.
    """
    if transitions < 2:
        raise CepnbError(f"transitions {transitions}: use at least 2 for each agent")

    def batch(i: int, rows: int) -> list[dict[str, Array]]:
        return _episodes(name, agent, np.random.SeedSequence((seed, i)), BATCH, rows)

    return collect_rows(name, transitions, batch)


def collect_locomotion(name: str, quality: str, transitions: int, seed: int) -> dict[str, Array]:
    """Collect `transitions` rows of a local locomotion dataset, in equal shares of its agents.

    D4RL's recipe: "medium" is one agent, "expert" the best one, "medium-expert" both;
    "medium-replay" is the replay buffer up to the medium agent. That buffer is not stored, so
    agents at equal distances along the run are rolled out instead.
    """
    agents = shipped_agents(name).of(quality)
    ends, parts = [transitions * i // len(agents) for i in range(len(agents) + 1)], []
    for i, agent in enumerate(agents):
        parts.append(roll(name, agent, ends[i + 1] - ends[i], 1000 * seed + i))
    return {key: np.concatenate([part[key] for part in parts]) for key in KEYS}


def episode_returns(name: str, agent: Agent, episodes: int, seed: int) -> Float[Array, "episodes"]:
    """Return the undiscounted returns of `episodes` complete episodes."""
    arrays = _episodes(name, agent, np.random.SeedSequence(seed), episodes)
    return np.array([episode["rewards"].sum(dtype=np.float64) for episode in arrays])


def _episodes(
    name: str, agent: Agent, seeds: np.random.SeedSequence, count: int, rows: int | float = np.inf
) -> list[dict[str, Array]]:
    """Step `count` episodes together; stop early once there are `rows` rows (`step_together`)."""
    start, noise = seeds.spawn(2)
    env = LocomotionEnv(name, count, int(start.generate_state(1)[0]))
    random = np.random.default_rng(noise)
    return step_together(env, env.reset(), lambda states, alive: agent(states, random), rows)


def collect_rows(
    label: str, transitions: int, batch: Callable[[int, int], list[dict[str, Array]]]
) -> dict[str, Array]:
    """Join batches of episodes to `transitions` rows, the last episode cut, in D4RL's layout.

    `batch(i, rows)` returns the episodes of batch i when `rows` rows are missing. The end by the
    cut is a timeout.
    """
    parts: list[dict[str, Array]] = []
    rows, batches = 0, 0
    with progress_bar(total=transitions, desc=label, leave=False) as bar:
        while rows < transitions:
            parts += batch(batches, transitions - rows)
            batches += 1
            rows = sum(len(part["rewards"]) for part in parts)
            bar.update(min(rows, transitions) - bar.n)
    arrays = {key: np.concatenate([part[key] for part in parts])[:transitions] for key in parts[0]}
    arrays["timeouts"][-1] = not arrays["terminals"][-1]
    return arrays


def step_together(
    env: Episodes,
    states: Float[Array, "n ds"],
    act: Callable[[Array, Array], Float[Array, "n da"]],
    rows: int | float = np.inf,
    cut: Callable[[Array], Bool[Array, "n"]] | None = None,
) -> list[dict[str, Array]]:
    """Step the episodes of `env` from `states` and return each one's rows in D4RL's layout.

    `act(states, alive)` samples actions; rows that are not alive do not matter. `cut(states)` tells
    after each step which episodes end by a timeout, in addition to the environment's. Stops early
    once the episodes up to the first that still runs have `rows` rows.
    """
    steps, alive, lengths = [], np.ones(env.count, dtype=bool), np.zeros(env.count, dtype=int)
    while alive.any() and lengths[: alive.argmax() + 1].sum() < rows:
        actions = act(states, alive)
        next_states, rewards, terminals, truncated = env.step(actions)
        if cut:
            truncated = truncated | cut(next_states)
        timeouts = truncated & ~terminals
        steps.append((states, actions, next_states, rewards, terminals, timeouts, alive.copy()))
        lengths += alive
        alive &= ~(terminals | truncated)
        states = next_states
    *columns, alive = (np.stack(column) for column in zip(*steps))
    types = [np.float32] * 4 + [bool] * 2
    arrays = {key: column.astype(kind) for key, column, kind in zip(KEYS, columns, types)}
    return [{key: arrays[key][alive[:, row], row] for key in KEYS} for row in range(env.count)]
