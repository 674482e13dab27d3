"""Execute notebooks and store their outputs, so that a repository browser shows them.

`python -m cepnb.tools.outputs [NUMBER ...]`. Pictures are stored as PNG files, because repository
browsers remove pictures from HTML. A digest of the code tells whether the outputs are up to date.
"""

import argparse
import base64
import hashlib
import html
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from PIL import Image

from cepnb.errors import CepnbError, Once, exit_status
from cepnb.profiles import profile_name
from cepnb.progress import progress_bar
from cepnb.storage.files import write_text
from cepnb.tools.book.execution import (
    RESULTS,
    code_cells,
    named_files,
    read_notebook,
    run,
    with_outputs,
)

LARGEST = 800_000  # bytes of a notebook with outputs
PICTURE = re.compile(r'<img src="data:image/(png|gif);base64,([^"]+)" alt="([^"]*)" [^>]*>')


def store(paths: Sequence[Path]) -> None:
    """Execute notebooks one after the other and write their outputs to the same files.

    A notebook whose outputs belong to its code is skipped, so that a later call resumes. Raises
    `CepnbError` if a cell fails, and if a notebook would have more than `LARGEST` bytes.
    """
    old = [path for path in paths if not up_to_date(read_notebook(path))]
    for path in progress_bar(old, desc="notebooks", disable=not old):
        executed = run(path, os.environ)  # first: the text may change meanwhile
        notebook = with_outputs(read_notebook(path), executed)
        for cell in code_cells(notebook):
            cell.outputs = [_still(output) for output in cell.outputs]
        notebook.metadata["cepnb"] = {"profile": profile_name(), "code": digest(notebook)}
        text = nbformat.writes(notebook) + "\n"
        if (size := len(text.encode())) > LARGEST:
            problem = f"{size:,} bytes with outputs, more than {LARGEST:,}"
            raise CepnbError(f"{path.name}: {problem}; draw fewer or simpler pictures")
        write_text(path, text)


def digest(notebook: NotebookNode) -> str:
    """Return a digest of a notebook's code and of the results that it names; text does not change it."""
    code = "\0".join(cell.source for cell in code_cells(notebook))
    found = hashlib.sha256(code.encode())
    for file in named_files(code, RESULTS):
        if file.suffix in (".json", ".csv"):
            found.update(file.read_bytes())
    return found.hexdigest()[:16]


def up_to_date(notebook: NotebookNode) -> bool:
    """Return whether a notebook has outputs that belong to its code."""
    return notebook.metadata.get("cepnb", {}).get("code") == digest(notebook)


def _still(output: NotebookNode) -> NotebookNode:
    """Replace HTML that is only a picture by the picture, and an explorer by its still picture."""
    data = output.get("data", {})
    if "image/png" in data:
        data.pop("text/html", None)
    found = PICTURE.fullmatch(data.get("text/html", "").strip())
    if found:
        kind, encoded, alt = found.groups()
        del data["text/html"]
        data[f"image/{kind}"] = encoded
        if kind == "gif":  # for viewers that show PNG files only
            data["image/png"] = _first_frame(encoded)
        data["text/plain"] = html.unescape(alt)
        output.metadata = {f"image/{kind}": {"alt": html.unescape(alt)}}
    return output


def _first_frame(encoded: str) -> str:
    """Return the first frame of a GIF as a PNG file, both in base64."""
    Image.open(io.BytesIO(base64.b64decode(encoded))).save(buffer := io.BytesIO(), "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def main() -> int:
    """Store the outputs; return 0 on success, 2 on an error (one line), 130 on an interrupt."""
    parser = argparse.ArgumentParser(
        prog="cepnb.tools.outputs",
        description="Execute notebooks under $CEPNB_PROFILE and store their outputs.",
    )
    parser.register("action", None, Once)
    parser.add_argument(
        "numbers", nargs="*", help="numbers of notebooks, such as 03 (default: all)"
    )
    parser.add_argument("--notebooks", type=Path, default=Path("notebooks"), help="their folder")
    options = parser.parse_args()
    return exit_status("cepnb.tools.outputs", lambda: store(_chosen(options)))


def _chosen(options: argparse.Namespace) -> list[Path]:
    paths = sorted(options.notebooks.glob("*.ipynb"))
    for number in options.numbers:
        if not any(path.name.startswith(f"{number}_") for path in paths):
            raise CepnbError(f"{number}: no notebook has this number; use one such as 03")
    if not paths:
        raise CepnbError(f"{options.notebooks}: no notebook found; name a folder with .ipynb files")
    chosen = tuple(f"{number}_" for number in options.numbers)
    return [path for path in paths if not chosen or path.name.startswith(chosen)]


if __name__ == "__main__":
    sys.exit(main())
