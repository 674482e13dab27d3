"""Moving pictures of hopper, halfcheetah and walker2d: they live in a plane, so their capsules can be drawn as they are."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
from IPython.display import HTML
from jaxtyping import Float
from numpy import ndarray as Array
from PIL import Image, ImageDraw, ImageFont

from cepnb.errors import CepnbError

WIDTH, HEIGHT, METRE = 260, 190, 90  # of a panel, and of a metre, in pixels
SCALE = 2  # drawn larger and reduced: smooth edges
Body = tuple[
    Float[Array, "parts 2 2"], Float[Array, "parts"]
]  # both ends of each capsule as (x, z), and its radius, in metres


def film(
    films: dict[str, Sequence[Body]], colours: dict[str, str], alt: str, frame_ms: int = 40
) -> HTML:
    """Several films side by side as one animated picture, each under its title; a film that has ended stands still.

    The view follows the body; the ground has a mark every metre, so that speed can be seen. Raises `CepnbError` on an
    empty film.
    """
    for title, bodies in films.items():
        if not len(bodies):
            raise CepnbError(f"film '{title}': no frame, expected at least one")
    frames = []
    for index in range(max(map(len, films.values()))):
        whole = Image.new("RGB", (WIDTH * len(films), HEIGHT), "white")
        for place, (title, bodies) in enumerate(films.items()):
            whole.paste(
                _panel(bodies[min(index, len(bodies) - 1)], title, colours[title]),
                (WIDTH * place, 0),
            )
        frames.append(whole.quantize(32))
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=frames[1:],
        duration=frame_ms,
        loop=0,
        optimize=True,
    )
    text = base64.b64encode(buffer.getvalue()).decode()
    return HTML(
        f'<img src="data:image/gif;base64,{text}" alt="{html.escape(alt)}" style="max-width:100%">'
    )


def _panel(body: Body, title: str, colour: str) -> Image.Image:
    panel = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
    draw, unit = ImageDraw.Draw(panel), METRE * SCALE
    ends, radii = body
    middle = ends[..., 0].mean()
    across = lambda x: (x - middle) * unit + WIDTH * SCALE / 2
    down = lambda z: (HEIGHT - 20) * SCALE - z * unit
    draw.rectangle((0, down(0.0), WIDTH * SCALE, HEIGHT * SCALE), fill="#e8e8e8")
    for mark in range(int(np.floor(middle)) - 3, int(np.ceil(middle)) + 4):
        draw.line((across(mark), down(0.0), across(mark), down(-0.08)), fill="#777777", width=SCALE)
        draw.text(
            (across(mark) + 3 * SCALE, down(-0.02)),
            f"{mark} m",
            fill="#777777",
            font=ImageFont.load_default(9 * SCALE),
        )
    for (first, second), radius in zip(ends, radii, strict=True):
        points, reach = [(across(x), down(z)) for x, z in (first, second)], radius * unit
        draw.line(points, fill=colour, width=max(1, round(2 * reach)))
        for x, y in points:
            draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)
    draw.text((6 * SCALE, 4 * SCALE), title, fill="black", font=ImageFont.load_default(12 * SCALE))
    return panel.resize((WIDTH, HEIGHT), Image.LANCZOS)
