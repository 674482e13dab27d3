"""Notebooks executed side by side; what none of them and nothing below them has changed since is not executed again."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from tqdm.auto import tqdm

from cepnb.errors import CepnbError
from cepnb.experiments.executor import run_jobs
from cepnb.notebook.explorer.widgets import IN_PAGE
from cepnb.qgpo.settings import profile_name
from cepnb.storage.files import write_text
from cepnb.tools.book.hidden_errors import hidden_errors
from cepnb.tools.book.kernels import LookingManager
from cepnb.tools.book.outputs import without_kernel

PACKAGE = Path(__file__).parents[2]
ONLY_SHOW = (
    "tools/book",
    "notebook/explorer/static",
)  # folders of the package that change how outputs look and not what they are


@dataclass(frozen=True)
class Job:
    """A notebook, and where it is kept once it has been executed."""

    notebook: Path
    kept: Path


def execute(
    notebooks: Sequence[Path], folder: Path, workers: int
) -> tuple[list[NotebookNode], int]:
    """The notebooks with outputs, and how many had to be executed, `workers` at a time; results are kept in `folder`.

    Only code decides: text can be changed without a run. Raises `CepnbError` with one line for each notebook that fails;
    the others are kept.
    """
    jobs = jobs_for(notebooks, folder)
    missing = [job for job in jobs if not job.kept.exists()]
    with tqdm(total=len(missing), desc="notebooks", disable=not missing) as bar:
        failures = run_jobs(_execute, missing, workers, lambda job: bar.update())
    if failures:
        raise CepnbError(
            "; ".join(
                f"{job.notebook.name}: {reason}"
                for job, reason in sorted(failures, key=lambda f: f[0].kept)
            )
        )
    for job in jobs:
        for older in set(folder.glob(f"{job.notebook.stem}-{profile_name()}-*.ipynb")) - {job.kept}:
            older.unlink()
    return [_with_outputs(job) for job in jobs], len(missing)


def jobs_for(notebooks: Sequence[Path], folder: Path) -> list[Job]:
    """Where the notebooks are kept: each under a name of its own for all that decides its outputs."""
    base = _digest_of_all_below()
    return [
        Job(path, folder / f"{path.stem}-{profile_name()}-{_digest(path, base)}.ipynb")
        for path in notebooks
    ]


def _execute(job: Job) -> None:
    notebook = nbformat.read(job.notebook, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        kernel_manager_class=LookingManager,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(job.notebook.parent)}},
    )
    try:
        client.execute(env=os.environ | {IN_PAGE: "1"})
    except CellExecutionError as error:
        cell = next(i for i, cell in enumerate(notebook.cells, 1) if _errors(cell))
        raise CepnbError(f"cell {cell}: {error.ename}: {' '.join(error.evalue.split())}") from error
    if found := hidden_errors(notebook):
        raise CepnbError(f"hidden error: {' '.join(found[0].split())}")
    write_text(job.kept, nbformat.writes(without_kernel(notebook)))


def _errors(cell: NotebookNode) -> bool:
    return any(output.output_type == "error" for output in cell.get("outputs", ()))


def _with_outputs(job: Job) -> NotebookNode:
    notebook, kept = (nbformat.read(path, as_version=4) for path in (job.notebook, job.kept))
    for cell, executed in zip(_code(notebook), _code(kept), strict=True):
        cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
    return notebook


def _code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _digest_of_all_below() -> bytes:
    """Of the package and of what is installed: whatever a notebook can import."""
    found = hashlib.sha256(
        "\n".join(sorted(f"{each.name}=={each.version}" for each in distributions())).encode()
    )
    for path in sorted(PACKAGE.rglob("*")):
        inner = path.relative_to(PACKAGE)
        if path.is_file() and not inner.as_posix().startswith(ONLY_SHOW) and path.suffix != ".pyc":
            found.update(f"{inner}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.digest()


def _digest(path: Path, base: bytes) -> str:
    """Of a notebook's code, of the files named in it, and of what is below it."""
    found = hashlib.sha256(base)
    for cell in _code(nbformat.read(path, as_version=4)):
        found.update(hashlib.sha256(cell.source.encode()).digest())
        for name in re.findall(r'"([^"\n]+)"', cell.source):
            if (path.parent / name).is_file():
                found.update(hashlib.sha256((path.parent / name).read_bytes()).digest())
    return found.hexdigest()[:16]
