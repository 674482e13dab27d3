"""What all checks of exercises say to an unfinished answer."""

from torch import Tensor


def unfinished(found: Tensor | None, expected: Tensor, task: str, why: str = "") -> str | None:
    """The answer to nothing or to a wrong shape; None for what is worth comparing."""
    if found is None:
        return f"Not written yet: {task}."
    if found.shape != expected.shape:
        return f"The shape is {tuple(found.shape)}, expected {tuple(expected.shape)}{why and f': {why}'}."
    return None
