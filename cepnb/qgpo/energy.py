"""Step 4: the intermediate energy f_φ(a_t, t, s) of E(s, a) = −Q(s, a), by CEP (Eq. 20) or regression."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.diffusion.guidance import EnergyFunction, EpsFunction, dps_energy
from cepnb.diffusion.losses import cep, cep_self_normalised, exponentiated_mse, mse, soft_value
from cepnb.diffusion.networks import EnergyNet, TwinQ
from cepnb.diffusion.training import StepLoss, draw, initialised, seeded, train
from cepnb.errors import CepnbError
from cepnb.qgpo.settings import SCHEDULE, Settings
from cepnb.storage.validation import check_finite, check_same_shape, check_shape

TRAINED_ENERGIES = ("cep", "mse", "exp_mse")
CEILING = 10.0  # largest exponent β(Q − V(s)) of a label; beyond it e^x could overflow


def train_energy(
    method: str,
    states: Float[Tensor, "n ds"],
    support: Float[Tensor, "n K da"],
    q: Float[Tensor, "n K"],
    settings: Settings,
    seed: int,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> EnergyNet:
    """Train f_φ on the K support actions of each state, labelled by their frozen values `q`.

    `method` is one of `TRAINED_ENERGIES`; `contrast_loss` defines their losses. Training runs on
    the device of the states. Raises `CepnbError` if labels are not finite, as for a large β.
    """
    labels = settings.beta * (q - q.mean(dim=1, keepdim=True))
    check_finite(f"energy ({method}): labels βQ", labels, "use a smaller beta")
    net = energy_net(states.shape[1], support.shape[2], settings, seed).to(states.device)
    loss, plan = energy_loss(method, net, states, support, q, settings), settings.plan("energy")
    generator = seeded(seed, "energy", states.device)
    options = {"label": f"energy ({method})", "checkpoint": checkpoint, "progress": progress}
    train(loss, {"net": net}, plan, generator, **options)
    return net


def energy_loss(
    method: str,
    net: EnergyFunction,
    states: Float[Tensor, "n ds"],
    support: Float[Tensor, "n K da"],
    q: Float[Tensor, "n K"],
    settings: Settings,
) -> StepLoss:
    """Return the loss of one step: `contrast_loss` of `settings.energy_batch` random states.

    Raises `CepnbError` on an unknown method and on shapes that differ.
    """
    if method not in TRAINED_ENERGIES:
        raise CepnbError(f"method '{method}': use one of {', '.join(TRAINED_ENERGIES)}")

    check_shape("states", states, "n", "ds")
    check_shape("support", support, len(states), "K", "da")
    check_shape("Q", q, *support.shape[:2])

    def step_loss(generator: torch.Generator) -> Tensor:
        s, a, values = draw(generator, settings.energy_batch, states, support, q)
        return contrast_loss(method, net, s, a, values, settings, generator)

    return step_loss


def contrast_loss(
    method: str,
    net: EnergyFunction,
    s: Float[Tensor, "batch ds"],
    a: Float[Tensor, "batch K da"],
    q: Float[Tensor, "batch K"],
    settings: Settings,
    generator: torch.Generator,
) -> Float[Tensor, "batch"] | Float[Tensor, "batch k"]:
    """In-support contrastive energy prediction (Eqs. 19–20, arXiv:2304.12824), or a regression.

    The K actions of a state are noised at one t. E = −Q, taken relative to the state's mean.

    - "cep": −Σ_i softmax(βQ)_i log softmax(−f)_i, one value per state (Eq. 20). With `settings.labels`
      "state_value" the labels are e^{β(Q_i − V)} instead, up to e^`CEILING`.
    - "mse": (f + β(Q − mean Q))², one value per action.
    - "exp_mse": regression of e^{−f} on e^{β(Q − V)}, one value per action.

    V = β⁻¹ log mean e^{βQ} is over the same K actions if labels are "self_normalised", which biases
    the minimiser where good actions are rare. With "state_value" a random half of the actions is
    contrasted and V is over the other half: this keeps the minimiser of Eq. 12.
    """
    beta = settings.beta
    t = SCHEDULE.draw_times(len(s), generator)
    contrasted = others = q - q.mean(dim=1, keepdim=True)
    halved = settings.labels == "state_value"
    if halved:
        order = torch.rand(q.shape, generator=generator, device=q.device).argsort(dim=1)
        contrasted, others = contrasted.gather(1, order).tensor_split(2, dim=1)
        a = a.take_along_dim(order[:, : contrasted.shape[1], None], dim=1)
    eps = torch.randn(a.shape, generator=generator, device=a.device)
    at = SCHEDULE.add_noise(a, t, eps)
    f, beta_energy = net(at, t, s.unsqueeze(1)), -beta * contrasted
    check_same_shape(labels=contrasted, f=f)
    if method == "mse":
        return mse(f, beta_energy)
    if method == "cep" and not halved:
        return cep_self_normalised(f, beta_energy)
    beta_value = beta * soft_value(others, beta)
    if method == "cep":
        return cep(f, beta_energy, beta_value, CEILING)
    return exponentiated_mse(f, beta_energy + beta_value.unsqueeze(1))


def policy_dps_energy(eps: EpsFunction, q: TwinQ, settings: Settings) -> EnergyFunction:
    """Return f = −β Q(s, â_0) of diffusion posterior sampling (Table 1), which needs no training.

    â_0 is the predicted action, clipped to [-1, 1], where Q is trained.
    """
    return dps_energy(eps, lambda a, s: -q(s, a.clamp(-1, 1)), settings.beta, SCHEDULE)


def energy_net(state_dim: int, action_dim: int, settings: Settings, seed: int) -> EnergyNet:
    """Build an untrained f_φ(a_t, t, s); its first weights depend on the seed alone."""
    sizes = action_dim, state_dim, settings.energy_width, settings.energy_depth
    return initialised(seed, "energy", lambda: EnergyNet(*sizes))
