"""Sliders and panels, and how their frames are packed for the page."""

import base64
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from cepnb.errors import CepnbError
from cepnb.notebook.plots import square
from cepnb.notebook.sliders.layers import LIMIT, MARGIN, Layer, Points, Shaded
from cepnb.storage.validation import check_finite

ANY_BETA = "exact at any β"
ALL_BETA = "one network for all β"
Numbers = Sequence | np.ndarray | Tensor


def trained_at(beta: float) -> str:
    """Source of a layer from a network that is trained at a single β."""
    return f"network trained at β = {beta:g}"


def _text(value: float | int) -> str:
    return f"{value:.6g}"


@dataclass(frozen=True, kw_only=True)
class Slider:
    """The values of one variable, in order; `play` adds a button that runs through them.

    Layers refer to `name`; the page shows `symbol` and `note`. Raises `CepnbError` unless the
    values are finite and differ in six significant digits, and if `start` is not one of them.
    """

    name: str
    symbol: str
    values: Numbers  # stored as a tuple
    start: float | int
    note: str = ""
    play: bool = False

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.size == 0:
            raise CepnbError(f"{self.name}: the slider has no values; pass at least one")
        if values.ndim != 1 or values.dtype.kind not in "iuf":
            raise CepnbError(
                f"{self.name}: the slider's values are no numbers; pass a list of them"
            )
        check_finite(f"{self.name}: the slider", values, "pass finite values")
        object.__setattr__(self, "values", tuple(values.tolist()))
        texts = [_text(value) for value in self.values]
        if twice := [text for text in texts if texts.count(text) > 1]:
            raise CepnbError(f"{self.name} = {twice[0]} is twice in the slider; pass it once")
        object.__setattr__(self, "start", self.values[self.index(self.start)])

    @property
    def labels(self) -> list[str]:
        """The values as text, with three significant digits, or with six if three are not enough."""
        short = [f"{value:.3g}" for value in self.values]
        return short if len(set(short)) == len(short) else [_text(value) for value in self.values]

    def index(self, value: float | int) -> int:
        """Position of a value, by six digits. Raises `CepnbError` if the slider lacks it."""
        texts = [_text(known) for known in self.values]
        try:
            text = _text(value)
        except (TypeError, ValueError):  # no number
            text = repr(value)
        if text not in texts:
            raise CepnbError(
                f"{self.name} = {text} is not a value of the slider; "
                f"use one of {', '.join(self.labels)}"
            )
        return texts.index(text)


def beta_slider(values: Numbers, start: float) -> Slider:
    """A slider of β, for layers that are exact at any β or come from a network conditioned on β."""
    return Slider(name="beta", symbol="β", values=values, start=start)


def time_slider(values: Numbers, start: float) -> Slider:
    """A slider of t with a play button; falling values play the reverse process."""
    note = "time: 1 is noise, 0 is data"
    return Slider(name="t", symbol="t", values=values, start=start, play=True, note=note)


def scale_slider(values: Numbers, start: float, beta: float) -> Slider:
    """A slider of the guidance scale s at a fixed β."""
    note = f"guidance scale at β = {beta:g}; only s = 1 is exact, and s is not β"
    return Slider(name="s", symbol="s", values=values, start=start, note=note)


@dataclass(frozen=True)
class Panel:
    """Layers in the square [−limit, limit]², the first at the bottom."""

    title: str
    layers: tuple[Layer, ...]
    limit: float = LIMIT

    def draw(self, axes: Axes, **index: int) -> None:
        """Draw the panel with matplotlib at one position of each slider."""
        square(axes, self.title, self.limit)
        for layer in self.layers:
            frame = layer.values[tuple(index[name] for name in layer.over)]
            layer.draw(axes, frame, self.limit)


