"""Step 3: the action value Q_ψ by in-support softmax Q-learning (Eqs. 21–22)."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.diffusion.losses import softmax_q_target
from cepnb.diffusion.networks import QEnsemble
from cepnb.diffusion.training import StepLoss, draw, initialised, seeded, train, unpacked
from cepnb.qgpo.settings import Settings
from cepnb.qgpo.transitions import Transitions
from cepnb.storage.validation import check_same_shape, check_shape


def train_critic(
    data: Transitions,
    support: Float[Tensor, "n K da"],
    settings: Settings,
    seed: int,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> QEnsemble:
    """Train the critic by in-support softmax Q-learning (Eq. 22); return its target network.

    `support` holds K actions for each row of `data.distinct`; no other action is evaluated at s'.
    Training runs on the device of the support set.
    """
    q = critic_net(data.states.shape[1], data.actions.shape[1], settings, seed).to(support.device)
    target = deepcopy(q).requires_grad_(False)
    update_target = lambda: polyak_update(q, target, settings.target_rate)
    loss, modules = critic_loss(q, target, data, support, settings), {"q": q, "target": target}
    generator = seeded(seed, "critic", support.device)
    options = {"label": "critic", "checkpoint": checkpoint, "progress": progress}
    train(loss, modules, settings.plan("q"), generator, after_step=update_target, **options)
    return target


def critic_loss(
    q: QEnsemble,
    target: QEnsemble,
    data: Transitions,
    support: Float[Tensor, "n K da"],
    settings: Settings,
) -> StepLoss:
    """Return the loss of one step: (Q_ψ(s, a) − r − γ Σ_i softmax(β_Q Q')_i Q'_i)² (Eq. 22).

    Q'_i is the minimum of `settings.target_networks` networks at support action i of s'. With
    `settings.target_actions`, each target draws that many of the K actions: cheaper, and for a small
    β_Q the same mean. The squared error is averaged over the networks, one value per transition of
    `settings.q_batch`.
    """
    check_shape("support", support, len(data.distinct), "K", data.actions.shape[1])
    pools = data.states, data.actions, data.rewards, data.terminals, data.next_row
    K = support.shape[1]
    count = settings.target_actions or K

    def step_loss(generator: torch.Generator) -> Float[Tensor, "batch"]:
        s, a, reward, terminal, next_row = draw(generator, settings.q_batch, *pools)
        rows: Tensor | tuple[Tensor, Tensor] = next_row
        if count < K:
            order = torch.rand((len(s), K), generator=generator, device=s.device)
            rows = next_row.unsqueeze(1), order.topk(count, dim=1).indices
        next_s, next_actions = data.distinct[next_row], unpacked(support[rows])
        with torch.no_grad():
            next_q = target.least_of(settings.target_networks, next_s.unsqueeze(1), next_actions)
            goal = softmax_q_target(reward, terminal, next_q, settings.beta_q, settings.discount)
        values = q.each(s, a)
        check_same_shape(rewards=reward, Q=values[0])
        return (values - goal).square().mean(dim=0)

    return step_loss


@torch.no_grad()
def polyak_update(q: QEnsemble, target: QEnsemble, rate: float) -> None:
    """Move the target network by Polyak averaging: target ← target + τ (q − target)."""
    torch._foreach_lerp_(list(target.parameters()), list(q.parameters()), rate)


def critic_net(state_dim: int, action_dim: int, settings: Settings, seed: int) -> QEnsemble:
    """Build untrained networks Q_i(s, a); their first weights depend on the seed alone."""
    sizes = settings.q_width, settings.q_depth, settings.place_frequencies, settings.q_layer_norm
    count = settings.q_networks
    return initialised(seed, "critic", lambda: QEnsemble(state_dim, action_dim, *sizes, count))


def policy_value(
    q: Callable[[Tensor, Tensor], Tensor], settings: Settings
) -> Callable[[Tensor, Tensor], Float[Tensor, "batch K"]]:
    """Return Q̃(s, a) of the policy π ∝ μ e^{βQ̃}, a function of states and of K actions of each.

    With `settings.q_pessimism` κ = 0 it is the minimum of the networks, as in the paper. With κ > 0
    it is a lower confidence bound of the advantage: Q̃ = mean_i A_i − κ std_i A_i, where A_i is Q_i
    less its mean over the K actions; `q` must be a `QEnsemble`. A constant added to one network in a
    state changes neither π nor Q̃, but would change such a bound of Q.
    """
    if not (pessimism := settings.q_pessimism):
        return q

    def value(s: Float[Tensor, "batch 1 ds"], a: Float[Tensor, "batch K da"]) -> Tensor:
        values = q.each(s, a)
        advantages = values - values.mean(dim=-1, keepdim=True)
        return advantages.mean(dim=0) - pessimism * advantages.std(dim=0)

    return value


@torch.no_grad()
def support_values(
    q: Callable[[Tensor, Tensor], Tensor],
    states: Float[Tensor, "n ds"],
    support: Float[Tensor, "n K da"],
    rows: int = 16_384,
) -> Float[Tensor, "n K"]:
    """Compute q(s, a) of K actions per state, `rows` states at a time."""
    check_shape("support", support, len(states), "K", "da")
    parts = zip(states.split(rows), support.split(rows), strict=True)
    values = torch.cat([q(s.unsqueeze(1), unpacked(actions)) for s, actions in parts])
    check_shape("Q", values, *support.shape[:2])
    return values
