"""One image file, as a walk through its container found it."""

from dataclasses import dataclass

from labeling_ground.codec.tiff_layout import TiffLayout

MAX_SEGMENTS = 100_000
"""Segments or chunks of one file. A 100 MB PNG has some 12,000; the walk must not become the attack."""


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
