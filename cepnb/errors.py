"""The one exception that this package raises on purpose, how any is said in a line, and what a command makes of it."""

import sys
from collections.abc import Callable


class CepnbError(ValueError):
    """Bad input or a failed write: one line that names the thing, what was found and what was expected."""


def in_a_line(error: BaseException) -> str:
    """What is said of an error, on one line: its own text if it is ours, else its kind and its text."""
    text = " ".join(str(error).split())
    return (
        text
        if isinstance(error, CepnbError)
        else f"{type(error).__name__}: {text}"
        if text
        else type(error).__name__
    )


def exit_status(program: str, command: Callable[[], None]) -> int:
    """Run a command: 0 if it is done, 2 after an error of ours, of the system or of memory, which is printed in a line, 130 if it was
    interrupted. Any other exception is a fault of the program and is raised."""
    try:
        command()
    except (CepnbError, OSError, MemoryError) as error:
        print(f"{program}: error: {in_a_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0
