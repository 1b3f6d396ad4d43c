"""A decoded image, and what is remembered of one."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeling_ground.errors import BadInput


@dataclass(frozen=True, slots=True)
class Stretch:
    """Two percentiles (0 ≤ low < high ≤ 100) between which an image's values are spread over the full range.

    What lies at or below the low one becomes black, at or above the high one white, in all channels alike.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise BadInput(
                f"stretch={self.low:g},{self.high:g} names no two percentiles: give the lower one first, both from 0 "
                "to 100, as in stretch=0.5,99.5."
            )


@dataclass(frozen=True, slots=True)
class Image:
    """What an encoder is given.

    Attributes:
        id: its image id (``key.image_id``).
        pixels: ``uint8 [height, width, 3]``, RGB, upright (EXIF orientation applied).
        note: what a person should know of how the file was read; empty where there is nothing to say.
        use_preview: whether a browser may draw the file in another way than it was read.
    """

    id: str
    pixels: NDArray[np.uint8]
    note: str = ""
    use_preview: bool = False

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return int(self.pixels.shape[1])


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is remembered of an image without its pixels; the fields are those of ``Image``."""

    width: int
    height: int
    note: str = ""
    use_preview: bool = False
