"""The goal-reaching ant whose walks are the local AntMaze data."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array

from cepnb.datasets.agents import FOLDER, Agent
from cepnb.envs.antmaze import REACHED
from cepnb.envs.d4rl_package import prepare_environments
from cepnb.envs.quiet import quiet
from cepnb.errors import CepnbError

ARRIVAL_STEPS = 200  # in which the ant must reach a goal


@dataclass(frozen=True)
class Walker:
    """An agent that walks towards a goal, and how it was trained."""

    agent: Agent
    recipe: dict
    sha256: str  # of the file, weights and recipe alike

    def __call__(
        self,
        observations: Float[Array, "n 29"],
        goals: Float[Array, "n 2"],
        random: np.random.Generator,
    ) -> Float[Array, "n 8"]:
        """Sample actions towards goals, which are relative to the ants; their distance is ignored."""
        return self.agent(heading_features(observations, goals), random)


def shipped_walker() -> Walker:
    """Load the shipped ant, made by `python -m cepnb agent --environment ant`."""
    return read_walker(FOLDER / "ant.safetensors")


def read_walker(path: Path) -> Walker:
    """Read a file that `cepnb.datasets.ant_training` wrote; raises `CepnbError` on another file."""
    from cepnb.storage.tensors import load_tensors  # imports torch

    tensors, metadata = load_tensors(path)
    try:
        weights = tuple(tensors[str(i)].double().numpy() for i in range(8))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        return Walker(Agent(weights), json.loads(metadata["recipe"]), sha256)
    except KeyError as error:
        raise CepnbError(f"{path}: {error} is missing; use a file of the ant") from error


def heading_features(
    observations: Float[Array, "n 29"], goals: Float[Array, "n 2"]
) -> Float[Array, "n 29"]:
    """Return the agent's input: the ant turned so that it heads along x, and the unit direction.

    The position is left out except for the height. So the agent acts the same way in all places and
    headings, as the physics does on an open floor.
    """
    posture, heading = _turned_ant(observations)
    directions = goals / np.linalg.norm(goals, axis=1, keepdims=True)
    return np.concatenate([posture, _turned(directions, heading)], axis=1)


def heading_frame(observations: Float[Array, "n 29"]) -> Float[Array, "n 31"]:
    """Return the same states as position, ant turned so that it heads along x, cos and sin of heading.

    Ants that differ only in place and heading differ only in the first two and last two numbers.
    """
    posture, heading = _turned_ant(observations)
    return np.concatenate([observations[:, :2], posture, heading], axis=1)


def _turned_ant(
    observations: Float[Array, "n 29"],
) -> tuple[Float[Array, "n 27"], Float[Array, "n 2"]]:
    """Return height, tilt, joint angles and velocities of the ant as it heads along x, and its heading.

    An observation is position, orientation quaternion, joint angles and velocities; only the linear
    velocity is in the maze's frame. A heading is its cosine and sine.
    """
    w, x, y, z = observations[:, 3:7].T
    angle = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    c, s = np.cos(angle / 2), np.sin(angle / 2)
    tilt = np.stack([c * w + s * z, c * x + s * y, c * y - s * x, c * z - s * w], axis=1)
    tilt *= np.where(tilt[:, :1] < 0, -1, 1)  # a quaternion and its negative are equivalent
    heading = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    velocity = _turned(observations[:, 15:17], heading)
    height, joints, rest = observations[:, 2:3], observations[:, 7:15], observations[:, 17:]
    return np.concatenate([height, tilt, joints, velocity, rest], axis=1), heading


def _turned(vectors: Float[Array, "n 2"], heading: Float[Array, "n 2"]) -> Float[Array, "n 2"]:
    """Return vectors as seen from the heading."""
    c, s = heading.T
    return np.stack(
        [c * vectors[:, 0] + s * vectors[:, 1], c * vectors[:, 1] - s * vectors[:, 0]], 1
    )


def upright(observations: Float[Array, "n 29"]) -> Bool[Array, "n"]:
    """Return whether the ant's back is up; an ant on its back does not get up again."""
    return np.square(observations[:, 4:6]).sum(axis=1) < 0.5


def open_floor() -> "d4rl.locomotion.wrappers.NormalizedBoxEnv":
    """Create D4RL's ant without walls or goal; actions are in [-1, 1]⁸, observations as in AntMaze."""
    prepare_environments()
    with quiet():
        from d4rl.locomotion.ant import AntEnv
        from d4rl.locomotion.wrappers import NormalizedBoxEnv

        return NormalizedBoxEnv(AntEnv(expose_all_qpos=True))


def arrival_steps(walker: Walker, distance: float, count: int, seed: int) -> Int[Array, "count"]:
    """Return how many steps the ant needs to each of `count` goals at a distance; −1 if it fails.

    Directions are uniform. The ant fails if it is not within `REACHED` after `ARRIVAL_STEPS`.
    """
    random, ant = np.random.default_rng(seed), open_floor()
    ant.wrapped_env.seed(seed)
    found = np.full(count, -1)
    for i, angle in enumerate(random.uniform(0, 2 * np.pi, count)):
        state = ant.reset()
        goal = state[:2] + distance * np.array([np.cos(angle), np.sin(angle)])
        for step in range(1, ARRIVAL_STEPS + 1):
            action = walker(state[None], (goal - state[:2])[None], random)[0]
            state = ant.step(action)[0]
            if np.linalg.norm(goal - state[:2]) <= REACHED:
                found[i] = step
                break
    return found
