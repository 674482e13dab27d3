"""Animated pictures of walking bodies: of hopper, halfcheetah and walker2d from the side, of ants from above."""

import io
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
from IPython.display import HTML
from jaxtyping import Float
from matplotlib import get_data_path
from numpy import ndarray as Array
from PIL import Image, ImageColor, ImageDraw, ImageFont

from cepnb.envs.antmaze import REACHED, Floor
from cepnb.errors import CepnbError
from cepnb.notebook.plots import GOAL, WALL, image
from cepnb.storage.validation import check_finite

WIDTH, HEIGHT, METRE = 260, 190, 90  # of a panel and of a metre, in pixels
FRAME_MS = 32  # four steps of the locomotion tasks
SCALE = 2  # panels are drawn larger and then reduced, for smooth edges
FLOOR_METRE = 36  # pixels of a metre in the view from above, so that walls are in view
GROUND, MARK = "#e8e8e8", "#777777"
ELEVATION = np.radians(55)  # of the view from above
# Ends of each capsule, (x, z) from the side and (x, y, z) from above, and radii, in metres.
Body = tuple[Float[Array, "parts 2 axes"], Float[Array, "parts"]]


def show_films(
    films: dict[str, Sequence[Body]],
    colours: dict[str, str],
    alt: str,
    floor: Floor | None = None,
    frame_ms: int = FRAME_MS,
) -> HTML:
    """Show several films side by side as one animated GIF, each under its title.

    A frame lasts `frame_ms`. A film that ends holds its last frame. The view follows the body. From
    the side, the ground has a mark every metre. With a `floor`, ants are seen obliquely from above,
    in their maze with its goal. Raises `CepnbError` without films, on an empty film, on bodies of the
    other kind and on numbers that are not finite.
    """
    if not films:
        raise CepnbError("there is no film; pass at least one")
    if floor is not None:
        check_finite("floor", np.append(floor.walls, floor.goal), "use that of the environment")
    for title, bodies in films.items():
        if not len(bodies):
            raise CepnbError(f"film '{title}' has no frames; pass at least one")
        numbers = np.concatenate([part.ravel() for body in bodies for part in body])
        check_finite(f"film '{title}'", numbers, "end it before the simulation fails")
        if any(ends.shape[-1] != (2 if floor is None else 3) for ends, _ in bodies):
            raise CepnbError(f"film '{title}': only ants need a floor; pass theirs, or none")
    frames = []
    for index in range(max(map(len, films.values()))):
        frame = Image.new("RGB", (WIDTH * len(films), HEIGHT), "white")
        for place, (title, bodies) in enumerate(films.items()):
            body = bodies[min(index, len(bodies) - 1)]
            frame.paste(_panel(body, title, colours[title], floor), (WIDTH * place, 0))
        frames.append(frame)
    palette = _palette(colours.values())
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    options = {"duration": frame_ms, "loop": 0, "optimize": True}
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], **options)
    return HTML(image(buffer.getvalue(), alt, "gif"))


def _palette(colours: Iterable[str]) -> Image.Image:
    """Return one palette for all frames: the colours that are drawn, and halfway to white for edges.

    With one palette, a frame of a GIF stores only what moves.
    """
    drawn = ["white", "black", GROUND, MARK, WALL, GOAL, *colours]
    exact = np.array([ImageColor.getrgb(colour) for colour in dict.fromkeys(drawn)])
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([exact, (exact + 255) // 2]).flatten().tolist())
    return palette


def _panel(body: Body, title: str, colour: str, floor: Floor | None) -> Image.Image:
    panel = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
    draw = ImageDraw.Draw(panel)
    if floor is None:
        _from_the_side(draw, body, colour)
    else:
        _from_above(draw, body, colour, floor)
    draw.text((6 * SCALE, 4 * SCALE), title, fill="black", font=_font(12))
    return panel.resize((WIDTH, HEIGHT), Image.LANCZOS)


def _from_the_side(draw: ImageDraw.ImageDraw, body: Body, colour: str) -> None:
    unit = METRE * SCALE
    ends, radii = body
    middle = ends[..., 0].mean()
    across = lambda x: (x - middle) * unit + WIDTH * SCALE / 2
    down = lambda z: (HEIGHT - 20) * SCALE - z * unit
    draw.rectangle((0, down(0.0), WIDTH * SCALE, HEIGHT * SCALE), fill=GROUND)
    for mark in range(int(np.floor(middle)) - 3, int(np.ceil(middle)) + 4):
        x = across(mark)
        draw.line((x, down(0.0), x, down(-0.08)), fill=MARK, width=SCALE)
        draw.text((x + 3 * SCALE, down(-0.02)), f"{mark} m", fill=MARK, font=_font(9))
    for capsule, radius in zip(ends, radii, strict=True):
        _capsule(draw, [(across(x), down(z)) for x, z in capsule], radius * unit, colour)


def _from_above(draw: ImageDraw.ImageDraw, body: Body, colour: str, floor: Floor) -> None:
    unit = FLOOR_METRE * SCALE
    ends, radii = body
    middle = ends.mean(axis=(0, 1))

    def at(x: float, y: float, z: float = 0.0) -> tuple[float, float]:
        up = (y - middle[1]) * np.sin(ELEVATION) + (z - middle[2]) * np.cos(ELEVATION)
        return (x - middle[0]) * unit + WIDTH * SCALE / 2, HEIGHT * SCALE / 2 - up * unit

    for left, low, right, high in floor.walls:
        draw.rectangle((*at(left, high), *at(right, low)), fill=WALL)
    x, y = floor.goal
    corners = at(x - REACHED, y + REACHED), at(x + REACHED, y - REACHED)
    draw.ellipse((*corners[0], *corners[1]), fill=GOAL)
    for capsule, radius in zip(ends, radii, strict=True):
        _capsule(draw, [at(*end) for end in capsule], radius * unit, colour)
    draw.rectangle((0, 0, WIDTH * SCALE - 1, HEIGHT * SCALE - 1), outline=MARK, width=SCALE)


def _capsule(
    draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], reach: float, colour: str
) -> None:
    draw.line(points, fill=colour, width=max(1, round(2 * reach)))
    for x, y in points:
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return matplotlib's font, which has Greek letters; Pillow's default font lacks them."""
    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size * SCALE)
