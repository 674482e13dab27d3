"""The explorers of the notebooks: sliders over frames that the page draws itself, computed before or on the way, and over pictures."""

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
from cepnb.notebook.explorer.frames import Panel, Slider, over_all, pack
from cepnb.notebook.plots import figure, image, png
from cepnb.qgpo.settings import profile_name

STATIC = Path(__file__).parent / "static"
STILLS = 4  # values of the first slider in the still picture
IN_PAGE = "CEPNB_IN_PAGE"  # set where notebooks are executed for pages without a kernel


class Shown(ipywidgets.DOMWidget):
    """What explorers share: a description for screen readers, errors that stay, and a still picture beside the live one.

    The still picture is what a saved notebook shows where nothing runs. `error` is the last error in one line, empty if
    there is none; it is part of the saved state, where the tests look for it.
    """

    description = ""
    error = traitlets.Unicode().tag(sync=True)

    def still(self) -> bytes:
        """A picture (PNG) of what is shown."""
        raise NotImplementedError

    def page_state(self) -> dict:
        """All that a page needs to show it without a kernel."""
        raise NotImplementedError

    def in_page(self) -> str:
        """HTML that `page_script` brings to life in a page without a kernel; without scripts, the still picture."""
        still = f'<img src="data:image/png;base64,{base64.b64encode(self.still()).decode()}" alt="{html.escape(self.description)}">'
        state = json.dumps(self.page_state()).replace("</", "<\\/")
        return f'<div class="cepnb-place"><script type="application/json">{state}</script><noscript>{still}</noscript></div>'

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


