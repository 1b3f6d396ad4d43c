"""Where an image's bytes come from, and the id that the server knows them by."""

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from labeling_ground_client.errors import ClientError

ImageLike = str | os.PathLike[str] | bytes | Pillow.Image | NDArray[Any]
"""A path, an image file's bytes, a Pillow image, or an array ``uint8 [height, width]`` (grey), ``[height, width, 3]``
(RGB, not OpenCV's BGR), ``[height, width, 4]`` (RGBA), or ``uint16 [height, width]``."""

_AS_THEY_ARE = frozenset({"1", "L", "LA", "RGB", "RGBA", "I;16"})


@dataclass(frozen=True)
class Source:
    """An image file.

    Attributes:
        digest: SHA-256 of its bytes, hex.
        read: gives the bytes. Blocking.
    """

    digest: str
    read: Callable[[], bytes]


def source_of(image: ImageLike) -> Source:
    """The image file of a path, of bytes, or made of pixels as a PNG. Blocking.

    The same pixels give the same PNG, and so the same image id, as long as Pillow and its zlib stay the same.

    Raises:
        OSError: the file cannot be read.
        TypeError: this is no image.
        ValueError: the pixels are of a shape or type that a PNG cannot hold as it is.
    """
    if isinstance(image, str | os.PathLike):
        return _file_source(Path(image))
    if isinstance(image, np.ndarray):
        image = _picture_of(image)
    if isinstance(image, Pillow.Image):
        image = _png_of(image)
    if not isinstance(image, bytes | bytearray | memoryview):
        raise TypeError(f"An image is a path, bytes, a Pillow image or a numpy array, not {type(image).__name__}.")
    content = bytes(image)
    return Source(hashlib.sha256(content).hexdigest(), lambda: content)


def _file_source(path: Path) -> Source:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()

    def read() -> bytes:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ClientError(f"{path} has changed since it was opened. Open it again.")
        return content

    return Source(digest, read)


def _picture_of(pixels: NDArray[Any]) -> Pillow.Image:
    pixels = pixels.astype(np.uint8) * 255 if pixels.dtype == np.bool_ else np.ascontiguousarray(pixels)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    is_grey = pixels.ndim == 2
    is_colour = pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    if pixels.size == 0 or not (
        (pixels.dtype == np.uint8 and (is_grey or is_colour)) or (pixels.dtype == np.uint16 and is_grey)
    ):
        raise ValueError(
            f"An image has uint8 pixels [height, width], [height, width, 3] (RGB) or [height, width, 4], or uint16 "
            f"[height, width], not {pixels.dtype} {list(pixels.shape)}. Scale and cast the values to uint8 first."
        )
    return Pillow.fromarray(pixels)


def _png_of(picture: Pillow.Image) -> bytes:
    if "transparency" in picture.info:
        picture = picture.convert("RGBA")
    elif picture.mode in ("I", "F"):
        raise ValueError(f"A Pillow image of mode {picture.mode} has no rule which value is white. Convert it to L.")
    elif picture.mode not in _AS_THEY_ARE:
        picture = picture.convert("RGBA" if picture.mode in ("PA", "RGBa", "La") else "RGB")
    # The pixels alone: what else a file says (resolution, profile, text) would make another image id of them.
    bare = picture.copy()
    bare.info = {}
    file = io.BytesIO()
    bare.save(file, "PNG", compress_level=1)
    return file.getvalue()


def image_id_of(source: Source, stretch: tuple[float, float] | None) -> str:
    """The id by which the server knows an image: the digest, and how its values are stretched, if they are."""
    if stretch is None:
        return source.digest
    low, high = stretch
    return f"{source.digest}~stretch-{round(low, 2):g}-{round(high, 2):g}"
