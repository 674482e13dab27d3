"""Processes that are killed and begun again."""

import multiprocessing
import signal
from collections.abc import Callable


def kills_until_done(
    work: Callable[..., None],
    arguments: tuple,
    most: int,
    after_a_kill: Callable[[], None] = lambda: None,
) -> int:
    """Begins `work` in a process of its own until one ends well; each before must have died by SIGKILL, and fewer than `most` have."""
    kills = 0
    while True:
        process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
        process.start()
        process.join()
        if process.exitcode == 0:
            return kills
        assert process.exitcode == -signal.SIGKILL
        after_a_kill()
        kills += 1
        assert kills < most, "it does not get on"
