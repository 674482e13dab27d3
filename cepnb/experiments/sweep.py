"""Run QGPO for each task, seed and option in parallel; each run has a folder, all scores one table."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cepnb.datasets.dataset import OfflineDataset
from cepnb.datasets.registry import load_task
from cepnb.errors import CepnbError
from cepnb.experiments.executor import check_cluster, run_jobs
from cepnb.experiments.scores import Row, grouped, rows_of, write_scores
from cepnb.experiments.step_reuse import reuse_steps, settings_of, step_path, training_rounds
from cepnb.experiments.sweep_file import Sweep
from cepnb.progress import progress_bar
from cepnb.qgpo.pipeline import check_evaluation, configuration_of, run_qgpo, set_bytes
from cepnb.qgpo.record import left_out, open_run, read_metrics, refuse_other
from cepnb.qgpo.settings import Settings
from cepnb.qgpo.transitions import prepare
from cepnb.storage.files import check_writable


@dataclass(frozen=True)
class Job:
    """One run of a sweep, as plain data."""

    dataset: str
    environment: str
    option: str
    settings: Settings
    profile: str
    seed: int
    round: int  # runs of later rounds reuse steps of earlier ones
    folder: Path  # SWEEP/TASK/OPTION/seedN
    threads: int | None  # of torch; None keeps the current number
    device: str  # name for `device_named`
    source: str  # what to load: the absolute path of a file, or the dataset's name

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"

    @property
    def data_key(self) -> tuple[str, str, int, int]:
        """The arguments of `load_task`."""
        return self.source, self.environment, self.settings.transitions, self.settings.data_seed

    def load(self) -> OfflineDataset:
        """Load the dataset; its name is that of the sweep file, not the absolute path."""
        return replace(load_task(*self.data_key), name=self.dataset)

    def configuration(self, dataset: OfflineDataset) -> dict:
        run = dataset, self.environment, self.settings, self.profile, self.seed
        return configuration_of(*run, self.device)


def run_sweep(
    sweep: Sweep,
    folder: str | Path,
    workers: int,
    device: str = "cpu",
    cluster: str | None = None,
) -> tuple[list[Row], list[tuple[Job, str]]]:
    """Run all unfinished runs of a sweep, `workers` at a time; return the rows of scores and the failed jobs with reasons.

    After every run, `folder`/scores.csv is rewritten with the rows of all finished runs. A killed sweep resumes. Options
    run in rounds, so that each shared step is trained once. `cluster` is as in `run_jobs`. The list of rows is empty if no
    run has a score. Failed jobs include finished runs that could not score every policy.

    Raises `CepnbError` before any run starts if a dataset cannot be loaded or trained on, if a folder holds a damaged run
    or a run of another configuration, if an environment cannot be evaluated, if `folder` refuses files or lacks space, or
    if a cluster's library is missing.
    """
    if cluster:
        check_cluster()
    # Workers of a cluster have other current folders.
    folder = Path(folder).absolute() if cluster else Path(folder)
    jobs = jobs_of(sweep, folder, threads=1 if workers > 1 else None, device=device)
    _check_jobs(sweep, folder, jobs)
    failures = []
    finished_before = sum(job.metrics.exists() for job in jobs)
    with progress_bar(total=len(jobs), initial=finished_before, desc="runs") as bar:

        def ended(job: Job) -> None:
            bar.update()
            _write_table(folder, jobs)

        for number in range(1 + max(job.round for job in jobs)):
            unfinished = [job for job in jobs if job.round == number and not job.metrics.exists()]
            failures += run_jobs(run_job, unfinished, workers, ended, cluster)
    rows, finished = _write_table(folder, jobs)
    failed = {job for job, _ in failures}
    for job, metrics in finished:
        fault = left_out(job.metrics, metrics)
        if fault and job not in failed:
            failures.append((job, fault))
    return rows if any(row["method"] for row in rows) else [], failures


def jobs_of(
    sweep: Sweep, folder: Path, threads: int | None = None, device: str = "cpu"
) -> list[Job]:
    """Return all runs of a sweep, in the order of the table."""
    jobs = []
    for task in sweep.tasks:
        round_of = training_rounds(task.options)
        for seed in sweep.seeds:
            for option, settings in task.options.items():
                run = task.dataset, task.environment, option, settings, sweep.profile, seed
                path, file = folder / task.folder / option / f"seed{seed}", Path(task.dataset)
                source = str(file.absolute()) if file.is_file() else task.dataset
                jobs.append(Job(*run, round_of[option], path, threads, device, source))
    return jobs


def run_job(job: Job) -> None:
    """Execute one run in the current process: reuse steps of other options, then train, resume and evaluate the rest."""
    dataset, threads = job.load(), torch.get_num_threads()
    others = sorted(job.folder.parents[1].glob(f"*/{job.folder.name}"))  # other options, same seed
    run = dataset, job.environment, job.settings, job.profile, job.seed, job.folder
    try:
        torch.set_num_threads(job.threads or threads)
        reuse_steps(open_run(job.folder, job.configuration(dataset)), job.settings, others)
        run_qgpo(*run, progress=False, device=job.device)
    finally:
        torch.set_num_threads(threads)


def _check_jobs(sweep: Sweep, folder: Path, jobs: list[Job]) -> None:
    """Load every dataset, so that no two processes generate it, and check every run's folder."""
    unfinished = [job for job in jobs if not job.metrics.exists()]
    for environment in dict.fromkeys(job.environment for job in unfinished):
        check_evaluation(environment)
    check_writable(folder / "scores.csv")
    size = 0
    for group in grouped(jobs, lambda job: job.data_key).values():
        try:
            dataset = group[0].load()
            configurations = [job.configuration(dataset) for job in group]
            waiting = [job for job in group if not job.metrics.exists()]
            used = ((job.settings.reward_tuning, job.settings.heading_frame) for job in waiting)
            for chosen in dict.fromkeys(used):
                prepare(dataset, *chosen)
        except CepnbError as error:
            raise CepnbError(f"{sweep.path}: datasets: {error}") from error
        for job, configuration in zip(group, configurations, strict=True):
            refuse_other(job.folder, configuration)
        size += _missing_bytes(dataset, waiting, group)
    check_writable(folder / "scores.csv", size)


def _missing_bytes(dataset: OfflineDataset, waiting: list[Job], group: list[Job]) -> int:
    """Return about how many bytes `waiting` jobs will store, where equal steps of a group are linked."""

    def result(job: Job, step: str) -> tuple:
        return job.seed, step, *(getattr(job.settings, name) for name in sorted(settings_of(step)))

    sizes = {}
    for job in waiting:
        sizes |= {result(job, step): n for step, n in set_bytes(dataset, job.settings).items()}
    for job in group:
        for step in ("support", "energy_support"):
            if step_path(job.folder, step).exists():
                sizes.pop(result(job, step), None)
    partial = (path.stat().st_size for job in waiting for path in job.folder.glob("*.npy.partial"))
    return sum(sizes.values()) - sum(partial)


def _write_table(folder: Path, jobs: list[Job]) -> tuple[list[Row], list[tuple[Job, dict]]]:
    """Write the table of all finished runs; return its rows and each finished run's metrics."""
    finished = [(job, read_metrics(job.metrics)) for job in jobs if job.metrics.exists()]
    rows = [row for job, metrics in finished for row in rows_of(metrics, job.option)]
    if rows:
        write_scores(folder / "scores.csv", rows)
    return rows, finished