def pack(
    sliders: Sequence[Slider], panels: Sequence[Panel], description: str, columns: int
) -> tuple[dict, bytes]:
    """Return the page's specification and the bytes of all layers.

    A layer that several panels share is stored once. Raises `CepnbError` on a layer that does not
    fit its sliders, has a value that is not finite, or has nearly all its points outside the panel.
    """
    counts = {slider.name: len(slider.values) for slider in sliders}
    names = list(counts)
    if len(names) < len(sliders):
        given = ", ".join(slider.name for slider in sliders)
        raise CepnbError(f"sliders {given}: a name is repeated; give each slider its own")
    pairs = dict.fromkeys((layer, panel.limit) for panel in panels for layer in panel.layers)
    numbers = {pair: number for number, pair in enumerate(pairs)}
    layer_specs, data = [], bytearray()
    for layer, limit in pairs:
        _check(layer, counts, limit)
        spec = {"kind": layer.kind, "label": layer.label, "source": layer.source} | layer.style()
        spec["over"] = [names.index(name) for name in layer.over]
        frame = layer.values.shape[-len(layer.frame) :]
        spec["offset"], spec["length"] = len(data), math.prod(frame)
        layer_specs.append(spec)
        data += layer.encoded(limit).tobytes()
        data += bytes(len(data) % 2)  # the page reads 16-bit numbers, which start at even offsets
    panel_specs = [
        {"title": panel.title, "layers": [numbers[layer, panel.limit] for layer in panel.layers]}
        for panel in panels
    ]
    palette = np.round(255 * matplotlib.colormaps["cividis"](np.arange(256))[:, :3]).astype("u1")
    spec = specification(sliders, description) | {
        "columns": columns,
        "margin": MARGIN,
        "energy": base64.b64encode(palette.tobytes()).decode(),
        "panels": panel_specs,
        "layers": layer_specs,
    }
    return spec, bytes(data)


def specification(sliders: Sequence[Slider], description: str) -> dict:
    """Return the part of the page's specification that does not depend on the frames."""
    slider_specs = [
        {"symbol": s.symbol, "labels": s.labels, "note": s.note, "play": s.play} for s in sliders
    ]
    return {"description": description, "sliders": slider_specs}


def over_grid(function: Callable[..., Tensor], *sliders: Slider) -> Tensor:
    """Stack `function(value, ...)` at all values of the sliders, with one axis per slider."""
    grid = itertools.product(*(slider.values for slider in sliders))
    counts = [len(slider.values) for slider in sliders]
    return torch.stack([function(*values) for values in grid]).unflatten(0, counts)


def panels_over_grid(
    frame: Callable[..., Sequence[Panel]], sliders: Sequence[Slider]
) -> list[Panel]:
    """Stack the panels of `frame(value, ...)` at all values of the sliders.

    `frame` returns layers without sliders (`over=()`); the result has layers over all sliders.
    Raises `CepnbError` if two frames differ in more than their values.
    """
    names = tuple(slider.name for slider in sliders)
    counts = [len(slider.values) for slider in sliders]
    frames = [frame(*values) for values in itertools.product(*(s.values for s in sliders))]
    if any(_layout(panels) != _layout(frames[0]) for panels in frames):
        raise CepnbError(
            f"frames over {', '.join(names)} differ in panels, layers or shapes; "
            "return the same ones at all values"
        )
    stacked = []
    for same_panel in zip(*frames):
        layers = []
        for same_layer in zip(*(panel.layers for panel in same_panel)):
            values = torch.stack([layer.values for layer in same_layer]).unflatten(0, counts)
            sources = tuple(layer.source for layer in same_layer)
            source = sources if len(set(sources)) > 1 else sources[0]
            layers.append(replace(same_layer[0], values=values, over=names, source=source))
        stacked.append(replace(same_panel[0], layers=tuple(layers)))
    return stacked


def _layout(panels: Sequence[Panel]) -> list:
    return [(p.title, [(layer.kind, layer.values.shape) for layer in p.layers]) for p in panels]


def _check(layer: Layer, counts: dict[str, int], limit: float) -> None:
    what = f"{layer.kind} '{layer.label}'"
    for name in layer.over:
        if name not in counts:
            raise CepnbError(f"{what}: no slider is named '{name}'; use one of {', '.join(counts)}")
    if not isinstance(layer.values, Tensor):
        raise CepnbError(f"{what}: {type(layer.values).__name__} given; pass a torch.Tensor")
    shape, expected = tuple(layer.values.shape), tuple(counts[name] for name in layer.over)
    if shape[: -len(layer.frame)] != expected:
        raise CepnbError(
            f"{what}: its shape is {shape}, but must begin with {expected} "
            f"before the {len(layer.frame)} axes of a frame"
        )
    frame = shape[len(expected) :]
    if frame != tuple(frame[0] if size == "n" else size for size in layer.frame):
        needed = ", ".join(map(str, layer.frame))
        raise CepnbError(f"{what}: a frame has shape {frame}; use ({needed})")
    if not torch.isfinite(layer.values).all():
        raise CepnbError(f"{what}: a value is not finite; pass finite numbers only")
    if isinstance(layer, Points | Shaded):
        reach = layer.values[..., :2].abs().amax(-1)
        if (inside := (reach <= limit).float().mean().item()) < 0.1:
            raise CepnbError(
                f"{what}: {inside:.0%} of its points are in [−{limit:g}, {limit:g}]²; use a panel "
                f"with a limit of {1.1 * float(reach.max()):.3g}, or standardise the points"
            )
