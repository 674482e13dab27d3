"""Step 4: the intermediate energy f_φ(a_t, t, s) of E(s, a) = −Q(s, a), by in-support CEP (Eq. 20) or its rivals."""

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.errors import CepnbError
from cepnb.losses import cep, cep_self_normalised, exponentiated_mse, mse, soft_value
from cepnb.networks import EnergyNet
from cepnb.profiles import Settings
from cepnb.schedule import VPSchedule
from cepnb.training import Plan, StepLoss, draw, initialised, seeded, train

EnergyLoss = Callable[[EnergyNet, Tensor, Tensor, Tensor, torch.Generator], Tensor]
METHODS = ("cep", "mse", "exp_mse")
CEILING = 10.0  # of the exponents β(Q − V(s)) of labels, which overflow where the other actions of a state are all poor


def train_energy(method: str, states: Float[Tensor, "n ds"], support: Float[Tensor, "n K da"],
                 q: Float[Tensor, "n K"], settings: Settings, schedule: VPSchedule, seed: int,
                 checkpoint: Path | None = None, progress: bool = True) -> EnergyNet:
    """Fit f_φ on the K support actions of each state, whose frozen values `q` are the labels.

    - "cep" contrasts the noised actions of one state at one t, by Eq. 20.
    - "mse" regresses −β(Q − mean_K Q), "exp_mse" e^{β(Q − V(s))} with V(s) = β⁻¹ log mean e^{βQ}: what is subtracted
      depends on the state alone and spares the network the part of Q that does not matter for guidance.

    With `settings.labels` "self_normalised" V(s), which Eq. 20 divides by too, is over the same K actions, and biased
    where good ones are rare. With "state_value" a random half of the K actions are contrasted (or regressed on), and V(s)
    is over the other half: independent of them, so that the minimiser of Eq. 12 is kept, up to labels at the `CEILING`.

    Raises `CepnbError` on another method.
    """
    net = energy_net(states.shape[1], support.shape[2], settings, schedule, seed)
    plan = Plan(settings.energy_steps, settings.energy_rate, settings.energy_final,
                checkpoint_every=settings.checkpoint_every)
    train(batch_loss(method, net, states, support, q, settings, schedule), {"net": net}, plan, seeded(seed, "energy"),
          checkpoint=checkpoint, label=f"energy ({method})", progress=progress)
    return net


def batch_loss(method: str, net: EnergyNet, states: Float[Tensor, "n ds"], support: Float[Tensor, "n K da"],
               q: Float[Tensor, "n K"], settings: Settings, schedule: VPSchedule) -> StepLoss:
    """`energy_loss` of a batch of states, of `settings.energy_batch`."""
    loss = energy_loss(method, settings, schedule)
    return lambda generator: loss(net, *draw(generator, settings.energy_batch, states, support, q), generator)


def energy_loss(method: str, settings: Settings, schedule: VPSchedule) -> EnergyLoss:
    """The loss of `train_energy` as a function of (f_φ, states, their actions, the Q of these, generator): one value a
    state, or one an action for the regressions."""
    if method not in METHODS:
        raise CepnbError(f"method '{method}': expected one of {', '.join(METHODS)}")
    beta, halved = settings.beta, settings.labels == "state_value"

    def loss(net: EnergyNet, s: Float[Tensor, "batch ds"], a: Float[Tensor, "batch K da"], q: Float[Tensor, "batch K"],
             generator: torch.Generator) -> Tensor:
        t = schedule.draw_times(len(s), generator)
        values = others = q - q.mean(dim=1, keepdim=True)
        if halved:
            order = torch.rand(values.shape, generator=generator).argsort(dim=1)
            values, others = values.gather(1, order).tensor_split(2, dim=1)
            a = a.take_along_dim(order[:, :values.shape[1], None], dim=1)
        at = schedule.add_noise(a, t, torch.randn(a.shape, generator=generator))
        f, beta_energy = net(at, t, s.unsqueeze(1)), -beta * values
        match method:
            case "cep" if halved:
                return cep(f, beta_energy, beta * soft_value(others, beta), CEILING)
            case "cep":
                return cep_self_normalised(f, beta_energy)
            case "mse":
                return mse(f, beta_energy)
            case "exp_mse":
                return exponentiated_mse(f, beta_energy + beta * soft_value(others, beta).unsqueeze(1))

    return loss


def energy_net(state_dim: int, action_dim: int, settings: Settings, schedule: VPSchedule, seed: int) -> EnergyNet:
    """An untrained f_φ(a_t, t, s) of the profile's size."""
    return initialised(seed, "energy", lambda: EnergyNet(
        action_dim, state_dim, settings.energy_width, settings.energy_depth, schedule=schedule))
