"""`python -m cepnb.tools.book`: execute all notebooks and make a site of them. An error ends in one line and exit status 2."""

import argparse
import sys
from pathlib import Path

from cepnb.errors import CepnbError, exit_status
from cepnb.tools.book.site import build


def main() -> int:
    """Build the book; 0 if it is there, 2 on an error, 130 if interrupted."""
    parser = argparse.ArgumentParser(
        prog="cepnb.tools.book",
        description="Execute notebooks ($CEPNB_PROFILE chooses their size) and make a site of them.",
    )
    parser.add_argument(
        "--notebooks",
        type=Path,
        default=Path("notebooks"),
        help="folder of the notebooks (default: notebooks)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("book"), help="folder of the site (default: book)"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(".book"),
        help="folder of what the next build can use (default: .book)",
    )
    options = parser.parse_args()
    return exit_status("cepnb.tools.book", lambda: _build(options))


def _build(options: argparse.Namespace) -> None:
    notebooks = sorted(options.notebooks.absolute().glob("*.ipynb"))
    if not notebooks:
        raise CepnbError(f"{options.notebooks}: found no notebook")
    count = build(notebooks, options.out.absolute(), options.work.absolute())
    print(
        f"{len(notebooks)} notebooks, {count} of them executed: open {options.out / 'index.html'}"
    )


if __name__ == "__main__":
    sys.exit(main())
