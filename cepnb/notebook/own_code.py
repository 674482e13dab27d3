"""A reader's own functions put together: the whole of CEP on a toy density, and QGPO in a small maze.

The exercises check each function alone. Here they train networks and sample, and the result is
compared with the package's own pipeline, or with an exact answer. The networks, the optimiser and
the data come from the package; the method is the reader's.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.densities.methods import (
    guided_samples,
    score_net,
    toy_energy_net,
    train_score,
    train_toy_energy,
)
from cepnb.densities.metrics import w2
from cepnb.densities.mixtures import Density
from cepnb.densities.settings import ToySettings, toy_settings
from cepnb.densities.toys import density
from cepnb.diffusion.features import PlaneFeatures
from cepnb.diffusion.guidance import EpsFunction, energy_gradient
from cepnb.diffusion.networks import EnergyNet
from cepnb.diffusion.schedule import VPSchedule
from cepnb.diffusion.training import Plan, initialised, seeded, train
from cepnb.notebook import exercises
from cepnb.qgpo.tabular import TabularMDP, action_density, maze_mdp, nearest_direction

STEPS = 5_000  # of training on a toy density, at most
POLICY_STEPS = 1_500  # of training a policy's energy
EVALUATIONS = 100  # of the noise prediction for a sample: the reader's step is of first order
W2_MARGIN = 0.3  # of W2 over its floor, whose chance deviation is about 0.1
VALUE_MARGIN = 0.1  # relative; 64 actions a state and a short training cost about half of it


class CepParts(NamedTuple):
    """The reader's functions, with the arguments of the exercises that check them."""

    noise_loss: Callable[..., Tensor]  # 02
    energy_loss: Callable[..., Tensor]  # 05
    guided: Callable[..., Tensor]  # 06
    step: Callable[..., Tensor]  # 02


class QgpoParts(NamedTuple):
    """The reader's functions, with the arguments of the exercises that check them."""

    target: Callable[..., Tensor]  # 14
    energy_loss: Callable[..., Tensor]  # 05
    guided: Callable[..., Tensor]  # 06
    step: Callable[..., Tensor]  # 02


CHECKS = {
    "noise_loss": exercises.check_noise_loss,
    "energy_loss": exercises.check_contrastive_loss,
    "guided": exercises.check_guided_noise,
    "step": exercises.check_first_order_step,
    "target": exercises.check_softmax_target,
}


def own_cep(parts: CepParts, profile: str | None = None, progress: bool = True) -> str:
    """Compare the reader's CEP with the package's on eight Gaussians at β = 3; return one line.

    Both train a score and an energy by Eq. 13, for at most `STEPS` steps. The line begins with
    "Right:" if the reader's W2 over its floor is at most the package's plus `W2_MARGIN`.
    """
    if problem := _problem(parts):
        return problem
    chosen = toy_settings(profile)
    steps = {name: min(getattr(chosen, name), STEPS) for name in ("score_steps", "steps")}
    settings, q, beta = replace(chosen, **steps), density("8gaussians"), 3.0
    eps, f = cep_networks(parts, q, beta, settings, progress)
    score = train_score(q, settings, 0, progress=progress)
    energy = train_toy_energy("cep_self", q, beta, settings, 0, progress=progress)
    p, reached = q.tilted(beta), torch.zeros(3)
    for repeat in range(settings.repeats):
        generator = seeded(repeat, "own CEP")
        one, two = (p.sample(settings.samples, generator)[0] for _ in range(2))
        start = torch.randn(settings.samples, 2, generator=generator)
        mine = cep_samples(parts, eps, energy_gradient(f), start, q.schedule)
        theirs = guided_samples(score, energy_gradient(energy), q, settings, generator)
        reached += torch.tensor([w2(x, one) for x in (mine, theirs, two)])
    mine, theirs = (reached[:2] / reached[2]).tolist()
    line = f"W2 over its floor is {mine:.2f} with your functions and {theirs:.2f} with the package"
    return f"Right: {line}." if mine <= theirs + W2_MARGIN else f"Not yet: {line}."


def cep_networks(
    parts: CepParts, q: Density, beta: float, settings: ToySettings, progress: bool = True
) -> tuple[torch.nn.Module, EnergyNet]:
    """Train ε_θ and f_φ by the reader's losses."""
    schedule, shape = q.schedule, (settings.groups, settings.K)
    eps, f = score_net(q, settings, 0), toy_energy_net(q, settings, 0)

    def noise_loss(generator: torch.Generator) -> Tensor:
        x0, _ = q.sample(settings.score_batch, generator)
        t = schedule.draw_times(len(x0), generator, settings.score_early)
        noise = torch.randn(x0.shape, generator=generator)
        return parts.noise_loss(eps, x0, t, schedule.log_alpha(t), noise)

    def energy_loss(generator: torch.Generator) -> Tensor:
        x0, energy = q.sample(settings.groups * settings.K, generator)
        x0, energy = x0.unflatten(0, shape), energy.unflatten(0, shape)
        t = schedule.draw_times(settings.groups, generator, settings.early)
        xt = schedule.add_noise(x0, t, torch.randn(x0.shape, generator=generator))
        return parts.energy_loss(f(xt, t), beta * energy)

    for net, loss, steps, rate, label in (
        (eps, noise_loss, settings.score_steps, settings.score_rate, "your score"),
        (f, energy_loss, settings.steps, settings.rate, "your energy"),
    ):
        plan = Plan(steps, rate, settings.final)
        train(loss, {"net": net}, plan, seeded(0, label), label=label, progress=progress)
    return eps.requires_grad_(False), f.requires_grad_(False)


