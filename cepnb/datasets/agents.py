"""The trained agents that ship with the package; their rollouts are the local locomotion data."""

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
SHIPPED = tuple(name for name in TASKS if (FOLDER / f"{name}.safetensors").exists())
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
        if quality == "medium-expert":
            return [self.agents[self.medium], self.agents[self.expert]]
        return [self.agents[steps] for steps in sorted(self.agents) if steps <= self.medium]


def shipped_agents(name: str) -> History:
    """Load the shipped agents of a task, made by `python -m cepnb agent --environment NAME`.

    Raises `CepnbError` on a task without agents or a damaged file.
    """
    if name not in SHIPPED:
        raise CepnbError(f"agents of '{name}': expected one of {', '.join(SHIPPED)}")
    return read_history(FOLDER / f"{name}.safetensors")


def read_history(path: Path) -> History:
    """Read a file that `cepnb.datasets.sac` wrote; raises `CepnbError` on another file."""
    tensors, metadata = load_tensors(path)
    try:
        recipe, agents = json.loads(metadata["recipe"]), {}
        for steps in recipe["returns"]:
            weights = (tensors[f"{steps}.{i}"].double().numpy() for i in range(8))
            agents[int(steps)] = Agent(tuple(weights))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        return History(agents, recipe["medium"], recipe["expert"], recipe, sha256)
    except KeyError as error:
        raise CepnbError(f"{path}: {error} is missing; use a file of agents") from error


def roll(
    name: str, agent: Agent, transitions: int, seed: int, progress: bool = True
) -> dict[str, Array]:
    """Collect `transitions` rows of an agent's episodes, the last one cut, in D4RL's layout.

    A fall is a terminal. The end of an episode by time, or by the cut, is a timeout. Raises
    `CepnbError` on fewer than two rows, an unknown task or a failing simulator.
    """
    if transitions < 2:
        raise CepnbError(f"transitions {transitions}: expected at least 2")
    parts, rows, batch = [], 0, 0
    with tqdm(total=transitions, desc=name, disable=not progress, leave=False) as bar:
        while rows < transitions:
            seeds = np.random.SeedSequence((seed, batch))
            episodes = _episodes(name, agent, seeds, BATCH, transitions - rows)
            parts += episodes
            rows += sum(len(episode["rewards"]) for episode in episodes)
            bar.update(min(rows, transitions) - bar.n)
            batch += 1
    arrays = {key: np.concatenate([part[key] for part in parts])[:transitions] for key in parts[0]}
    arrays["timeouts"][-1] = not arrays["terminals"][-1]
    return arrays


def collect_locomotion(
    name: str, quality: str, transitions: int, seed: int, progress: bool = True
) -> dict[str, Array]:
    """Collect `transitions` rows of a local locomotion dataset by D4RL's recipe.

    "medium": the first agent that reaches a third of the expert's return. "medium-expert": half
    from this agent, half from the best one. "medium-replay": all data up to the medium agent. The
    replay buffer is not stored, so agents at equal distances along the run are rolled out instead.
    """
    agents, parts = shipped_agents(name).of(quality), []
    bounds = [transitions * i // len(agents) for i in range(len(agents) + 1)]
    for i, agent in enumerate(agents):
        parts.append(roll(name, agent, bounds[i + 1] - bounds[i], 1000 * seed + i, progress))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def episode_returns(name: str, agent: Agent, episodes: int, seed: int) -> Float[Array, "episodes"]:
    """Return the undiscounted returns of `episodes` complete episodes."""
    arrays = _episodes(name, agent, np.random.SeedSequence(seed), episodes)
    return np.array([episode["rewards"].sum(dtype=np.float64) for episode in arrays])


def _episodes(
    name: str, agent: Agent, seeds: np.random.SeedSequence, count: int, rows: int | None = None
) -> list[dict[str, Array]]:
    """Step `count` episodes together and return each one's rows in D4RL's layout.

    Stops early once the episodes, one after the other, have `rows` rows.
    """
    start, noise = seeds.spawn(2)
    env = LocomotionEnv(name, count, int(start.generate_state(1)[0]))
    random = np.random.default_rng(noise)
    states, alive, steps = env.reset(), np.ones(count, dtype=bool), []
    lengths, first_alive = np.zeros(count, dtype=int), 0
    while alive.any() and (rows is None or lengths[: first_alive + 1].sum() < rows):
        actions = agent(states, random)
        next_states, rewards, terminals, truncated = env.step(actions)
        timeouts = truncated & ~terminals
        steps.append((states, actions, next_states, rewards, terminals, timeouts, alive.copy()))
        lengths += alive
        alive &= ~(terminals | truncated)
        first_alive = alive.argmax()
        states = next_states
    *columns, alive = (np.stack(column) for column in zip(*steps))
    arrays = {
        key: column if column.dtype == bool else column.astype(np.float32)
        for key, column in zip(KEYS, columns)
    }
    return [{key: arrays[key][alive[:, row], row] for key in KEYS} for row in range(count)]
