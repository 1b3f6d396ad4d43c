"""From a labelled set of superpixels to the mask in full size and its low-res logits."""

import cv2
import numpy as np
from numpy.typing import NDArray

from labeling_ground.inference.classical.features import FloatArray
from labeling_ground.inference.classical.regions import BoolArray
from labeling_ground.inference.classical.scene import Scene, frame
from labeling_ground.types import Mask, Point

_SOFTNESS = 1.3
"""Standard deviation that rounds the superpixels' corners, in work pixels."""

_GAIN = 8.0
"""Logit far inside; with it a logit of 0 is the edge and 8 is as good as certain."""


def paint(scene: Scene, region: BoolArray, points: tuple[Point, ...], score: float) -> Mask:
    """Draw one region.

    Args:
        scene: the image.
        region: ``bool [n]``, superpixels of the object.
        points: clicks that the mask must agree with, to the pixel.
        score: the predicted IoU to hand on.
    """
    soft = _soft(scene, region, points)
    h, w = soft.shape
    level = np.round((soft + 1) * np.float32(127.5)).astype(np.uint8)
    full = _enlarge(level, scene.height, scene.width)
    pixels = full > 127
    for point in points:
        # Several work pixels' worth of image may share one soft value: the pixel that was clicked has the last word.
        pixels[_place(point.y, scene.height), _place(point.x, scene.width)] = point.label == 1
    rows, columns = frame(scene.height, scene.width)
    logits = np.full((256, 256), -_GAIN, np.float32)
    small = cv2.INTER_AREA if rows <= h and columns <= w else cv2.INTER_LINEAR
    logits[:rows, :columns] = _GAIN * cv2.resize(soft, (columns, rows), interpolation=small).reshape(rows, columns)
    return Mask(pixels, float(min(max(score, 0.0), 1.0)), logits)


def _soft(scene: Scene, region: BoolArray, points: tuple[Point, ...]) -> FloatArray:
    """The region as ``float32 [h, w]`` in -1..1, positive inside."""
    hard = region.astype(np.float32)[scene.labels] * 2 - 1
    soft = cv2.GaussianBlur(hard, (0, 0), _SOFTNESS).reshape(hard.shape)
    for point in points:
        _insist(soft, scene, point)
    return np.asarray(soft, np.float32)


def _insist(soft: FloatArray, scene: Scene, point: Point) -> None:
    h, w = soft.shape
    y, x = _place(point.y * h / scene.height, h), _place(point.x * w / scene.width, w)
    sign = np.float32(1 if point.label == 1 else -1)
    if soft[y, x] * sign > 0.2:
        return
    near = (slice(max(0, y - 1), y + 2), slice(max(0, x - 1), x + 2))
    soft[near] = sign * np.maximum(soft[near] * sign, np.float32(0.1))
    soft[y, x] = sign


def _place(value: float, size: int) -> int:
    return min(max(int(value), 0), size - 1)


def _enlarge(level: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if level.shape == (height, width):
        return level
    return np.asarray(cv2.resize(level, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8).reshape(
        height, width
    )
