"""A real browser and a real JupyterLab, for the tests and for the pictures of README."""

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
PATIENCE = 400_000  # milliseconds for a notebook to run on a busy machine


def chromium() -> str | None:
    """The Chromium of the system, if there is one."""
    return next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )


def launched(playwright: Playwright, executable: str) -> Browser:
    """It, without a window and without a word to anybody."""
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


@contextmanager
def jupyterlab(folder: Path, profile: str) -> Iterator[str]:
    """The address of a JupyterLab with settings, run-time files and copies of the notebooks of its own in `folder`."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    (folder / "results").symlink_to(ROOT / "results")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = (
        os.environ
        | {"CEPNB_PROFILE": profile, "JUPYTER_PREFER_ENV_PATH": "1", "OMP_NUM_THREADS": "1"}
        | {
            f"JUPYTER_{name}_DIR": str(folder / name.lower())
            for name in ("CONFIG", "DATA", "RUNTIME")
        }
        | {
            "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
            "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        }
    )
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
    log = (folder / "log").open("w")
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
    ) as server:
        address = f"http://127.0.0.1:{port}/lab"
        try:
            for _ in range(240):
                assert server.poll() is None, (folder / "log").read_text()
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
    """Open a notebook and run it as a reader does, from the menu, until all its cells have ended without an error."""
    page.goto(f"{lab}/tree/notebooks/{name}.ipynb?reset")
    expect(page.get_by_text("Python 3 (ipykernel) | Idle")).to_be_visible(
        timeout=PATIENCE
    )  # of the kernel, in the status bar
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    prompts = page.locator(".jp-CodeCell .jp-InputArea-prompt")
    expect(prompts.first).not_to_have_text("[ ]:", timeout=PATIENCE)
    expect(prompts.filter(has_text="[*]:")).to_have_count(0, timeout=PATIENCE)
    failed = page.locator("[data-mime-type='application/vnd.jupyter.error']").all_text_contents()
    assert not failed and prompts.filter(has_text="[ ]:").count() == 0, failed


def keep_cells(folder: Path, name: str, parts: tuple[str, ...]) -> None:
    """Take from the copy of a notebook in `folder` all code but the cells that hold one of `parts`."""
    path = folder / "notebooks" / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [
        c
        for c in notebook.cells
        if c.cell_type == "markdown" or any(part in c.source for part in parts)
    ]
    nbformat.write(notebook, path)
