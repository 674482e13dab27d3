"""Start Chromium and JupyterLab for the tests and for the README's pictures."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from playwright.sync_api import Browser, Page, Playwright, expect

ROOT = Path(__file__).parent.parent
PATIENCE = 400_000  # milliseconds for one notebook on a busy machine


def chromium() -> str | None:
    """Path of the system's Chromium, or None."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def launched(playwright: Playwright, executable: str) -> Browser:
    """Start Chromium without a window and without background requests."""
    quiet = [
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    return playwright.chromium.launch(
        executable_path=executable, args=quiet, chromium_sandbox=os.getuid() != 0
    )


def free_port() -> int:
    """A port of this machine that no process uses now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def lab_environment(folder: Path, profile: str) -> dict[str, str]:
    """Environment of a JupyterLab whose own files are in `folder`."""
    return os.environ | {
        "CEPNB_PROFILE": profile,
        "JUPYTER_PREFER_ENV_PATH": "1",
        "OMP_NUM_THREADS": "1",
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
    }


@contextmanager
def jupyterlab(folder: Path, profile: str) -> Iterator[str]:
    """Serve copies of the notebooks and yield the address; all of Jupyter's files are in `folder`."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    (folder / "results").symlink_to(ROOT / "results")
    port, environment = free_port(), lab_environment(folder, profile)
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--port-retries=0",
        "--IdentityProvider.token=",
        f"--ServerApp.root_dir={folder}",
        "--allow-root",
    ]
    log = (folder / "log").open("w", encoding="utf-8")
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
    ) as server:
        address = f"http://127.0.0.1:{port}/lab"
        try:
            for _ in range(240):
                assert server.poll() is None, (folder / "log").read_text(encoding="utf-8")
                try:
                    urllib.request.urlopen(address).close()
                    break
                except OSError:
                    time.sleep(0.5)
            yield address
        finally:
            server.terminate()
            server.wait(30)


def run_all_cells(page: Page, lab: str, name: str) -> None:
    """Run all cells of a notebook from the menu; fail on an error or a cell that did not run."""
    page.goto(f"{lab}/tree/notebooks/{name}.ipynb?reset")
    kernel_is_idle = page.get_by_text("Python 3 (ipykernel) | Idle")  # in the status bar
    expect(kernel_is_idle).to_be_visible(timeout=PATIENCE)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    prompts = page.locator(".jp-CodeCell .jp-InputArea-prompt")
    expect(prompts.first).not_to_have_text("[ ]:", timeout=PATIENCE)
    expect(prompts.filter(has_text="[*]:")).to_have_count(0, timeout=PATIENCE)
    failed = page.locator("[data-mime-type='application/vnd.jupyter.error']").all_text_contents()
    assert not failed and prompts.filter(has_text="[ ]:").count() == 0, failed


def keep_cells(folder: Path, name: str, parts: tuple[str, ...]) -> None:
    """Remove code cells without any of `parts` from the copy of a notebook in `folder`."""
    path = folder / "notebooks" / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "markdown" or any(part in cell.source for part in parts)
    ]
    nbformat.write(notebook, path)
