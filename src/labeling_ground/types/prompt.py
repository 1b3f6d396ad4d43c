"""What the annotator points at: one object's points, box and mask input."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One click.

    Attributes:
        x: column in pixels of the original image, 0 ≤ x < width.
        y: row in pixels of the original image, 0 ≤ y < height.
        label: 1 on the object (positive), 0 off it (negative).
    """

    x: float
    y: float
    label: int


@dataclass(frozen=True, slots=True)
class Box:
    """A box in pixels of the original image, ``x0 < x1`` and ``y0 < y1``."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True)
class Prompt:
    """One object's prompt, in canonical form (``key.canonical`` makes it): the order of clicks is not part of it.

    Attributes:
        points: sorted; may be empty when there is a box or a mask input.
        box: at most one.
        mask_input: low-res logits ``float32 [256, 256]`` of an earlier prediction: positive on the object,
            negative off it, 0 on its edge. They cover the model's input frame (``sam/`` says how that frame
            lies over the image), not the image.
        multimask: whether up to three nested candidates are wanted, or the single best mask.
    """

    points: tuple[Point, ...] = ()
    box: Box | None = None
    mask_input: NDArray[np.float32] | None = None
    multimask: bool = True
