"""One image file, as a walk through its container found it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_SEGMENTS = 100_000
"""Segments or chunks of one file. A 100 MB PNG has some 12,000; the walk must not become the attack."""


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


@dataclass(frozen=True, slots=True)
class Container:
    """One walked file.

    Attributes:
        format: ``JPEG``, ``PNG``, ``WebP``, ``AVIF``, ``HEIC``, ``GIF``, ``BMP`` or ``TIFF``.
        width: columns as stored, before the orientation is applied.
        height: rows as stored, before the orientation is applied.
        orientation: EXIF orientation, 1–8; 1 where the file says nothing usable.
        parts: the bytes that hold the picture; joined, they are a file of the same format.
        bits: bits of one sample, where there are more than 8.
        colour_key: the 8-bit grey or RGB value that is to be transparent (PNG).
        block: pixels of the largest block that the decoder holds beside the picture (TIFF tiles).
        tiff: how a TIFF stores its samples, where they are not left to the decoder.
        note: what a person should know of the file; empty where there is nothing to say.
        use_preview: whether browsers may draw the file in another way, or not at all.
    """

    format: str
    width: int
    height: int
    orientation: int
    parts: tuple[bytes | memoryview, ...]
    bits: int = 8
    colour_key: tuple[int, ...] | None = None
    block: int = 0
    tiff: TiffLayout | None = None
    note: str = ""
    use_preview: bool = False
