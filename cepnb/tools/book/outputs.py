"""Outputs of an executed notebook, made fit for a page that has no kernel."""

from nbformat import NotebookNode

from cepnb.errors import CepnbError
from cepnb.tools.book.hidden_errors import STATE

VIEW = "application/vnd.jupyter.widget-view+json"


def without_kernel(notebook: NotebookNode) -> NotebookNode:
    """The notebook without progress bars, lines on standard error and the state of widgets, all of which end with a kernel.

    Raises `CepnbError` on any other widget: it would be dead, and has to say itself what a page is to show in its place.
    """
    models = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "code":
            cell.outputs = [
                output for output in cell.outputs if not _passing(output, models, number)
            ]
    return notebook


def _passing(output: NotebookNode, models: dict, cell: int) -> bool:
    if output.output_type == "stream":
        return output.name == "stderr"
    model = output.get("data", {}).get(VIEW, {}).get("model_id")
    if model is None:
        return False
    children = models.get(model, {}).get("state", {}).get("children", ())
    if any(
        models[child.removeprefix("IPY_MODEL_")]["model_name"] == "FloatProgressModel"
        for child in children
    ):
        return True
    raise CepnbError(
        f"cell {cell}: shows a widget that needs a kernel; expected an explorer of cepnb.notebook.explorer.widgets"
    )
