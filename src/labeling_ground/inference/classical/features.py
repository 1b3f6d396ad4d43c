"""From pixels to superpixels: the work image, its gradient, its palette, and the oversegmentation.

Everything here sees the image once, at encoding. The work image is small (at most 512 pixels on the long side) because
the quality of the masks is bounded by the superpixels, not by the pixels.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import watershed

WORK_SIDE = 512
"""Longest side of the work image, in pixels."""

WORK_AREA = 224_000
"""Most pixels of the work image: keeps the embedding of a square photo as small as that of an oblong one."""

SUPERPIXELS = 1500
"""About as many superpixels as one image gets. More would slow the minimum cut for little gain."""

COLOURS = 48
"""Words of the palette over which colour histograms are counted."""

COMPACTNESS = 0.03
"""Pull of a superpixel towards its seed, in Lab units of gradient a pixel."""

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Features:
    """What the encoder measures on the work image.

    Attributes:
        lab: ``float32 [h, w, 3]``, smoothed CIE Lab, L in 0..100.
        gradient: ``float32 [h, w]``, Lab units a pixel.
        labels: ``int32 [h, w]``, superpixel of every pixel, 0..n-1 without gaps.
        palette: ``float32 [k, 3]``, Lab colours.
        words: ``int32 [h, w]``, nearest palette colour of every pixel.
    """

    lab: FloatArray
    gradient: FloatArray
    labels: IntArray
    palette: FloatArray
    words: IntArray


def work_shape(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the work image. Small images are not enlarged; no side falls below one pixel."""
    scale = min(1.0, WORK_SIDE / max(height, width), math.sqrt(WORK_AREA / (height * width)))
    return max(1, round(height * scale)), max(1, round(width * scale))


def measure(pixels: NDArray[np.uint8]) -> Features:
    """Take all measures of one image.

    Args:
        pixels: ``uint8 [height, width, 3]``, RGB.
    """
    height, width = work_shape(pixels.shape[0], pixels.shape[1])
    small = np.ascontiguousarray(pixels)
    if small.shape[:2] != (height, width):
        small = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    lab = cv2.cvtColor(small.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB)
    lab = np.asarray(cv2.GaussianBlur(lab, (0, 0), 0.8), np.float32).reshape(height, width, 3)
    gradient = _gradient(lab)
    labels = _superpixels(gradient)
    palette = _palette(lab, labels)
    return Features(lab, gradient, labels, palette, _nearest(lab.reshape(-1, 3), palette).reshape(height, width))


def _gradient(lab: FloatArray) -> FloatArray:
    """Gradient magnitude over the three channels at two scales: fine ones place edges, coarse ones tell them apart."""
    total = np.zeros(lab.shape[:2], np.float32)
    for sigma in (0.0, 1.6):
        smooth = cv2.GaussianBlur(lab, (0, 0), sigma).reshape(lab.shape) if sigma else lab
        dx = cv2.Scharr(smooth, cv2.CV_32F, 1, 0).reshape(lab.shape)
        dy = cv2.Scharr(smooth, cv2.CV_32F, 0, 1).reshape(lab.shape)
        total += np.sqrt((dx * dx + dy * dy).sum(axis=2)) / np.float32(32)  # 32: the Scharr kernel's own gain
    return total / np.float32(2)


def _superpixels(gradient: FloatArray) -> IntArray:
    """Compact watershed (Neubert and Protzel, 2014) from one seed a grid cell, at the cell's least gradient."""
    height, width = gradient.shape
    cell = max(1, math.ceil(math.sqrt(height * width / SUPERPIXELS)))
    rows, columns = -(-height // cell), -(-width // cell)
    padded = np.full((rows * cell, columns * cell), np.inf, np.float32)
    padded[:height, :width] = gradient
    blocks = padded.reshape(rows, cell, columns, cell).transpose(0, 2, 1, 3).reshape(rows * columns, cell * cell)
    best = blocks.argmin(axis=1)
    index = np.arange(rows * columns)
    seeds = np.zeros((height, width), np.int32)
    seeds[index // columns * cell + best // cell, index % columns * cell + best % cell] = index + 1
    if seeds.size == 1:
        return np.zeros((1, 1), np.int32)
    flooded = np.asarray(watershed(gradient, seeds, compactness=COMPACTNESS), np.int32)  # type: ignore[no-untyped-call]
    _, labels = np.unique(flooded, return_inverse=True)  # a seed may have been left without a pixel of its own
    return labels.reshape(height, width).astype(np.int32)


def _palette(lab: FloatArray, labels: IntArray) -> FloatArray:
    """Lloyd's algorithm on the superpixels' colours; the start is spread by lightness, hence no random numbers."""
    count = np.bincount(labels.ravel()).astype(np.float32)
    flat = lab.reshape(-1, 3)
    sums = np.stack([np.bincount(labels.ravel(), flat[:, c]) for c in range(3)], axis=1)
    means: FloatArray = (sums / count[:, None]).astype(np.float32)
    order = np.lexsort((means[:, 2], means[:, 1], means[:, 0]))
    centres: FloatArray = means[order[np.linspace(0, len(order) - 1, min(COLOURS, len(order))).astype(np.intp)]]
    for _ in range(12):
        nearest = _nearest(means, centres)
        weight = np.bincount(nearest, count, len(centres))
        sums = np.stack([np.bincount(nearest, count * means[:, c], len(centres)) for c in range(3)], axis=1)
        filled = weight > 0
        centres = centres.copy()
        centres[filled] = (sums[filled] / weight[filled, None]).astype(np.float32)
    return centres


def _nearest(colours: FloatArray, centres: FloatArray) -> IntArray:
    """Index of the nearest centre for each of ``[n, 3]`` colours, by squared distance without its constant part."""
    score = colours @ centres.T - np.float32(0.5) * (centres * centres).sum(axis=1)
    return np.asarray(score.argmax(axis=1), np.int32)
