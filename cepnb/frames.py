"""Frames that a page draws by itself: points, fields and arrows over a grid of slider values, packed into few bytes.

Every panel shows the square [−`LIMIT`, `LIMIT`]². The layout of the bytes is read again by `static/explorer.js`.
"""

import base64
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import matplotlib
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from cepnb.errors import CepnbError
from cepnb.plots import COLOURS, grid, sample_panel

LIMIT = 4.5
MARGIN = 1.25  # positions are kept up to this many limits, so that a point outside is cut off and not moved to the edge
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
            raise CepnbError(f"{self.symbol}: start {self.start:g} is not among the values "
                             f"{', '.join(f'{value:g}' for value in self.values) or '(none)'}")

    @property
    def labels(self) -> list[str]:
        """The values as they are shown."""
        return [f"{value:.3g}" for value in self.values]


def beta_slider(values: Sequence[float], start: float) -> Slider:
    """β itself: only for what is exact at any β, or a network that is given β."""
    return Slider(name="beta", symbol="β", values=values, start=start)


def time_slider(values: Sequence[float], start: float) -> Slider:
    """The time t; in falling order it plays the reverse process."""
    return Slider(name="t", symbol="t", values=values, start=start, play=True, note="time: 1 is noise, 0 is data")


def scale_slider(values: Sequence[float], start: float, beta: float) -> Slider:
    """The guidance scale s beside a fixed β."""
    return Slider(name="s", symbol="s", values=values, start=start,
                  note=f"guidance scale at β = {beta:g}; only s = 1 is exact, and s is not β")


@dataclass(frozen=True)
class Layer:
    """What one kind of mark shows: `values` has an axis for each slider named in `over`, then those of a single frame.

    `label` and `source` (one of the constants above) stand in the legend: what it is, and which model it comes from.
    """

    values: Tensor
    over: tuple[str, ...]
    label: str = ""
    source: str = ""
    kind: ClassVar[str]
    axes: ClassVar[int]  # of a single frame

    def encoded(self) -> np.ndarray:
        """All frames as the small integers of the page."""
        raise NotImplementedError

    def draw(self, axes: Axes, frame: Tensor) -> None:
        """One frame as a picture."""
        raise NotImplementedError

    def style(self) -> dict:
        """What else the page needs to draw it."""
        return {}


@dataclass(frozen=True)
class Points(Layer):
    """Samples: (*sliders, n, 2), within 4e-5 of the panel's width of where they are. `method` gives their colour."""

    method: str = "exact"
    alpha: float = 0.55
    kind, axes = "points", 2

    def encoded(self) -> np.ndarray:
        flipped = self.values * torch.tensor([1.0, -1.0])  # downwards, as on a screen
        unit = (flipped / (MARGIN * LIMIT)).clamp(-1, 1).numpy()
        return np.round((unit + 1) / 2 * 65535).astype("<u2")

    def draw(self, axes: Axes, frame: Tensor) -> None:
        axes.scatter(*frame.T.numpy(), s=2, alpha=self.alpha, color=COLOURS[self.method], linewidths=0)

    def style(self) -> dict:
        return {"colour": COLOURS[self.method], "alpha": self.alpha}


@dataclass(frozen=True)
class Field(Layer):
    """A function on the cells of `cells(n)`: (*sliders, n, n) from 0 to 1 (cut off outside), in 256 steps.

    As an energy it is coloured, dark for 0; with `density` it is as opaque as it is high.
    """

    density: bool = False
    kind, axes = "field", 2

    def encoded(self) -> np.ndarray:
        return np.round(255 * self.values.flip(-2).clamp(0, 1).numpy()).astype("u1")

    def draw(self, axes: Axes, frame: Tensor) -> None:
        axes.imshow(frame.numpy(), extent=(-LIMIT, LIMIT) * 2, origin="lower", interpolation="bilinear", vmin=0,
                    vmax=2 if self.density else 1, cmap="Greys" if self.density else "cividis")

    def style(self) -> dict:
        return {"density": self.density, "side": self.values.shape[-1]}


