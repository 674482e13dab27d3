"""The profiles: sizes of every experiment."""

import os

from cepnb.errors import CepnbError

PROFILES = {
    "ci": "seconds, but networks are too small to be good",
    "laptop": "minutes on two cores",
    "desktop": "longer, for larger runs of QGPO",
    "paper": "the reference settings, for a GPU",
}
PROFILE_NAMES = tuple(PROFILES)


def profile_name(name: str | None = None) -> str:
    """Return `name`, else `$CEPNB_PROFILE`, else "laptop"; raise `CepnbError` if unknown."""
    name = name or os.environ.get("CEPNB_PROFILE") or "laptop"
    if name not in PROFILE_NAMES:
        raise CepnbError(f"profile '{name}' is unknown; use one of {', '.join(PROFILE_NAMES)}")
    return name
