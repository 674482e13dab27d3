"""The methods side by side on one density: how each comes by the gradient that guides (Table 1, arXiv:2304.12824).

All learned energies have the same network, samples, times and number of steps; they differ in the loss alone.
"""

import math
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cepnb.densities.mixtures import Density
from cepnb.densities.settings import ToySettings
from cepnb.diffusion.features import PlaneFeatures
from cepnb.diffusion.guidance import (
    EnergyFunction,
    EpsFunction,
    dps_energy,
    energy_gradient,
    guided,
)
from cepnb.diffusion.losses import (
    cep,
    cep_self_normalised,
    exponentiated_mse,
    mse,
    noise_prediction,
)
from cepnb.diffusion.networks import EnergyNet, PlaneEpsNet
from cepnb.diffusion.samplers import dpm_solver_pp, last
from cepnb.diffusion.training import Plan, StepLoss, initialised, seeded, train
from cepnb.errors import CepnbError
from cepnb.storage.runs import Run

METHODS = {
    "exact": "exact ε and exact ∇E_t: what the sampler alone leaves",
    "exact_energy": "learned ε_θ, exact ∇E_t: what learning the score leaves",
    "cep_raw": "CEP with labels e^{−βE} (Eq. 12)",
    "cep_self": "CEP with self-normalised labels (Eq. 13)",
    "cep_independent": "CEP with a normaliser from other samples than the contrasted ones",
    "cep_beta": "CEP, one network for all β (an extension beyond the paper)",
    "mse": "regression on βE",
    "exp_mse": "regression on e^{−βE}",
    "dps": "βE at the mean of x_0 given x_t, no training",
}
LEARNED = ("cep_raw", "cep_self", "cep_independent", "mse", "exp_mse")  # one network for each β


