"""What a decoder makes of one prompt."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Mask:
    """One candidate.

    Attributes:
        pixels: ``bool [height, width]`` in the original image's size.
        score: the model's own guess of the mask's IoU, in 0..1.
        logits: low-res logits ``float32 [256, 256]``, positive inside; what ``Prompt.mask_input`` takes.
        within: a box (x, y, width, height, in pixels) outside of which no pixel belongs to the object, where its maker
            knows one: then nobody need look at the rest of a large image.
    """

    pixels: NDArray[np.bool_]
    score: float
    logits: NDArray[np.float32]
    within: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """One to three candidates for one prompt, the best one first (scores never rise along the tuple)."""

    masks: tuple[Mask, ...]
