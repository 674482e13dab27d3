"""The one exception that this package raises on purpose, and how any is said in a line."""


class CepnbError(ValueError):
    """Bad input or a failed write: one line that names the thing, what was found and what was expected."""


def in_a_line(error: BaseException) -> str:
    """What is said of an error: its own line if it is ours, else its kind and its text on one line."""
    return str(error) if isinstance(error, CepnbError) else f"{type(error).__name__}: {' '.join(str(error).split())}"
