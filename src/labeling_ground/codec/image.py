"""Image files to pixels.

Three steps. ``codec.walk`` reads what the file says about itself and picks out the parts that hold the picture; limits
are checked on that, before any memory for pixels is taken. ``codec.samples`` has Pillow decode those parts. Then the
samples become 8-bit RGB, here, a band of rows at a time. There is one decoder for all formats and sizes, never a faster
second one for some of them: an embedding is cached for everyone, so the same bytes must give the same pixels.

Every function here is synchronous, keeps no state, and may run in any thread.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeling_ground.codec import samples
from labeling_ground.codec.container import Container
from labeling_ground.codec.samples import Samples, Values
from labeling_ground.codec.walk import walk
from labeling_ground.errors import BadInput, DamagedImage, TooLarge, UnsupportedImage
from labeling_ground.types import Image, ImageFacts, Stretch

_UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}

_BLOCK_FLOOR = 1 << 22
"""Pixels of a TIFF tile that are always allowed: a 512 × 512 tile may well hold a 10 × 10 image."""

_MOST_SAMPLES = 4
"""Samples of a pixel that are always allowed: RGB and alpha."""

MAX_SIDE = 65_535
"""The longest side that is accepted unless somebody says otherwise: what a JPEG can have."""

_SMALL_PART = 0.25
"""A 16-bit image whose values (but for 1 % of them) span less than this part of the range is remarked on: it holds data
of 12 bits, say."""
_NEARLY_WHITE = 240
"""What is brighter than this cannot be told from white."""
_FEW = 0.001
"""Share of the pixels below which it is nothing that can be seen."""


def read_header(data: bytes, *, max_pixels: int, max_side: int = MAX_SIDE) -> ImageFacts:
    """An image's upright size, without decoding a pixel. Content decides, never a name or a content type.

    Args:
        data: the whole image file.
        max_pixels: the most pixels (width × height) that are accepted.
        max_side: the longest side that is accepted, in pixels.

    Raises:
        UnsupportedImage: not one of the formats that we read.
        TooLarge: more than ``max_pixels``, or a side longer than ``max_side``.
        DamagedImage: truncated or corrupted, as far as the header and the structure of the file show.
    """
    found = _checked(data, max_pixels, max_side)
    return ImageFacts(*_upright_size(found), use_preview=found.use_preview)


def decode(
    data: bytes, *, image_id: str, max_pixels: int, max_side: int = MAX_SIDE, stretch: Stretch | None = None
) -> Image:
    """Decode an image file to upright 8-bit RGB. That takes up to 16 bytes of memory for each pixel.

    - EXIF orientation is applied.
    - Transparency is laid over white.
    - 16-bit samples keep their upper 8 bits, unless ``stretch`` spreads what is there over the full range. The file's
      range is 0..65535 by definition; stretching each image by its own content, unasked, would make one object look
      different from one image to the next. Files with floating-point, signed or 32-bit samples, where no such range is
      defined, are refused.
    - Colour profiles (ICC) and gamma are ignored: the models were trained on pixels that were read that way.
    - CMYK becomes RGB by the plain formula; JPEG's CMYK is taken as inverted, as Adobe writes it. LAB is taken as D50.
    - Of several pages or frames the first counts, in a TIFF the first that is no thumbnail; of an animated PNG, the
      picture that still viewers show.
    - Bytes behind the end of the picture are ignored.

    Args:
        data: the whole image file.
        image_id: the id that the result carries; it is not checked here.
        max_pixels: the most pixels (width × height) that are accepted.
        max_side: the longest side that is accepted, in pixels.
        stretch: the percentiles that become black and white.

    Returns:
        The image; its ``pixels`` are contiguous and read-only, so that threads can share them. Its ``note`` says where
        a 16-bit image uses little of its range, where white on transparency has become invisible, and which of several
        pictures it is.

    Raises:
        UnsupportedImage: not one of the formats that we read, or a kind of sample that we do not read.
        TooLarge: more than ``max_pixels``, a side longer than ``max_side``, or more than memory holds.
        DamagedImage: truncated or corrupted.
    """
    found = _checked(data, max_pixels, max_side)
    with _sentences(f"{found.format} file of {found.width} × {found.height} pixels"):
        drawn = _draw(samples.read(found, all_bits=stretch is not None), found, stretch)
    pixels = _upright(drawn.pixels, found)
    pixels.flags.writeable = False
    note = " ".join(filter(None, (found.note, drawn.note)))
    use_preview = found.use_preview or drawn.is_transparent or stretch is not None
    return Image(image_id, pixels, note, use_preview)


def _checked(data: bytes, max_pixels: int, max_side: int) -> Container:
    with _sentences("image"):
        found = walk(data)
    count = found.width * found.height
    if max(found.width, found.height) > max_side:
        raise TooLarge(
            f"The image is {found.width} × {found.height} pixels; a side of at most {max_side:,} is accepted. "
            "Cut it into pieces, or scale it down."
        )
    if count > max_pixels:
        raise TooLarge(
            f"The image has {found.width} × {found.height} = {count:,} pixels; "
            f"at most {max_pixels:,} are accepted. Scale it down."
        )
    if found.tiff is not None and count * found.tiff.samples > _MOST_SAMPLES * max_pixels:
        raise TooLarge(
            f"The TIFF file has {count:,} pixels of {found.tiff.samples} channels side by side; at most "
            f"{_MOST_SAMPLES * max_pixels:,} samples are accepted. Save the channels that matter as RGB."
        )
    if found.block > max(max_pixels, _BLOCK_FLOOR):
        raise TooLarge(f"The TIFF file has tiles of {found.block:,} pixels; at most {max_pixels:,} are accepted.")
    return found


_REMEDY = "Send the original file, or save it anew with an image program."


@contextmanager
def _sentences(name: str) -> Iterator[None]:
    """Whatever a decoder raises becomes an error of ours that says what to do. What it said itself is the cause: it
    speaks of the decoder's own code."""
    try:
        yield
    except DamagedImage as error:
        raise DamagedImage(f"{error} {_REMEDY}") from error
    except BadInput:
        raise
    except MemoryError as error:
        raise TooLarge(f"The {name} does not fit into this server's memory.") from error
    except Exception as error:  # Pillow has no list of what hostile files make it raise
        if "unknown pixel mode" in str(error):
            raise UnsupportedImage(
                "TIFF with this combination of samples is not read. Save it as 8-bit RGB, or as PNG."
            ) from error
        raise DamagedImage(f"The {name} is truncated or damaged. {_REMEDY}") from error


