"""Evaluation in the simulator: all episodes of all scales stepped together, scored as D4RL scores them."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from cepnb.offline.d4rl_bridge import normalised_score
from cepnb.offline.maze import MazeEnv
from cepnb.offline.policy import Policy
from cepnb.offline.scaling import Scaling


def rollout(policy: Policy, env: MazeEnv, start: Float[Tensor, "n ds"], scaling: Scaling, generator: torch.Generator,
            label: str = "rollout", progress: bool = True) -> tuple[Float[Tensor, "n"], Float[Tensor, "steps n ds"]]:
    """Undiscounted return of one episode from each start state, and the states passed.

    Rewards count until an episode ends; `env` has one row an episode and says when the last has ended.
    """
    env.reset()
    env.set_state(start.double().numpy())
    states, path = start, []
    returns, alive = torch.zeros(len(start)), torch.ones(len(start), dtype=torch.bool)
    with tqdm(total=env.max_steps, desc=label, disable=not progress, leave=False, mininterval=0.5) as bar:
        while alive.any():
            path.append(states)
            observation, reward, terminated, truncated = env.step(policy(scaling(states), generator).double().numpy())
            states = torch.as_tensor(observation, dtype=torch.float32)
            returns += torch.as_tensor(reward, dtype=torch.float32) * alive
            alive &= ~torch.as_tensor(terminated | truncated)
            bar.update()
    return returns, torch.stack(path)


def start_states(maze: str, episodes: int, seed: int) -> Float[Tensor, "episodes ds"]:
    """First states of `episodes` episodes, drawn by the environment; every method is given the same ones."""
    return torch.as_tensor(MazeEnv(maze, episodes, seed).reset(), dtype=torch.float32)


def score_record(method: str, scale: float | None, returns: Float[Tensor, "episodes"], environment: str) -> dict:
    """Mean return and D4RL-normalised score (0 random, 100 expert) with their standard errors over episodes."""
    mean = returns.mean().item()
    error = returns.std().item() / math.sqrt(len(returns)) if len(returns) > 1 else 0.0
    low, high = (normalised_score(f"local/{environment}", value) for value in (mean, mean + error))
    return {"method": method, "scale": scale, "episodes": len(returns), "return_mean": mean, "return_se": error,
            "normalised": low, "normalised_se": high - low}


def evaluate(policies: list[tuple[str, Callable[[Tensor], Policy], tuple[float | None, ...]]], environment: str, maze: str,
             episodes: int, scaling: Scaling, seed: int, generator: torch.Generator, progress: bool = True) -> list[dict]:
    """Score policies given as (method, policy of a tensor of scales, scales): one record a method and scale.

    All scales of a method run as one batch of len(scales) × episodes rows, from the same start states.
    """
    start = start_states(maze, episodes, seed)
    records = []
    for method, policy_at, scales in policies:
        rows = torch.tensor([scale or 0.0 for scale in scales]).repeat_interleave(episodes)
        env = MazeEnv(maze, len(rows), seed)
        returns, _ = rollout(policy_at(rows), env, start.repeat(len(scales), 1), scaling, generator, method, progress)
        records += [score_record(method, scale, part, environment) for scale, part in zip(scales, returns.split(episodes))]
    return records
