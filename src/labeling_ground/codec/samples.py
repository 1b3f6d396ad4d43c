"""Decoded samples of every kind of file, before they become 8-bit RGB."""

import io
import zlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL import Image as Pillow

from labeling_ground.codec import heif
from labeling_ground.codec.container import Container, TiffLayout
from labeling_ground.errors import DamagedImage, UnsupportedImage

# Pillow's own limit warns at one size and raises at twice that size; ours is the operator's, checked before.
Pillow.MAX_IMAGE_PIXELS = None

_DECODERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}

Values = NDArray[Any]
"""Of ``uint8`` or ``uint16``."""


class Samples(Protocol):
    """A decoded picture, as stored, given band by band: whole copies of a large one would cost more than it does."""

    bits: int
    """8 or 16: what the largest value of a sample is."""
    is_deep: bool
    """Whether the file has more than 8 bits per sample, though only the upper 8 may be given."""

    def rows(self, top: int, bottom: int) -> "tuple[Values, Values | None]":
        """Some rows: grey or RGB ``[rows, width, 1 or 3]``, and alpha ``[rows, width]`` where there is one."""
        ...


def read(found: Container, *, all_bits: bool) -> Samples:
    """Decode a walked file.

    Args:
        found: the file.
        all_bits: whether samples of more than 8 bits are wanted in full; otherwise their upper 8 do.

    Raises:
        UnsupportedImage, DamagedImage, MemoryError, OSError, ...: Pillow has no list of what hostile files make it
            raise.
    """
    if found.tiff is not None:
        return _TiffSamples(found, found.tiff)
    if found.format == "PNG" and found.bits == 16:
        return _DeepPng(found, all_bits=all_bits)
    return _PictureSamples(_decoded(found.format, found.parts, (found.width, found.height)), found.colour_key)


def _decoded(
    name: str, parts: tuple[bytes | memoryview, ...], size: tuple[int, int], rawmode: str | None = None
) -> Pillow.Image:
    opener = _DECODERS.get(name) or heif.opener(name)
    file = opener(io.BytesIO(b"".join(parts)))
    check_size(file.size, size, name)
    if rawmode is not None:
        file.tile = [tile._replace(args=rawmode) for tile in file.tile]
    file.load()
    check_size(file.size, size, name)
    return file


def check_size(found: tuple[int, int], told: tuple[int, int], name: str) -> None:
    """See that what was told from the header (limits, answers to prefetches) holds for what is segmented.

    Raises:
        DamagedImage: it does not.
    """
    if found != told:
        raise DamagedImage(f"The {name} file gives two sizes for one image: {found} and {told}.")


class _PictureSamples:
    """Whatever Pillow decodes to 8 bits."""

    bits = 8
    is_deep = False

    def __init__(self, picture: Pillow.Image, colour_key: tuple[int, ...] | None) -> None:
        if picture.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB"):
            raise UnsupportedImage(
                "Images with floating-point or 32-bit samples are not read. Scale it to 8 or 16 bits per sample."
            )
        self._picture = picture
        self._key = colour_key
        self._has_alpha = "transparency" in picture.info or picture.mode in ("RGBA", "LA", "La", "PA", "RGBa")

    def rows(self, top: int, bottom: int) -> tuple[Values, Values | None]:
        """See ``Samples``."""
        band = self._picture.crop((0, top, self._picture.width, bottom))
        if self._has_alpha:
            if band.mode == "La":
                band = band.convert("LA")
            layer = np.asarray(band.convert("RGBA"))
            return layer[..., :3], layer[..., 3]
        colour = np.atleast_3d(np.asarray(band.convert("L" if band.mode in ("1", "L") else "RGB")))
        if self._key is None:
            return colour, None
        return colour, np.where((colour == np.array(self._key, np.uint8)).all(axis=-1), np.uint8(0), np.uint8(255))


class _DeepPng:
    """A PNG of 16 bits, of which Pillow unpacks the upper 8: the lower 8 are had by reading the bytes the other way."""

    is_deep = True

    def __init__(self, found: Container, *, all_bits: bool) -> None:
        size = (found.width, found.height)
        self.bits = 16 if all_bits else 8
        colour = bytes(found.parts[1])[17]  # in the header, behind size and depth
        self._is_grey_alpha = colour == 4
        self._pictures: list[Pillow.Image]
        if colour == 0:
            self._pictures = [_decoded("PNG", found.parts, size)]
        elif colour == 4:  # two times 16 bits are four times 8: grey, then alpha, upper byte first
            self._pictures = [_decoded("PNG", _as_rgba(found.parts), size)]
        else:
            mode = "RGBA" if colour == 6 else "RGB"
            self._pictures = [_decoded("PNG", found.parts, size, f"{mode};16B")]
            if all_bits:
                self._pictures.append(_decoded("PNG", found.parts, size, f"{mode};16L"))

    def rows(self, top: int, bottom: int) -> tuple[Values, Values | None]:
        """See ``Samples``."""
        bands = [np.asarray(picture.crop((0, top, picture.width, bottom))) for picture in self._pictures]
        samples: Values
        if self._is_grey_alpha:
            samples = np.ascontiguousarray(bands[0]).view(">u2").astype(np.uint16)
        elif len(bands) == 2:
            samples = bands[0].astype(np.uint16) << 8 | bands[1]
        else:
            samples = np.atleast_3d(bands[0])
        if self.bits == 8 and samples.dtype != np.uint8:
            samples = (samples >> 8).astype(np.uint8)
        colours = 1 if samples.shape[-1] <= 2 else 3
        return samples[..., :colours], samples[..., colours] if samples.shape[-1] > colours else None


