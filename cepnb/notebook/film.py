"""Animated pictures of hopper, halfcheetah and walker2d, whose bodies move in a plane."""

import io
from collections.abc import Sequence

import numpy as np
from IPython.display import HTML
from jaxtyping import Float
from numpy import ndarray as Array
from PIL import Image, ImageDraw, ImageFont

from cepnb.errors import CepnbError
from cepnb.notebook.plots import image
from cepnb.storage.validation import check_finite

WIDTH, HEIGHT, METRE = 260, 190, 90  # of a panel and of a metre, in pixels
FRAME_MS = 32  # four steps of the locomotion tasks
SCALE = 2  # panels are drawn larger and then reduced, for smooth edges
# Ends (x, z) and radius of each capsule, in metres.
Body = tuple[Float[Array, "parts 2 2"], Float[Array, "parts"]]


def show_films(films: dict[str, Sequence[Body]], colours: dict[str, str], alt: str) -> HTML:
    """Show several films side by side as one animated GIF, each under its title.

    A film that ends holds its last frame. The view follows the body, and the ground has a mark
    every metre. Raises `CepnbError` without films, on an empty film and on numbers that are not
    finite.
    """
    if not films:
        raise CepnbError("there is no film; pass at least one")
    for title, bodies in films.items():
        if not len(bodies):
            raise CepnbError(f"film '{title}' has no frames; pass at least one")
        numbers = np.concatenate([part.ravel() for body in bodies for part in body])
        check_finite(f"film '{title}'", numbers, "end it before the simulation fails")
    frames = []
    for index in range(max(map(len, films.values()))):
        frame = Image.new("RGB", (WIDTH * len(films), HEIGHT), "white")
        for place, (title, bodies) in enumerate(films.items()):
            body = bodies[min(index, len(bodies) - 1)]
            frame.paste(_panel(body, title, colours[title]), (WIDTH * place, 0))
        frames.append(frame)
    palette = frames[0].quantize(16)  # of all frames, so that a frame stores only what moves
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    options = {"duration": FRAME_MS, "loop": 0, "optimize": True}
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], **options)
    return HTML(image(buffer.getvalue(), alt, "gif"))


def _panel(body: Body, title: str, colour: str) -> Image.Image:
    panel = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
    draw, unit = ImageDraw.Draw(panel), METRE * SCALE
    small, large = ImageFont.load_default(9 * SCALE), ImageFont.load_default(12 * SCALE)
    ends, radii = body
    middle = ends[..., 0].mean()
    across = lambda x: (x - middle) * unit + WIDTH * SCALE / 2
    down = lambda z: (HEIGHT - 20) * SCALE - z * unit
    draw.rectangle((0, down(0.0), WIDTH * SCALE, HEIGHT * SCALE), fill="#e8e8e8")
    for mark in range(int(np.floor(middle)) - 3, int(np.ceil(middle)) + 4):
        x = across(mark)
        draw.line((x, down(0.0), x, down(-0.08)), fill="#777777", width=SCALE)
        draw.text((x + 3 * SCALE, down(-0.02)), f"{mark} m", fill="#777777", font=small)
    for capsule, radius in zip(ends, radii, strict=True):
        points, reach = [(across(x), down(z)) for x, z in capsule], radius * unit
        draw.line(points, fill=colour, width=max(1, round(2 * reach)))
        for x, y in points:
            draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)
    draw.text((6 * SCALE, 4 * SCALE), title, fill="black", font=large)
    return panel.resize((WIDTH, HEIGHT), Image.LANCZOS)
