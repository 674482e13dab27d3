"""The one exception that this package raises on purpose."""


class CepnbError(ValueError):
    """Bad input or a failed write: one line that names the thing, what was found and what was expected."""
