"""A sweep: QGPO for all of tasks × seeds × options in parallel processes, each run in a folder of its own, into one table."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from tqdm.auto import tqdm

from cepnb.datasets.dataset import OfflineDataset
from cepnb.datasets.registry import load_task
from cepnb.diffusion.devices import device_named
from cepnb.errors import CepnbError
from cepnb.experiments.executor import run_jobs
from cepnb.experiments.scores import Row, rows_of, scored, write_scores
from cepnb.experiments.step_reuse import reuse_steps, rounds
from cepnb.experiments.sweep_file import Sweep
from cepnb.qgpo.pipeline import configuration_of, run_qgpo
from cepnb.qgpo.record import left_out, open_run, read_metrics, refuse_other
from cepnb.qgpo.settings import Settings


@dataclass(frozen=True)
class Job:
    """One run of a sweep, in plain data."""

    dataset: str
    environment: str
    option: str
    settings: Settings
    profile: str
    seed: int
    round: int  # in which it is run, after those whose steps it takes over
    folder: Path
    others: tuple[
        Path, ...
    ]  # folders of the other options on this task and seed, whose steps may be taken over
    threads: int | None  # of torch; None leaves them as they are
    device: str  # a name of `cepnb.diffusion.devices`

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"

    def configuration(self, dataset: OfflineDataset) -> dict:
        return configuration_of(
            dataset, self.environment, self.settings, self.profile, self.seed, self.device
        )


def run_sweep(
    sweep: Sweep,
    folder: Path,
    workers: int,
    progress: bool = True,
    device: str = "cpu",
    run: Callable[..., list[tuple[Job, str]]] = run_jobs,
) -> tuple[list[Row], list[tuple[Job, str]]]:
    """Every run that is not finished, `workers` at a time; returns the rows of scores (none if there is no score) and the jobs
    that failed, with the reason: those that fail now, and those that have finished, now or before, but could not score all.

    Rows are written to `folder`/scores.csv after every run, of all that are finished by then. A sweep that was killed goes
    on where it was. What options share is made once: they run in rounds, and later ones take over files of earlier ones.
    `run` has the arguments of `run_jobs`, and may run the jobs elsewhere, where the folder can be seen.

    Raises `CepnbError` before any run begins on a dataset that cannot be had or learned from, and if what is there of a run is
    of another configuration or damaged.
    """
    jobs = jobs_of(sweep, folder, threads=1 if workers > 1 else None, device=device)
    _refuse_impossible(sweep, jobs)
    failures = []
    with tqdm(
        total=len(jobs),
        initial=sum(job.metrics.exists() for job in jobs),
        desc="runs",
        disable=not progress,
    ) as bar:

        def ended(job: Job) -> None:
            bar.update()
            _write(folder, _finished(jobs))

        for index in range(1 + max(job.round for job in jobs)):
            part = [job for job in jobs if job.round == index and not job.metrics.exists()]
            failures += run(run_job, part, workers, ended)
    finished, named = _finished(jobs), {job for job, _ in failures}
    failures += [
        (job, fault)
        for job, metrics in finished
        if job not in named and (fault := left_out(job.metrics, metrics))
    ]
    return _write(folder, finished), failures


def jobs_of(
    sweep: Sweep, folder: Path, threads: int | None = None, device: str = "cpu"
) -> list[Job]:
    """All runs, in the order of the table."""
    jobs = []
    for task in sweep.tasks:
        order = {
            option: index
            for index, options in enumerate(rounds(task.options))
            for option in options
        }
        for seed in sweep.seeds:
            places = {
                option: folder / task.folder / option / f"seed{seed}" for option in task.options
            }
            jobs += [
                Job(
                    task.dataset,
                    task.environment,
                    option,
                    task.options[option],
                    sweep.profile,
                    seed,
                    order[option],
                    place,
                    tuple(other for other in places.values() if other != place),
                    threads,
                    device,
                )
                for option, place in places.items()
            ]
    return jobs


def run_job(job: Job) -> None:
    """One run, in whatever process: steps of other options are taken over, the rest is made or gone on with."""
    if job.threads:
        torch.set_num_threads(job.threads)
    dataset = load_task(
        job.dataset, job.environment, job.settings.transitions, job.settings.data_seed
    )
    reuse_steps(open_run(job.folder, job.configuration(dataset)), job.settings, job.others)
    run_qgpo(
        dataset,
        job.environment,
        job.settings,
        job.profile,
        job.seed,
        job.folder,
        progress=False,
        device=device_named(job.device),
    )


def _refuse_impossible(sweep: Sweep, jobs: list[Job]) -> None:
    """Has every dataset here before any run begins, so that no two processes make it, and asks for each run's folder."""

    def data(job: Job) -> tuple:
        return job.dataset, job.environment, job.settings.transitions, job.settings.data_seed

    for _, same in groupby(sorted(jobs, key=data), data):
        own = list(same)
        try:
            dataset = load_task(*data(own[0]))
            configurations = [job.configuration(dataset) for job in own]
        except CepnbError as error:
            raise CepnbError(f"{sweep.path}: datasets: {error}") from error
        for job, configuration in zip(own, configurations):
            refuse_other(job.folder, configuration)


def _finished(jobs: list[Job]) -> list[tuple[Job, dict]]:
    return [(job, read_metrics(job.metrics)) for job in jobs if job.metrics.exists()]


def _write(folder: Path, finished: list[tuple[Job, dict]]) -> list[Row]:
    rows = [row for job, metrics in finished for row in rows_of(metrics, job.option)]
    if rows:
        write_scores(folder / "scores.csv", rows)
    return rows if any(map(scored, rows)) else []
