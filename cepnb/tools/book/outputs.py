"""Check the outputs of an executed notebook and prepare its cells for a page without a kernel."""

from nbformat import NotebookNode

from cepnb.errors import CepnbError
from cepnb.progress import MARK

STATE = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"
SHOWN = "show-input"  # tag of a cell whose code is its point


def hidden_errors(notebook: NotebookNode) -> list[str]:
    """Return the errors that widgets caught while the notebook ran, so that no cell failed.

    They appear in cell outputs and in the saved state of widgets.
    """
    found = []
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    for model in _widget_models(notebook).values():
        state = model["state"]
        outputs += state.get("outputs", ())  # of `interact` and `Output`
        texts = [value for value in state.values() if isinstance(value, str)]
        found += [text for text in texts if 'role="alert"' in text]
        if state.get("error"):
            found.append(state["error"])
    for output in outputs:
        if output["output_type"] == "error":
            found.append(f"{output['ename']}: {output['evalue']}")
        elif "Traceback (most recent call last)" in output.get("text", ""):
            found.append(output["text"])
    return found


def without_kernel(notebook: NotebookNode) -> NotebookNode:
    """Remove standard error, progress bars and the state of widgets.

    Raises `CepnbError` on a widget, because the page would show nothing in its place.
    """
    notebook.metadata.pop("widgets", None)
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _removable(output, number)]
    return notebook


def with_folded_code(notebook: NotebookNode) -> NotebookNode:
    """Tag code cells so that MyST-NB folds their code, except exercises and cells tagged `SHOWN`."""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and SHOWN not in tags and "exercises.check_" not in cell.source:
            cell.metadata["tags"] = [*tags, "hide-input"]
    return notebook


def _widget_models(notebook: NotebookNode) -> dict[str, dict]:
    return notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})


def _removable(output: NotebookNode, cell: int) -> bool:
    if output.output_type == "stream":
        return output.name == "stderr"
    if VIEW in output.get("data", {}):
        raise CepnbError(
            f"cell {cell}: this widget needs a kernel; "
            "use an explorer of cepnb.notebook.sliders.widgets"
        )
    return output.get("metadata") == MARK
