"""How a TIFF stores its samples, and what they mean."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TiffLayout:
    """A TIFF's samples as grey files that a decoder can read without knowing what they mean.

    Attributes:
        planes: one grey file for each plane that is of use; each as the parts that it is joined from.
        samples: how many samples of a pixel lie side by side in each of them: a row has ``width × samples`` of them.
        bits: bits of a sample.
        photometric: TIFF's number for what the samples mean: 0 white is zero, 1 black is zero, 2 RGB, 3 palette,
            5 CMYK, 8 CIE L*a*b*.
        alpha: which sample is the alpha, if one is.
        is_premultiplied: whether the colours are multiplied with it.
        palette: ``uint16 [colours, 3]``.
        differenced: columns of the blocks in which each sample is stored as the difference to the one before it, where
            the decoder does not undo that; 0 where there is nothing to undo.
    """

    planes: tuple[tuple[bytes | memoryview, ...], ...]
    samples: int
    bits: int
    photometric: int
    alpha: int | None = None
    is_premultiplied: bool = False
    palette: NDArray[np.uint16] | None = None
    differenced: int = 0
