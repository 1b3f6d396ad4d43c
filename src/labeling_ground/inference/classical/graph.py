"""The region adjacency graph: superpixels as nodes, common borders as edges."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labeling_ground.inference.classical.features import Features, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Graph:
    """Superpixels and their borders.

    Attributes:
        area: ``int32 [n]``, pixels.
        colour: ``float32 [n, 3]``, mean Lab.
        histogram: ``float32 [n, k]``, share of each palette colour; rows sum to 1.
        rim: ``int32 [n]``, how many pixel sides lie on the image's rim.
        box: ``int32 [n, 4]``, x0, y0, x1, y1 in work pixels, upper ends excluded.
        ends: ``int32 [e, 2]``, the two superpixels of each edge, the lower number first.
        length: ``int32 [e]``, pixel sides of contact.
        strength: ``float32 [e]``, mean gradient along the contact, Lab units a pixel.
    """

    area: IntArray
    colour: FloatArray
    histogram: FloatArray
    rim: IntArray
    box: IntArray
    ends: IntArray
    length: IntArray
    strength: FloatArray


def build(features: Features) -> Graph:
    """Count what the merge tree and the cuts need, once per image."""
    labels = features.labels
    flat = labels.ravel()
    n = int(flat.max()) + 1
    area = np.bincount(flat, minlength=n)
    lab = features.lab.reshape(-1, 3)
    colour = np.stack([np.bincount(flat, lab[:, c], n) for c in range(3)], axis=1) / area[:, None]
    k = len(features.palette)
    words = np.bincount(flat * k + features.words.ravel(), minlength=n * k).reshape(n, k)
    rim = sum(np.bincount(side, minlength=n) for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]))
    ends, length, strength = _borders(labels, features.gradient, n)
    return Graph(
        area=area.astype(np.int32),
        colour=colour.astype(np.float32),
        histogram=(words / area[:, None]).astype(np.float32),
        rim=np.asarray(rim, np.int32),
        box=_boxes(labels, n),
        ends=ends,
        length=length,
        strength=strength,
    )


def _borders(labels: IntArray, gradient: FloatArray, n: int) -> tuple[IntArray, IntArray, FloatArray]:
    keys: list[NDArray[np.int64]] = []
    weights: list[FloatArray] = []
    for first, second in (
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
    ):
        a, b = labels[first], labels[second]
        apart = a != b
        low = np.minimum(a[apart], b[apart]).astype(np.int64)
        keys.append(low * n + np.maximum(a[apart], b[apart]))
        weights.append(np.maximum(gradient[first][apart], gradient[second][apart]))
    pairs, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    length = np.bincount(inverse, minlength=len(pairs))
    strength = np.bincount(inverse, np.concatenate(weights), len(pairs)) / np.maximum(length, 1)
    ends = np.stack([pairs // n, pairs % n], axis=1).astype(np.int32)
    return ends, length.astype(np.int32), strength.astype(np.float32)


def _boxes(labels: IntArray, n: int) -> IntArray:
    height, width = labels.shape
    box = np.empty((n, 4), np.int32)
    rows = np.repeat(np.arange(height, dtype=np.int32), width)
    flat = labels.ravel()
    # Of several writes to one place the last one stays: writing in falling order leaves the least.
    box[flat[::-1], 1] = rows[::-1]
    box[flat, 3] = rows + 1
    turned = labels.T.ravel()
    columns = np.repeat(np.arange(width, dtype=np.int32), height)
    box[turned[::-1], 0] = columns[::-1]
    box[turned, 2] = columns + 1
    return box
