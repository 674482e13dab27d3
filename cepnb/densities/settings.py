"""Hyper-parameters of the toy experiments, in three sizes chosen by `$CEPNB_PROFILE`."""

from dataclasses import dataclass

from cepnb.profiles import profile_name


@dataclass(frozen=True)
class ToySettings:
    """Hyper-parameters of learning scores and intermediate energies on a two-dimensional toy density."""

    # Noise prediction ε_θ, once a density
    score_features: int = 32  # random frequencies of x_t in the input
    score_early: float = 0.5  # share of the training times that is uniform in λ_t, the rest in t
    score_width: int = 512
    score_depth: int = 5  # hidden layers
    score_steps: int = 100_000
    score_batch: int = 2048
    score_rate: float = 1e-3
    # Energy f_φ, for each method and β
    features: int = 16
    early: float = 0.1
    K: int = 64  # samples of one softmax; they share one t
    groups: int = 32  # softmaxes a step
    steps: int = 100_000
    rate: float = 1e-3  # Adam learning rate, falling to final × rate (cosine)
    final: float = 0.01  # of the score's learning rate, too
    width: int = 256
    depth: int = 4  # hidden layers of f_φ
    # One energy for all β
    conditioned_steps: int = 200_000
    beta_max: float = 25.0
    # Sampling and measuring
    dps_width: float = (
        1.0  # over which DPS sees the energy smoothed: most of those of the toys are steps
    )
    sampler_steps: int = 25  # DPM-Solver++ evaluations a sample
    samples: int = 2_000  # guided samples that are measured
    repeats: int = 10  # independent sets of them


TOY_PROFILES = {
    "ci": ToySettings(
        score_features=8,
        score_width=32,
        score_depth=2,
        score_steps=300,
        score_batch=256,
        features=8,
        K=32,
        groups=8,
        steps=300,
        width=32,
        depth=2,
        conditioned_steps=300,
        samples=200,
        repeats=2,
    ),
    # Many cheap steps of a narrow network: what is left is the noise of the labels far more than the size of the network.
    "laptop": ToySettings(
        score_width=96,
        score_depth=4,
        score_steps=20_000,
        score_batch=512,
        score_rate=2e-3,
        groups=16,
        steps=24_000,
        rate=3e-3,
        width=64,
        depth=3,
        conditioned_steps=60_000,
    ),
    "paper": ToySettings(),
}


def toy_settings(name: str | None = None) -> ToySettings:
    """Settings of the toy experiments under a profile."""
    return TOY_PROFILES[profile_name(name)]
