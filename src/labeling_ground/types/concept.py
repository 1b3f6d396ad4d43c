"""What stands for all instances of something in an image, and the instances that a model finds."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeling_ground.types.prompt import Box


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A box around one object, as an example.

    Attributes:
        box: in pixels of the original image.
        positive: whether objects like this one are meant; if not, what is like it is left out.
    """

    box: Box
    positive: bool = True


@dataclass(frozen=True, slots=True)
class Concept:
    """A phrase, exemplars of the same image, or both, in canonical form (``key.canonical_concept`` makes it).

    Attributes:
        phrase: lower-case Unicode NFC with single spaces; ``None`` where exemplars alone say what is meant.
        exemplars: sorted, their boxes in steps of 1/64 pixel; with no phrase at least one of them is positive.
    """

    phrase: str | None = None
    exemplars: tuple[Exemplar, ...] = ()


@dataclass(frozen=True, slots=True)
class Instance:
    """One object that a concept stands for. It is painted when its mask is asked for: hundreds in full size are GBs.

    Attributes:
        score: the model's own guess that this is such an object, 0..1.
        box: around it, in pixels of the original image, within it.
        draw: paints the mask, ``bool [height, width]`` in the original image's size. Blocking; may be called in any
            thread, and depends on nothing that changes.
    """

    score: float
    box: Box
    draw: Callable[[], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Detections:
    """All instances of one concept in one image, the best one first (scores never rise along the tuple)."""

    instances: tuple[Instance, ...]
