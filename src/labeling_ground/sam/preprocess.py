"""From pixels to what an encoder reads.

Sources of the numbers: ``segment_anything/build_sam.py``, ``modeling/sam.py`` and ``utils/transforms.py``;
``sam2/utils/transforms.py``; ``Sam3ImageProcessor`` of ``transformers``; EfficientSAM's ``efficient_sam.py``.
"""

import hashlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from labeling_ground.sam.family import Family
from labeling_ground.sam.geometry import SIDE, longest_side
from labeling_ground.types import ModelVersion

PREPROCESSING_VERSION = "1"
"""Raise it with every change that alters a bit of what encoders or decoders are given: it is part of model versions."""


def version_number(version: ModelVersion) -> int:
    """A model version as a positive number of 60 bits: for inference servers whose versions are numbers.

    It counts the preprocessing too: a server of another one asks for a number that is not served.
    """
    return int(hashlib.sha256(f"{PREPROCESSING_VERSION} {version.digest}".encode()).hexdigest()[:15], 16) or 1


SAM_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
SAM_STD = np.array([58.395, 57.12, 57.375], np.float32)
"""Mean and standard deviation of R, G, B on the scale 0..255."""
SAM2_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
SAM2_STD = np.array([0.229, 0.224, 0.225], np.float32)
"""The same on the scale 0..1, as SAM 2 writes them."""


def resize_sam(pixels: NDArray[np.uint8], side: int = SIDE) -> NDArray[np.uint8]:
    """Bring the long side to ``side`` pixels, as the reference does it: bilinear on whole numbers, with antialiasing.

    Args:
        pixels: ``uint8 [height, width, 3]``.

    Returns:
        ``uint8 [inner_height, inner_width, 3]``.
    """
    frame = longest_side(pixels.shape[0], pixels.shape[1], side)
    size = (frame.inner_width, frame.inner_height)
    if size == (frame.width, frame.height):
        return pixels
    return np.asarray(Pillow.fromarray(pixels).resize(size, Pillow.Resampling.BILINEAR))


def normalise_sam(resized: NDArray[np.uint8], side: int = SIDE) -> NDArray[np.float32]:
    """Normalise, then pad: so the padding is 0, the mean colour.

    Args:
        resized: ``uint8 [inner_height, inner_width, 3]``, RGB.

    Returns:
        ``float32 [1, 3, side, side]``.
    """
    square = np.zeros((1, 3, side, side), np.float32)
    height, width = resized.shape[:2]
    for channel in range(3):
        plane = square[0, channel, :height, :width]
        np.subtract(resized[:, :, channel], SAM_MEAN[channel], out=plane)
        plane /= SAM_STD[channel]
    return square


def resize(pixels: NDArray[np.uint8], family: Family) -> NDArray[Any]:
    """The part of the preprocessing that depends on the image's size: what travels to an encoder elsewhere.

    Preprocessing the result gives, to the bit, what preprocessing the image gives.

    Args:
        pixels: ``uint8 [height, width, 3]``, RGB.
        family: whose conventions.

    Returns:
        SAM and SAM-HQ: ``uint8 [inner_height, inner_width, 3]``; SAM 3: ``uint8 [1008, 1008, 3]``; others: ``float32
        [1024, 1024, 3]``, on the scale 0..255.
    """
    if family.reads_as_sam:
        return resize_sam(pixels)
    if family is Family.SAM3:
        return _stretch_whole(pixels, family.side)
    stretch = _stretch if family.decides_as_sam2 else _stretch_plainly
    return np.stack([stretch(pixels[:, :, channel], SIDE) for channel in range(3)], axis=-1)


def stretch_sam2(pixels: NDArray[Any], side: int = SIDE) -> NDArray[np.float32]:
    """Stretch over the square and normalise. The reference resizes floats, so nothing is rounded in between.

    Args:
        pixels: ``uint8 [height, width, 3]``, RGB; or the ``float32`` that ``resize`` made of it.

    Returns:
        ``float32 [1, 3, side, side]``.
    """
    square = np.empty((1, 3, side, side), np.float32)
    for channel in range(3):
        plane = _stretch(pixels[:, :, channel], side)
        square[0, channel] = (plane / np.float32(255.0) - SAM2_MEAN[channel]) / SAM2_STD[channel]
    return square


def stretch_efficient_sam(pixels: NDArray[Any], side: int = SIDE) -> NDArray[np.float32]:
    """Stretch over the square, to the scale 0..1; the graph normalises.

    The graph would stretch as well, but copies of a large image in floats are spared so.

    Args:
        pixels: ``uint8 [height, width, 3]``, RGB; or the ``float32`` that ``resize`` made of it.

    Returns:
        ``float32 [1, 3, side, side]``.
    """
    square = np.empty((1, 3, side, side), np.float32)
    for channel in range(3):
        np.divide(_stretch_plainly(pixels[:, :, channel], side), np.float32(255.0), out=square[0, channel])
    return square


def stretch_sam3(pixels: NDArray[Any], side: int = Family.SAM3.side) -> NDArray[np.float32]:
    """Stretch over the square, on whole numbers, and bring 0..255 to -1..1, as ``Sam3ImageProcessor`` does.

    Args:
        pixels: ``uint8 [height, width, 3]``, RGB; or what ``resize`` made of it.

    Returns:
        ``float32 [1, 3, side, side]``.
    """
    planes = _stretch_whole(pixels, side).transpose(2, 0, 1).astype(np.float32)
    return (planes / np.float32(127.5) - np.float32(1.0))[None]


def _stretch_whole(pixels: NDArray[Any], side: int) -> NDArray[np.uint8]:
    """Bilinear with antialiasing, on whole numbers."""
    if pixels.shape[:2] == (side, side):
        return pixels
    return np.asarray(Pillow.fromarray(pixels).resize((side, side), Pillow.Resampling.BILINEAR))


def _stretch_plainly(plane: NDArray[Any], side: int) -> NDArray[np.float32]:
    """Bilinear without antialiasing."""
    floats = plane.astype(np.float32)
    if floats.shape == (side, side):
        return floats
    return np.asarray(cv2.resize(floats, (side, side), interpolation=cv2.INTER_LINEAR), np.float32)


def _stretch(plane: NDArray[Any], side: int) -> NDArray[np.float32]:
    floats = plane.astype(np.float32)
    if floats.shape == (side, side):
        return floats
    return np.asarray(Pillow.fromarray(floats).resize((side, side), Pillow.Resampling.BILINEAR))


def preprocess(pixels: NDArray[Any], family: Family) -> NDArray[np.float32]:
    """What the family's encoder reads.

    Args:
        pixels: ``uint8 [height, width, 3]``, RGB; or what ``resize`` made of it.
        family: whose conventions.

    Returns:
        ``float32 [1, 3, side, side]``, the side being the family's.
    """
    if family.reads_as_sam:
        return normalise_sam(resize_sam(pixels))
    if family is Family.SAM3:
        return stretch_sam3(pixels)
    return (stretch_sam2 if family.decides_as_sam2 else stretch_efficient_sam)(pixels)
