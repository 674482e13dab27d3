"""Step 4: the intermediate energy f_φ(a_t, t, s) of E(s, a) = −Q(s, a), by in-support CEP (Eq. 20) or its rivals."""

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.diffusion.guidance import EnergyFunction
from cepnb.diffusion.losses import cep, cep_self_normalised, exponentiated_mse, mse, soft_value
from cepnb.diffusion.networks import EnergyNet
from cepnb.diffusion.schedule import VPSchedule
from cepnb.diffusion.training import Examples, Plan, StepLoss, draw, initialised, seeded, train
from cepnb.errors import CepnbError
from cepnb.qgpo.settings import Settings

EnergyLoss = Callable[[EnergyFunction, Tensor, Tensor, Tensor, torch.Generator], Tensor]
EnergyErrors = Callable[[EnergyFunction, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
TRAINED_ENERGIES = ("cep", "mse", "exp_mse")
CEILING = 10.0  # of the exponents β(Q − V(s)) of labels, which overflow where the other actions of a state are all poor


def train_energy(
    method: str,
    states: Float[Tensor, "n ds"],
    support: Float[Tensor, "n K da"],
    q: Float[Tensor, "n K"],
    settings: Settings,
    schedule: VPSchedule,
    seed: int,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> EnergyNet:
    """Fit f_φ on the K support actions of each state, whose frozen values `q` are the labels.

    - "cep" contrasts the noised actions of one state at one t, by Eq. 20.
    - "mse" regresses −β(Q − mean_K Q), "exp_mse" e^{β(Q − V(s))} with V(s) = β⁻¹ log mean e^{βQ}: what is subtracted
      spares the network the part of Q that depends on the state alone and does not matter for guidance. The mean is over the
      regressed action too: with fresh actions the targets of "mse" are on average 1 − 1/K of Q − E_μ[Q] (1.6 % less at K = 64).

    With `settings.labels` "self_normalised" V(s), which Eq. 20 divides by too, is over the same K actions, and biased
    where good ones are rare. With "state_value" a random half of the K actions are contrasted (or regressed on), and V(s)
    is over the other half: independent of them, so that the minimiser of Eq. 12 is kept, up to labels at the `CEILING`.

    It is trained where they are. Raises `CepnbError` on another method.
    """
    net = energy_net(states.shape[1], support.shape[2], settings, schedule, seed).to(states.device)
    train(
        batch_loss(method, net, states, support, q, settings, schedule),
        {"net": net},
        energy_plan(settings),
        seeded(seed, "energy", states.device),
        checkpoint=checkpoint,
        label=f"energy ({method})",
        progress=progress,
    )
    return net


def batch_loss(
    method: str,
    net: EnergyFunction,
    states: Float[Tensor, "n ds"],
    support: Float[Tensor, "n K da"],
    q: Float[Tensor, "n K"],
    settings: Settings,
    schedule: VPSchedule,
) -> StepLoss:
    """`energy_loss` of a batch of states, of `settings.energy_batch`."""
    examples, errors = (
        energy_examples(states, support, q, settings, schedule),
        energy_errors(method, settings),
    )
    return lambda generator: errors(net, *examples(generator))


def energy_loss(method: str, settings: Settings, schedule: VPSchedule) -> EnergyLoss:
    """The loss of `train_energy` as a function of (f_φ, states, their actions, the Q of these, generator): one value a
    state, or one an action for the regressions."""
    errors = energy_errors(method, settings)
    return lambda net, s, a, q, generator: errors(
        net, *noised_actions(s, a, q, settings, schedule, generator)
    )


def energy_examples(
    states: Float[Tensor, "n ds"],
    support: Float[Tensor, "n K da"],
    q: Float[Tensor, "n K"],
    settings: Settings,
    schedule: VPSchedule,
) -> Examples:
    """Draws (a_t, t, s, Q of the contrasted actions, Q of those of the state value) of a batch of states."""
    batch = settings.energy_batch
    return lambda generator: noised_actions(
        *draw(generator, batch, states, support, q), settings, schedule, generator
    )


def noised_actions(
    s: Float[Tensor, "batch ds"],
    a: Float[Tensor, "batch K da"],
    q: Float[Tensor, "batch K"],
    settings: Settings,
    schedule: VPSchedule,
    generator: torch.Generator,
) -> tuple[Tensor, ...]:
    """(a_t, t, s, Q of the contrasted actions, Q of those of V(s)): all that is random in a step, with one t a state.

    Q is given over its mean. With labels over a state value a random half of the actions is contrasted, and V(s) is over
    the other.
    """
    t = schedule.draw_times(len(s), generator)
    values = others = q - q.mean(dim=1, keepdim=True)
    if settings.labels == "state_value":
        order = torch.rand(values.shape, generator=generator, device=values.device).argsort(dim=1)
        values, others = values.gather(1, order).tensor_split(2, dim=1)
        a = a.take_along_dim(order[:, : values.shape[1], None], dim=1)
    return (
        schedule.add_noise(a, t, torch.randn(a.shape, generator=generator, device=a.device)),
        t,
        s,
        values,
        others,
    )


def energy_errors(method: str, settings: Settings) -> EnergyErrors:
    """The loss as a function of f_φ and what `energy_examples` draws, whatever axes are before those of the batch.

    Raises `CepnbError` on another method than those of `METHODS`.
    """
    if method not in TRAINED_ENERGIES:
        raise CepnbError(f"method '{method}': expected one of {', '.join(METHODS)}")
    beta, halved = settings.beta, settings.labels == "state_value"

    def errors(
        net: EnergyFunction,
        at: Float[Tensor, "*batch k da"],
        t: Float[Tensor, "*batch"],
        s: Float[Tensor, "*batch ds"],
        values: Float[Tensor, "*batch k"],
        others: Float[Tensor, "*batch rest"],
    ) -> Tensor:
        f, beta_energy = net(at, t, s.unsqueeze(-2)), -beta * values
        match method:
            case "cep" if halved:
                return cep(f, beta_energy, beta * soft_value(others, beta), CEILING)
            case "cep":
                return cep_self_normalised(f, beta_energy)
            case "mse":
                return mse(f, beta_energy)
            case "exp_mse":
                return exponentiated_mse(
                    f, beta_energy + beta * soft_value(others, beta).unsqueeze(-1)
                )

    return errors


def energy_plan(settings: Settings) -> Plan:
    """How long and how fast step 4 trains."""
    return Plan(
        settings.energy_steps,
        settings.energy_rate,
        settings.energy_final,
        checkpoint_every=settings.checkpoint_every,
    )


def energy_net(
    state_dim: int, action_dim: int, settings: Settings, schedule: VPSchedule, seed: int
) -> EnergyNet:
    """An untrained f_φ(a_t, t, s) of the profile's size."""
    return initialised(
        seed,
        "energy",
        lambda: EnergyNet(
            action_dim, state_dim, settings.energy_width, settings.energy_depth, schedule=schedule
        ),
    )
