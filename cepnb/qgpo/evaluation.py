"""Evaluation in the simulator: all episodes of all scales stepped together, scored as D4RL scores them."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array
from torch import Tensor
from tqdm.auto import tqdm

from cepnb.envs.base import Episodes
from cepnb.envs.d4rl_package import normalised_score
from cepnb.envs.registry import episodes_of
from cepnb.errors import CepnbError
from cepnb.qgpo.policy import Policy
from cepnb.qgpo.transitions import Scaling


def rollout(
    policy_of: Callable[[Int[Tensor, "rows"]], Policy],
    env: Episodes,
    scaling: Scaling,
    generator: torch.Generator,
    label: str = "rollout",
    progress: bool = True,
    watch: Callable[[], None] = lambda: None,
) -> tuple[Float[Tensor, "n"], Float[Tensor, "steps n ds"]]:
    """Undiscounted return of each episode of `env`, and the states passed (an ended episode stays where it ended).

    `policy_of` gives the policy of some rows of `env`; those whose episode has ended are not asked for actions any more. It
    acts where the generator draws, and the simulation runs on the processor.
    `watch` is called after each step.
    Raises `CepnbError` on actions, observations and rewards that are not finite, and if an episode has not ended after the
    `max_steps` of `env`.
    """
    states, path = _given(env, "reset", "observations", env.reset()), []
    returns, alive = torch.zeros(env.count), torch.ones(env.count, dtype=torch.bool)
    actions = torch.zeros(env.count, env.action_dim)
    with tqdm(
        total=env.max_steps, desc=label, disable=not progress, leave=False, mininterval=0.5
    ) as bar:
        for step in range(1, env.max_steps + 1):
            path.append(states)
            rows = alive.nonzero().squeeze(1)
            actions[rows] = policy_of(rows)(
                scaling(states[rows]).to(generator.device), generator
            ).cpu()
            observation, reward, terminated, truncated = env.step(actions.double().numpy())
            states = _given(env, f"step {step}", "observations", observation)
            returns += _given(env, f"step {step}", "rewards", reward) * alive
            alive &= ~torch.as_tensor(terminated | truncated)
            watch()
            bar.update()
            if not alive.any():
                return returns, torch.stack(path)
    raise CepnbError(
        f"{env.name}: {int(alive.sum())} episodes go on after step {env.max_steps}, expected their end there"
    )


def _given(
    env: Episodes, moment: str, what: str, values: Float[Array, "n *width"]
) -> Float[Tensor, "n *width"]:
    """What an environment gives, in single precision; raises `CepnbError` naming it and the moment if that is not finite."""
    numbers = torch.as_tensor(values, dtype=torch.float32)
    if not numbers.isfinite().all():
        raise CepnbError(
            f"{env.name}: {moment} gives {what} that are not finite, expected finite numbers"
        )
    return numbers


def score_record(
    method: str, scale: float | None, returns: Float[Tensor, "episodes"], environment: str
) -> dict:
    """Mean return and D4RL-normalised score (0 random, 100 expert) with their standard errors over episodes."""
    mean = returns.mean().item()
    error = returns.std().item() / math.sqrt(len(returns)) if len(returns) > 1 else 0.0
    low, high = (normalised_score(f"local/{environment}", value) for value in (mean, mean + error))
    return {
        "method": method,
        "scale": scale,
        "episodes": len(returns),
        "return_mean": mean,
        "return_se": error,
        "normalised": low,
        "normalised_se": high - low,
    }


def evaluate(
    batches: list[tuple[list[tuple[str, float | None]], Callable[[Tensor], Policy]]],
    environment: str,
    episodes: int,
    scaling: Scaling,
    seed: int,
    generator: torch.Generator,
    progress: bool = True,
    faults: list[str] | None = None,
) -> list[dict]:
    """Score policies: one record each, in their order.

    `batches` are pairs of a list of (method, scale) and what makes the policy of a tensor of scales (0 for None). All of a list
    are stepped together, as len(list) × episodes rows, from the same start states. A policy whose actions are not finite has no
    record, nor has any of a list whose environment fails, and `faults` gets a line that names them; without such a list that line
    is raised as `CepnbError`, when all have ended.
    """
    records, found = [], [] if faults is None else faults
    for policies, policy_at in batches:
        strength = torch.tensor([scale or 0.0 for _, scale in policies]).repeat_interleave(episodes)
        env = episodes_of(environment, episodes, seed, len(policies))
        label = ", ".join(dict(policies))
        broken = torch.zeros(len(strength), dtype=torch.bool)

        def policy_of(rows: Int[Tensor, "rows"]) -> Policy:
            policy = policy_at(strength[rows].to(generator.device))
            return lambda states, generator: _finite(policy(states, generator).cpu(), rows, broken)

        try:
            returns, _ = rollout(policy_of, env, scaling, generator, label, progress)
        except CepnbError as error:
            found.append(f"{', '.join(policy_name(*policy) for policy in policies)}: {error}")
            continue
        for policy, part, bad in zip(
            policies, returns.split(episodes), broken.split(episodes), strict=True
        ):
            if bad.any():
                found.append(f"{policy_name(*policy)}: actions that are not finite")
            else:
                records.append(score_record(*policy, part, environment))
    if found and faults is None:
        raise CepnbError("; ".join(found))
    return records


def policy_name(method: str, scale: float | None) -> str:
    """As in `cep at s = 3`."""
    return f"{method} at s = {scale:g}" if scale else method


def _finite(
    actions: Float[Tensor, "rows da"], rows: Int[Tensor, "rows"], broken: Bool[Tensor, "all"]
) -> Float[Tensor, "rows da"]:
    """Actions with rows of 0 for those that are not finite, which are noted in `broken`."""
    good = actions.isfinite().all(dim=1)
    broken[rows[~good]] = True
    return torch.where(good.unsqueeze(1), actions, torch.zeros_like(actions))
