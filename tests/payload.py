"""How much the explorers of a notebook add to it when it is saved."""

import json

from nbformat import NotebookNode

from cepnb.tools.book.outputs import STATE, VIEW

PAYLOAD = 2_000_000  # bytes a notebook: what a page loads in a moment and a repository can bear


def payload(notebook: NotebookNode) -> int:
    """Bytes of all widgets' saved state, less the scripts, which are the same for all, and of the still pictures beside them."""
    states = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    size = 0
    for model in states.values():
        size += len(
            json.dumps(
                {
                    name: value
                    for name, value in model["state"].items()
                    if name not in ("_esm", "_css")
                }
            )
        )
        size += sum(len(buffer["data"]) for buffer in model.get("buffers", ()))
    outputs = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    return size + sum(
        len(output.data.get("image/png", ""))
        for output in outputs
        if VIEW in output.get("data", {})
    )
