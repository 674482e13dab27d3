"""The package's exception, errors as single lines, and what commands share."""

import argparse
import os
import select
import sys
from collections.abc import Callable


class CepnbError(ValueError):
    """Bad input, a damaged file or a failed write; one line: the problem, then the fix."""


def in_a_line(error: BaseException) -> str:
    """Return an error's text as one line, preceded by its type unless it is a `CepnbError`.

    A lack of memory also gets its fix.
    """
    text = " ".join(_text(error).split())
    if isinstance(error, CepnbError):
        return text
    kind = type(error).__name__
    line = f"{kind}: {text}" if text else kind
    fix = "use fewer rows or states, a smaller K or a smaller batch"
    return f"{line}; {fix}" if out_of_memory(error) else line


def out_of_memory(error: BaseException) -> bool:
    """Return whether Python, NumPy or torch could not allocate memory, on any device."""
    torch_says = type(error).__name__ == "OutOfMemoryError" or "CPUAllocator" in _text(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and torch_says)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # of the error's own `__str__`
        return ""


class Once(argparse.Action):
    """Store an option's value; an option that is given twice is an error."""

    given = False

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if self.given:
            raise argparse.ArgumentError(self, "given more than once; give it once")
        self.given = True
        setattr(namespace, self.dest, values)


def exit_status(program: str, command: Callable[[], None]) -> int:
    """Run a command and return its exit status: 0 (success), 2 (error) or 130 (interrupted).

    `CepnbError`, `OSError` and a lack of memory are printed as one line. Other exceptions are bugs
    and propagate. Closed standard streams are replaced: progress bars fail on None. If the reader
    of the output has left, as `head` does, what cannot be written is dropped without a message, and
    the status is 141, which a shell reports for SIGPIPE.
    """
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:
            setattr(sys, stream, open(os.devnull, "w", encoding="utf-8"))
    try:
        command()
        sys.stdout.flush()  # at the end of the process it is too late to handle an error
    except (CepnbError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not out_of_memory(error):
            raise
        if isinstance(error, BrokenPipeError) and _reader_left():
            return 141
        print(f"{program}: error: {in_a_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    finally:
        if _reader_left():  # Python writes what is left when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _reader_left() -> bool:
    """Return whether standard output is a pipe that nobody reads any more."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # a stream in memory, or a closed one
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))