def _as_rgba(parts: tuple[bytes | memoryview, ...]) -> tuple[bytes | memoryview, ...]:
    chunk = bytearray(parts[1])
    chunk[16:18] = b"\x08\x06"
    chunk[-4:] = zlib.crc32(chunk[4:-4]).to_bytes(4, "big")
    return (parts[0], bytes(chunk), *parts[2:])


class _TiffSamples:
    """Planes, or interleaved rows, of numbers, and what they mean."""

    def __init__(self, found: Container, layout: TiffLayout) -> None:
        self._layout = layout
        self.is_deep = layout.bits > 8 and layout.photometric != 3
        self.bits = 16 if self.is_deep else 8
        self._width, self._height = found.width, found.height
        self._planes = [self._plane(parts) for parts in layout.planes]

    def rows(self, top: int, bottom: int) -> tuple[Values, Values | None]:
        """See ``Samples``."""
        layout = self._layout
        bands = [plane[top:bottom] for plane in self._planes]
        samples = bands[0] if len(bands) == 1 else np.concatenate(bands, axis=-1)
        colour = self._colour(samples)
        if layout.alpha is None:
            return colour, None
        alpha = samples[..., layout.alpha]
        if alpha.dtype != np.uint8 and self.bits == 8:  # a large palette's
            alpha = (alpha >> 8).astype(np.uint8)
        if layout.is_premultiplied:
            top_value = (1 << self.bits) - 1
            divided = colour.astype(np.uint32) * top_value // np.maximum(alpha, 1)[..., None]
            colour = np.minimum(divided, top_value).astype(colour.dtype)
        return colour, alpha

    def _colour(self, samples: Values) -> Values:
        kind = self._layout.photometric
        if kind == 0:
            return (1 << self.bits) - 1 - samples[..., :1]
        if kind == 1:
            return samples[..., :1]
        if kind == 2:
            return samples[..., :3]
        if kind == 3 and self._layout.palette is not None:
            spread = max(1, 255 // ((1 << self._layout.bits) - 1))  # the decoder's, of small numbers over 8 bits
            colours: Values = (self._layout.palette >> 8).astype(np.uint8)[samples[..., 0] // spread]
            return colours
        if kind == 5:
            top_value = (1 << self.bits) - 1
            inks = samples[..., :4].astype(np.uint32)
            light = (top_value - inks[..., :3]) * (top_value - inks[..., 3:]) + top_value // 2
            return (light // top_value).astype(samples.dtype)
        raw = np.ascontiguousarray(samples[..., :3]).tobytes()
        lab = Pillow.frombytes("LAB", (samples.shape[1], samples.shape[0]), raw, "raw", "LAB")
        return np.asarray(lab.convert("RGB"))

    def _plane(self, parts: tuple[bytes | memoryview, ...]) -> Values:
        """``[height, width, samples]``, each in the full range of 8 or 16 bits (an index of a palette in its own)."""
        layout = self._layout
        size = (self._width * layout.samples, self._height)
        picture = _decoded("TIFF", parts, size)
        plane = np.empty((self._height, *size[:1]), np.uint16 if layout.bits > 8 else np.uint8)
        step = band_of(size[0])
        for top in range(0, self._height, step):
            band: Values = np.asarray(picture.crop((0, top, size[0], min(top + step, self._height))))
            plane[top : top + step] = band.astype(np.uint8) * 255 if picture.mode == "1" else band
        samples = plane.reshape(self._height, self._width, layout.samples)
        for left in range(0, self._width, layout.differenced or self._width):
            if layout.differenced:
                block = samples[:, left : left + layout.differenced]
                np.add.accumulate(block, axis=1, dtype=samples.dtype, out=block)
        if layout.bits == 12:
            samples = samples << 4 | samples >> 8
        return samples


def band_of(width: int) -> int:
    """How many rows of a picture are worked on at a time: about a million pixels."""
    return max(1, (1 << 20) // width)
