"""Execute notebooks in parallel; cache each result until its code or the package changes."""

import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
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
from traitlets import Type

from cepnb.errors import CepnbError
from cepnb.experiments.executor import run_jobs
from cepnb.notebook.sliders import IN_PAGE
from cepnb.profiles import profile_name
from cepnb.progress import progress_bar
from cepnb.storage.files import unreadable, write_text
from cepnb.tools.book.outputs import hidden_errors, without_kernel

PACKAGE = Path(__file__).parents[2]
RESULTS = PACKAGE.parent / "results"
DISPLAY_ONLY = ("tools/book", "notebook/sliders/static")  # do not affect what a notebook computes
POLL_SECONDS = 1.0
# What nbformat raises on damaged files, in addition to its `ValidationError`.
DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError)


def execute(notebooks: Sequence[Path], folder: Path) -> tuple[dict[Path, NotebookNode], int]:
    """Return the notebooks with outputs, and how many were executed; `folder` caches results.

    A notebook whose text alone changed is not executed. Raises `CepnbError` that names every failed
    notebook; the results of the others stay in the cache.
    """
    results = result_paths(notebooks, folder)
    missing = [(path, result) for path, result in results.items() if not result.exists()]
    with progress_bar(total=len(missing), desc="notebooks", disable=not missing) as bar:
        failures = run_jobs(_execute, missing, os.cpu_count() or 1, lambda job: bar.update())
    if failures:
        reasons = sorted(f"{path.name}: {reason}" for (path, _), reason in failures)
        raise CepnbError("; ".join(reasons))
    for path, result in results.items():
        for cached in folder.glob(f"{path.stem}-{profile_name()}-*.ipynb"):
            if cached != result:
                cached.unlink()
    executed = {path: read_notebook(result) for path, result in results.items()}
    done = {path: with_outputs(read_notebook(path), copy) for path, copy in executed.items()}
    return done, len(missing)


def result_paths(notebooks: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Return the path of each notebook's executed copy, named by a digest of all its inputs.

    The inputs are the installed packages, the files of this package, the notebook's code, and the
    files that the code names, next to the notebook or in `results`.
    """
    packages = sorted(f"{package.name}=={package.version}" for package in distributions())
    environment = hashlib.sha256("\n".join(packages).encode())
    for path in sorted(PACKAGE.rglob("*")):
        name = path.relative_to(PACKAGE).as_posix()
        if path.is_file() and path.suffix != ".pyc" and not name.startswith(DISPLAY_ONLY):
            environment.update(f"{name}\n".encode() + _digest(path.read_bytes()))
    results = {}
    for path in notebooks:
        digest = environment.copy()
        for cell in code_cells(read_notebook(path)):
            digest.update(_digest(cell.source.encode()))
            for file in named_files(cell.source, path.parent, RESULTS):
                digest.update(_digest(file.read_bytes()))
        name = f"{path.stem}-{profile_name()}-{digest.hexdigest()[:16]}.ipynb"
        results[path] = folder / name
    return results


def named_files(code: str, *folders: Path) -> list[Path]:
    """Return the files that strings of the code name in `folders`, and all files of named subfolders."""
    found: list[Path] = []
    for name in re.findall(r'"([^"\n]+)"', code):
        for folder in folders:
            place = folder / name
            if place.is_file():
                found.append(place)
            elif folder.resolve() in place.resolve().parents:  # not ".." and not "/"
                found += [file for file in sorted(place.rglob("*")) if file.is_file()]
    return found


def read_notebook(path: Path) -> NotebookNode:
    """Read a notebook; raise `CepnbError` if it is missing or damaged."""
    try:
        read = nbformat.reader.reads(path.read_text(encoding="utf-8-sig"))
        notebook = nbformat.convert(read, 4)
        nbformat.validate(notebook)
    except (*DAMAGE, nbformat.ValidationError) as error:
        raise unreadable(path, "notebook", error) from error
    return notebook


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def run(path: Path, environment: Mapping[str, str]) -> NotebookNode:
    """Execute a notebook in a fresh kernel and return it without what needs the kernel.

    Raises `CepnbError` if a cell fails, and if a widget hides an error.
    """
    notebook = read_notebook(path)
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        kernel_manager_class=PollingManager,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        outputs = [cell.get("outputs", ()) for cell in notebook.cells]
        failed = ["error" in {output.output_type for output in cell} for cell in outputs]
        reason = f"{error.ename}: {' '.join(error.evalue.split())}"
        raise CepnbError(f"cell {failed.index(True) + 1}: {reason}") from error
    if found := hidden_errors(notebook):
        raise CepnbError(f"hidden error: {' '.join(found[0].split())}")
    return without_kernel(notebook)


def _execute(job: tuple[Path, Path]) -> None:
    """Execute the first path's notebook for the page and write the result to the second path."""
    path, result = job
    write_text(result, nbformat.writes(run(path, os.environ | {IN_PAGE: "1"})))


def with_outputs(notebook: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """Put the outputs of the executed copy into a notebook, whose text may differ, and return it."""
    for cell, done in zip(code_cells(notebook), code_cells(executed), strict=True):
        cell.outputs, cell.execution_count = done.outputs, done.execution_count
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Return the cells with code, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


class PollingChannel(AsyncZMQSocketChannel):
    """Wait for a kernel's messages, and poll because announcements get lost.

    ZeroMQ announces a message once, to the next use of the socket. While `nbclient` waits for a
    reply, it also sends the state of `Output` widgets through the same socket. Sending can consume
    the announcement, and without polling the wait would never end.
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