def _upright_size(found: Container) -> tuple[int, int]:
    return (found.height, found.width) if found.orientation >= 5 else (found.width, found.height)


def _upright(pixels: NDArray[np.uint8], found: Container) -> NDArray[np.uint8]:
    turn = _UPRIGHT.get(found.orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Pixels as stored, ``uint8 [height, width, 3]``, and what is worth saying of them."""

    pixels: NDArray[np.uint8]
    note: str
    is_transparent: bool


def _draw(read: Samples, found: Container, stretch: Stretch | None) -> _Drawn:
    """Samples to 8-bit RGB over white."""
    bands = [
        slice(top, top + samples.band_of(found.width)) for top in range(0, found.height, samples.band_of(found.width))
    ]
    notes: list[str] = []
    table = None
    if stretch is not None or read.is_deep:
        histogram = _histogram(read, bands, found.height)
        if stretch is not None:
            black, white = _between(histogram, stretch.low, stretch.high)
            table = _spread(black, white, histogram.size)
        else:
            notes.append(_remark_on_range(histogram))
    pixels = np.empty((found.height, found.width, 3), np.uint8)
    is_transparent, visible = False, 0
    for band in bands:
        colour, alpha = read.rows(band.start, min(band.stop, found.height))
        part = pixels[band]
        part[...] = _eight_bits(colour, read.bits) if table is None else table[colour]
        if alpha is not None:
            layer = _eight_bits(alpha, read.bits)
            is_transparent = is_transparent or bool((layer < 255).any())
            _lay_over_white(part, layer)
        if is_transparent:
            visible += int((part.min(axis=-1) < _NEARLY_WHITE).sum())
    if is_transparent and visible < _FEW * found.width * found.height:
        notes.append(
            "Transparency is laid over white, and what is visible of this image is white too: nothing can be told "
            "apart. Lay it over another colour before you send it."
        )
    return _Drawn(pixels, " ".join(filter(None, notes)), is_transparent)


def _eight_bits(values: Values, bits: int) -> NDArray[np.uint8]:
    return values.astype(np.uint8, copy=False) if bits == 8 else (values >> 8).astype(np.uint8)


def _lay_over_white(part: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> None:
    wide = part.astype(np.uint16)
    wide *= alpha[..., None]
    wide += (np.uint16(255) * (255 - alpha).astype(np.uint16) + np.uint16(128))[..., None]
    part[...] = (wide + (wide >> 8)) >> 8  # divided by 255 and rounded


def _histogram(read: Samples, bands: list[slice], height: int) -> NDArray[np.int64]:
    """How often each value occurs, in all channels together, where the picture is not transparent altogether."""
    counts = np.zeros(1 << read.bits, np.int64)
    for band in bands:
        colour, alpha = read.rows(band.start, min(band.stop, height))
        seen = colour if alpha is None else colour[alpha > 0]
        counts += np.bincount(seen.reshape(-1), minlength=counts.size)
    return counts


def _between(histogram: NDArray[np.int64], low: float, high: float) -> tuple[int, int]:
    """The values at two percentiles: at 0 the smallest, at 100 the largest."""
    reached = histogram.cumsum()
    total = int(reached[-1])
    if not total:  # it is transparent altogether
        return 0, histogram.size - 1
    first = int(np.searchsorted(reached * 10_000, total * round(low * 100), side="right"))
    last = int(np.searchsorted(reached * 10_000, total * round(high * 100), side="left"))
    return min(first, histogram.size - 1), min(last, histogram.size - 1)


def _spread(black: int, white: int, size: int) -> NDArray[np.uint8]:
    """What each value becomes."""
    span = max(1, white - black)
    above = (np.arange(size, dtype=np.int64) - black).clip(0, span)
    return ((above * 510 + span) // (2 * span)).astype(np.uint8)


def _remark_on_range(histogram: NDArray[np.int64]) -> str:
    low, high = _between(histogram, 0.5, 99.5)
    part = (high - low + 1) / histogram.size
    if part >= _SMALL_PART:
        return ""
    seen = "comes out black" if high * 256 < histogram.size else "has little contrast"
    return (
        f"This 16-bit image uses {100 * part:.2g} % of its range, so it {seen}. Send it with stretch=0.5,99.5 to "
        "spread its values over the full range."
    )
