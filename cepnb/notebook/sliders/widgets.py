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
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import anywidget
import traitlets
from matplotlib.figure import Figure

from cepnb.errors import CepnbError
from cepnb.notebook.plots import figure, image, png
from cepnb.notebook.sliders import IN_PAGE
from cepnb.notebook.sliders.frames import Panel, Slider, pack, panels_over_grid, specification
from cepnb.qgpo.settings import profile_name
from cepnb.storage.files import write_text

STATIC = Path(__file__).parent / "static"
STILLS = 4  # values of the first slider in the still picture


class ExplorerBase(anywidget.AnyWidget):
    """Base of all explorers: sliders over frames that the page shows.

    `static/explorer.js` shows `spec` and `data` at `position`. `move` and `at` set and read the
    sliders in Python, `to_html` writes a self-contained page. A subclass draws the still picture
    (`still`).

    The output in a notebook is the still picture in an HTML element. The page puts the explorer in
    its place while it has this widget's model; a saved notebook without it keeps the picture. A
    standard widget output would show "model not found" instead. `error` holds the last error in one
    line, or is empty; tests read it from the saved widget state.
    """

    _esm = STATIC / "explorer.js"
    _css = STATIC / "explorer.css"
    spec = traitlets.Dict().tag(sync=True)
    data = traitlets.Bytes().tag(sync=True)
    position = traitlets.List(traitlets.Int()).tag(sync=True)  # index of each slider's value
    error = traitlets.Unicode().tag(sync=True)
    name = traitlets.Unicode().tag(sync=True)  # of this explorer's elements in the page

    def __init__(
        self, sliders: Sequence[Slider], description: str, spec: dict, data: bytes = b""
    ) -> None:
        self.sliders, self.description = list(sliders), description
        position = [slider.index(slider.start) for slider in sliders]
        super().__init__(spec=spec, data=data, position=position, name=uuid.uuid4().hex)

    @property
    def at(self) -> dict[str, float | int]:
        """The value of each slider by name."""
        return {s.name: s.values[index] for s, index in zip(self.sliders, self.position)}

    def move(self, **values: float | int) -> None:
        """Set sliders by name. Raises `CepnbError` on an unknown name or value."""
        after = self.at | values
        for name in after:
            if name not in self.at:
                raise CepnbError(f"no slider is named '{name}'; use one of {', '.join(self.at)}")
        self.position = [slider.index(after[slider.name]) for slider in self.sliders]

    def frames(self) -> tuple[dict, bytes]:
        """Return the specification and the data of all frames."""
        return self.spec, self.data

    def in_page(self) -> str:
        """HTML for a page with `page_script`; without scripts, it shows the still picture."""
        spec, data = self.frames()
        encoded = base64.b64encode(data).decode()
        state = json.dumps({"spec": spec, "data": encoded, "position": self.position})
        state = state.replace("<", "\\u003c")  # no tag ends the script
        still = image(self.still(), self.description)
        return (
            f'<div class="cepnb-place"><script type="application/json">{state}</script>'
            f"<noscript>{still}</noscript></div>"
        )

    def to_html(self, path: Path | str) -> None:
        """Write a page that needs no kernel and no other file."""
        page = string.Template((STATIC / "explorer.html").read_text(encoding="utf-8")).substitute(
            title=html.escape(self.description),
            css=(STATIC / "explorer.css").read_text(encoding="utf-8"),
            place=self.in_page(),
            script=page_script(),
        )
        write_text(path, page)

    def _repr_mimebundle_(self, **kwargs: object) -> tuple[dict, dict]:
        if os.environ.get(IN_PAGE):
            return {"text/html": self.in_page(), "text/plain": self.description}, {}
        still = self.still()
        picture = image(still, self.description)
        data = {
            "text/html": f'<cepnb-explorer name="{self.name}">{picture}</cepnb-explorer>',
            "image/png": base64.b64encode(still).decode(),
            "text/plain": self.description,
        }
        return data, {"image/png": {"alt": self.description}}


