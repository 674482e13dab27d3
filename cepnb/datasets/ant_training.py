"""Train the goal-reaching ant of the local AntMaze data by CrossQ of sbx, an optional extra."""

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from cepnb.datasets.ant import Walker, arrival_steps, heading_features, open_floor, upright
from cepnb.datasets.sac import SETTINGS, agent_of, train_actors
from cepnb.errors import CepnbError
from cepnb.progress import progress_bar
from cepnb.storage.files import read_json
from cepnb.storage.runs import Run

STEPS = 200_000
EVERY = 10_000  # steps between two saved actors
TURN = 100  # steps after which a new direction is drawn
SPEED = 2.0  # metres a second towards the goal; faster is not rewarded
ALIVE, EFFORT = 0.5, 0.05  # reward of a step, and its loss per squared action
DISTANCES = (1.0, 2.0, 4.0, 6.0, 8.0, 10.0)  # of goals, in metres, by which the actors are compared
GOALS = 10  # at each distance


def make_walker(steps: int | None, seed: int, folder: Path) -> Path:
    """Train the ant, compare the actors of the last fifth, and write the best one.

    The reward of a step is min(v · d, 2) + 0.5 − 0.05 |a|² with velocity v in m/s and a unit
    direction d, which is drawn every 100 steps. The episode ends when the ant is on its back.
    The best actor reaches the most goals, and of those with as many needs the fewest steps. Writes
    `folder`/ant.safetensors. Killed training restarts. Raises `CepnbError` without the extra, on
    too few steps, and if `folder` holds a training with another seed or number of steps.
    """
    steps = STEPS if steps is None else steps
    if steps < EVERY:
        raise CepnbError(f"steps {steps}: use at least {EVERY}")
    import torch  # slow to import

    from cepnb.storage.tensors import save_tensors

    training = folder / "ant-training"
    settings = SETTINGS | {"gradient_steps": 4}
    about = {"environment": "ant", "steps": steps, "seed": seed, "settings": settings}
    about |= {"turn": TURN, "speed": SPEED, "alive": ALIVE, "effort": EFFORT}
    Run(training, about)
    train_actors(training_floor, steps, EVERY, settings, seed, training)
    paths = sorted(training.glob("*.safetensors"))
    compared = progress_bar(paths[-max(1, len(paths) // 5) :], desc="comparing")
    merits = {path: _merit(path) for path in compared}
    best = max(merits, key=merits.__getitem__)
    agent = agent_of(best)
    about |= {"algorithm": "CrossQ", "at": int(best.stem), "goals_reached": merits[best][0]}
    about |= {"goals": GOALS * len(DISTANCES), "versions": read_json(training / "ended.json")}
    weights = {str(i): torch.from_numpy(w.astype(np.float32)) for i, w in enumerate(agent.weights)}
    save_tensors(folder / "ant.safetensors", weights, {"recipe": json.dumps(about)})
    return folder / "ant.safetensors"


def _merit(path: Path) -> tuple[int, int]:
    """Return how many goals an actor reaches, and minus the steps that it needs to these."""
    walker = Walker(agent_of(path), {}, "")
    needed = [arrival_steps(walker, distance, GOALS, seed=1) for distance in DISTANCES]
    steps = np.concatenate(needed)
    reached = steps[steps >= 0]
    return len(reached), -int(reached.sum())


def training_floor() -> "gymnasium.Env":
    """Create the environment of the training: features of the ant as observations."""
    import gymnasium

    class TrainingFloor(gymnasium.Env):
        def __init__(self) -> None:
            self._ant = open_floor()
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (29,), np.float32)
            self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (8,), np.float32)

        def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
            super().reset(seed=seed)
            if seed is not None:
                self._ant.wrapped_env.seed(seed)
            self._state, self._elapsed = self._ant.reset(), 0
            self._turn()
            return self._features(), {}

        def step(self, action: Float[Array, "8"]) -> tuple:
            before = self._state
            self._state = self._ant.step(action)[0]
            velocity = (self._state[:2] - before[:2]) / self._ant.dt
            reward = min(velocity @ self._direction, SPEED) + ALIVE - EFFORT * action @ action
            self._elapsed += 1
            if self._elapsed % TURN == 0:
                self._turn()
            fallen = not upright(self._state[None])[0]
            return self._features(), float(reward), fallen, False, {}

        def _turn(self) -> None:
            angle = self.np_random.uniform(0, 2 * np.pi)
            self._direction = np.array([np.cos(angle), np.sin(angle)])

        def _features(self) -> Float[Array, "29"]:
            features = heading_features(self._state[None], self._direction[None])
            return features[0].astype(np.float32)

    return gymnasium.wrappers.TimeLimit(TrainingFloor(), 1_000)
