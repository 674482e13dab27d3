"""The β slider (`BetaExplorer`) and the other explorers: sliders over panels or figures.

- `BetaExplorer`: all frames are computed beforehand, and the page draws them
- `LiveExplorer`: the kernel computes each frame when a slider first reaches it
- `Explorer`: one slider over matplotlib figures
"""

import base64
import functools
import html
import json
import os
import string
from collections.abc import Callable, Sequence
from pathlib import Path

import anywidget
import ipywidgets
import traitlets
from matplotlib.figure import Figure

from cepnb.errors import CepnbError
from cepnb.notebook.plots import figure, image, png
from cepnb.notebook.sliders import IN_PAGE
from cepnb.notebook.sliders.frames import Panel, Slider, pack, panels_over_grid
from cepnb.qgpo.settings import profile_name
from cepnb.storage.files import write_text

STATIC = Path(__file__).parent / "static"
STILLS = 4  # values of the first slider in the still picture


class ExplorerBase(ipywidgets.DOMWidget):
    """Base of all explorers: a description, a still picture, and HTML for pages without a kernel.

    A subclass draws the picture (`still`), and returns the JSON from which `page_script` shows the
    explorer without a kernel (`page_state`). A saved notebook shows the still picture. `error`
    holds the last error in one line, or is empty; tests read it from the saved widget state.
    """

    description = ""
    error = traitlets.Unicode().tag(sync=True)

    def in_page(self) -> str:
        """HTML for a page with `page_script`; without scripts, it shows the still picture."""
        state = json.dumps(self.page_state()).replace("<", "\\u003c")  # no tag ends the script
        still = image(self.still(), self.description)
        return (
            f'<div class="cepnb-place"><script type="application/json">{state}</script>'
            f"<noscript>{still}</noscript></div>"
        )

    def _repr_mimebundle_(self, **kwargs: object) -> tuple[dict, dict]:
        if os.environ.get(IN_PAGE):
            return {"text/html": self.in_page(), "text/plain": self.description}, {}
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        data = {
            "application/vnd.jupyter.widget-view+json": view,
            "text/plain": self.description,
            "image/png": base64.b64encode(self.still()).decode(),
        }
        return data, {"image/png": {"alt": self.description}}


class Explorer(ExplorerBase, ipywidgets.VBox):
    """A slider over figures; give it to a notebook cell as its value.

    `frame(value)` is pure. It is called once per value at construction, where its errors are
    raised; a move shows a stored picture.
    """

    def __init__(self, frame: Callable[[float], Figure], slider: Slider, description: str) -> None:
        self.description = description
        self._labels = [f"{slider.symbol} = {label}" for label in slider.labels]
        self._pictures = [png(frame(value)) for value in slider.values]
        self.slider = ipywidgets.SelectionSlider(
            options=list(zip(slider.labels, slider.values)),
            value=slider.start,
            description=slider.symbol,
            layout=ipywidgets.Layout(width="26em"),
        )
        self.picture = ipywidgets.HTML(self._html(self.slider.index))
        self.slider.observe(self._moved, names="index")
        super().__init__([self.slider, self.picture])

    def still(self) -> bytes:
        return self._pictures[self.slider.index]

    def page_state(self) -> dict:
        return {
            "description": self.description,
            "name": self.slider.description,
            "labels": self._labels,
            "start": self.slider.index,
            "pictures": [self._html(index) for index in range(len(self._pictures))],
        }

    def _html(self, index: int) -> str:
        return image(self._pictures[index], f"{self.description}, {self._labels[index]}")

    def _moved(self, change: dict) -> None:
        self.picture.value = self._html(change["new"])


