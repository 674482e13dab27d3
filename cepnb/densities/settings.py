"""Hyper-parameters of the toy experiments in each profile, selected by `$CEPNB_PROFILE`."""

from dataclasses import dataclass

from cepnb.densities.names import exact_text
from cepnb.errors import CepnbError
from cepnb.profiles import profile_name


@dataclass(frozen=True)
class ToySettings:
    """Hyper-parameters of training, sampling and measuring on a density of unit scale."""

    # Noise prediction ε_θ, one network per density
    score_features: int = 32  # random frequencies of x_t in the input
    score_early: float = 0.5  # share of training times uniform in λ_t; the others are uniform in t
    score_width: int = 512
    score_depth: int = 5  # hidden layers
    score_steps: int = 100_000
    score_batch: int = 2048
    score_reference: int = 0  # x_0 that average a label, at least score_batch; 0: ε is the label
    score_rate: float = 1e-3  # Adam learning rate, falls to final × score_rate (cosine)
    # Energy f_φ, one network per method and β
    features: int = 16
    early: float = 0.1  # as score_early
    K: int = 64  # samples per softmax, which share one t
    groups: int = 32  # softmaxes per step
    averaged_K: int = 64  # the same for labels averaged over the posterior
    averaged_groups: int = 32
    reference: int = 2048  # x_0 that average these labels, at least averaged_K × averaged_groups
    steps: int = 100_000
    rate: float = 1e-3  # Adam learning rate, falls to final × rate (cosine)
    final: float = 0.01
    width: int = 256
    depth: int = 4  # hidden layers
    # Energy f_φ(x_t, t, β), one network for all β
    conditioned_steps: int = 200_000
    beta_max: float = 25.0
    # Sampling and measuring
    dps_width: float = 1.0  # smoothing of E for DPS, which needs a slope; for unit scale
    sampler_steps: int = 25  # DPM-Solver++ evaluations per sample
    particles: int = 2_000  # of one run of the twisted diffusion sampler
    particle_steps: int = 100
    particle_width: float = 2.0  # as dps_width, for its twist
    samples: int = 2_000  # guided samples per set
    repeats: int = 10  # independent sets

    def check_beta(self, method: str, beta: float) -> None:
        """Raise `CepnbError` if β is above the range of the one network for all β."""
        if method == "cep_beta" and beta > self.beta_max:
            problem = f"cep_beta is trained up to {exact_text(self.beta_max)}"
            raise CepnbError(f"beta {exact_text(beta)}: {problem}; use cep_self, or a smaller beta")


TOY_PROFILES = {
    "ci": ToySettings(
        score_features=8,
        score_width=32,
        score_depth=2,
        score_steps=300,
        score_batch=256,
        features=8,
        score_reference=256,
        K=32,
        groups=8,
        averaged_K=32,
        averaged_groups=8,
        reference=256,
        steps=300,
        width=32,
        depth=2,
        conditioned_steps=300,
        particles=100,
        particle_steps=20,
        samples=200,
        repeats=2,
    ),
    # Many cheap steps of narrow networks: the noise of the labels limits the result, not the width.
    "laptop": ToySettings(
        score_width=96,
        score_depth=4,
        score_steps=20_000,
        score_batch=256,
        score_reference=512,
        score_rate=2e-3,
        groups=16,
        averaged_K=32,
        averaged_groups=8,
        reference=512,
        steps=24_000,
        rate=3e-3,
        width=96,
        depth=3,
        conditioned_steps=60_000,
    ),
    "paper": ToySettings(),
}
TOY_PROFILES["desktop"] = TOY_PROFILES["laptop"]  # minutes are enough for the toys


def toy_settings(name: str | None = None) -> ToySettings:
    """Return the settings of profile `name`, else `$CEPNB_PROFILE`, else laptop."""
    return TOY_PROFILES[profile_name(name)]
