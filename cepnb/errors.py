"""The package's exception, errors as single lines, and the exit status of commands."""

import os
import sys
from collections.abc import Callable


class CepnbError(ValueError):
    """Bad input, a damaged file or a failed write; one line: the problem, then the fix."""


def in_a_line(error: BaseException) -> str:
    """Return an error's text as one line, preceded by its type unless it is a `CepnbError`.

    A lack of memory also gets its fix.
    """
    text = " ".join(str(error).split())
    if isinstance(error, CepnbError):
        return text
    kind = type(error).__name__
    line = f"{kind}: {text}" if text else kind
    fix = "use fewer rows or states, a smaller K or a smaller batch"
    return f"{line}; {fix}" if out_of_memory(error) else line


def out_of_memory(error: BaseException) -> bool:
    """Return whether Python, NumPy or torch could not allocate memory, on any device."""
    torch_says = type(error).__name__ == "OutOfMemoryError" or "CPUAllocator" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and torch_says)


def exit_status(program: str, command: Callable[[], None]) -> int:
    """Run a command and return its exit status: 0 (success), 2 (error) or 130 (interrupted).

    `CepnbError`, `OSError` and a lack of memory are printed as one line. Other exceptions are bugs
    and propagate. Closed standard streams are replaced: progress bars fail on None.
    """
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))
    try:
        command()
    except (CepnbError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not out_of_memory(error):
            raise
        print(f"{program}: error: {in_a_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    return 0