class BetaExplorer(ExplorerBase, anywidget.AnyWidget):
    """The β slider: panels under sliders, whose frames are computed beforehand.

    The page draws and moves them without a kernel; the legend names each layer and its model.
    `move` and `at` set and read the sliders in Python, `to_html` writes a self-contained page.
    `columns` panels (0: all) share a row if the page is wide enough.
    """

    _esm = STATIC / "explorer.js"
    _css = STATIC / "explorer.css"
    spec = traitlets.Dict().tag(sync=True)
    data = traitlets.Bytes().tag(sync=True)
    position = traitlets.List(traitlets.Int()).tag(sync=True)  # index of each slider's value

    def __init__(
        self, sliders: Sequence[Slider], panels: Sequence[Panel], description: str, columns: int = 0
    ) -> None:
        if not sliders or not panels:
            raise CepnbError(
                f"{len(sliders)} sliders and {len(panels)} panels; pass at least one of each"
            )
        self.sliders, self.panels = list(sliders), list(panels)
        self.description, self.columns = description, columns or len(panels)
        spec, data = self._packed(panels)
        super().__init__(spec=spec, data=data, position=[s.index(s.start) for s in sliders])

    @property
    def at(self) -> dict[str, float]:
        """The value of each slider by name."""
        return {s.name: s.values[index] for s, index in zip(self.sliders, self.position)}

    def move(self, **values: float) -> None:
        """Set sliders by name. Raises `CepnbError` on an unknown name or value."""
        after = self.at | values
        for name in after:
            if name not in self.at:
                raise CepnbError(f"no slider is named '{name}'; use one of {', '.join(self.at)}")
        self.position = [slider.index(after[slider.name]) for slider in self.sliders]

    def panels_at(self, *values: float) -> Sequence[Panel]:
        """Return panels that hold the frame at these values of the sliders."""
        return self.panels

    def all_panels(self) -> Sequence[Panel]:
        """Return panels that hold all frames."""
        return self.panels

    def still(self) -> bytes:
        """Draw all panels at a few values of the first slider, as a PNG file."""
        first = self.sliders[0]
        last = len(first.values) - 1
        chosen = sorted({round(k * last / (STILLS - 1)) for k in range(STILLS)})
        index = dict(zip(self.at, self.position))
        one_row_per_value = len(self.panels) >= len(chosen)
        shape = (len(self.panels), len(chosen))
        made, axes = figure(*(shape if one_row_per_value else shape[::-1]), size=1.3)
        for row, position in zip(axes if one_row_per_value else axes.T, chosen):
            values = self.at | {first.name: first.values[position]}
            label = f"{first.symbol} = {first.labels[position]}"
            for axis, panel in zip(row, self.panels_at(*values.values())):
                panel.draw(axis, **index | {first.name: position})
                axis.set_title(f"{panel.title}\n{label}", fontsize=7)
        return png(made, dpi=100, colours=64)

    def page_state(self) -> dict:
        spec, data = self._packed(self.all_panels())
        encoded = base64.b64encode(data).decode()
        return {"spec": spec, "data": encoded, "position": self.position}

    def to_html(self, path: Path | str) -> None:
        """Write a page that needs no kernel and no other file."""
        page = string.Template((STATIC / "explorer.html").read_text(encoding="utf-8")).substitute(
            title=html.escape(self.description),
            css=(STATIC / "explorer.css").read_text(encoding="utf-8"),
            place=self.in_page(),
            script=page_script(),
        )
        write_text(path, page)

    def _packed(self, panels: Sequence[Panel]) -> tuple[dict, bytes]:
        return pack(self.sliders, panels, self.description, self.columns)


class LiveExplorer(BetaExplorer):
    """Panels under sliders whose frames the kernel computes on the first move to them.

    `frame(value, ...)` is pure and returns panels whose layers have no sliders (`over=()`); their
    titles, kinds and shapes are the same at all values. The first frame's errors are raised at
    construction; a later frame's error appears under the panels and in `error`. Under the `ci`
    profile, and for pages without a kernel, all frames are computed at once.
    """

    def __init__(
        self, frame: Callable[..., Sequence[Panel]], sliders: Sequence[Slider], description: str
    ) -> None:
        self.panels_at = functools.cache(frame)
        start = self.panels_at(*(slider.start for slider in sliders))
        super().__init__(sliders, start, description)
        self.observe(self._moved, names="position")
        if profile_name() == "ci":
            self.all_panels()  # computes all frames, and raises their errors

    def all_panels(self) -> Sequence[Panel]:
        return panels_over_grid(self.panels_at, self.sliders)

    def _moved(self, change: dict) -> None:
        try:
            spec, data = self._packed(self.panels_at(*self.at.values()))
        except Exception as error:  # ipywidgets would swallow it
            self.error = f"{type(error).__name__}: {error}"
            return
        with self.hold_sync():  # the page receives spec and data in one message
            self.spec, self.data, self.error = spec, data, ""


def page_script() -> str:
    """Script that shows all explorers of a page; place it once, after them."""
    renderer = base64.b64encode((STATIC / "explorer.js").read_bytes()).decode()
    return (STATIC / "page.js").read_text(encoding="utf-8").replace("EXPLORER", renderer)
