"""Jobs on a Dask cluster instead of one machine: what `run_jobs` does, by naming the address of a scheduler."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from cepnb.errors import CepnbError, in_a_line

Job = TypeVar("Job")
PATIENCE = 10  # seconds for the scheduler to answer


def jobs_at(address: str) -> Callable[..., list[tuple[Job, str]]]:
    """A function that stands in for `cepnb.experiments.executor.run_jobs` and runs jobs on the cluster of a scheduler, `tcp://HOST:PORT`.

    As many run at a time as its workers have threads, whatever number of workers is asked for; torch is best served by one
    thread a worker. Every worker needs this package and must see the folder of the runs. A worker that is lost loses
    nothing: its job is begun again on another one (three times, unless the scheduler is told otherwise), from where it was.
    Raises `CepnbError` if the library is missing or no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise CepnbError(
            "--cluster: needs the library distributed, expected after pip install 'cepnb[cluster]'"
        ) from error
    try:
        Client(address, timeout=PATIENCE, set_as_default=False).close()
    except (OSError, ValueError) as error:
        raise CepnbError(
            f"--cluster {address}: no scheduler answers there, expected one as by `dask scheduler`"
        ) from error

    def run(
        work: Callable[[Job], object],
        jobs: Iterable[Job],
        workers: int = 1,
        ended: Callable[[Job], object] = lambda job: None,
    ) -> list[tuple[Job, str]]:
        from distributed import as_completed

        with Client(address, timeout=PATIENCE) as client:
            running = {client.submit(work, job, pure=False): job for job in jobs}
            failures = []
            try:
                for future in as_completed(running):
                    if future.status != "finished":
                        failures.append((running[future], in_a_line(future.exception())))
                    ended(running[future])
            finally:
                client.cancel(list(running))
        return failures

    return run
