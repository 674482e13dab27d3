"""Evaluation in the simulator: many episodes stepped together, scored as D4RL scores them."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array
from torch import Tensor

from cepnb.envs.base import Episodes
from cepnb.envs.d4rl_package import normalised_score
from cepnb.envs.registry import episodes_of
from cepnb.errors import CepnbError
from cepnb.progress import progress_bar
from cepnb.qgpo.policy import Policy
from cepnb.qgpo.record import Score
from cepnb.qgpo.transitions import Scaling
from cepnb.storage.validation import check_shape


@dataclass(frozen=True)
class PolicyBatch:
    """Policies that are evaluated together."""

    policies: list[tuple[str, float | None]]  # method and scale
    policy_at: Callable[[Float[Tensor, "rows"]], Policy]  # scale of each row, 0 for None → policy


def rollout(
    policy_of: Callable[[Int[Tensor, "rows"]], Policy],
    env: Episodes,
    scaling: Scaling,
    generator: torch.Generator,
    label: str = "rollout",
    progress: bool = True,
) -> tuple[Float[Tensor, "n"], Float[Tensor, "steps n ds"]]:
    """Return the undiscounted return of each episode of `env`, and the path of its states.

    `policy_of` returns the policy of the given rows; rows whose episode ended get no more actions,
    and their path stays at the end. The policy runs on the generator's device, the simulation on
    the CPU. Raises `CepnbError` on actions, observations or rewards that are not finite or have
    another shape, and if an episode lasts longer than `env.max_steps`.
    """
    widths = env.count, env.state_dim
    states, path = _finite(env, "reset gives observations", env.reset(), *widths), []
    returns, alive = torch.zeros(env.count), torch.ones(env.count, dtype=torch.bool)
    actions = torch.zeros(env.count, env.action_dim)
    numbers = range(1, env.max_steps + 1)
    for step in progress_bar(numbers, label, disable=not progress, leave=False, mininterval=0.5):
        path.append(states)
        rows = alive.nonzero().squeeze(1)
        observed = scaling(states[rows]).to(generator.device)
        chosen = policy_of(rows)(observed, generator).cpu()
        check_shape("actions of the policy", chosen, len(rows), env.action_dim)
        actions[rows] = chosen
        observation, reward, terminated, truncated = env.step(actions.double().numpy())
        states = _finite(env, f"step {step} gives observations", observation, *widths)
        returns += _finite(env, f"step {step} gives rewards", reward, env.count) * alive
        alive &= ~torch.as_tensor(terminated | truncated)
        if not alive.any():
            return returns, torch.stack(path)
    running = f"{int(alive.sum())} episodes run after step {env.max_steps}"
    raise CepnbError(f"{env.name}: {running}; truncate them in its `step`")


def _finite(env: Episodes, event: str, values: Array, *shape: int) -> Tensor:
    """Convert to float32; raise `CepnbError` naming the event on another shape and non-finite values."""
    numbers = torch.as_tensor(values, dtype=torch.float32)
    check_shape(f"{env.name}: {event}", numbers, *shape)
    if not numbers.isfinite().all():
        raise CepnbError(f"{env.name}: {event} that are not finite; fix its simulator")
    return numbers


def evaluate(
    batches: list[PolicyBatch],
    environment: str,
    episodes: int,
    scaling: Scaling,
    seed: int,
    generator: torch.Generator,
    progress: bool = True,
) -> tuple[list[dict], list[str]]:
    """Score policies: return one record per policy in their order, and the faults found.

    Each batch is stepped together from the same start states, `episodes` rows per policy. A policy
    whose actions are not finite gets a fault instead of a record; so does a whole batch whose
    environment fails.
    """
    records, faults = [], []
    for batch in batches:
        try:
            env = episodes_of(environment, episodes, seed, len(batch.policies))
            returns, broken = _returns(batch, env, scaling, generator, progress)
        except CepnbError as error:
            names = ", ".join(policy_name(*policy) for policy in batch.policies)
            faults.append(f"{names}: {error}")
            continue
        for policy, policy_returns, policy_broken in zip(batch.policies, returns, broken):
            if policy_broken.any():
                faults.append(f"{policy_name(*policy)}: actions that are not finite")
            else:
                records.append(score_record(*policy, policy_returns, environment))
    return records, faults


def _returns(
    batch: PolicyBatch, env: Episodes, scaling: Scaling, generator: torch.Generator, progress: bool
) -> tuple[Float[Tensor, "policies episodes"], Bool[Tensor, "policies episodes"]]:
    """Step all policies of a batch together; return the returns, and where actions are not finite."""
    episodes = env.count // len(batch.policies)
    scales = torch.tensor([scale or 0.0 for _, scale in batch.policies])
    scales = scales.repeat_interleave(episodes)
    broken = torch.zeros(env.count, dtype=torch.bool)

    def policy_of(rows: Int[Tensor, "rows"]) -> Policy:
        policy = batch.policy_at(scales[rows].to(generator.device))

        def act(states: Tensor, generator: torch.Generator) -> Tensor:
            """Act by the policy; replace rows that are not finite by 0 and mark them."""
            actions = policy(states, generator).cpu()
            good = actions.isfinite().all(dim=1)
            broken[rows[~good]] = True
            return torch.where(good.unsqueeze(1), actions, torch.zeros_like(actions))

        return act

    methods = ", ".join(dict(batch.policies))
    returns, _ = rollout(policy_of, env, scaling, generator, methods, progress)
    return returns.reshape(-1, episodes), broken.reshape(-1, episodes)


def score_record(
    method: str, scale: float | None, returns: Float[Tensor, "episodes"], environment: str
) -> dict:
    """Return a `cepnb.qgpo.record.Score` as a dictionary: means and standard errors of episodes.

    One episode has no standard error.
    """
    mean = returns.mean().item()
    normalised = normalised_score(f"local/{environment}", mean)
    score = Score(method, scale, normalised, len(returns), return_mean=mean)
    if len(returns) > 1:
        score.return_se = returns.std().item() / math.sqrt(len(returns))
        higher = normalised_score(f"local/{environment}", mean + score.return_se)
        score.normalised_se = higher - normalised
    return msgspec.to_builtins(score)


def policy_name(method: str, scale: float | None) -> str:
    """Return a name such as `cep at s = 3`."""
    return f"{method} at s = {scale:g}" if scale else method
