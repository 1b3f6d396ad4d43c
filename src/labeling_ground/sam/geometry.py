"""How a model's square input lies over an image: sizes and coordinates.

Two rules are in use. SAM 1 keeps the aspect: the long side becomes 1024 pixels and the rest of the square is padding,
right and below (``segment_anything/utils/transforms.py``). SAM 2, SAM 3 and EfficientSAM stretch the image over the
whole square (``sam2/utils/transforms.py``; ``efficient_sam/efficient_sam.py``).
"""

import math
from dataclasses import dataclass

SIDE = 1024
"""Rows and columns of the square that most encoders read, in pixels; ``Family.side`` says it of each."""
LOW_RES = 256
"""Rows and columns of the low-res logits that are handed out and taken back. They cover the same square, padding
included."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The square over one image.

    Attributes:
        height: rows of the original image.
        width: columns of the original image.
        inner_height: rows of the square that the image covers, from the top; what is below is padding.
        inner_width: columns of the square that the image covers, from the left.
        side: rows and columns of the square.
    """

    height: int
    width: int
    inner_height: int
    inner_width: int
    side: int = SIDE

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A place in the image, in the square's pixels.

        Half a pixel is NOT added: the prompt encoder adds it itself, in the square's pixels.
        """
        return x * (self.inner_width / self.width), y * (self.inner_height / self.height)


def longest_side(height: int, width: int, side: int = SIDE) -> Frame:
    """SAM 1: the long side becomes ``side``, the short one keeps the aspect, both rounded half up."""
    scale = side / max(height, width)
    # A strip of 1 × 5000 pixels would round to no rows at all; the reference fails there, we keep one.
    inner_height, inner_width = (max(1, math.floor(length * scale + 0.5)) for length in (height, width))
    return Frame(height, width, inner_height, inner_width, side)


def stretched(height: int, width: int, side: int = SIDE) -> Frame:
    """SAM 2, EfficientSAM: the whole square, whatever the aspect."""
    return Frame(height, width, side, side, side)
