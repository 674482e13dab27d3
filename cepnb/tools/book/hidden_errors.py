"""Errors that a notebook swallows: widgets catch exceptions, and a run of the notebook then passes."""

from nbformat import NotebookNode

STATE = "application/vnd.jupyter.widget-state+json"


def hidden_errors(notebook: NotebookNode) -> list[str]:
    """What went wrong unseen in an executed notebook, by its outputs and the saved state of its widgets."""
    outputs = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    found = []
    for model in notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {}).values():
        state = model["state"]
        outputs += state.get("outputs", ())  # of `interact` and `Output`
        found += [
            value for value in state.values() if isinstance(value, str) and 'role="alert"' in value
        ]
        found += [state["error"]] if state.get("error") else []
    found += [
        f"{output['ename']}: {output['evalue']}"
        for output in outputs
        if output["output_type"] == "error"
    ]
    found += [
        output["text"]
        for output in outputs
        if output["output_type"] == "stream"
        and "Traceback (most recent call last)" in output["text"]
    ]
    return found
