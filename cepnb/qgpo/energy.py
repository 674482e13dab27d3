"""Step 4: the intermediate energy f_φ(a_t, t, s) of E(s, a) = −Q(s, a), by CEP (Eq. 20) or regression."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cepnb.diffusion.guidance import EnergyFunction, EpsFunction, dps_energy
from cepnb.diffusion.losses import cep_self_normalised, exponentiated_mse, mse, soft_value
from cepnb.diffusion.networks import EnergyNet, QEnsemble
from cepnb.diffusion.posterior import averaged_energy, posterior_log_weights
from cepnb.diffusion.schedule import expand_as
from cepnb.diffusion.training import StepLoss, draw, initialised, seeded, train
from cepnb.errors import CepnbError
from cepnb.qgpo.behaviour import SCHEDULE
from cepnb.qgpo.settings import Settings
from cepnb.storage.validation import check_finite, check_same_shape, check_shape

TRAINED_ENERGIES = ("cep", "mse", "exp_mse")


def train_energy(
    method: str,
    states: Float[Tensor, "n ds"],
    support: Float[Tensor, "n K da"],
    q: Float[Tensor, "n K"],
    settings: Settings,
    seed: int,
    checkpoint: Path | None = None,
    progress: bool = True,
    q_net: QEnsemble | None = None,
) -> nn.Module:
    """Train f_φ on the K support actions of each state, labelled by their frozen values `q`.

    `method` is one of `TRAINED_ENERGIES`; `contrast_loss` defines their losses. Training runs on
    the device of the states. `q_net` is needed with `settings.q_in_energy` only. Raises `CepnbError`
    if it is missing then, and if labels are not finite, as for a large β.
    """
    labels = settings.beta * (q - q.mean(dim=1, keepdim=True))
    check_finite(f"energy ({method}): labels βQ", labels, "use a smaller beta")
    net = energy_net(states.shape[1], support.shape[2], settings, seed, q_net).to(states.device)
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
    """Return the loss of one step: `contrast_loss` of `settings.states_per_energy_step` states.

    Raises `CepnbError` on an unknown method and on shapes that differ.
    """
    if method not in TRAINED_ENERGIES:
        raise CepnbError(f"method '{method}': use one of {', '.join(TRAINED_ENERGIES)}")

    check_shape("states", states, "n", "ds")
    check_shape("support", support, len(states), "K", "da")
    check_shape("Q", q, *support.shape[:2])

    def step_loss(generator: torch.Generator) -> Tensor:
        s, a, values = draw(generator, settings.states_per_energy_step, states, support, q)
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

    - "cep": −Σ_i softmax(−E_t)_i log softmax(−f)_i, one value per state.
    - "mse": (f − E_t)², one value per action; with `settings.q_in_energy`, both less their means over
      the actions, because f then has the level of Q.
    - "exp_mse": regression of e^{−f} on e^{−E_t − βV}, one value per action.

    `settings.labels` estimates E_t of the noised action a_t, which was made from action a_i:

    - "self_normalised": −βQ_i, so that "cep" is Eq. 20. It is biased where good actions are rare.
    - "posterior" (beyond the paper): −log Σ_j w_j e^{βQ_j} over all K actions of the state, with
      weights of `cepnb.diffusion.posterior`; for "mse", −Σ_j w_j βQ_j. The sums estimate the means
      given a_t, so the limit as K grows is the same, with less noise. At most `settings.contrasted`
      of the K are noised, because the minimiser does not depend on their number.

    V = β⁻¹ log mean e^{βQ} over the K actions.
    """
    beta = settings.beta
    t = SCHEDULE.draw_times(len(s), generator)
    all_a, all_q = a, q - q.mean(dim=1, keepdim=True)
    noised_q = all_q  # of the actions that are noised
    averaged = settings.labels == "posterior"
    if averaged:
        order = torch.rand(q.shape, generator=generator, device=q.device).argsort(dim=1)
        noised = order[:, : settings.contrasted]
        a, noised_q = a.take_along_dim(noised.unsqueeze(2), dim=1), all_q.gather(1, noised)
    eps = torch.randn(a.shape, generator=generator, device=a.device)
    at = SCHEDULE.add_noise(a, t, eps)
    f, beta_energy = net(at, t, s.unsqueeze(1)), -beta * noised_q
    check_same_shape(labels=noised_q, f=f)
    if averaged:
        log_w = posterior_log_weights(at, t, all_a, SCHEDULE)
        if method == "mse":
            beta_energy = -beta * (log_w.exp() @ all_q.unsqueeze(2)).squeeze(2)
        else:
            beta_energy = averaged_energy(log_w, -beta * all_q)
    if method == "mse":
        if settings.q_in_energy:  # the level of Q in a state says nothing about its actions
            f, beta_energy = (x - x.mean(dim=1, keepdim=True) for x in (f, beta_energy))
        return mse(f, beta_energy)
    if method == "cep":
        return cep_self_normalised(f, beta_energy)
    beta_value = beta * soft_value(all_q, beta)
    return exponentiated_mse(f, beta_energy + beta_value.unsqueeze(1))


