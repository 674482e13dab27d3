"""Build the static site by Sphinx and MyST-NB; check that it needs no network."""

import io
import os
import re
import shutil
import string
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path

import mathjax
import nbformat
from filelock import FileLock
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.docutils import docutils_namespace

from cepnb.errors import CepnbError, in_a_line
from cepnb.notebook.score_plots import results_folder
from cepnb.notebook.sliders.widgets import STATIC, page_script
from cepnb.profiles import profile_name
from cepnb.storage.files import unreadable, write_text
from cepnb.tools.book import conf
from cepnb.tools.book.execution import execute, read_notebook
from cepnb.tools.book.outputs import with_folded_code
from cepnb.tools.book.references import read_references, reference_page

HERE = Path(__file__).parent
MATHJAX = Path(mathjax.__file__).parent / "static/mathjax/es5"
PICTURE = "densities.png"  # of the front page, in results/pictures
FRONT = "front-page"  # tag of a cell whose explorer is on the front page, too
LIMIT = 5_000_000  # bytes of a page with its pictures
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s:]+)(#[^)\s]*)?\)")  # a relative link of a page
EXTERNAL = re.compile(
    r"""<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=["']((?:https?:)?//[^"']*)"""
)


def build(notebooks: Sequence[Path], book: Path, work: Path, pages: Path | None = None) -> int:
    """Build the site in `book` from notebooks and a folder of Markdown pages.

    A file `references.bib` in that folder becomes a page, too. Return how many notebooks were
    executed; `work` caches them. The previous book stays until the new one is complete. Raises
    `CepnbError` on an error in a notebook, on a warning of Sphinx (such as a broken link), on a page
    above `LIMIT` bytes, and on a page that loads from another host.
    """
    if book.exists() and not (book / "searchindex.js").is_file() and any(book.iterdir()):
        raise CepnbError(f"{book}: this folder is not a book; name an empty or a new folder")
    if pages and not any(pages.glob("*.md")):
        raise CepnbError(f"{pages}: no page found; name a folder with .md files")
    _check_folders(book, work)
    _check_libraries()
    with FileLock(work / "lock"):
        old, new, source = work / "old", work / "new", work / "source"
        if old.exists() and not book.exists():
            old.rename(book)  # the last build was killed between two renames
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(source, ignore_errors=True)
        contents = _write_pages(notebooks, pages, source)
        executed, count = execute(notebooks, work / "executed")
        for path, notebook in executed.items():
            write_text(source / _place(path), nbformat.writes(with_folded_code(notebook)))
        _write_front_page(contents, executed.values(), source)
        _run_sphinx(source, new)
        for page in sorted(new.rglob("*.html")):
            _check(page)
        _replace(book, new, old)
    return count


def _check_folders(book: Path, work: Path) -> None:
    """Move a folder from `work` to the place of `book`, as the finished book will be moved."""
    probe = work / "probe"
    try:
        for parent in (work, book.parent):
            parent.mkdir(parents=True, exist_ok=True)
        probe.mkdir(exist_ok=True)
        probe.rename(book.with_name(f".{book.name}.probe")).rmdir()
    except OSError as error:
        problem = f"cannot be moved from {work} ({error.strerror})"
        raise CepnbError(f"{book}: {problem}; use folders of one writable disk") from error


def _check_libraries() -> None:
    for name in (*conf.extensions, conf.html_theme):
        try:
            import_module(name)
        except ImportError as error:
            fix = "run pip install 'cepnb[book]'"
            raise CepnbError(f"{name}: cannot be imported ({in_a_line(error)}); {fix}") from error


def _write_pages(notebooks: Sequence[Path], folder: Path | None, source: Path) -> str:
    """Write the pages, in folders as in the repository, so that links resolve; return the contents.

    Raises `CepnbError` on a notebook or a page that cannot be read or has no title.
    """
    pages = sorted(folder.glob("*.md")) if folder else []
    known = {path.resolve() for path in (*notebooks, *pages)}
    read = {path: read_notebook(path) for path in notebooks}
    first_cells = {path: _first_text(notebook) for path, notebook in read.items()}
    texts = {page: _with_known_links(page, known, source) for page in pages}
    for path, notebook in read.items():
        cells = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        for link in LINK.finditer("\n".join(cells)):
            if link[1] and (path.parent / link[3]).is_file():
                _copy_picture(path, link[3], source)
    if pages and (entries := folder / "references.bib").exists():
        texts[folder / "references.md"] = _reference_page(entries, read)
        write_text(source / _place(entries), entries.read_text(encoding="utf-8-sig"))
    contents = _contents("Notebooks", first_cells)
    if texts:
        contents += _contents("Documentation", texts)
    for path, text in texts.items():
        write_text(source / _place(path), text)
    write_text(source / "explorers.js", page_script())
    shutil.copy(results_folder() / "pictures" / PICTURE, source)
    return contents


def _write_front_page(contents: str, notebooks: Iterable[NotebookNode], source: Path) -> None:
    """Write index.md with the explorers of cells tagged `FRONT`; a link to no page becomes text."""

    def replaced(link: re.Match) -> str:
        return link[0] if (source / link[3]).exists() else link[2]

    cells = [cell for notebook in notebooks for cell in notebook.cells]
    outputs = [
        out for cell in cells if FRONT in cell.metadata.get("tags", ()) for out in cell.outputs
    ]
    explorer = "\n".join(
        out.data["text/html"] for out in outputs if "text/html" in out.get("data", {})
    )
    front = string.Template(LINK.sub(replaced, (HERE / "index.md").read_text(encoding="utf-8")))
    text = front.safe_substitute(profile=profile_name(), contents=contents, explorer=explorer)
    write_text(source / "index.md", text)


def _first_text(notebook: NotebookNode) -> str:
    """Return the first cell's text; it is empty without cells or for code."""
    first = notebook.cells[:1]
    return "".join(cell.source for cell in first if cell.cell_type == "markdown")


def _place(path: Path) -> Path:
    return Path(path.parent.name, path.name)


def _contents(part: str, texts: dict[Path, str]) -> str:
    """Return one part of the contents; each text begins with a title and may state its goal."""
    entries = []
    for path, text in texts.items():
        title, goal = re.match(r"# (.+)", text), re.search(r"\*\*Goal\.\*\*(.*)", text)
        if title is None:
            raise CepnbError(f"{path.name} begins with '{text[:30]}'; begin with a title, '# …'")
        link = f"[{title[1]}]({_place(path)})"
        entries.append(f"{link}\n:{goal[1]}\n" if goal else f"- {link}")
    tree = [f"```{{toctree}}\n:hidden:\n:caption: {part}\n", *map(str, map(_place, texts)), "```\n"]
    return "\n".join([f"## {part}\n", *entries, *tree, ""])


def _with_known_links(page: Path, known: set[Path], source: Path) -> str:
    """Return a page with its pictures copied and links outside the book as plain text."""

    def replaced(link: re.Match) -> str:
        picture, text, target = link[1], link[2], link[3]
        file = (page.parent / target).resolve()
        if picture and file.is_file():
            _copy_picture(page, target, source)
        elif file.exists() and file not in known:
            return text
        return link[0]

    try:
        text = page.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise unreadable(page, "UTF-8", error) from error
    return LINK.sub(replaced, text)


def _copy_picture(page: Path, target: str, source: Path) -> None:
    """Copy a page's picture to the folder in which the page's link finds it."""
    copy = source / os.path.normpath(_place(page).parent / target)
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(page.parent / target, copy)


def _reference_page(entries: Path, notebooks: dict[Path, NotebookNode]) -> str:
    texts = {}
    for path, notebook in notebooks.items():
        link = f"[{path.stem.partition('_')[0]}](../{_place(path)})"
        cells = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
        texts[link] = "\n".join(cells)
    return reference_page(read_references(entries).values(), texts)


def _run_sphinx(source: Path, site: Path) -> None:
    warnings = io.StringIO()
    styles = (HERE / "static", STATIC / "explorer.css")
    files = (*styles, MATHJAX / conf.mathjax_path, source / "explorers.js")
    options = {"html_static_path": [str(path) for path in files]}
    streams = {"status": None, "warning": warnings}
    doctrees = site.with_name("doctrees")
    try:
        with docutils_namespace():
            Sphinx(source, HERE, site, doctrees, "html", options, **streams, freshenv=True).build()
    except SphinxError as error:
        raise CepnbError(f"{error.category}: {' '.join(str(error).split())}") from error
    if lines := warnings.getvalue().strip().splitlines():
        plain = re.sub(r"\x1b\[[\d;]*m", "", lines[0])
        raise CepnbError(plain.removeprefix(f"{source}{os.sep}"))


def _check(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if found := EXTERNAL.search(text):
        raise CepnbError(f"{page.name} loads {found[1]}; load nothing from another host")
    pictures = set(re.findall(r'<img\b[^>]*?\bsrc="(?!data:)([^"]+)"', text))
    size = sum(path.stat().st_size for path in (page, *(page.parent / name for name in pictures)))
    if size > LIMIT:
        found, most = f"{size / 1e6:.1f} MB", f"{LIMIT / 1e6:.1f} MB"
        raise CepnbError(f"{page.name} has {found} with its pictures; use at most {most}")


def _replace(book: Path, new: Path, old: Path) -> None:
    """Move the new book into place; keep the previous one if that fails."""
    shutil.rmtree(old, ignore_errors=True)
    if book.exists():
        book.rename(old)
    try:
        new.rename(book)
    except OSError as error:
        if old.exists():
            old.rename(book)
        raise CepnbError(
            f"{book}: writing failed ({error.strerror}); the previous book is unchanged"
        ) from error
    shutil.rmtree(old, ignore_errors=True)
