"""Set-up of all tests: shapes checked while they run, one thread a process, and a data cache of their own."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxtyping import install_import_hook

# Before cepnb is imported anywhere: every annotated shape of the package is checked by beartype in the tests.
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


def _execute_and_look(run: NotebookRun) -> NotebookResult:
    """A run of a notebook that fails, too, on an error that a widget has swallowed, and on widgets too large to be sent around."""
    result = _execute(run)
    if result.error is None and (found := hidden_errors(result.nb)):
        result.error = NotebookError(
            summary=f"hidden error: {found[0]}", trace="\n".join(found), failing_cell_index=0
        )
    elif result.error is None and (size := payload(result.nb)) > PAYLOAD:
        said = f"explorers have {size / 1e6:.1f} MB as saved, expected at most {PAYLOAD / 1e6:.1f}"
        result.error = NotebookError(summary=said, trace=said, failing_cell_index=0)
    return result


NotebookRun.execute = _execute_and_look
# Examples repeat from run to run; the first call of a function is slow, which says nothing about it.
hypothesis.settings.register_profile("cepnb", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("cepnb")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One cache of generated data for the whole test run, shared by its processes and apart from the user's."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["CEPNB_CACHE"] = str(shared / "cepnb-cache")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The Chromium of the system, without a window. Where there is none: skipped, or a failure if CEPNB_BROWSER=insist."""
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
    """Opens a file with the network cut; at the end there must have been no request and no error."""
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
