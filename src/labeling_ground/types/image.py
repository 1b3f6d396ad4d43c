"""A decoded image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Image:
    """What an encoder is given.

    Attributes:
        id: SHA-256 of the file's bytes, hex, lower case.
        pixels: ``uint8 [height, width, 3]``, RGB, upright (EXIF orientation applied).
    """

    id: str
    pixels: NDArray[np.uint8]

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return int(self.pixels.shape[1])
