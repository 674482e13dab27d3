"""Execute notebooks in parallel, and cache each result until its code or the package changes."""

import hashlib
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from queue import Empty
from time import monotonic

import nbformat
from jupyter_client import AsyncKernelClient, AsyncKernelManager
from jupyter_client.channels import AsyncZMQSocketChannel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from tqdm.auto import tqdm
from traitlets import Type

from cepnb.errors import CepnbError
from cepnb.experiments.executor import run_jobs
from cepnb.notebook.explorer.widgets import IN_PAGE
from cepnb.profiles import profile_name
from cepnb.storage.files import write_text
from cepnb.tools.book.outputs import hidden_errors, without_kernel

PACKAGE = Path(__file__).parents[2]
DISPLAY_ONLY = ("tools/book", "notebook/explorer/static")  # do not affect what a notebook computes
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Job:
    """A notebook and the path of its executed copy."""

    notebook: Path
    result: Path


def execute(
    notebooks: Sequence[Path], folder: Path, workers: int
) -> tuple[list[NotebookNode], int]:
    """Return the notebooks with outputs, and how many were executed; `folder` caches results.

    A change of text alone needs no execution. Raises `CepnbError` that names every failed notebook;
    the results of the others stay in the cache.
    """
    jobs = jobs_for(notebooks, folder)
    missing = [job for job in jobs if not job.result.exists()]
    with tqdm(total=len(missing), desc="notebooks", disable=not missing) as bar:
        failures = run_jobs(_execute, missing, workers, lambda job: bar.update())
    if failures:
        reasons = sorted(f"{job.notebook.name}: {reason}" for job, reason in failures)
        raise CepnbError("; ".join(reasons))
    for job in jobs:
        same_notebook = folder.glob(f"{job.notebook.stem}-{profile_name()}-*.ipynb")
        for stale in set(same_notebook) - {job.result}:
            stale.unlink()
    return [_with_outputs(job) for job in jobs], len(missing)


def jobs_for(notebooks: Sequence[Path], folder: Path) -> list[Job]:
    """Return a job for each notebook; its result is named by a digest of all its inputs."""
    environment, profile = _environment_digest(), profile_name()
    jobs = []
    for path in notebooks:
        digest = _notebook_digest(path, environment)
        jobs.append(Job(path, folder / f"{path.stem}-{profile}-{digest}.ipynb"))
    return jobs


def _execute(job: Job) -> None:
    notebook = nbformat.read(job.notebook, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        kernel_manager_class=PollingManager,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(job.notebook.parent)}},
    )
    try:
        client.execute(env=os.environ | {IN_PAGE: "1"})
    except CellExecutionError as error:
        outputs = [cell.get("outputs", ()) for cell in notebook.cells]
        failed = ["error" in {output.output_type for output in cell} for cell in outputs]
        reason = f"{error.ename}: {' '.join(error.evalue.split())}"
        raise CepnbError(f"cell {failed.index(True) + 1}: {reason}") from error
    if found := hidden_errors(notebook):
        raise CepnbError(f"hidden error: {' '.join(found[0].split())}")
    write_text(job.result, nbformat.writes(without_kernel(notebook)))


def _with_outputs(job: Job) -> NotebookNode:
    notebook, result = (nbformat.read(path, as_version=4) for path in (job.notebook, job.result))
    for cell, executed in zip(_code_cells(notebook), _code_cells(result), strict=True):
        cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
    return notebook


def _code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _environment_digest() -> bytes:
    """Digest of the installed packages and of the files of this package."""
    packages = sorted(f"{package.name}=={package.version}" for package in distributions())
    digest = hashlib.sha256("\n".join(packages).encode())
    for path in sorted(PACKAGE.rglob("*")):
        name = path.relative_to(PACKAGE).as_posix()
        if path.is_file() and path.suffix != ".pyc" and not name.startswith(DISPLAY_ONLY):
            digest.update(f"{name}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.digest()


def _notebook_digest(path: Path, environment: bytes) -> str:
    """Digest of the environment, of the notebook's code, and of the files that the code names."""
    digest = hashlib.sha256(environment)
    for cell in _code_cells(nbformat.read(path, as_version=4)):
        digest.update(hashlib.sha256(cell.source.encode()).digest())
        for name in re.findall(r'"([^"\n]+)"', cell.source):
            if (path.parent / name).is_file():
                digest.update(hashlib.sha256((path.parent / name).read_bytes()).digest())
    return digest.hexdigest()[:16]


class PollingChannel(AsyncZMQSocketChannel):
    """Wait for messages of a kernel, and poll in case a notification is lost.

    ZeroMQ announces a message once, to the next use of the socket. While `nbclient` waits for a
    reply, it also sends the state of `Output` widgets through this socket. Sending can then consume
    the announcement of the reply, and waiting would never end.
    """

    async def get_msg(self, timeout: float | None = None) -> dict:
        """Return the next message; raise `queue.Empty` after `timeout` seconds (None: no limit)."""
        end = math.inf if timeout is None else monotonic() + timeout
        while True:
            left = max(end - monotonic(), 0)
            try:
                return await super().get_msg(min(POLL_SECONDS, left))
            except Empty:
                if left <= POLL_SECONDS:
                    raise


class _PollingClient(AsyncKernelClient):
    shell_channel_class = Type(PollingChannel)


class PollingManager(AsyncKernelManager):
    """Manage a kernel whose replies are read by a `PollingChannel`."""

    client_factory = Type(_PollingClient)
