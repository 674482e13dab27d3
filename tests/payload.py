"""Size that explorers add to a saved notebook."""

import json

from nbformat import NotebookNode

from cepnb.tools.book.outputs import STATE

PAYLOAD = 2_000_000  # bytes per notebook, for pages that load quickly and a small repository


def payload(notebook: NotebookNode) -> int:
    """Bytes of the widgets' saved state and still pictures, without the shared scripts."""
    states = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    size = 0
    for model in states.values():
        state = {name: v for name, v in model["state"].items() if name not in ("_esm", "_css")}
        size += len(json.dumps(state))
        size += sum(len(buffer["data"]) for buffer in model.get("buffers", ()))
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if data.get("text/html", "").startswith("<cepnb-explorer"):
                size += len(data["text/html"]) + len(data["image/png"])
    return size
