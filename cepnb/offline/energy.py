"""Step 4: the intermediate energy f_φ(a_t, t, s) of E(s, a) = −Q(s, a), by in-support CEP (Eq. 20) or by MSE."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.errors import CepnbError
from cepnb.losses import cep_self_normalised, mse
from cepnb.networks import EnergyNet
from cepnb.profiles import Settings
from cepnb.schedule import VPSchedule
from cepnb.training import Plan, draw, initialised, seeded, train

METHODS = ("cep", "mse")


def train_energy(method: str, states: Float[Tensor, "n ds"], support: Float[Tensor, "n K da"],
                 q: Float[Tensor, "n K"], settings: Settings, schedule: VPSchedule, seed: int,
                 checkpoint: Path | None = None, progress: bool = True) -> EnergyNet:
    """Fit f_φ on the K support actions of each state, whose frozen values `q` are the labels.

    "cep" contrasts the K noised actions of one state at one t (Eq. 20). "mse" regresses −β(Q − mean_K Q), the same
    samples and the same network; the mean depends on the state alone, so it leaves MSE's guidance as it is and spares
    the network the part of Q that does not matter. Raises `CepnbError` on another method.
    """
    if method not in METHODS:
        raise CepnbError(f"method '{method}': expected one of {', '.join(METHODS)}")
    net = energy_net(states.shape[1], support.shape[2], settings, schedule, seed)
    beta_energy = -settings.beta * (q - q.mean(dim=1, keepdim=True))
    loss = {"cep": cep_self_normalised, "mse": mse}[method]

    def step_loss(generator: torch.Generator) -> Tensor:
        s, a, label = draw(generator, settings.energy_batch, states, support, beta_energy)
        t = schedule.draw_times(len(s), generator)
        at = schedule.add_noise(a, t, torch.randn(a.shape, generator=generator))
        return loss(net(at, t, s.unsqueeze(1)), label)

    plan = Plan(settings.energy_steps, settings.energy_rate, settings.energy_final,
                checkpoint_every=settings.checkpoint_every)
    train(step_loss, {"net": net}, plan, seeded(seed, "energy"), checkpoint=checkpoint,
          label=f"energy ({method})", progress=progress)
    return net


def energy_net(state_dim: int, action_dim: int, settings: Settings, schedule: VPSchedule, seed: int) -> EnergyNet:
    """An untrained f_φ(a_t, t, s) of the profile's size."""
    return initialised(seed, "energy", lambda: EnergyNet(
        action_dim, state_dim, settings.energy_width, settings.energy_depth, schedule=schedule))
