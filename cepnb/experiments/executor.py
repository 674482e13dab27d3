"""Jobs side by side on one machine: each in a process of its own, which may be killed without harm to the others."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import TypeVar

from tqdm.auto import tqdm

from cepnb.errors import CepnbError, in_a_line

Job = TypeVar("Job")
TRIES = 3  # times that a job is begun whose process is killed under it


def run_jobs(
    work: Callable[[Job], object],
    jobs: Iterable[Job],
    workers: int,
    ended: Callable[[Job], object] = lambda job: None,
) -> list[tuple[Job, str]]:
    """Call `work(job)` for each job, `workers` at a time; returns the jobs that failed, each with one line that says why.

    `work` is a function of a module and a job is plain data: both are pickled for a fresh process, and what `work`
    returns is dropped, so that it has to keep its results itself. A job fails by a `CepnbError`, or by any other exception,
    whose traceback then goes to standard error; the others go on. One whose process is killed is begun again, up to
    `TRIES` times in all, and so should go on from where it was. `ended(job)` is called here after each, failed or not.
    On an exception in the calling process, such as `KeyboardInterrupt`, all processes are ended first.

    This is the only place that knows how jobs are run: anything that maps a function over jobs can stand in for it.
    """
    context = multiprocessing.get_context("spawn")
    waiting = deque((job, 1) for job in jobs)
    running, failures = {}, []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job, attempt = waiting.popleft()
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_in_process, args=(work, job, sender), daemon=True)
                with _deaf_to_interrupts():
                    process.start()
                running[process.sentinel] = process, receiver, job, attempt
                sender.close()
            for sentinel in wait(list(running)):
                process, receiver, job, attempt = running.pop(sentinel)
                process.join()
                if process.exitcode < 0 and attempt < TRIES:
                    waiting.appendleft((job, attempt + 1))
                    continue
                if process.exitcode:
                    failures.append((job, _reason(process.exitcode, receiver)))
                ended(job)
    finally:
        for process, *_ in running.values():
            process.terminate()
        for process, *_ in running.values():
            process.join()
    return failures


def _in_process(work: Callable[[Job], object], job: Job, sender: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    tqdm.set_lock(
        threading.RLock()
    )  # its own would be one between processes, and left behind by a process that is killed
    try:
        work(job)
    except Exception as error:
        sender.send(
            in_a_line(error)[:4_000]
        )  # more may not fit into the pipe, which is read only when this process has ended
        if isinstance(error, CepnbError):
            raise SystemExit(1) from None
        raise


def _end_with_parent() -> None:
    """A process that is killed cannot end its children: they have to see for themselves."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _reason(exitcode: int, receiver: Connection) -> str:
    if exitcode < 0:
        return f"its process was killed {TRIES} times, the last by {signal.Signals(-exitcode).name}"
    try:
        return receiver.recv()
    except EOFError:
        return f"its process ended with status {exitcode}"


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C for a moment, and for good in a process that is started within, which inherits it.

    Ctrl-C reaches all processes of a terminal. The calling one ends the others, which would only print tracebacks.
    """
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # which alone may say how signals are taken
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