class Explorer(Shown, ipywidgets.VBox):
    """A slider that shows `frame(value)`, a figure of any kind; give it to a notebook cell as its value.

    `frame` is pure, and is called once for each value where the explorer is made: whatever it raises is raised there, and
    a move shows a picture that is there already.
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
            raise CepnbError(f"{name}: no values, expected at least one")
        if start is not None and start not in values:
            raise CepnbError(
                f"{name}: start {start:g} is not among the values {', '.join(f'{v:g}' for v in values)}"
            )
        self.values, self.description, self.name = list(values), description, name
        self._drawn = {value: png(frame(value)) for value in self.values}
        self.slider = ipywidgets.SelectionSlider(
            options=[(f"{value:g}", value) for value in self.values],
            value=self.values[0] if start is None else start,
            description=name,
            continuous_update=True,
            layout=ipywidgets.Layout(width="26em"),
        )
        self.picture = ipywidgets.HTML(self.html(self.slider.value))
        self.slider.observe(self._moved, names="value")
        super().__init__([self.slider, self.picture])

    def html(self, value: float) -> str:
        """The picture of a value as an HTML image with alternative text."""
        return image(self._drawn[value], f"{self.description}, {self.name} = {value:g}")

    def still(self) -> bytes:
        """The picture at which it starts."""
        return self._drawn[self.slider.value]

    def page_state(self) -> dict:
        """The pictures of all values."""
        return {
            "description": self.description,
            "name": self.name,
            "labels": [f"{self.name} = {value:g}" for value in self.values],
            "start": self.slider.index,
            "pictures": [self.html(value) for value in self.values],
        }

    def _moved(self, change: dict) -> None:
        self.picture.value = self.html(change["new"])


class BetaExplorer(Shown, anywidget.AnyWidget):
    """Panels under sliders, all of whose frames are computed beforehand and drawn by the page: no kernel is asked.

    What a layer shows, and of which model, stands in the legend. `move` and `at` are for use from Python; `to_html` gives
    a page that works by itself. `columns` panels stand side by side where there is room.
    """

    _esm = STATIC / "explorer.js"
    _css = STATIC / "explorer.css"
    spec = traitlets.Dict().tag(sync=True)
    data = traitlets.Bytes().tag(sync=True)
    position = traitlets.List(traitlets.Int()).tag(
        sync=True
    )  # the place of each slider in its values

    def __init__(
        self,
        sliders: Sequence[Slider],
        panels: Sequence[Panel],
        description: str,
        columns: int | None = None,
    ) -> None:
        if not sliders or not panels:
            raise CepnbError(
                f"{len(sliders)} sliders and {len(panels)} panels: expected at least one of each"
            )
        self.sliders, self.panels, self.description, self.columns = (
            list(sliders),
            list(panels),
            description,
            columns or len(panels),
        )
        spec, data = pack(sliders, panels, description, self.columns)
        super().__init__(
            spec=spec, data=data, position=[list(s.values).index(s.start) for s in sliders]
        )

    @property
    def at(self) -> dict[str, float]:
        """The value of each slider by its name."""
        return {
            slider.name: slider.values[place] for slider, place in zip(self.sliders, self.position)
        }

    def move(self, **values: float) -> None:
        """Set sliders by name. Raises `CepnbError` on a name or value that they do not have."""
        self.position = self._places(self.at | values)

    def panels_at(self, places: dict[str, int]) -> list[Panel]:
        """The panels that are drawn at these places of the sliders."""
        return self.panels

    def frame(self, **values: float) -> Figure:
        """The panels as a figure at the given values, where the sliders now stand for those not given."""
        places = dict(zip((slider.name for slider in self.sliders), self._places(self.at | values)))
        made, axes = figure(self.columns, -(-len(self.panels) // self.columns), size=2.2)
        for panel, axis in zip(self.panels_at(places), axes.flat):
            panel.draw(axis, places)
        return made

    def still(self) -> bytes:
        """All panels at some values of the first slider, side by side."""
        first, *rest = self.sliders
        count = len(first.values)
        chosen = sorted({round(k * (count - 1) / (STILLS - 1)) for k in range(STILLS)})
        others = {slider.name: place for slider, place in zip(rest, self.position[1:])}
        across = len(self.panels) >= len(chosen)
        made, axes = figure(
            *(
                n
                for n in (
                    (len(self.panels), len(chosen)) if across else (len(chosen), len(self.panels))
                )
            ),
            size=1.3,
        )
        for row, place in enumerate(chosen):
            places, value = others | {first.name: place}, f"{first.symbol} = {first.labels[place]}"
            for column, panel in enumerate(self.panels_at(places)):
                axis = axes[row, column] if across else axes[column, row]
                panel.draw(axis, places, f"{panel.title}\n{value}")
                axis.title.set_fontsize(7)
        return png(made, dpi=100, colours=64)

    def page_state(self) -> dict:
        """The frames and where the sliders stand."""
        return {
            "spec": self.spec,
            "data": base64.b64encode(self.data).decode(),
            "position": self.position,
        }

    def to_html(self, path: Path | str | None = None) -> str:
        """A page that works without a kernel and without any other file; written to `path` if there is one."""
        page = string.Template((STATIC / "explorer.html").read_text()).substitute(
            title=html.escape(self.description),
            css=(STATIC / "explorer.css").read_text(),
            place=self.in_page(),
            script=page_script(),
        )
        if path is not None:
            Path(path).write_text(page)
        return page

    def _places(self, values: dict[str, float]) -> list[int]:
        known = {slider.name: slider for slider in self.sliders}
        for name, value in values.items():
            if name not in known:
                raise CepnbError(f"slider '{name}': expected one of {', '.join(known)}")
            if value not in known[name].values:
                raise CepnbError(
                    f"{name} = {value:g}: expected one of {', '.join(known[name].labels)}"
                )
        return [list(slider.values).index(values[slider.name]) for slider in self.sliders]


class LiveExplorer(BetaExplorer):
    """Panels under sliders whose frames the kernel computes when they are asked for, and the page draws.

    `frame(**values)` is pure and returns panels whose layers are over no slider: one set of panels, layers and sizes at all
    values. A frame is computed once and kept. An exception of the first frame is raised where the explorer is made, one of a
    later frame is shown under the panels and kept in `error`. Under the `ci` profile, and for a page without a kernel, all
    frames are computed at once.
    """

    def __init__(
        self,
        frame: Callable[..., Sequence[Panel]],
        sliders: Sequence[Slider],
        description: str,
        columns: int | None = None,
    ) -> None:
        self._compute, self._known = frame, {}
        super().__init__(
            sliders,
            self._panels(**{slider.name: slider.start for slider in sliders}),
            description,
            columns,
        )
        self.observe(self._moved, names="position")
        if profile_name() == "ci":
            over_all(self._panels, self.sliders)

    def panels_at(self, places: dict[str, int]) -> list[Panel]:
        return self._panels(
            **{slider.name: slider.values[places[slider.name]] for slider in self.sliders}
        )

    def page_state(self) -> dict:
        """All frames, and where the sliders stand."""
        spec, data = pack(
            self.sliders, over_all(self._panels, self.sliders), self.description, self.columns
        )
        return {"spec": spec, "data": base64.b64encode(data).decode(), "position": self.position}

    def _panels(self, **values: float) -> list[Panel]:
        key = tuple(values.items())
        if key not in self._known:
            self._known[key] = list(self._compute(**values))
        return self._known[key]

    def _moved(self, change: dict) -> None:
        try:
            spec, data = pack(self.sliders, self._panels(**self.at), self.description, self.columns)
        except (
            Exception
        ) as error:  # whatever a frame raises must be seen: ipywidgets would swallow it
            self.error = f"{type(error).__name__}: {error}"
            return
        with self.hold_sync():  # one message to the page
            self.spec, self.data, self.error = spec, data, ""


def page_script() -> str:
    """The script that brings all explorers of a page to life; it comes after them, once a page."""
    renderer = base64.b64encode((STATIC / "explorer.js").read_bytes()).decode()
    return (STATIC / "page.js").read_text().replace("EXPLORER", renderer)
