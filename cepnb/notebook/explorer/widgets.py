"""The β slider (`BetaExplorer`) and the other explorers: sliders over panels or figures.

- `BetaExplorer`: all frames are computed beforehand, and the page draws them
- `LiveExplorer`: the kernel computes each frame when a slider first reaches it
- `Explorer`: one slider over matplotlib figures
"""

import base64
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
from cepnb.notebook.explorer import IN_PAGE
from cepnb.notebook.explorer.frames import Panel, Slider, pack, panels_over_grid
from cepnb.notebook.plots import figure, image, png
from cepnb.qgpo.settings import profile_name

STATIC = Path(__file__).parent / "static"
STILLS = 4  # values of the first slider in the still picture


class ExplorerBase(ipywidgets.DOMWidget):
    """Base of all explorers: a description, a still picture, and HTML for pages without a kernel.

    A saved notebook shows the still picture. `error` holds the last error in one line, or is empty;
    tests read it from the saved widget state.
    """

    description = ""
    error = traitlets.Unicode().tag(sync=True)

    def still(self) -> bytes:
        """Draw the still picture as a PNG file."""
        raise NotImplementedError

    def page_state(self) -> dict:
        """Return the JSON from which `page_script` shows the explorer without a kernel."""
        raise NotImplementedError

    def in_page(self) -> str:
        """HTML for a page with `page_script`; without scripts, it shows the still picture."""
        state = json.dumps(self.page_state()).replace("</", "<\\/")
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
    raised; a move shows a stored picture. Raises `CepnbError` without values, or if `start` is not
    one of them.
    """

    def __init__(
        self,
        frame: Callable[[float], Figure],
        values: Sequence[float],
        name: str,
        description: str,
        start: float | None = None,
    ) -> None:
        if not values:
            raise CepnbError(f"{name}: the slider has no values; pass at least one")
        start = values[0] if start is None else start
        labels = Slider(name=name, symbol=name, values=values, start=start).labels
        self.description = description
        self._labels = [f"{name} = {label}" for label in labels]
        self._pictures = [png(frame(value)) for value in values]
        self.slider = ipywidgets.SelectionSlider(
            options=list(zip(labels, values)),
            value=start,
            description=name,
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
    `columns` panels share a row if the page is wide enough.
    """

    _esm = STATIC / "explorer.js"
    _css = STATIC / "explorer.css"
    spec = traitlets.Dict().tag(sync=True)
    data = traitlets.Bytes().tag(sync=True)
    position = traitlets.List(traitlets.Int()).tag(sync=True)  # index of each slider's value

    def __init__(
        self,
        sliders: Sequence[Slider],
        panels: Sequence[Panel],
        description: str,
        columns: int | None = None,
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
        self.position = list(self._index(values).values())

    def panels_at(self, index: dict[str, int]) -> list[Panel]:
        """Return panels that hold the frame at these positions of the sliders."""
        return self.panels

    def frame(self, **values: float) -> Figure:
        """Draw the panels as a figure; a slider without a given value keeps its own."""
        index = self._index(values)
        made, axes = figure(self.columns, -(-len(self.panels) // self.columns), size=2.2)
        for panel, axis in zip(self.panels_at(index), axes.flat):
            panel.draw(axis, index)
        return made

    def still(self) -> bytes:
        """Draw all panels at a few values of the first slider, as a PNG file."""
        slider = self.sliders[0]
        last = len(slider.values) - 1
        chosen = sorted({round(k * last / (STILLS - 1)) for k in range(STILLS)})
        one_row_per_value = len(self.panels) >= len(chosen)
        shape = (len(self.panels), len(chosen))
        made, axes = figure(*(shape if one_row_per_value else shape[::-1]), size=1.3)
        rows = axes if one_row_per_value else axes.T
        for row, position in zip(rows, chosen):
            index = self._index({}) | {slider.name: position}
            for axis, panel in zip(row, self.panels_at(index)):
                label = f"{slider.symbol} = {slider.labels[position]}"
                panel.draw(axis, index, f"{panel.title}\n{label}")
                axis.title.set_fontsize(7)
        return png(made, dpi=100, colours=64)

    def all_panels(self) -> list[Panel]:
        """Return panels that hold all frames."""
        return self.panels

    def page_state(self) -> dict:
        spec, data = self._packed(self.all_panels())
        encoded = base64.b64encode(data).decode()
        return {"spec": spec, "data": encoded, "position": self.position}

    def to_html(self, path: Path | str | None = None) -> str:
        """Return a page that needs no kernel and no other file, and write it to `path` if given."""
        page = string.Template((STATIC / "explorer.html").read_text()).substitute(
            title=html.escape(self.description),
            css=(STATIC / "explorer.css").read_text(),
            place=self.in_page(),
            script=page_script(),
        )
        if path is not None:
            Path(path).write_text(page)
        return page

    def _packed(self, panels: Sequence[Panel]) -> tuple[dict, bytes]:
        return pack(self.sliders, panels, self.description, self.columns)

    def _index(self, values: dict[str, float]) -> dict[str, int]:
        """Position of each slider, after a move to `values`."""
        names = [slider.name for slider in self.sliders]
        for name in values:
            if name not in names:
                raise CepnbError(f"no slider is named '{name}'; use one of {', '.join(names)}")
        after = self.at | values
        return {slider.name: slider.index(after[slider.name]) for slider in self.sliders}


class LiveExplorer(BetaExplorer):
    """Panels under sliders whose frames the kernel computes on the first move to them.

    `frame(**values)` is pure and returns panels whose layers have no sliders (`over=()`); their
    titles, kinds and shapes are the same at all values. The first frame's errors are raised at
    construction; a later frame's error appears under the panels and in `error`. Under the `ci`
    profile, and for pages without a kernel, all frames are computed at once.
    """

    def __init__(
        self,
        frame: Callable[..., Sequence[Panel]],
        sliders: Sequence[Slider],
        description: str,
        columns: int | None = None,
    ) -> None:
        self._compute, self._cache = frame, {}
        panels = self._frame(**{slider.name: slider.start for slider in sliders})
        super().__init__(sliders, panels, description, columns)
        self.observe(self._moved, names="position")
        if profile_name() == "ci":
            self.all_panels()  # computes all frames, and raises their errors

    def panels_at(self, index: dict[str, int]) -> list[Panel]:
        return self._frame(**{s.name: s.values[index[s.name]] for s in self.sliders})

    def all_panels(self) -> list[Panel]:
        return panels_over_grid(self._frame, self.sliders)

    def _frame(self, **values: float) -> list[Panel]:
        key = tuple(values.items())
        if key not in self._cache:
            self._cache[key] = list(self._compute(**values))
        return self._cache[key]

    def _moved(self, change: dict) -> None:
        try:
            spec, data = self._packed(self._frame(**self.at))
        except Exception as error:  # ipywidgets would swallow it
            self.error = f"{type(error).__name__}: {error}"
            return
        with self.hold_sync():  # the page receives spec and data in one message
            self.spec, self.data, self.error = spec, data, ""


def page_script() -> str:
    """Script that shows all explorers of a page; place it once, after them."""
    renderer = base64.b64encode((STATIC / "explorer.js").read_bytes()).decode()
    return (STATIC / "page.js").read_text().replace("EXPLORER", renderer)
