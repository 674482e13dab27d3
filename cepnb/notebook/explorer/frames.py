"""Frames that a page draws by itself: panels of layers over a grid of slider values, packed into few bytes."""

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
from cepnb.notebook.explorer.layers import LIMIT, MARGIN, Layer
from cepnb.notebook.plots import sample_panel

ANY_BETA = "exact at any β"
ALL_BETA = "one network for all β"
UNTRAINED = "no training, at any β"


def trained_at(beta: float) -> str:
    """What a layer of a network shows that knows a single β."""
    return f"network trained at β = {beta:g}"


@dataclass(frozen=True, kw_only=True)
class Slider:
    """The values of one variable, moved through by hand or, with `play`, by a button.

    `note` says what the variable is, where that can be mistaken. Raises `CepnbError` unless `start` is one of the values.
    """

    name: str  # by which layers name it in `over`
    symbol: str  # shown
    values: Sequence[float]
    start: float
    note: str = ""
    play: bool = False

    def __post_init__(self) -> None:
        if self.start not in self.values:
            raise CepnbError(
                f"{self.symbol}: start {self.start:g} is not among the values "
                f"{', '.join(f'{value:g}' for value in self.values) or '(none)'}"
            )

    @property
    def labels(self) -> list[str]:
        """The values as they are shown."""
        return [f"{value:.3g}" for value in self.values]


def beta_slider(values: Sequence[float], start: float) -> Slider:
    """β itself: only for what is exact at any β, or a network that is given β."""
    return Slider(name="beta", symbol="β", values=values, start=start)


def time_slider(values: Sequence[float], start: float) -> Slider:
    """The time t; in falling order it plays the reverse process."""
    return Slider(
        name="t",
        symbol="t",
        values=values,
        start=start,
        play=True,
        note="time: 1 is noise, 0 is data",
    )


def scale_slider(values: Sequence[float], start: float, beta: float) -> Slider:
    """The guidance scale s beside a fixed β."""
    return Slider(
        name="s",
        symbol="s",
        values=values,
        start=start,
        note=f"guidance scale at β = {beta:g}; only s = 1 is exact, and s is not β",
    )


@dataclass(frozen=True)
class Panel:
    """Layers over each other, the first at the bottom, in the square [−limit, limit]²."""

    title: str
    layers: tuple[Layer, ...]
    limit: float = LIMIT

    def draw(self, axes: Axes, index: dict[str, int], title: str = "") -> None:
        """The panel as a picture, at the given place of each slider."""
        sample_panel(axes, torch.zeros(0, 2), "white", title or self.title, self.limit)
        for layer in self.layers:
            layer.draw(axes, layer.values[tuple(index[name] for name in layer.over)], self.limit)


def pack(
    sliders: Sequence[Slider], panels: Sequence[Panel], description: str, columns: int
) -> tuple[dict, bytes]:
    """What the page is told, and the bytes of all layers; a layer in several panels is stored once.

    Raises `CepnbError` on a layer that does not fit its sliders or has a value that is not finite.
    """
    names = [slider.name for slider in sliders]
    layers = {(id(layer), panel.limit): layer for panel in panels for layer in panel.layers}
    place = {key: number for number, key in enumerate(layers)}
    parts, described, offset = [], [], 0
    for (_, limit), layer in layers.items():
        _check(layer, sliders)
        bits = layer.encoded(limit).tobytes()
        bits += bytes(len(bits) % 2)  # the page reads two bytes at a time, from even places
        described.append(
            {
                "kind": layer.kind,
                "over": [names.index(name) for name in layer.over],
                "offset": offset,
                "label": layer.label,
                "length": math.prod(layer.values.shape[-layer.axes :]),
                "source": layer.source,
                **layer.style(),
            }
        )
        parts.append(bits)
        offset += len(bits)
    energy = np.round(255 * matplotlib.colormaps["cividis"](np.arange(256))[:, :3]).astype("u1")
    return {
        "description": description,
        "columns": columns,
        "margin": MARGIN,
        "energy": base64.b64encode(energy.tobytes()).decode(),
        "sliders": [
            {"symbol": s.symbol, "labels": s.labels, "note": s.note, "play": s.play}
            for s in sliders
        ],
        "panels": [
            {"title": p.title, "layers": [place[id(layer), p.limit] for layer in p.layers]}
            for p in panels
        ],
        "layers": described,
    }, b"".join(parts)


def over_grid(function, *sliders: Slider) -> Tensor:
    """`function(value, ...)` at all values of the sliders, stacked with an axis for each of them."""
    found = [
        function(*values) for values in itertools.product(*(slider.values for slider in sliders))
    ]
    return torch.stack(found).unflatten(0, [len(slider.values) for slider in sliders])


def over_all(frame: Callable[..., Sequence[Panel]], sliders: Sequence[Slider]) -> list[Panel]:
    """The panels of `frame(**values)`, whose layers are over no slider, at all values of the sliders, as panels over them.

    Raises `CepnbError` where two frames differ in more than the values of their layers.
    """
    names = tuple(slider.name for slider in sliders)
    frames = [
        frame(**dict(zip(names, values)))
        for values in itertools.product(*(slider.values for slider in sliders))
    ]
    shapes = {
        str([(p.title, [(x.kind, tuple(x.values.shape)) for x in p.layers]) for p in panels])
        for panels in frames
    }
    if len(shapes) > 1:
        raise CepnbError(
            f"frames over {', '.join(names)}: found {' and '.join(sorted(shapes)[:2])}, expected all alike"
        )

    def stacked(panel: int, layer: int) -> Layer:
        parts = [panels[panel].layers[layer] for panels in frames]
        values = torch.stack([part.values for part in parts])
        return replace(
            parts[0],
            over=names,
            values=values.unflatten(0, [len(slider.values) for slider in sliders]),
        )

    return [
        replace(panel, layers=tuple(stacked(i, j) for j in range(len(panel.layers))))
        for i, panel in enumerate(frames[0])
    ]


def _check(layer: Layer, sliders: Sequence[Slider]) -> None:
    what = f"{layer.kind} '{layer.label}'"
    counts = {slider.name: len(slider.values) for slider in sliders}
    for name in layer.over:
        if name not in counts:
            raise CepnbError(
                f"{what}: over '{name}', expected one of the sliders {', '.join(counts)}"
            )
    expected = tuple(counts[name] for name in layer.over)
    if tuple(layer.values.shape[: -layer.axes]) != expected:
        raise CepnbError(
            f"{what}: found shape {tuple(layer.values.shape)}, expected {expected} before the {layer.axes} "
            "axes of a frame"
        )
    if not bool(torch.isfinite(layer.values).all()):
        raise CepnbError(f"{what}: found a value that is not finite")