class Explorer(ExplorerBase):
    """A slider over figures; give it to a notebook cell as its value.

    `frame(value)` is pure. It is called once per value at construction, where its errors are
    raised. The page holds all pictures and moves between them without a kernel.
    """

    def __init__(self, frame: Callable[[float], Figure], slider: Slider, description: str) -> None:
        self.pictures = [png(frame(value)) for value in slider.values]
        spec = specification([slider], description)
        spec["pictures"] = [base64.b64encode(picture).decode() for picture in self.pictures]
        super().__init__([slider], description, spec)

    def still(self) -> bytes:
        return self.pictures[self.position[0]]


class BetaExplorer(ExplorerBase):
    """The β slider: panels under sliders, whose frames are computed beforehand.

    The page draws and moves them without a kernel; the legend names each layer and its model.
    `columns` panels (0: all) share a row if the page is wide enough.
    """

    def __init__(
        self, sliders: Sequence[Slider], panels: Sequence[Panel], description: str, columns: int = 0
    ) -> None:
        if not sliders or not panels:
            raise CepnbError(
                f"{len(sliders)} sliders and {len(panels)} panels; pass at least one of each"
            )
        self.panels, self.columns = list(panels), columns or len(panels)
        super().__init__(sliders, description, *pack(sliders, panels, description, self.columns))

    def panels_at(self, *values: float) -> Sequence[Panel]:
        """Return panels that hold the frame at these values of the sliders."""
        return self.panels

    def _label(self, position: Iterable[int]) -> str:
        """Return all sliders' values at a position, such as β = 3, t = 0.1."""
        pairs = zip(self.sliders, position, strict=True)
        return ", ".join(f"{s.symbol} = {s.labels[k]}" for s, k in pairs)

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
            at = index | {first.name: position}
            values = [slider.values[at[slider.name]] for slider in self.sliders]
            label = self._label(at.values())
            for axis, panel in zip(row, self.panels_at(*values)):
                panel.draw(axis, **at)
                axis.set_title(f"{panel.title}\n{label}", fontsize=7)
        return png(made, dpi=100, colours=64)


class LiveExplorer(BetaExplorer):
    """Panels under sliders whose frames the kernel computes on the first move to them.

    `frame(value, ...)` is pure and returns panels whose layers have no sliders (`over=()`); their
    titles, kinds and shapes are the same at all values. The first frame's errors are raised at
    construction; a later frame's error appears under the panels and in `error`. The page labels a
    frame with the position that the kernel sends with it (`spec["at"]`). Under the `ci` profile,
    and for pages without a kernel, all frames are computed at once.
    """

    def __init__(
        self, frame: Callable[..., Sequence[Panel]], sliders: Sequence[Slider], description: str
    ) -> None:
        self.panels_at = functools.cache(frame)
        start = self.panels_at(*(slider.start for slider in sliders))
        super().__init__(sliders, start, description)
        self.spec = self.spec | {"at": self.position}
        self.observe(self._moved, names="position")
        if profile_name() == "ci":
            self.frames()  # computes all frames, and raises their errors

    def frames(self) -> tuple[dict, bytes]:
        return self._packed(panels_over_grid(self.panels_at, self.sliders))

    def _packed(self, panels: Sequence[Panel]) -> tuple[dict, bytes]:
        return pack(self.sliders, panels, self.description, self.columns)

    def _moved(self, change: dict) -> None:
        try:
            spec, data = self._packed(self.panels_at(*self.at.values()))
        except Exception as error:  # ipywidgets would swallow it
            at = self._label(self.position)
            self.error = f"{at}: {type(error).__name__}: {error}"
            return
        with self.hold_sync():  # the page receives spec and data in one message
            self.spec, self.data, self.error = spec | {"at": self.position}, data, ""


def page_script() -> str:
    """Script that shows all explorers of a page; place it once, after them."""
    renderer = base64.b64encode((STATIC / "explorer.js").read_bytes()).decode()
    return (STATIC / "page.js").read_text(encoding="utf-8").replace("EXPLORER", renderer)
