"""The kinds of marks that a page draws by itself, and how each is laid out in bytes; `static/explorer.js` reads them again.

A panel shows the square [−limit, limit]²; what a layer holds is in those coordinates.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from cepnb.notebook.plots import COLOURS, grid

LIMIT = 4.5  # of a panel that says nothing else
MARGIN = 1.25  # positions are kept up to this many limits, so that a point outside is cut off and not moved to the edge


@dataclass(frozen=True)
class Layer:
    """What one kind of mark shows: `values` has an axis for each slider named in `over`, then those of a single frame.

    `label` and `source` (one of the constants of `cepnb.notebook.explorer.frames`) stand in the legend: what it is, and which model it comes from.
    """

    values: Tensor
    over: tuple[str, ...]
    label: str = ""
    source: str = ""
    kind: ClassVar[str]
    axes: ClassVar[int]  # of a single frame

    def encoded(self, limit: float) -> np.ndarray:
        """All frames as the small integers of the page, in a panel of that limit."""
        raise NotImplementedError

    def draw(self, axes: Axes, frame: Tensor, limit: float) -> None:
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

    def encoded(self, limit: float) -> np.ndarray:
        return _places(self.values, limit)

    def draw(self, axes: Axes, frame: Tensor, limit: float) -> None:
        axes.scatter(
            *frame.T.numpy(), s=2, alpha=self.alpha, color=COLOURS[self.method], linewidths=0
        )

    def style(self) -> dict:
        return {"colour": COLOURS[self.method], "alpha": self.alpha}


@dataclass(frozen=True)
class Shaded(Layer):
    """Samples with a number from 0 to 1 each (cut off outside): (*sliders, n, 3), coloured like a field, dark for 0."""

    kind, axes = "shaded", 2

    def encoded(self, limit: float) -> np.ndarray:
        shades = np.round(65535 * self.values[..., 2:].clamp(0, 1).numpy()).astype("<u2")
        return np.concatenate([_places(self.values[..., :2], limit), shades], axis=-1)

    def draw(self, axes: Axes, frame: Tensor, limit: float) -> None:
        x, y, shade = frame.T.numpy()
        axes.scatter(x, y, s=8, c=shade, cmap="cividis", vmin=0, vmax=1, linewidths=0)


@dataclass(frozen=True)
class Field(Layer):
    """A function on the cells of `cells(n)`: (*sliders, n, n) from 0 to 1 (cut off outside), in 256 steps.

    As an energy it is coloured, dark for 0; with `density` it is as opaque as it is high.
    """

    density: bool = False
    kind, axes = "field", 2

    def encoded(self, limit: float) -> np.ndarray:
        return np.round(255 * self.values.flip(-2).clamp(0, 1).numpy()).astype("u1")

    def draw(self, axes: Axes, frame: Tensor, limit: float) -> None:
        axes.imshow(
            frame.numpy(),
            extent=(-limit, limit) * 2,
            origin="lower",
            interpolation="bilinear",
            vmin=0,
            vmax=2 if self.density else 1,
            cmap="Greys" if self.density else "cividis",
        )

    def style(self) -> dict:
        return {"density": self.density, "side": self.values.shape[-1]}


@dataclass(frozen=True)
class Arrows(Layer):
    """Vectors of length at most 1 at the places of `arrow_places(n)`: (*sliders, n, n, 2)."""

    kind, axes = "arrows", 3

    def encoded(self, limit: float) -> np.ndarray:
        return np.round(127 * _downwards(self.values).flip(-3).clamp(-1, 1).numpy()).astype("i1")

    def draw(self, axes: Axes, frame: Tensor, limit: float) -> None:
        count = frame.shape[0]
        places, spacing = arrow_places(count, limit).reshape(-1, 2), 1.8 * limit / (count - 1)
        axes.quiver(
            *places.T.numpy(),
            *frame.reshape(-1, 2).T.numpy(),
            color="white",
            angles="xy",
            scale_units="xy",
            scale=1 / spacing,
            width=0.008,
            pivot="mid",
        )

    def style(self) -> dict:
        return {"side": self.values.shape[-2]}


def shaded(
    x: Float[Tensor, "n 2"],
    values: Float[Tensor, "n"],
    label: str = "",
    low: float | None = None,
    high: float | None = None,
) -> Shaded:
    """Samples over no slider, coloured from `low` to `high`, or else from the least of `values` to the greatest."""
    low, high = values.min() if low is None else low, values.max() if high is None else high
    return Shaded(torch.cat([x, ((values - low) / (high - low))[:, None]], dim=1), (), label)


def cells(count: int, limit: float = LIMIT) -> Float[Tensor, "count count 2"]:
    """Middles of the cells of a field."""
    return grid(limit * (1 - 1 / count), count)


def arrow_places(count: int, limit: float = LIMIT) -> Float[Tensor, "count count 2"]:
    """Middles of the arrows."""
    return grid(0.9 * limit, count)


def _places(x: Float[Tensor, "*batch 2"], limit: float) -> np.ndarray:
    unit = (_downwards(x) / (MARGIN * limit)).clamp(-1, 1).numpy()
    return np.round((unit + 1) / 2 * 65535).astype("<u2")


def _downwards(x: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    """As on a screen."""
    return x * torch.tensor([1.0, -1.0])
