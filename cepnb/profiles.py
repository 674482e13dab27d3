"""The profiles: ci (seconds), laptop (minutes), desktop (longer) and paper (reference settings)."""

import os

from cepnb.errors import CepnbError

PROFILE_NAMES = ("ci", "laptop", "desktop", "paper")


def profile_name(name: str | None = None) -> str:
    """Return `name`, else `$CEPNB_PROFILE`, else "laptop"; raise `CepnbError` if unknown."""
    name = name or os.environ.get("CEPNB_PROFILE") or "laptop"
    if name not in PROFILE_NAMES:
        raise CepnbError(f"profile '{name}' is unknown; use one of {', '.join(PROFILE_NAMES)}")
    return name