@torch.no_grad()
def cep_samples(
    parts: CepParts | QgpoParts,
    eps: EpsFunction,
    gradient: EpsFunction,
    x: Float[Tensor, "n dim"],
    schedule: VPSchedule,
) -> Float[Tensor, "n dim"]:
    """Sample from noise `x` by the reader's step and guidance at s = 1."""
    times = schedule.times(EVALUATIONS)
    alpha, sigma = schedule.alpha(times).tolist(), schedule.sigma(times).tolist()
    for i, t in enumerate(times[:-1].to(x.dtype)):
        noise = parts.guided(eps(x, t), gradient(x, t), sigma[i], 1.0)
        x = parts.step(x, noise, alpha[i], sigma[i], alpha[i + 1], sigma[i + 1])
    return x


def own_qgpo(parts: QgpoParts, progress: bool = True) -> str:
    """Compare the reader's QGPO with the exact policy of notebook 10's maze; return one line.

    Each state has 64 support actions of the exact μ. Q follows from the reader's target, f_φ from
    the reader's loss, and the policy from guided samples. The line begins with "Right:" if the mean
    value of this policy is within `VALUE_MARGIN` of that of the fixed point of Eq. 22 at β = 3.
    """
    if problem := _problem(parts):
        return problem
    (mdp, _), beta = maze_mdp("umaze", discount=0.9), 3.0
    policy = qgpo_policy(parts, mdp, beta, progress)
    mine = mdp.value(policy).mean().item()
    exact = mdp.value(mdp.tilted(mdp.in_support_q(beta), beta)).mean().item()
    behaviour = mdp.value(mdp.behaviour).mean().item()
    line = f"the mean value is {mine:.2f}; the exact policy has {exact:.2f}, μ {behaviour:.2f}"
    return f"Right: {line}." if abs(mine - exact) <= VALUE_MARGIN * exact else f"Not yet: {line}."


def qgpo_policy(
    parts: QgpoParts, mdp: TabularMDP, beta: float, progress: bool = True
) -> Float[Tensor, "S A"]:
    """Return the move probabilities of the reader's guided policy in each state."""
    states, K, generator = len(mdp.behaviour), 64, seeded(0, "own QGPO")
    schedule, every_state = VPSchedule(), torch.eye(states)
    of_state = [action_density(mu, torch.zeros(len(mu))) for mu in mdp.behaviour]
    support = torch.stack([mu.sample(K, generator)[0] for mu in of_state])  # (S, K, 2)
    move = nearest_direction(support.flatten(0, 1)).unflatten(0, (states, K))
    reward, following = mdp.reward.gather(1, move), mdp.next_state.gather(1, move)
    q = torch.zeros_like(reward)
    for _ in range(1_000):  # partial steps, as with a slowly moving target network
        target = parts.target(reward.flatten(), q[following.flatten()], beta, mdp.discount)
        q = q + 0.2 * (target.unflatten(0, (states, K)) - q)
    plane = PlaneFeatures(schedule, 16, 0.5, 0.7, 2)
    f = initialised(0, "own QGPO", lambda: EnergyNet(2, states, 64, 3, schedule, plane))

    def energy_loss(generator: torch.Generator) -> Tensor:
        t = schedule.draw_times(4 * states, generator)
        actions, labels = support.repeat(4, 1, 1), -beta * q.float().repeat(4, 1)
        at = schedule.add_noise(actions, t, torch.randn(actions.shape, generator=generator))
        return parts.energy_loss(f(at, t, every_state.repeat(4, 1).unsqueeze(1)), labels)

    plan = Plan(POLICY_STEPS, 3e-3, 0.01)
    train(energy_loss, {"net": f}, plan, generator, label="your policy's energy", progress=progress)
    f.requires_grad_(False)
    rows = []
    for state, mu in zip(every_state, of_state):
        gradient = energy_gradient(lambda at, t, condition, state=state: f(at, t, state))
        start = torch.randn(4_000, 2, generator=generator)
        moves = nearest_direction(cep_samples(parts, mu.eps, gradient, start, schedule))
        rows.append(moves.bincount(minlength=mdp.behaviour.shape[1]) / len(moves))
    return torch.stack(rows).double()


def _problem(parts: CepParts | QgpoParts) -> str:
    """Return the first function that its exercise does not accept, with the hint, or no text."""
    for name, function in parts._asdict().items():
        verdict = CHECKS[name](function)
        if not verdict.startswith("Right"):
            return f"{name}: {verdict}"
    return ""
