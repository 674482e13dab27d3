"""Set-up of all tests: checked shapes, one thread per process, and a separate data cache."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jaxtyping
from jaxtyping import install_import_hook

# Before the first import of cepnb: beartype checks every annotated shape of the package.
install_import_hook("cepnb", "beartype.beartype")

import hypothesis  # noqa: E402
import matplotlib  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from browsing import chromium, launched  # noqa: E402
from nbmake.nb_result import NotebookError, NotebookResult  # noqa: E402
from nbmake.nb_run import NotebookRun  # noqa: E402
from payload import PAYLOAD, payload  # noqa: E402
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright  # noqa: E402

from cepnb.tools.book.outputs import hidden_errors  # noqa: E402

matplotlib.use("Agg")
torch.set_num_threads(1)
_execute = NotebookRun.execute


def _execute_and_check(run: NotebookRun) -> NotebookResult:
    """Run a notebook; also fail on an error that a widget hides, and on widgets that are too large."""
    result = _execute(run)
    if result.error is None and (found := hidden_errors(result.nb)):
        result.error = NotebookError(
            summary=f"hidden error: {found[0]}", trace="\n".join(found), failing_cell_index=0
        )
    elif result.error is None and (size := payload(result.nb)) > PAYLOAD:
        message = (
            f"explorers have {size / 1e6:.1f} MB as saved, expected at most {PAYLOAD / 1e6:.1f}"
        )
        result.error = NotebookError(summary=message, trace=message, failing_cell_index=0)
    return result


NotebookRun.execute = _execute_and_check
# Examples are the same in every run; there is no deadline, because the first call compiles.
hypothesis.settings.register_profile("cepnb", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("cepnb")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Set one cache of generated data for the whole test run, separate from the user's cache."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["CEPNB_CACHE"] = str(shared / "cepnb-cache")


@pytest.fixture
def as_users_call_it() -> Iterator[None]:
    """Turn off the checks of annotated types and shapes that only tests have."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start the system's Chromium; without one, skip the test, or fail if CEPNB_BROWSER=insist."""
    found = chromium()
    if found is None:
        (pytest.fail if os.environ.get("CEPNB_BROWSER") == "insist" else pytest.skip)(
            "no Chromium here: `make browser-test`"
        )
    with sync_playwright() as playwright:
        browser = launched(playwright, found)
        yield browser
        browser.close()


@pytest.fixture
def offline(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a file without network; fail at the end on any request or error."""
    contexts: list[BrowserContext] = []
    requests, errors = [], []

    def opening(path: Path, **options: object) -> Page:
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 800}, "offline": True} | options
        )
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            lambda message: errors.append(message.text) if message.type == "error" else None,
        )
        page.goto(path.as_uri())
        return page

    yield opening
    for context in contexts:
        context.close()
    assert not errors and all(url.startswith(("file:", "data:")) for url in requests), (
        errors,
        requests,
    )
