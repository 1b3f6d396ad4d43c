"""From pixels to what an encoder reads.

Sources of the numbers: ``segment_anything/build_sam.py``, ``modeling/sam.py`` and ``utils/transforms.py``;
``sam2/utils/transforms.py``.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from labeling_ground.sam.family import Family
from labeling_ground.sam.geometry import SIDE, longest_side

PREPROCESSING_VERSION = "1"
"""Raise it with every change that alters a bit of what encoders or decoders are given: it is part of model versions."""

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


def stretch_sam2(pixels: NDArray[np.uint8], side: int = SIDE) -> NDArray[np.float32]:
    """Stretch over the square and normalise. The reference resizes floats, so nothing is rounded in between.

    Args:
        pixels: ``uint8 [height, width, 3]``, RGB.

    Returns:
        ``float32 [1, 3, side, side]``.
    """
    square = np.empty((1, 3, side, side), np.float32)
    for channel in range(3):
        plane = pixels[:, :, channel].astype(np.float32)
        if plane.shape != (side, side):
            plane = np.asarray(Pillow.fromarray(plane).resize((side, side), Pillow.Resampling.BILINEAR))
        square[0, channel] = (plane / np.float32(255.0) - SAM2_MEAN[channel]) / SAM2_STD[channel]
    return square


def preprocess(pixels: NDArray[np.uint8], family: Family) -> NDArray[np.float32]:
    """What the family's encoder reads.

    Args:
        pixels: ``uint8 [height, width, 3]``, RGB.
        family: whose conventions.

    Returns:
        ``float32 [1, 3, 1024, 1024]``.
    """
    return normalise_sam(resize_sam(pixels)) if family is Family.SAM else stretch_sam2(pixels)
