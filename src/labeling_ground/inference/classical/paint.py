"""From a labelled set of superpixels to the mask in full size and its low-res logits."""

import cv2
import numpy as np
from numpy.typing import NDArray

from labeling_ground.inference.classical.features import FloatArray
from labeling_ground.inference.classical.regions import BoolArray
from labeling_ground.inference.classical.scene import Scene, frame
from labeling_ground.types import Mask, Point

_SOFTNESS = 1.0
"""Standard deviation that rounds the superpixels' corners, in work pixels."""

SNAP = 1.5
"""Weight of the colours at the border against the superpixels' own outline."""

_LIGHT = 2.55
"""Steps of the stored lightness in one unit of L."""

_CERTAIN = 0.85
"""From here on the outline stands, whatever the colours: they could not turn the sign."""

_NOISE = 30.0
"""Squared Lab distance below which colours count as alike."""

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
    h, w = scene.labels.shape
    soft = np.full((h, w), -1, np.float32)
    if region.any():
        pad = int(2 * scene.cell) + 2
        box = scene.box[region]
        left, top = np.maximum(box[:, :2].min(axis=0) - pad, 0).astype(int).tolist()
        right, bottom = (box[:, 2:].max(axis=0) + pad).astype(int).tolist()
        window = (slice(top - top % 2, min(bottom, h)), slice(left - left % 2, min(right, w)))
        soft[window] = _snapped(scene, region, window)
    for point in points:
        _insist(soft, scene, point)
    return soft


def _snapped(scene: Scene, region: BoolArray, window: tuple[slice, slice]) -> FloatArray:
    """Move the border, within about half a superpixel, to where the colours on its two sides meet.

    Each pixel near the border is compared with the mean colours of the object and of the background around it, in
    the manner of localised region-based contours (Lankton and Tannenbaum, 2008). The means vary slowly: they are
    taken at half the resolution. ``window`` begins at even rows and columns.
    """
    inside = region.astype(np.float32).take(scene.labels[window])
    shape = inside.shape
    chroma = scene.chroma[
        window[0].start // 2 : -(-window[0].stop // 2), window[1].start // 2 : -(-window[1].stop // 2)
    ]
    light = scene.lightness[window]
    half = chroma.shape[:2]
    mixed = np.empty((*half, 4), np.float32)  # L, a, b, and 1
    mixed[:, :, 0] = cv2.resize(light, half[::-1], interpolation=cv2.INTER_AREA).reshape(half)
    mixed[:, :, 0] /= np.float32(_LIGHT)
    mixed[:, :, 1:3] = chroma
    mixed[:, :, 3] = 1
    share = cv2.resize(inside, half[::-1], interpolation=cv2.INTER_AREA).reshape(half)
    near = max(0.175 * scene.cell, 0.5)
    blurred = cv2.GaussianBlur(share * 2 - 1, (0, 0), near)
    soft = cv2.resize(blurred, shape[::-1], interpolation=cv2.INTER_LINEAR).reshape(shape)
    flat, width = soft.reshape(-1), shape[1]
    near_border = np.flatnonzero(np.abs(flat) < _CERTAIN)
    rows, columns = np.divmod(near_border.astype(np.int32), np.int32(width))
    size = (2 * round(scene.cell / 2) + 1,) * 2
    at = rows // 2 * half[1] + columns // 2
    every = cv2.blur(mixed, size).reshape(-1, 4).take(at, axis=0)
    object_ = cv2.blur(mixed * share[:, :, None], size).reshape(-1, 4).take(at, axis=0)
    rest = every - object_
    tint = chroma.reshape(-1, 2).take(at, axis=0).astype(np.float32)
    colour = (light[rows, columns] / np.float32(_LIGHT), tint[:, 0], tint[:, 1])
    prior = flat[near_border]

    def away(mean: FloatArray) -> FloatArray:
        # A channel at a time: arrays three wide would spend their time on the loops.
        each = np.float32(1) / np.maximum(mean[:, 3], np.float32(1e-3))
        steps = [colour[channel] - mean[:, channel] * each for channel in range(3)]
        return np.asarray(steps[0] * steps[0] + steps[1] * steps[1] + steps[2] * steps[2], np.float32)

    to_object, to_rest = away(object_), away(rest)
    evidence = (to_rest - to_object) / (to_rest + to_object + _NOISE)
    flat[near_border] = np.clip(prior + SNAP * evidence * (1 - prior * prior), -1, 1)
    return np.asarray(cv2.GaussianBlur(soft, (0, 0), _SOFTNESS), np.float32).reshape(shape)


def _insist(soft: FloatArray, scene: Scene, point: Point) -> None:
    """Make the soft map agree with a click: a disc that reaches somewhat beyond the border that was wrong."""
    h, w = soft.shape
    y, x = _place(point.y * h / scene.height, h), _place(point.x * w / scene.width, w)
    sign = np.float32(1 if point.label == 1 else -1)
    if soft[y, x] * sign > 0.05:
        return
    reach = int(scene.cell) + 1
    top, left = max(0, y - reach), max(0, x - reach)
    part = soft[top : y + reach + 1, left : x + reach + 1]
    rows, columns = np.ogrid[top - y : top - y + part.shape[0], left - x : left - x + part.shape[1]]
    distance = np.hypot(rows, columns)
    agrees = part * sign > 0
    radius = 1.4 * float(distance[agrees].min()) + 0.5 if agrees.any() else 2.0
    disc = np.clip((radius - distance) / 2, -1, 1).astype(np.float32)
    part[...] = sign * np.maximum(part * sign, disc)
    soft[y, x] = sign * np.float32(max(0.3, float(soft[y, x] * sign)))


def _place(value: float, size: int) -> int:
    return min(max(int(value), 0), size - 1)


def _enlarge(level: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if level.shape == (height, width):
        return level
    return np.asarray(cv2.resize(level, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8).reshape(
        height, width
    )