def train_score(
    density: Density,
    settings: ToySettings,
    seed: int,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> PlaneEpsNet:
    """ε_θ of q_0 by noise prediction: once a density, whatever is done with it afterwards."""
    net = score_net(density, settings, seed)

    def step_loss(generator: torch.Generator) -> Tensor:
        x0, _ = density.sample(settings.score_batch, generator)
        t = density.schedule.draw_times(len(x0), generator, settings.score_early)
        eps = torch.randn(x0.shape, generator=generator)
        return noise_prediction(net(density.schedule.add_noise(x0, t, eps), t), eps)

    plan = Plan(settings.score_steps, settings.score_rate, settings.final)
    train(
        step_loss,
        {"net": net},
        plan,
        seeded(seed, "toy score"),
        checkpoint=checkpoint,
        label="score",
        progress=progress,
    )
    return net


def train_toy_energy(
    method: str,
    density: Density,
    beta: float,
    settings: ToySettings,
    seed: int,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> EnergyNet:
    """f_φ at one β by one of `LEARNED`: `groups` sets a step of `K` samples each, one t a set.

    "cep_independent" divides the labels by the mean of e^{−βE} over as many fresh samples; the regression on
    exponentials by that of the first 100,000. Raises `CepnbError` on another method.
    """
    if method not in LEARNED:
        raise CepnbError(f"method '{method}': expected one of {', '.join(LEARNED)}")
    net = toy_energy_net(density, settings, seed)
    plan = Plan(settings.steps, settings.rate, settings.final)
    train(
        toy_energy_loss(method, net, density, beta, settings, seed),
        {"net": net},
        plan,
        seeded(seed, "toy energy"),
        checkpoint=checkpoint,
        label=f"{method}, beta = {beta:g}",
        progress=progress,
    )
    return net


def toy_energy_loss(
    method: str, net: EnergyNet, density: Density, beta: float, settings: ToySettings, seed: int
) -> StepLoss:
    """The losses of the sets of one step, one value a set."""
    offset = _log_mean(-beta * density.sample(100_000, seeded(seed, "toy normaliser"))[1])

    def step_loss(generator: torch.Generator) -> Tensor:
        xt, t, energy = _contrast(density, settings, generator)
        f, beta_energy = net(xt, t), beta * energy
        match method:
            case "cep_raw":
                return cep(f, beta_energy)
            case "cep_self":
                return cep_self_normalised(f, beta_energy)
            case "cep_independent":
                _, other = density.sample(energy.numel(), generator)
                return cep(f, beta_energy, _log_mean(-beta * other))
            case "mse":
                return mse(f, beta_energy).mean(dim=1)
            case "exp_mse":
                return exponentiated_mse(f, beta_energy, offset).mean(dim=1)

    return step_loss


def train_conditioned(
    density: Density,
    settings: ToySettings,
    seed: int,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> EnergyNet:
    """One f_φ(x_t, t, β) for all β in [0, `beta_max`], by the same contrast: each set has a β of its own.

    An extension beyond the paper. Given β, Theorem 3.2 holds as it stands; the normaliser is E[e^{−βE}] at each set's
    own β, over fresh samples, so that no β outweighs another. β = beta_max · u² for u uniform: small β change p_0 most.
    """
    net = toy_energy_net(density, settings, seed, condition_dim=2)

    def step_loss(generator: torch.Generator) -> Tensor:
        xt, t, energy = _contrast(density, settings, generator)
        beta = settings.beta_max * torch.rand(settings.groups, 1, generator=generator).square()
        _, other = density.sample(settings.groups * settings.K, generator)
        f = net(xt, t, beta_features(beta).unsqueeze(1))
        return cep(f, beta * energy, (-beta * other).logsumexp(1) - math.log(len(other)))

    plan = Plan(settings.conditioned_steps, settings.rate, settings.final)
    train(
        step_loss,
        {"net": net},
        plan,
        seeded(seed, "toy energy of all beta"),
        checkpoint=checkpoint,
        label="CEP for all beta",
        progress=progress,
    )
    return net


def score_net(density: Density, settings: ToySettings, seed: int) -> PlaneEpsNet:
    """An untrained ε_θ."""
    return initialised(
        seed,
        "toy score",
        lambda: PlaneEpsNet(
            2,
            settings.score_width,
            settings.score_depth,
            _deviation(density),
            settings.score_features,
            schedule=density.schedule,
        ),
    )


def toy_energy_net(
    density: Density, settings: ToySettings, seed: int, condition_dim: int = 0
) -> EnergyNet:
    """An untrained f_φ(x_t, t), or f_φ(x_t, t, β) conditioned on the two `beta_features`."""

    def build() -> EnergyNet:
        plane = PlaneFeatures(density.schedule, 2, settings.features, 0.5, _deviation(density))
        return EnergyNet(
            2, condition_dim, settings.width, settings.depth, schedule=density.schedule, plane=plane
        )

    return initialised(seed, "toy energy", build)


def beta_features(beta: Float[Tensor, "*shape 1"]) -> Float[Tensor, "*shape 2"]:
    """(β/10, log(1 + β)): the first tells large β apart, the second small ones."""
    return torch.cat([beta / 10, torch.log1p(beta)], dim=-1)


def at_beta(net: EnergyNet, beta: float) -> EnergyFunction:
    """f_φ(·, ·, β) as an energy function of (x_t, t) alone."""
    features = beta_features(torch.tensor([beta]))
    return lambda xt, t, condition=None: net(xt, t, features)


class Models:
    """The trained networks of one density and seed in a folder: made when first asked for, loaded after that.

    `configuration` says what they were made of; `CepnbError` if the folder holds those of another.
    """

    def __init__(
        self,
        density: Density,
        settings: ToySettings,
        seed: int,
        folder: Path,
        configuration: dict,
        progress: bool = True,
    ) -> None:
        self.density, self.settings, self.seed, self.progress = density, settings, seed, progress
        self.run = Run(folder, configuration)

    def score(self) -> PlaneEpsNet:
        """ε_θ of the density."""
        return self.run.module(
            "score",
            lambda: score_net(self.density, self.settings, self.seed),
            lambda path: train_score(self.density, self.settings, self.seed, path, self.progress),
        )

    def energy(self, method: str, beta: float) -> EnergyFunction:
        """f of a method that has one, learned or DPS's."""
        if method == "dps":
            smooth = lambda x: self.density.energy(x, self.settings.dps_width)
            return dps_energy(self.score(), smooth, beta, self.density.schedule)
        if method == "cep_beta":
            return at_beta(
                self.run.module(
                    method,
                    lambda: toy_energy_net(self.density, self.settings, self.seed, 2),
                    lambda path: train_conditioned(
                        self.density, self.settings, self.seed, path, self.progress
                    ),
                ),
                beta,
            )
        return self.run.module(
            f"{method}_{beta:g}",
            lambda: toy_energy_net(self.density, self.settings, self.seed),
            lambda path: train_toy_energy(
                method, self.density, beta, self.settings, self.seed, path, self.progress
            ),
        )

    def guidance(self, method: str, beta: float) -> tuple[EpsFunction, EpsFunction]:
        """(ε, ∇f) of any of `METHODS`. Raises `CepnbError` on another."""
        if method not in METHODS:
            raise CepnbError(f"method '{method}': expected one of {', '.join(METHODS)}")
        if method in ("exact", "exact_energy"):
            q, p = self.density, self.density.tilted(beta)
            eps = q.eps if method == "exact" else self.score()
            return eps, lambda xt, t, condition=None: q.score(xt, t) - p.score(xt, t)
        return self.score(), energy_gradient(self.energy(method, beta))

    def seconds(self, method: str, beta: float) -> float:
        """How long the training took of what this method needs: the score, and the energy if it has one."""
        steps = (
            []
            if method == "exact"
            else ["score", method if method == "cep_beta" else f"{method}_{beta:g}"]
        )
        return float(sum(self.run.seconds.get(step, 0.0) for step in steps))


def guided_samples(
    eps: EpsFunction,
    gradient: EpsFunction,
    density: Density,
    settings: ToySettings,
    generator: torch.Generator,
    scale: float = 1.0,
) -> Float[Tensor, "n 2"]:
    """`settings.samples` samples by DPM-Solver++ under the guided score (Eq. 11)."""
    start = torch.randn(settings.samples, 2, generator=generator)
    times = density.schedule.times(settings.sampler_steps)
    return last(
        dpm_solver_pp(
            guided(eps, gradient, density.schedule, scale), start, times, density.schedule
        )
    )


def _deviation(density: Density) -> float:
    """Standard deviation of q_0, one number for both coordinates, to one decimal: a scale for the networks."""
    x, _ = density.sample(10_000, seeded(0, "toy deviation"))
    return round(x.std(dim=0).mean().item(), 1)


def _contrast(
    density: Density, settings: ToySettings, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Noised samples (groups, K, 2), their times (groups,) and the energies (groups, K) of the clean ones."""
    x0, energy = (
        pool.unflatten(0, (settings.groups, settings.K))
        for pool in density.sample(settings.groups * settings.K, generator)
    )
    t = density.schedule.draw_times(settings.groups, generator, settings.early)
    return density.schedule.add_noise(x0, t, torch.randn(x0.shape, generator=generator)), t, energy


def _log_mean(log_values: Tensor) -> Tensor:
    """log of the mean of exponentials over all entries."""
    return log_values.logsumexp(dim=tuple(range(log_values.ndim))) - math.log(log_values.numel())
