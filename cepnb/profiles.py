"""The three sizes of everything, chosen by `$CEPNB_PROFILE`: ci (seconds), laptop (minutes), paper (the reference settings)."""

import os

from cepnb.errors import CepnbError

PROFILE_NAMES = ("ci", "laptop", "paper")


def profile_name(name: str | None = None) -> str:
    """The given profile, else `$CEPNB_PROFILE`, else laptop. Raises `CepnbError` on an unknown one."""
    name = name or os.environ.get("CEPNB_PROFILE") or "laptop"
    if name not in PROFILE_NAMES:
        raise CepnbError(f"profile '{name}': expected one of {', '.join(PROFILE_NAMES)}")
    return name
