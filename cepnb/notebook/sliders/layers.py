"""Layers of a panel: points, shaded points, fields and arrows, each packed into small integers.

`static/explorer.js` unpacks and draws them. A panel shows the square [−limit, limit]², and layers
hold values in those coordinates.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from cepnb.errors import CepnbError
from cepnb.notebook.plots import COLOURS, grid
from cepnb.storage.validation import check_finite

LIMIT = 4.5  # default of a panel
MARGIN = 1.25  # positions are clipped at this many limits, beyond the edge of the panel


@dataclass(frozen=True, eq=False)
class Layer:
    """One kind of mark: `values` has an axis per slider named in `over`, then a frame's axes.

    The legend shows `label` and `source`: the model (a constant of `frames`), or another remark. A
    tuple has a source for each value of the sliders in `over`, in the order of the frames.
    A subclass packs all frames into integers (`encoded`), and draws one with matplotlib (`draw`).
    """

    values: Tensor
    over: tuple[str, ...]
    label: str = ""
    source: str | tuple[str, ...] = ""
    kind: ClassVar[str]
    frame: ClassVar[tuple[str | int, ...]]  # shape of one frame; "n" is any number

    def style(self) -> dict:
        """Return what else the page needs to draw the layer."""
        return {}


@dataclass(frozen=True, eq=False)
class Points(Layer):
    """Samples (*sliders, n, 2) in the colour of `method`.

    Positions are rounded to 16 bits, an error below 4e-5 of the panel's width.
    """

    method: str = "exact"
    alpha: float = 0.55
    kind, frame = "points", ("n", 2)

    def __post_init__(self) -> None:
        if self.method not in COLOURS:
            raise CepnbError(f"method '{self.method}': use one of {', '.join(COLOURS)}")

    def encoded(self, limit: float) -> np.ndarray:
        return _packed_positions(self.values, limit)

    def draw(self, axes: Axes, frame: Tensor, limit: float) -> None:
        colour = COLOURS[self.method]
        axes.scatter(*frame.T.numpy(), s=2, alpha=self.alpha, color=colour, linewidths=0)

    def style(self) -> dict:
        return {"colour": COLOURS[self.method], "alpha": self.alpha}


@dataclass(frozen=True, eq=False)
class Shaded(Layer):
    """Samples (*sliders, n, 3): x, y and a shade, clipped to [0, 1], dark for 0."""

    kind, frame = "shaded", ("n", 3)

    def encoded(self, limit: float) -> np.ndarray:
        shades = np.round(65535 * self.values[..., 2:].clamp(0, 1).numpy()).astype("<u2")
        return np.concatenate([_packed_positions(self.values[..., :2], limit), shades], axis=-1)

    def draw(self, axes: Axes, frame: Tensor, limit: float) -> None:
        x, y, shade = frame.T.numpy()
        axes.scatter(x, y, s=8, c=shade, cmap="cividis", vmin=0, vmax=1, linewidths=0)


@dataclass(frozen=True, eq=False)
class Field(Layer):
    """A function (*sliders, n, n) at `cells(n)`, clipped to [0, 1], in 256 steps.

    An energy is coloured, dark for 0; a `density` is grey, and transparent for 0.
    """

    density: bool = False
    kind, frame = "field", ("n", "n")

    def encoded(self, limit: float) -> np.ndarray:
        return np.round(255 * self.values.flip(-2).clamp(0, 1).numpy()).astype("u1")

    def draw(self, axes: Axes, frame: Tensor, limit: float) -> None:
        cmap, top = ("Greys", 2) if self.density else ("cividis", 1)
        style = {"interpolation": "bilinear", "vmin": 0, "vmax": top, "cmap": cmap}
        axes.imshow(frame.numpy(), extent=(-limit, limit) * 2, origin="lower", **style)

    def style(self) -> dict:
        return {"density": self.density}


@dataclass(frozen=True, eq=False)
class Arrows(Layer):
    """Vectors (*sliders, n, n, 2) of length at most 1, centred on `arrow_places(n)`."""

    kind, frame = "arrows", ("n", "n", 2)

    def encoded(self, limit: float) -> np.ndarray:
        return np.round(127 * _y_down(self.values).flip(-3).clamp(-1, 1).numpy()).astype("i1")

    def draw(self, axes: Axes, frame: Tensor, limit: float) -> None:
        points = arrow_places(len(frame), limit)
        spacing = float(points[0, 1, 0] - points[0, 0, 0])  # the length of an arrow of length 1
        units = {"angles": "xy", "scale_units": "xy", "scale": 1 / spacing}
        vectors = (*points.unbind(-1), *frame.unbind(-1))
        axes.quiver(*vectors, color="white", width=0.007, pivot="mid", **units)

    def style(self) -> dict:
        return {"side": self.values.shape[-2]}


def shaded(
    x: Float[Tensor, "n 2"], values: Float[Tensor, "n"], label: str, span: tuple[float, ...] = ()
) -> Shaded:
    """Colour samples by `values` over their range, or over `span` (low, high); equal ones are dark."""
    if len(span) not in (0, 2):
        raise CepnbError(f"span {span}: use (low, high)")
    for given in (x, values, span):
        check_finite(f"shaded '{label}'", given, "pass finite numbers")
    low, high = map(float, span or (values.min(), values.max()))
    shades = (values - low) / ((high - low) or 1)
    return Shaded(torch.cat([x, shades[:, None]], dim=1), (), label)


def cells(count: int, limit: float = LIMIT) -> Float[Tensor, "count count 2"]:
    """Centres of a field's cells."""
    return grid(limit * (1 - 1 / count), count)


def arrow_places(count: int, limit: float = LIMIT) -> Float[Tensor, "count count 2"]:
    """Centres of the arrows."""
    return grid(0.9 * limit, count)


def _packed_positions(x: Float[Tensor, "*batch 2"], limit: float) -> np.ndarray:
    unit = (_y_down(x) / (MARGIN * limit)).clamp(-1, 1).numpy()
    return np.round((unit + 1) / 2 * 65535).astype("<u2")


def _y_down(x: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    """Flip y, which grows downwards on a screen."""
    return x * torch.tensor([1.0, -1.0])
