"""Repeat a process that gets killed until it finishes."""

import multiprocessing
import signal
from collections.abc import Callable


def kills_until_done(
    work: Callable[..., None],
    arguments: tuple,
    most: int,
    after_a_kill: Callable[[], None] = lambda: None,
) -> int:
    """Run `work` in fresh processes until one finishes; return how many died by SIGKILL, fewer than `most`."""
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
        assert kills < most, "no progress"
