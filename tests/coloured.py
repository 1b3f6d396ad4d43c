"""A picture in which the toy that finds concepts (``testing/toy_concepts.py``) finds something."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

RED_BOXES = ((4, 4, 16, 14), (30, 5, 40, 12), (50, 30, 58, 38))
BLUE_BOXES = ((20, 20, 30, 34), (44, 14, 50, 24))
REDS = ((220, 30, 30), (200, 40, 40), (165, 60, 55))
"""From what the toy takes for red to what it hardly does: the first box scores best."""


def squares(tint: int = 0, *, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """Pixels, ``uint8 [height, width, 3]``: three red boxes, ever less red, and two blue ones, on gray."""
    pixels = np.full((height, width, 3), 120 + tint, np.uint8)
    for (x0, y0, x1, y1), colour in zip(RED_BOXES, REDS, strict=True):
        pixels[y0:y1, x0:x1] = colour
    for x0, y0, x1, y1 in BLUE_BOXES:
        pixels[y0:y1, x0:x1] = (40, 60, 220)
    return pixels


def squares_file(tint: int = 0) -> bytes:
    """The same as a PNG file."""
    out = io.BytesIO()
    Pillow.fromarray(squares(tint)).save(out, "PNG")
    return out.getvalue()
