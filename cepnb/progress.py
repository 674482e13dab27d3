"""Progress bars: tqdm's on a terminal, and a line of text in a notebook."""

import io
import sys

from tqdm import tqdm

MARK = {"cepnb": "progress"}  # metadata of a bar's output


class _OutputBar(tqdm):
    """A bar whose text is one output of a cell; `leave=False` empties it at the end.

    tqdm's own bar for notebooks is a widget: a saved notebook would show "model not found".
    """

    def __init__(self, *args, **options) -> None:
        self.output = None
        super().__init__(*args, **options, file=io.StringIO(), ascii=False)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        from IPython.display import display

        data = {"text/plain": str(self) if msg is None else msg}
        if self.output is None:
            self.output = display(data, raw=True, metadata=MARK, display_id=True)
        else:
            self.output.update(data, raw=True, metadata=MARK)
        return True


def progress_bar(*args, **options) -> tqdm:
    """Return a progress bar. The arguments are those of `tqdm`."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return (_OutputBar if hasattr(shell, "kernel") else tqdm)(*args, **options)
