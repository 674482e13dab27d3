"""Names of densities and methods. They need no torch, so that commands refuse a wrong one at once."""

from cepnb.errors import CepnbError

DENSITY_NAMES = ("8gaussians", "swissroll", "moons", "rings", "checkerboard", "2spirals")
METHODS = {
    "exact": "exact ε and exact ∇E_t: the error of the sampler alone",
    "exact_energy": "trained ε_θ, exact ∇E_t: adds the error of the score",
    "cep_raw": "CEP with labels e^{−βE} (Eq. 12)",
    "cep_self": "CEP with self-normalised labels (Eq. 13)",
    "cep_independent": "CEP with a normaliser from new samples",
    "cep_posterior": "CEP with labels averaged over the posterior (beyond the paper)",
    "cep_beta": "the same, one network for all β (beyond the paper)",
    "mse": "regression on βE",
    "exp_mse": "regression on e^{−βE}",
    "dps": "βE at the mean of x_0 given x_t, no training",
    "particles": "DPS corrected by resampling, no training (beyond the paper)",
}


def check_density(name: str) -> None:
    """Raise `CepnbError` unless `name` is a toy density."""
    if name not in DENSITY_NAMES:
        raise CepnbError(f"density '{name}' is unknown; use one of {', '.join(DENSITY_NAMES)}")


def check_method(name: str) -> None:
    """Raise `CepnbError` unless `name` is one of `METHODS`."""
    if name not in METHODS:
        raise CepnbError(f"method '{name}' is unknown; use one of {', '.join(METHODS)}")


def exact_text(number: float) -> str:
    """Write a number briefly but with all its digits, for names of files: 20 for 20.0."""
    text = f"{number:g}"
    return text if float(text) == number else repr(float(number))