def policy_dps_energy(eps: EpsFunction, q: QEnsemble, settings: Settings) -> EnergyFunction:
    """Return f = −β Q(s, â_0) of diffusion posterior sampling (Table 1), which needs no training.

    â_0 is the predicted action, clipped to [-1, 1], where Q is trained. Q is the minimum of the
    networks for any `q_pessimism`, because a single action has no advantage over others.
    """
    return dps_energy(eps, lambda a, s: -q(s, a.clamp(-1, 1)), settings.beta, SCHEDULE)


class QInformedEnergy(nn.Module):
    """f_φ(a_t, t, s) = h_φ(a_t, t, s) − β g(λ_t) mean_i Q_i(s, clip(a_t/α_t)), beyond the paper.

    As t → 0, E_t tends to −βQ, so that the network h_φ learns a difference only, and f_φ is as fine
    as Q also in states where it was not trained. The gate g(λ) = sigmoid(slope (λ − middle)) of half
    the log signal-to-noise ratio λ_t is learned; where noise dominates, it is 0. The weights of Q are
    frozen, and are no part of this module. Shapes as in `EnergyNet`.
    """

    def __init__(self, net: EnergyNet, q: QEnsemble, beta: float) -> None:
        super().__init__()
        self.net, self.beta = net, beta
        self.slope, self.middle = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(1.0))
        self.values = q.requires_grad_(False).each  # a method, so that Q is not registered here

    def forward(self, at: Tensor, t: Tensor, s: Tensor) -> Tensor:
        alpha = expand_as(SCHEDULE.alpha(t), at)
        q = self.values(s, (at / alpha).clamp(-1, 1)).mean(dim=0)
        gate = torch.sigmoid(self.slope * (SCHEDULE.half_log_snr(t) - self.middle))
        return self.net(at, t, s) - self.beta * expand_as(gate, at).squeeze(-1) * q


def energy_net(
    state_dim: int, action_dim: int, settings: Settings, seed: int, q_net: QEnsemble | None = None
) -> EnergyNet | QInformedEnergy:
    """Build an untrained f_φ(a_t, t, s); its first weights depend on the seed alone.

    With `settings.q_in_energy` it is a `QInformedEnergy`; raises `CepnbError` without `q_net` then.
    """
    sizes = action_dim, state_dim, settings.energy_width, settings.energy_depth
    count = settings.place_frequencies
    net = initialised(seed, "energy", lambda: EnergyNet(*sizes, place_frequencies=count))
    if not settings.q_in_energy:
        return net
    if q_net is None:
        raise CepnbError("the critic is missing; with q_in_energy, f_φ needs the critic of its run")
    return QInformedEnergy(net, q_net, settings.beta)
