"""The static site: executed notebooks through Sphinx and MyST-NB, held to what a page without kernel and network needs."""

import io
import os
import re
import shutil
import string
from collections.abc import Sequence
from pathlib import Path

import mathjax
import nbformat
from filelock import FileLock
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.docutils import docutils_namespace

from cepnb.errors import CepnbError
from cepnb.notebook.explorer.widgets import STATIC, page_script
from cepnb.qgpo.settings import profile_name
from cepnb.storage.files import write_text
from cepnb.tools.book import conf
from cepnb.tools.book.execution import execute

HERE = Path(__file__).parent
MATHJAX = Path(mathjax.__file__).parent / "static/mathjax/es5"
LIMIT = 5_000_000  # bytes of a page with its pictures


def build(notebooks: Sequence[Path], book: Path, work: Path, limit: int = LIMIT) -> int:
    """Build the site in `book` and return how many notebooks were executed for it; `work` keeps what the next build can use.

    The book that was there stays until a whole new one is ready. Raises `CepnbError` on an error in a notebook, on whatever
    Sphinx warns of (such as a link to nowhere), and on a page above `limit` bytes or with something of another host in it.
    """
    if book.exists() and not (book / "searchindex.js").is_file() and any(book.iterdir()):
        raise CepnbError(f"{book}: is not a book, expected one to replace or nothing")
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(work / "lock"):
        if (work / "old").exists() and not book.exists():
            (work / "old").rename(book)  # the last build was killed between two renames
        executed, count = execute(notebooks, work / "executed", os.cpu_count() or 1)
        made = work / "made"
        for leftover in (made, work / "source"):
            shutil.rmtree(leftover, ignore_errors=True)
        _write_source([path.name for path in notebooks], executed, work / "source")
        _run_sphinx(work / "source", made)
        for page in sorted(made.rglob("*.html")):
            _check(page, limit)
        _replace(book, made, work / "old")
    return count


def _write_source(names: list[str], executed: list[NotebookNode], source: Path) -> None:
    contents = []
    for name, notebook in zip(names, executed):
        write_text(source / name, nbformat.writes(notebook))
        first = notebook.cells[0].source
        title, goal = re.match(r"# (.+)", first), re.search(r"\*\*Goal\.\*\*(.*)", first)
        if title is None:
            raise CepnbError(f"{name}: begins with '{first[:30]}', expected a title")
        contents.append(f"[{title[1]}]({name})\n:{goal[1] if goal else ' '}\n")
    front = string.Template((HERE / "index.md").read_text())
    write_text(
        source / "index.md",
        front.safe_substitute(
            profile=profile_name(),
            contents="\n".join(contents),
            pages="\n".join(Path(name).stem for name in names),
        ),
    )
    write_text(source / "explorers.js", page_script())


def _run_sphinx(source: Path, made: Path) -> None:
    warnings = io.StringIO()
    files = [
        MATHJAX / conf.mathjax_path,
        STATIC / "explorer.css",
        HERE / "static",
        source / "explorers.js",
    ]
    changed = {"html_static_path": [str(path) for path in files]}
    try:
        with docutils_namespace():
            Sphinx(
                source,
                HERE,
                made,
                made.with_name("doctrees"),
                "html",
                changed,
                status=None,
                warning=warnings,
                freshenv=True,
            ).build()
    except SphinxError as error:
        raise CepnbError(f"{error.category}: {' '.join(str(error).split())}") from error
    if said := warnings.getvalue().strip():
        raise CepnbError(
            re.sub(r"\x1b\[[\d;]*m", "", said.splitlines()[0]).removeprefix(f"{source}{os.sep}")
        )


def _check(page: Path, limit: int) -> None:
    text = page.read_text()
    if found := re.search(
        r"""<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=["']((?:https?:)?//[^"']*)""",
        text,
    ):
        raise CepnbError(f"{page.name}: loads {found[1]}, expected nothing of another host")
    pictures = {
        name
        for name in re.findall(r'<img\b[^>]*?\bsrc="([^"]+)"', text)
        if not name.startswith("data:")
    }
    size = page.stat().st_size + sum((page.parent / name).stat().st_size for name in pictures)
    if size > limit:
        raise CepnbError(
            f"{page.name}: has {size / 1e6:.1f} MB with its pictures, expected at most {limit / 1e6:.1f}"
        )


def _replace(book: Path, made: Path, old: Path) -> None:
    shutil.rmtree(old, ignore_errors=True)
    if book.exists():
        book.rename(old)
    try:
        made.rename(book)
    except OSError as error:
        if old.exists():
            old.rename(book)
        raise CepnbError(
            f"{book}: could not be written ({error.strerror}); what was there before is unchanged"
        ) from error
    shutil.rmtree(old, ignore_errors=True)
