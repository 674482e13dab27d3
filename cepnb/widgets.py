"""A slider over pictures drawn by the kernel, behind one class; its drawing can change without touching a notebook."""

from collections.abc import Callable, Sequence

import ipywidgets
from matplotlib.figure import Figure

from cepnb.errors import CepnbError
from cepnb.plots import image
from cepnb.profiles import profile_name


class Explorer:
    """A slider that shows `frame(value)`, a figure, for one of `values`; give it to a notebook cell as its value.

    `frame` is pure: a picture is drawn once a value and kept. An exception of the first picture is raised where the
    explorer is made; one in a later picture is shown in the picture's place and kept in `error`, never lost. Under the
    `ci` profile all pictures are drawn at once, so that a run of the notebook fails on an error in any of them.
    `description` says what is shown, for screen readers.
    """

    def __init__(self, frame: Callable[[float], Figure], values: Sequence[float], name: str, description: str,
                 start: float | None = None) -> None:
        if not values:
            raise CepnbError(f"{name}: no values, expected at least one")
        if start is not None and start not in values:
            raise CepnbError(f"{name}: start {start:g} is not among the values {', '.join(f'{v:g}' for v in values)}")
        self.frame, self.values, self.description = frame, list(values), description
        self.error: Exception | None = None
        self._drawn: dict[float, str] = {}
        self.slider = ipywidgets.SelectionSlider(
            options=[(f"{value:g}", value) for value in self.values], value=self.values[0] if start is None else start,
            description=name, continuous_update=True, layout=ipywidgets.Layout(width="26em"))
        self.picture = ipywidgets.HTML(self.html(self.slider.value))
        self.slider.observe(self._moved, names="value")
        if profile_name() == "ci":
            for value in self.values:
                self.html(value)

    def html(self, value: float) -> str:
        """The picture of a value as an HTML image with alternative text."""
        if value not in self._drawn:
            alt = f"{self.description}, {self.slider.description} = {value:g}"
            self._drawn[value] = image(self.frame(value), alt)
        return self._drawn[value]

    def _moved(self, change: dict) -> None:
        try:
            self.picture.value, self.error = self.html(change["new"]), None
        except Exception as error:  # whatever a frame raises must be seen: ipywidgets would swallow it
            self.error = error
            self.picture.value = f'<pre role="alert">{type(error).__name__}: {error}</pre>'

    def _repr_mimebundle_(self, **kwargs: object) -> dict:
        return ipywidgets.VBox([self.slider, self.picture])._repr_mimebundle_(**kwargs)
