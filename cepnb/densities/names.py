"""Names of densities and methods. They need no torch, so that commands refuse a wrong one at once."""

import re

from cepnb.errors import CepnbError

DENSITY_NAMES = ("8gaussians", "swissroll", "moons", "rings", "checkerboard", "2spirals")
DENSITY_HELP = f"one of {', '.join(DENSITY_NAMES)}, or mixture0, mixture1, … (random ones)"
METHODS = {
    "exact": "exact ε and exact ∇E_t: the error of the sampler alone",
    "exact_energy": "trained ε_θ, exact ∇E_t: adds the error of the score",
    "cep_raw": "CEP with labels e^{−βE} (Eq. 12)",
    "cep_self": "CEP with self-normalised labels (Eq. 13)",
    "cep_independent": "CEP with a normaliser from new samples",
    "cep_posterior": "CEP with labels averaged over the posterior (beyond the paper)",
    "cep_beta": "one CEP network for all β (beyond the paper)",
    "mse": "regression on βE",
    "exp_mse": "regression on e^{−βE}",
    "dps": "βE at the mean of x_0 given x_t, no training",
    "particles": "DPS corrected by resampling, no training (beyond the paper)",
}


def check_density(name: str) -> None:
    """Raise `CepnbError` unless `name` is a toy density or a random mixture."""
    if name not in DENSITY_NAMES and mixture_seed(name) is None:
        raise CepnbError(f"density '{name}' is unknown; use {DENSITY_HELP}")


def mixture_seed(name: str) -> int | None:
    """Return N of "mixtureN", the random mixture of seed N, or None for another name."""
    found = re.fullmatch(r"mixture(0|[1-9][0-9]{0,8})", name)
    return int(found[1]) if found else None


def check_method(name: str) -> None:
    """Raise `CepnbError` unless `name` is one of `METHODS`."""
    if name not in METHODS:
        raise CepnbError(f"method '{name}' is unknown; use one of {', '.join(METHODS)}")


def exact_text(number: float) -> str:
    """Write a number briefly but with all its digits, for names of files: 20 for 20.0."""
    text = f"{number:g}"
    return text if float(text) == number else repr(float(number))
