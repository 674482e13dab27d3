"""Step 3: the action value Q_ψ by in-support softmax Q-learning (Eqs. 21–22), with no action outside the support."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cepnb.diffusion.losses import softmax_q_target
from cepnb.diffusion.networks import TwinQ
from cepnb.diffusion.training import (
    Examples,
    Plan,
    StepLoss,
    draw,
    initialised,
    seeded,
    train,
    unpacked,
)
from cepnb.qgpo.settings import Settings
from cepnb.qgpo.transitions import Transitions


def train_critic(
    data: Transitions,
    support: Float[Tensor, "n K da"],
    settings: Settings,
    seed: int,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> TwinQ:
    """Fit Q_ψ(s, a) to r + γ Σ softmax(β_Q Q') Q' over support actions of s' (Eq. 22); returns the target network.

    Q' is the smaller of the two target networks, which follow the trained ones by Polyak averaging with rate τ. The
    error is the mean over both networks of the squared difference, one value a transition. All is done where the data is.
    """
    q = critic_net(data, settings, seed).to(support.device)
    target = deepcopy(q).requires_grad_(False)
    train(
        critic_loss(q, target, data, support, settings),
        {"q": q, "target": target},
        critic_plan(settings),
        seeded(seed, "critic", support.device),
        after_step=polyak_update(q, target, settings.target_rate),
        checkpoint=checkpoint,
        label="critic",
        progress=progress,
    )
    return target


def critic_loss(
    q: TwinQ, target: TwinQ, data: Transitions, support: Float[Tensor, "n K da"], settings: Settings
) -> StepLoss:
    """The squared errors of a batch of transitions, of `settings.q_batch`."""
    examples = critic_examples(data, support, settings)
    return lambda generator: critic_errors(q, target, settings, *examples(generator))


def critic_examples(
    data: Transitions, support: Float[Tensor, "n K da"], settings: Settings
) -> Examples:
    """Draws (s, a, r, terminal, s', support actions of s') of a batch of transitions."""

    def examples(generator: torch.Generator) -> tuple[Tensor, ...]:
        *now, next_row = draw(
            generator,
            settings.q_batch,
            data.states,
            data.actions,
            data.rewards,
            data.terminals,
            data.next_row,
        )
        return *now, data.distinct[next_row], unpacked(support[next_row])

    return examples


def critic_errors(
    q: TwinQ,
    target: TwinQ,
    settings: Settings,
    s: Float[Tensor, "*batch ds"],
    a: Float[Tensor, "*batch da"],
    reward: Float[Tensor, "*batch"],
    terminal: Bool[Tensor, "*batch"],
    after: Float[Tensor, "*batch ds"],
    support: Float[Tensor, "*batch K da"],
) -> Float[Tensor, "*batch"]:
    """The mean over both networks of (Q_ψ(s, a) − target)², the target of Eq. 22 being of the states `after`."""
    with torch.no_grad():
        next_q = target(after.unsqueeze(-2), support)
        goal = softmax_q_target(reward, terminal, next_q, settings.beta_q, settings.discount)
    q1, q2 = q.both(s, a)
    return ((q1 - goal).square() + (q2 - goal).square()) / 2


def polyak_update(q: TwinQ, target: TwinQ, rate: float) -> Callable[[], None]:
    """One step of Polyak averaging: target ← target + τ (q − target)."""

    def follow() -> None:
        with torch.no_grad():
            torch._foreach_lerp_(list(target.parameters()), list(q.parameters()), rate)

    return follow


def critic_plan(settings: Settings) -> Plan:
    """How long and how fast step 3 trains."""
    return Plan(
        settings.q_steps,
        settings.q_rate,
        settings.q_final,
        checkpoint_every=settings.checkpoint_every,
    )


def critic_net(data: Transitions, settings: Settings, seed: int) -> TwinQ:
    """An untrained twin Q of the profile's size."""
    return initialised(
        seed,
        "critic",
        lambda: TwinQ(
            data.states.shape[1],
            data.actions.shape[1],
            settings.q_width,
            settings.q_depth,
            settings.place_frequencies,
        ),
    )


@torch.no_grad()
def support_values(
    q: TwinQ, distinct: Float[Tensor, "n ds"], support: Float[Tensor, "n K da"], rows: int = 16_384
) -> Float[Tensor, "n K"]:
    """Q_ψ of every support action (smaller of the two networks): the labels of Eq. 20, computed once."""
    parts = zip(distinct.split(rows), support.split(rows), strict=True)
    return torch.cat([q(s.unsqueeze(1), unpacked(a)) for s, a in parts])