@dataclass(frozen=True)
class Arrows(Layer):
    """Vectors of length at most 1 at the places of `arrow_places(n)`: (*sliders, n, n, 2)."""

    kind, axes = "arrows", 3

    def encoded(self) -> np.ndarray:
        flipped = self.values * torch.tensor([1.0, -1.0])
        return np.round(127 * flipped.flip(-3).clamp(-1, 1).numpy()).astype("i1")

    def draw(self, axes: Axes, frame: Tensor) -> None:
        count = frame.shape[0]
        places, spacing = arrow_places(count).reshape(-1, 2), 1.8 * LIMIT / (count - 1)
        axes.quiver(*places.T.numpy(), *frame.reshape(-1, 2).T.numpy(), color="white", angles="xy", scale_units="xy",
                    scale=1 / spacing, width=0.008, pivot="mid")

    def style(self) -> dict:
        return {"side": self.values.shape[-2]}


@dataclass(frozen=True)
class Panel:
    """Layers over each other, the first at the bottom."""

    title: str
    layers: tuple[Layer, ...]

    def draw(self, axes: Axes, index: dict[str, int], title: str = "") -> None:
        """The panel as a picture, at the given place of each slider."""
        sample_panel(axes, torch.zeros(0, 2), "white", title or self.title, LIMIT)
        for layer in self.layers:
            layer.draw(axes, layer.values[tuple(index[name] for name in layer.over)])


def cells(count: int) -> Float[Tensor, "count count 2"]:
    """Middles of the cells of a field."""
    return grid(LIMIT * (1 - 1 / count), count)


def arrow_places(count: int) -> Float[Tensor, "count count 2"]:
    """Middles of the arrows."""
    return grid(0.9 * LIMIT, count)


def pack(sliders: Sequence[Slider], panels: Sequence[Panel], description: str, columns: int) -> tuple[dict, bytes]:
    """What the page is told, and the bytes of all layers; a layer in several panels is stored once.

    Raises `CepnbError` on a layer that does not fit its sliders or has a value that is not finite.
    """
    names = [slider.name for slider in sliders]
    layers = list({id(layer): layer for panel in panels for layer in panel.layers}.values())
    place = {id(layer): number for number, layer in enumerate(layers)}
    parts, described, offset = [], [], 0
    for layer in layers:
        _check(layer, sliders)
        bits = layer.encoded().tobytes()
        bits += bytes(len(bits) % 2)  # the page reads two bytes at a time, from even places
        described.append({
            "kind": layer.kind, "over": [names.index(name) for name in layer.over], "offset": offset, "label": layer.label,
            "length": math.prod(layer.values.shape[-layer.axes:]), "source": layer.source, **layer.style()})
        parts.append(bits)
        offset += len(bits)
    energy = np.round(255 * matplotlib.colormaps["cividis"](np.arange(256))[:, :3]).astype("u1")
    return {
        "description": description, "columns": columns, "margin": MARGIN, "energy": base64.b64encode(energy.tobytes()).decode(),
        "sliders": [{"symbol": s.symbol, "labels": s.labels, "note": s.note, "play": s.play} for s in sliders],
        "panels": [{"title": p.title, "layers": [place[id(layer)] for layer in p.layers]} for p in panels],
        "layers": described,
    }, b"".join(parts)


def over_grid(function, *sliders: Slider) -> Tensor:
    """`function(value, ...)` at all values of the sliders, stacked with an axis for each of them."""
    found = [function(*values) for values in itertools.product(*(slider.values for slider in sliders))]
    return torch.stack(found).unflatten(0, [len(slider.values) for slider in sliders])


def _check(layer: Layer, sliders: Sequence[Slider]) -> None:
    what = f"{layer.kind} '{layer.label}'"
    counts = {slider.name: len(slider.values) for slider in sliders}
    for name in layer.over:
        if name not in counts:
            raise CepnbError(f"{what}: over '{name}', expected one of the sliders {', '.join(counts)}")
    expected = tuple(counts[name] for name in layer.over)
    if tuple(layer.values.shape[:-layer.axes]) != expected:
        raise CepnbError(f"{what}: found shape {tuple(layer.values.shape)}, expected {expected} before the {layer.axes} "
                         "axes of a frame")
    if not bool(torch.isfinite(layer.values).all()):
        raise CepnbError(f"{what}: found a value that is not finite")
