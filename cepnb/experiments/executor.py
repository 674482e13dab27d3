"""Jobs in parallel: each in a fresh process on this machine, or on a Dask cluster.

This replaces `concurrent.futures.ProcessPoolExecutor`, which ends all processes if one of them dies.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar

from tqdm import tqdm

from cepnb.errors import CepnbError, in_a_line, out_of_memory

Job = TypeVar("Job")
Work = Callable[[Job], object]
Outcomes = Iterator[tuple[Job, str | None]]  # each job as it ends, with the reason if it failed
TRIES = 3  # attempts of a job whose process is killed
CONNECT_TIMEOUT = 10  # seconds for a Dask scheduler to answer


def run_jobs(
    work: Work,
    jobs: Iterable[Job],
    workers: int,
    ended: Work = lambda job: None,
    cluster: str | None = None,
) -> list[tuple[Job, str]]:
    """Call `work(job)` for each job in parallel and return the failed jobs, each with a one-line reason.

    Jobs run in fresh processes on this machine, `workers` at a time, or on the workers of a Dask scheduler with the
    address `cluster` (tcp://HOST:PORT); these need this package and the same files. `work` is a module-level function
    and a job is plain data, because both are pickled. Return values are dropped.

    A job fails if `work` raises; the others continue. Exceptions other than `CepnbError` and a lack of memory also print their traceback.
    A job whose process is killed restarts, up to `TRIES` attempts in all, so `work` should resume its files. `ended(job)`
    runs in this process after each job. An exception in this process, such as `KeyboardInterrupt`, ends all jobs.

    Raises `CepnbError` if the library `distributed` is missing or no scheduler answers.
    """
    outcomes = _on_cluster(work, jobs, cluster) if cluster else _on_machine(work, jobs, workers)
    failures = []
    with contextlib.closing(outcomes):
        for job, reason in outcomes:
            if reason is not None:
                failures.append((job, reason))
            ended(job)
    return failures


def _attempt(work: Work, job: Job) -> str | None:
    """Run one job; return the reason if it fails."""
    try:
        work(job)
    except Exception as error:
        if not isinstance(error, CepnbError) and not out_of_memory(error):
            traceback.print_exc()
        return in_a_line(error)
    return None


def _on_machine(work: Work, jobs: Iterable[Job], workers: int) -> Outcomes:
    context = multiprocessing.get_context("spawn")
    waiting = deque((job, 1) for job in jobs)
    running: dict[Connection, tuple[BaseProcess, Job, int]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job, attempt = waiting.popleft()
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_in_process, args=(work, job, sender), daemon=True)
                with _interrupts_ignored():
                    process.start()
                sender.close()
                running[receiver] = process, job, attempt
            for receiver in wait(list(running)):
                process, job, attempt = running.pop(receiver)
                reason = _answer(process, receiver)
                if process.exitcode < 0 and attempt < TRIES:
                    waiting.appendleft((job, attempt + 1))
                else:
                    yield job, reason
    finally:
        for process, *_ in running.values():
            process.terminate()
        for process, *_ in running.values():
            process.join()


def _in_process(work: Work, job: Job, sender: Connection) -> None:
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    # tqdm's default lock is shared by all processes, and a process that is killed would not release it.
    tqdm.set_lock(threading.RLock())
    sender.send(_attempt(work, job))


def _exit_with_parent() -> None:
    """Exit when the parent ends: a parent that is killed cannot end its children."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _answer(process: BaseProcess, receiver: Connection) -> str | None:
    """Wait for the end of a process; return None if its job succeeded, else the reason."""
    try:
        return receiver.recv()
    except EOFError:  # no answer
        process.join()
        if process.exitcode < 0:
            last = signal.Signals(-process.exitcode).name
            return f"its process was killed {TRIES} times, the last by {last}"
        return f"its process ended with status {process.exitcode}"
    finally:
        process.join()


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C in this block, and always in processes that it starts: they would only print tracebacks."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change signal handlers
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def check_cluster() -> None:
    """Raise `CepnbError` if the library `distributed` is missing."""
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise CepnbError(
            "--cluster: the library distributed is missing; run pip install 'cepnb[cluster]'"
        ) from error


def _on_cluster(work: Work, jobs: Iterable[Job], address: str) -> Outcomes:
    """Dask itself restarts jobs whose worker dies."""
    check_cluster()
    from distributed import Client, as_completed

    try:
        client = Client(address, timeout=CONNECT_TIMEOUT)
    except (OSError, ValueError) as error:
        raise CepnbError(
            f"--cluster {address}: no scheduler answers; start one with `dask scheduler`"
        ) from error
    with client:
        job_of = {client.submit(_attempt, work, job, pure=False): job for job in jobs}
        try:
            for future in as_completed(job_of):
                error = future.exception()
                yield job_of[future], in_a_line(error) if error else future.result()
        finally:
            client.cancel(list(job_of))
