"""Silence libraries that print, warn and log while they are imported or build a simulation."""

import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator

from cepnb.storage.global_state import unchanged_globals


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence printed text, warnings and logs inside the block, and restore everything after it.

    Silenced: standard output and error, Python's warnings, absl's log, and MuJoCo's warnings with
    their log file. Also restored: the root logger's handlers and level, and what `unchanged_globals`
    restores. Exceptions propagate.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("absl.logging")  # before standard error is redirected: it keeps it
    import mujoco

    root, absl = logging.getLogger(), logging.getLogger("absl")
    handlers, level, absl_disabled = root.handlers[:], root.level, absl.disabled
    mujoco_warning = mujoco.get_mju_user_warning()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # a closed stream is None
            stream.flush()
    descriptors: dict[int, int] = {}
    for number in (1, 2):  # C code prints to these
        with contextlib.suppress(OSError):  # it is closed
            descriptors[number] = _copy(number)
    try:
        absl.disabled = True
        mujoco.set_mju_user_warning(lambda message: None)
        with (
            open(os.devnull, "w", encoding="utf-8") as devnull,
            contextlib.redirect_stdout(devnull),  # Jupyter replaces Python's streams
            contextlib.redirect_stderr(devnull),
            unchanged_globals(),
        ):
            warnings.simplefilter("ignore")
            for number in descriptors:
                os.dup2(devnull.fileno(), number)
            yield
    finally:
        for number, copy in descriptors.items():
            os.dup2(copy, number)
            os.close(copy)
        mujoco.set_mju_user_warning(mujoco_warning)
        absl.disabled = absl_disabled
        root.handlers[:] = handlers
        root.setLevel(level)


def _copy(descriptor: int) -> int:
    """Duplicate a descriptor to a number above 2, because a standard stream may be closed."""
    copy = os.dup(descriptor)
    if copy > 2:
        return copy
    try:
        return _copy(descriptor)
    finally:
        os.close(copy)
