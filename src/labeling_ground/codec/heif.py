"""AVIF and HEIC: the library that decodes them says what they are, without decoding a pixel.

HEIC needs the package pillow-heif, which brings libraries under the LGPL and the GPL: it is installed only where
somebody asks for it.
"""

import importlib
import io
from collections.abc import Callable

from PIL import AvifImagePlugin, ImageFile

from labeling_ground.codec.container import Container
from labeling_ground.errors import BadImage, DamagedImage, UnsupportedImage

_AVIF = frozenset({b"avif", b"avis"})
_HEIC = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"})


def format_of(data: bytes) -> str | None:
    """``AVIF`` or ``HEIC``, by the brands that the file names; ``None`` if it is neither."""
    if data[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(data[:4], "big"), 256, len(data))
    brands = {data[at : at + 4] for at in (8, *range(16, end - 3, 4))}
    return "AVIF" if brands & _AVIF else "HEIC" if brands & _HEIC else None


def walk(data: bytes) -> Container:
    """Read the header of an AVIF or HEIC file.

    Raises:
        UnsupportedImage: HEIC, where the package for it is not installed.
        DamagedImage: the library finds no image in it.
    """
    name = format_of(data) or ""
    try:
        file = opener(name)(io.BytesIO(data))
        # What counts is the container's own orientation (irot, imir), whatever stands in EXIF: Pillow tells it as if it
        # stood there, libheif has applied it.
        orientation = file.getexif().get(274, 1) if name == "AVIF" else 1
    except BadImage:
        raise
    except Exception as error:
        raise DamagedImage(f"The {name} file is truncated or damaged.") from error
    several = getattr(file, "n_frames", 1) > 1
    return Container(
        name,
        *file.size,
        orientation,
        (data,),
        note=f"The {name} file holds several images, of which the first is used." if several else "",
        # Older browsers and OpenCV, with which trainers read the exported images, pass over an AVIF's own orientation.
        use_preview=name == "HEIC" or orientation != 1,
    )


def opener(name: str) -> Callable[[io.BytesIO], ImageFile.ImageFile]:
    """What opens a file of this format.

    Raises:
        UnsupportedImage: it is not installed.
    """
    if name == "AVIF":
        return AvifImagePlugin.AvifImageFile
    try:
        found: Callable[[io.BytesIO], ImageFile.ImageFile] = importlib.import_module("pillow_heif").HeifImageFile
    except ImportError as error:
        raise UnsupportedImage(
            "This is a HEIC file, and this server reads none: its operator can install pillow-heif. Or save the image "
            "as JPEG or PNG."
        ) from error
    return found
