"""Image files to pixels.

Two steps. ``codec.container`` reads what the file says about itself and picks out the parts that
hold the picture; limits are checked on that, before any memory for pixels is taken. Then Pillow
decodes those parts. There is one decoder for all formats and sizes, never a faster second one for
some of them: an embedding is cached for everyone, so the same bytes must give the same pixels
everywhere.

Every function here is synchronous, keeps no state, and may run in any thread.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL import Image as Pillow

from labeling_ground.codec.container import Container, walk
from labeling_ground.errors import BadInput, DamagedImage, TooLarge, UnsupportedImage
from labeling_ground.types import Image

# Pillow's own limit warns at one size and raises at twice that size; ours is the operator's,
# checked before Pillow runs.
Pillow.MAX_IMAGE_PIXELS = None

_DECODERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}

_UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}

_BLOCK_FLOOR = 1 << 22
"""Pixels of a TIFF tile that are always allowed: a 512 × 512 tile may well hold a 10 × 10 image."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What is known of an image before its pixels are decoded.

    Attributes:
        format: ``JPEG``, ``PNG``, ``WebP``, ``BMP`` or ``TIFF``.
        width: columns in pixels of the upright image (EXIF orientation applied).
        height: rows in pixels of the upright image.
        use_preview: whether browsers may draw the file in another way than it is decoded here, or not at all.
    """

    format: str
    width: int
    height: int
    use_preview: bool = False


def read_header(data: bytes, *, max_pixels: int) -> ImageHeader:
    """Tell an image's format and size without decoding a pixel. Content decides, never a name or a
    content type.

    Args:
        data: the whole image file.
        max_pixels: the most pixels (width × height) that are accepted.

    Raises:
        UnsupportedImage: not one of the formats that we read.
        TooLarge: more than ``max_pixels``.
        DamagedImage: truncated or corrupted, as far as the header and the structure of the file
        show.
    """
    found = _checked(data, max_pixels)
    return ImageHeader(found.format, *_upright_size(found), found.use_preview)


def decode(data: bytes, *, image_id: str, max_pixels: int) -> Image:
    """Decode an image file to upright 8-bit RGB.

    - EXIF orientation is applied.
    - Transparency is laid over white.
    - 16-bit samples keep their upper 8 bits. The file's range is 0..65535 by definition; stretching
      each image by its own content would make one object look different from one image to the next.
      Files with floating-point, signed or 32-bit samples, where no such range is defined, are
      refused.
    - Colour profiles (ICC) and gamma are ignored: the models were trained on pixels that were read
      that way.
    - CMYK becomes RGB by the plain formula; JPEG's CMYK is taken as inverted, as Adobe writes it.
      LAB is taken as D50.
    - Of several pages or frames the first counts; of an animated PNG, the picture that still
      viewers show.
    - Bytes behind the end of the picture are ignored.

    Args:
        data: the whole image file.
        image_id: the id that the result carries; it is not checked here.
        max_pixels: the most pixels (width × height) that are accepted.

    Returns:
        The image; its ``pixels`` are contiguous and read-only, so that threads can share them.

    Raises:
        UnsupportedImage: not one of the formats that we read, or a kind of sample that we do not
            read.
        TooLarge: more than ``max_pixels``, or more than memory holds.
        DamagedImage: truncated or corrupted.
    """
    found = _checked(data, max_pixels)
    return Image(image_id, _decoded(found, "RGB"), use_preview=found.use_preview)


def decode_grey(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode an image file to upright 8-bit grey, ``uint8 [height, width]``: for masks.

    As ``decode`` otherwise, errors included.
    """
    return _decoded(_checked(data, max_pixels), "L")


def _checked(data: bytes, max_pixels: int) -> Container:
    found = walk(data)
    count = found.width * found.height
    if count > max_pixels:
        raise TooLarge(
            f"The image has {found.width} × {found.height} = {count:,} pixels; "
            f"at most {max_pixels:,} are accepted. Scale it down."
        )
    if found.block > max(max_pixels, _BLOCK_FLOOR):
        raise TooLarge(f"The TIFF file has tiles of {found.block:,} pixels; at most {max_pixels:,} are accepted.")
    return found


def _decoded(found: Container, mode: str) -> NDArray[np.uint8]:
    try:
        return _pixels(found, mode)
    except BadInput:
        raise
    except MemoryError as error:
        raise TooLarge(
            f"The image of {found.width} × {found.height} pixels does not fit into this server's memory."
        ) from error
    except Exception as error:  # Pillow has no list of what hostile files make it raise
        if "unknown pixel mode" in str(error):
            raise UnsupportedImage(
                "TIFF with this combination of samples is not read. Save it as 8-bit RGB, or as PNG."
            ) from error
        raise DamagedImage(
            f"The {found.format} file is truncated or damaged ({type(error).__name__}: {error})."
        ) from error


def _upright_size(found: Container) -> tuple[int, int]:
    return (found.height, found.width) if found.orientation >= 5 else (found.width, found.height)


def _pixels(found: Container, mode: str) -> NDArray[np.uint8]:
    file = _DECODERS[found.format](io.BytesIO(b"".join(found.parts)))
    _check_size(file, (found.width, found.height), found.format)
    file.load()
    picture = _opaque(file, found)
    if picture.mode not in ("1", "L", "RGB"):
        picture = picture.convert("RGB")  # not all modes have a direct way to grey
    if picture.mode != mode:
        picture = picture.convert(mode)
    if found.orientation in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[found.orientation])
    # What was promised from the header (limits, the answer to a prefetch) holds for what is segmented.
    _check_size(picture, _upright_size(found), found.format)
    return np.asarray(picture, dtype=np.uint8)


def _check_size(picture: Pillow.Image, size: tuple[int, int], name: str) -> None:
    if picture.size != size:
        raise DamagedImage(f"The {name} file gives two sizes for one image: {picture.size} and {size}.")


def _opaque(file: Pillow.Image, found: Container) -> Pillow.Image:
    """The picture with 8 bits per sample, and white where it is transparent."""
    picture = file
    if picture.mode.startswith("I;16"):
        samples = np.asarray(picture) >> (found.bits - 8)
        grey = samples.astype(np.uint8)
        picture = Pillow.fromarray(255 - grey if found.inverted else grey)
    elif picture.mode in ("I", "F"):
        raise UnsupportedImage(
            "Images with floating-point or 32-bit samples are not read. Scale it to 8 or 16 bits per sample."
        )
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "La", "PA", "RGBa"):
        if picture.mode == "La":
            picture = picture.convert("LA")
        layer = picture.convert("RGBA")
        picture = Pillow.new("RGB", layer.size, "white")
        picture.paste(layer, mask=layer.getchannel("A"))
    if found.colour_key is not None:
        pixels = np.array(picture.convert("RGB"))
        pixels[(pixels == np.array(found.colour_key, np.uint8)).all(axis=-1)] = 255
        picture = Pillow.fromarray(pixels)
    return picture
