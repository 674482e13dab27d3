"""Execute the notebooks and build the book: `python -m cepnb.tools.book`."""

import argparse
import sys
from pathlib import Path

from cepnb.errors import CepnbError, Once, exit_status, in_a_line


def main() -> int:
    """Build the book; return 0 on success, 2 on an error (one line), 130 on an interrupt."""
    parser = argparse.ArgumentParser(
        prog="cepnb.tools.book",
        description="Execute the notebooks under $CEPNB_PROFILE and build a static site.",
    )
    parser.register("action", None, Once)
    add = parser.add_argument
    add("--notebooks", type=Path, default=Path("notebooks"), help="folder of the notebooks")
    add("--pages", type=Path, help="folder of Markdown pages (default: docs, if it exists)")
    add("--out", type=Path, default=Path("book"), help="folder of the site (default: book)")
    add("--work", type=Path, default=Path(".book"), help="cache folder (default: .book)")
    return exit_status("cepnb.tools.book", lambda: _build(parser.parse_args()))


def _build(options: argparse.Namespace) -> None:
    try:
        from cepnb.tools.book.site import build  # here: each worker process imports this file
    except ImportError as error:
        raise CepnbError(f"{in_a_line(error)}; run pip install 'cepnb[book]'") from error

    notebooks = sorted(options.notebooks.absolute().glob("*.ipynb"))
    if not notebooks:
        raise CepnbError(f"{options.notebooks}: no notebook found; name a folder with .ipynb files")
    pages = options.pages or (Path("docs") if Path("docs").is_dir() else None)
    executed = build(notebooks, options.out.absolute(), options.work.absolute(), pages)
    index = options.out / "index.html"
    print(f"{len(notebooks)} notebooks, {executed} of them executed: open {index}")


if __name__ == "__main__":
    sys.exit(main())
