"""The methods of Table 1 (arXiv:2304.12824) on one density: training, guidance and sampling.

At one β all energies share network, samples and steps; only the loss differs.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cepnb.densities.mixtures import Density
from cepnb.densities.names import check_density, check_method, exact_text
from cepnb.densities.settings import ToySettings, toy_settings
from cepnb.densities.toys import density as toy_density
from cepnb.diffusion import losses
from cepnb.diffusion.features import PlaneFeatures
from cepnb.diffusion.guidance import (
    EnergyFunction,
    EpsFunction,
    dps_energy,
    energy_gradient,
    guided,
)
from cepnb.diffusion.networks import EnergyNet, PlaneEpsNet
from cepnb.diffusion.particles import twisted_diffusion
from cepnb.diffusion.posterior import averaged_energy, averaged_noise, posterior_log_weights
from cepnb.diffusion.samplers import dpm_solver_pp, last
from cepnb.diffusion.training import Plan, StepLoss, initialised, seeded, train
from cepnb.errors import CepnbError
from cepnb.storage.runs import Run

# One network per β each
LEARNED = ("cep_raw", "cep_self", "cep_independent", "cep_posterior", "mse", "exp_mse")


def train_score(
    density: Density,
    settings: ToySettings,
    seed: int,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> PlaneEpsNet:
    """Train ε_θ of q_0 by noise prediction. All methods and all β share it.

    With `score_reference`, labels are `averaged_noise` instead of ε, with the same minimiser.
    """
    net, schedule = score_net(density, settings, seed), density.schedule
    batch, reference = settings.score_batch, settings.score_reference

    def loss(generator: torch.Generator) -> Tensor:
        x0, _ = density.sample(max(batch, reference), generator)
        t = schedule.draw_times(batch, generator, settings.score_early)
        eps = torch.randn(batch, density.dim, generator=generator)
        xt = schedule.add_noise(x0[:batch], t, eps)
        if reference:
            eps = averaged_noise(xt.unsqueeze(1), t, x0, schedule).squeeze(1)
        return losses.noise_prediction(net(xt, t), eps)

    plan = Plan(settings.score_steps, settings.score_rate, settings.final)
    generator, label = seeded(seed, "toy score"), "training the score"
    train(
        loss, {"net": net}, plan, generator, checkpoint=checkpoint, label=label, progress=progress
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
    """Train f_φ at one β by a method of `LEARNED`. Raises `CepnbError` on another method."""
    net = toy_energy_net(density, settings, seed)
    loss = toy_energy_loss(method, net, density, beta, settings, seed)
    plan = Plan(settings.steps, settings.rate, settings.final)
    generator, label = seeded(seed, "toy energy"), f"training {method} at β = {exact_text(beta)}"
    train(
        loss, {"net": net}, plan, generator, checkpoint=checkpoint, label=label, progress=progress
    )
    return net


def toy_energy_loss(
    method: str, net: EnergyNet, density: Density, beta: float, settings: ToySettings, seed: int
) -> StepLoss:
    """Return the loss of one training step of f_φ by a method of `LEARNED`: one value per group.

    A step draws `groups` groups of K samples that share one t. "cep_independent" normalises by the
    mean of e^{−βE} over new samples at each step, "exp_mse" by its mean over 100,000 samples, drawn
    once. "cep_posterior" has other groups, of `averaged_K`, and labels averaged over `reference`
    samples. Raises `CepnbError` on another method.
    """
    if method not in LEARNED:
        raise CepnbError(f"method '{method}' trains no energy; use one of {', '.join(LEARNED)}")
    if method == "exp_mse":
        _, fixed_energy = density.sample(100_000, seeded(seed, "toy normaliser"))
        log_normaliser = _log_mean_exp(-beta * fixed_energy)

    if method == "cep_posterior":
        return lambda generator: _averaged_loss(net, density, beta, settings, generator)

    def step_loss(generator: torch.Generator) -> Tensor:
        xt, t, energy = _draw_groups(density, settings, generator)
        f, beta_energy = net(xt, t), beta * energy
        match method:
            case "cep_raw":
                return losses.cep(f, beta_energy)
            case "cep_self":
                return losses.cep_self_normalised(f, beta_energy)
            case "cep_independent":
                _, other_energy = density.sample(energy.numel(), generator)
                return losses.cep(f, beta_energy, _log_mean_exp(-beta * other_energy))
            case "mse":
                return losses.mse(f, beta_energy).mean(dim=1)
            case "exp_mse":
                return losses.exponentiated_mse(f, beta_energy, log_normaliser).mean(dim=1)

    return step_loss


def train_conditioned(
    density: Density,
    settings: ToySettings,
    seed: int,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> EnergyNet:
    """Train one f_φ(x_t, t, β) for all β in [0, `beta_max`] by "cep_posterior": beyond the paper.

    Each group draws β = beta_max · u² for u uniform, because small β change p_0 the most.
    """
    net = toy_energy_net(density, settings, seed, condition_dim=2)

    def loss(generator: torch.Generator) -> Tensor:
        u = torch.rand(settings.averaged_groups, 1, generator=generator)
        beta = settings.beta_max * u.square()
        features = beta_features(beta).unsqueeze(1)
        return _averaged_loss(net, density, beta, settings, generator, features)

    plan = Plan(settings.conditioned_steps, settings.rate, settings.final)
    generator, label = seeded(seed, "toy energy of all beta"), "training CEP for all β"
    train(
        loss, {"net": net}, plan, generator, checkpoint=checkpoint, label=label, progress=progress
    )
    return net


def score_net(density: Density, settings: ToySettings, seed: int) -> PlaneEpsNet:
    """Build an untrained ε_θ."""

    def build() -> PlaneEpsNet:
        deviation, dim = _deviation(density), density.dim
        plane = PlaneFeatures(density.schedule, settings.score_features, 2.0, deviation, dim)
        return PlaneEpsNet(plane, settings.score_width, settings.score_depth)

    return initialised(seed, "toy score", build)


def toy_energy_net(
    density: Density, settings: ToySettings, seed: int, condition_dim: int = 0
) -> EnergyNet:
    """Build an untrained f_φ(x_t, t), or f_φ(x_t, t, β) with `condition_dim` = 2."""

    def build() -> EnergyNet:
        schedule, deviation, dim = density.schedule, _deviation(density), density.dim
        plane = PlaneFeatures(schedule, settings.features, 0.5, deviation, dim)
        return EnergyNet(dim, condition_dim, settings.width, settings.depth, schedule, plane)

    return initialised(seed, "toy energy", build)


def beta_features(beta: Float[Tensor, "*shape 1"]) -> Float[Tensor, "*shape 2"]:
    """Return (β/10, log(1 + β)), which resolve large and small β."""
    return torch.cat([beta / 10, torch.log1p(beta)], dim=-1)


def at_beta(net: EnergyNet, beta: float) -> EnergyFunction:
    """Fix β in f_φ(x_t, t, β) and return a function of (x_t, t)."""
    features = beta_features(torch.tensor([beta]))
    return lambda xt, t, condition=None: net(xt, t, features)


@dataclass(frozen=True)
class Models:
    """The networks of a toy density: trained on first use, then loaded from `folder`/name/seed.

    Raises `CepnbError` on an unknown name or profile.
    """

    name: str
    profile: str
    seed: int
    folder: Path
    progress: bool = True

    def __post_init__(self) -> None:
        check_density(self.name)
        toy_settings(self.profile)

    @cached_property
    def density(self) -> Density:
        return toy_density(self.name)

    @cached_property
    def settings(self) -> ToySettings:
        return toy_settings(self.profile)

    @cached_property
    def run(self) -> Run:
        stored = {"density": self.name, "profile": self.profile, "seed": self.seed}
        folder = self.folder / self.name / f"seed{self.seed}"
        return Run(folder, stored | {"settings": asdict(self.settings)})

    @cached_property
    def _loaded(self) -> dict[str, nn.Module]:
        """The networks read so far: samples of many sets read no file again."""
        return {}

    def score(self) -> PlaneEpsNet:
        """Return ε_θ of the density."""
        return self._network("score", score_net, train_score)

    def energy(self, method: str, beta: float) -> EnergyFunction:
        """Return f(x_t, t) of a method of `LEARNED`, "cep_beta" or "dps", or the twist of "particles".

        Raises `CepnbError` if β is above the range of "cep_beta".
        """
        if method in ("dps", "particles"):
            widths = {"dps": self.settings.dps_width, "particles": self.settings.particle_width}
            smooth_energy = partial(self.density.energy, width=widths[method])
            return dps_energy(self.score(), smooth_energy, beta, self.density.schedule)
        if method == "cep_beta":
            self.settings.check_beta(method, beta)
            build = partial(toy_energy_net, condition_dim=2)
            return at_beta(self._network(method, build, train_conditioned), beta)

        def fit(
            density: Density, settings: ToySettings, seed: int, checkpoint: Path, progress: bool
        ) -> EnergyNet:
            return train_toy_energy(method, density, beta, settings, seed, checkpoint, progress)

        return self._network(f"{method}_{exact_text(beta)}", toy_energy_net, fit)

    def guidance(self, method: str, beta: float) -> tuple[EpsFunction, EpsFunction]:
        """Return (ε, ∇f) of a method. Raises `CepnbError` unless it is one of `METHODS`."""
        check_method(method)
        if method not in ("exact", "exact_energy"):
            gradient = energy_gradient(self.energy(method, beta))  # first: it checks β
            return self.score(), gradient
        exact = self.density.intermediate_energy_gradient
        gradient = lambda xt, t, condition=None: exact(xt, t, beta)
        return self.density.eps if method == "exact" else self.score(), gradient

    def samples(
        self, method: str, beta: float, generator: torch.Generator, scale: float = 1.0
    ) -> Float[Tensor, "n dim"]:
        """Draw `settings.samples` samples of p_0 by a method of `METHODS`.

        "particles" draws by `particle_samples`, the others by `guided_samples` with guidance scale
        `scale`. Raises `CepnbError` as these and `guidance` do, and on a scale of particles.
        """
        if method == "particles":
            if scale != 1:
                raise CepnbError(f"scale {scale:g}: particles have no guidance scale; use 1")
            return particle_samples(self.score(), self.density, beta, self.settings, generator)
        guidance = self.guidance(method, beta)
        return guided_samples(*guidance, self.density, self.settings, generator, scale)

    def seconds(self, method: str, beta: float) -> float:
        """Return the seconds that training took for the score and the energy of a method."""
        steps = ("score", method, f"{method}_{exact_text(beta)}") if method != "exact" else ()
        return float(sum(self.run.seconds.get(step, 0.0) for step in steps))

    def _network(self, step: str, build: Callable, fit: Callable) -> nn.Module:
        fixed, progress = (self.density, self.settings, self.seed), self.progress
        train_it = lambda checkpoint: fit(*fixed, checkpoint, progress)
        if step not in self._loaded:
            self._loaded[step] = self.run.module(step, lambda: build(*fixed), train_it)
        return self._loaded[step]


def guided_samples(
    eps: EpsFunction,
    gradient: EpsFunction,
    density: Density,
    settings: ToySettings,
    generator: torch.Generator,
    scale: float = 1.0,
) -> Float[Tensor, "n dim"]:
    """Draw `settings.samples` samples by DPM-Solver++ under the guided score (Eq. 11).

    Sampling starts from N(0, I). Raises `CepnbError` unless q_0 has about unit scale, and on samples
    that are not finite.
    """
    _deviation(density, 1_000)
    schedule = density.schedule
    start = torch.randn(settings.samples, density.dim, generator=generator)
    guided_eps = guided(eps, gradient, schedule, scale)
    x = last(dpm_solver_pp(guided_eps, start, schedule.times(settings.sampler_steps), schedule))
    bad = len(x) - int(x.isfinite().all(dim=1).sum())
    if bad:
        found = f"{bad} of {len(x)} samples at scale {scale:g}"
        raise CepnbError(f"{found} are not finite; use a smaller scale")
    return x


def particle_samples(
    eps: EpsFunction,
    density: Density,
    beta: float,
    settings: ToySettings,
    generator: torch.Generator,
) -> Float[Tensor, "n dim"]:
    """Draw `settings.samples` samples by `twisted_diffusion` with the smoothed βE as twist.

    Independent runs of `settings.particles` each take `settings.particle_steps` steps. The samples
    are a random subset of all particles.
    """
    _deviation(density, 1_000)
    runs = math.ceil(settings.samples / settings.particles)
    start = torch.randn(runs, settings.particles, density.dim, generator=generator)
    no_noise, schedule = torch.tensor(density.schedule.t_min), density.schedule
    x = twisted_diffusion(
        eps,
        lambda x: beta * density.energy(x, width=settings.particle_width),
        lambda x: density.intermediate_energy(x, no_noise, beta),
        start,
        schedule.times(settings.particle_steps),
        schedule,
        generator,
    ).flatten(0, 1)
    return x[torch.randperm(len(x), generator=generator)[: settings.samples]]


def _deviation(density: Density, count: int = 10_000) -> float:
    """Standard deviation of q_0 per coordinate, to one decimal: the unit of the networks.

    Raises `CepnbError` unless it is in [0.1, 10] and all means are in [-10, 10].
    """
    x, _ = density.sample(count, seeded(0, "toy deviation"))
    deviation, mean = x.var(dim=0).mean().sqrt().item(), x.mean(dim=0).abs().max().item()
    if not (0.1 <= deviation <= 10 and mean <= 10):
        found = f"density: deviation {deviation:.3g} around means up to {mean:.3g}"
        fix = "use standardised() of an own density, rescale it to about 1, or cut heavy tails off"
        raise CepnbError(f"{found}; {fix}")
    return round(deviation, 1)


def _draw_groups(
    density: Density, settings: ToySettings, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw x_t (groups, K, dim), t (groups,) and the energies E(x_0) (groups, K)."""
    shape = (settings.groups, settings.K)
    x0, energy = density.sample(settings.groups * settings.K, generator)
    x0, energy = x0.unflatten(0, shape), energy.unflatten(0, shape)
    t = density.schedule.draw_times(settings.groups, generator, settings.early)
    xt = density.schedule.add_noise(x0, t, torch.randn(x0.shape, generator=generator))
    return xt, t, energy


def _averaged_loss(
    net: EnergyNet,
    density: Density,
    beta: float | Float[Tensor, "groups 1"],
    settings: ToySettings,
    generator: torch.Generator,
    condition: Tensor | None = None,
) -> Float[Tensor, "groups"]:
    """Return `cep_averaged` of `averaged_groups` groups; each x_t was made from a reference sample."""
    schedule, groups, K = density.schedule, settings.averaged_groups, settings.averaged_K
    x0, energy = density.sample(settings.reference, generator)
    noised = x0[: groups * K].unflatten(0, (groups, K))
    t = schedule.draw_times(groups, generator, settings.early)
    xt = schedule.add_noise(noised, t, torch.randn(noised.shape, generator=generator))
    log_w = posterior_log_weights(xt, t, x0, schedule)
    return losses.cep_averaged(net(xt, t, condition), averaged_energy(log_w, beta * energy))


def _log_mean_exp(values: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """log of the mean of exponentials over the last axis."""
    return values.logsumexp(dim=-1) - math.log(values.shape[-1])
