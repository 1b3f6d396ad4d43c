"""What sets a thing apart: figures of a region, and a guess at how well it is outlined.

A region is a set of superpixels. Many are judged at once: ``x`` is ``bool [k, n]``, a region a row.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from labeling_ground.inference.classical.features import FloatArray, IntArray
from labeling_ground.inference.classical.scene import Scene

BoolArray = NDArray[np.bool_]


def extremes(scene: Scene, x: BoolArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Left, top, right and bottom of regions, ``float32 [k]`` each; an empty region has an empty box."""
    ends = []
    for side in range(4):
        at, far = scene.sides[side], np.int16(30000 if side < 2 else 0)
        reach = np.where(x, at, far)
        ends.append((reach.min(axis=1) if side < 2 else reach.max(axis=1)).astype(np.float32))
    return ends[0], ends[1], ends[2], ends[3]


def _shares(histograms: FloatArray) -> FloatArray:
    """Rows scaled to a sum of 1; a row of nothing stays nothing."""
    return np.asarray(histograms / np.maximum(histograms.sum(axis=1), 1e-6)[:, None], np.float32)


def totals(x: BoolArray, values: FloatArray) -> FloatArray:
    """Sums of ``values [n, f]`` over each of ``[k, n]`` regions: ``float32 [k, f]``.

    In blocks that are too small for BLAS to start threads of its own: a decode has one thread, and the sums do not
    depend on how many there might be.
    """
    block = max(1, _SERIAL // max(values.size, 1))
    one = x.astype(np.float32)
    return np.concatenate([one[row : row + block] @ values for row in range(0, len(x), block)]).astype(np.float32)


_SERIAL = 250_000
"""Multiplications up to which OpenBLAS stays in the calling thread."""


def figures(scene: Scene, x: BoolArray, anchors: FloatArray | None) -> FloatArray:
    """Describe regions by figures that do not depend on the image's size.

    Args:
        scene: the image.
        x: ``bool [k, n]``, regions.
        anchors: ``[m, 2]``, where the annotator pointed (x, y in work pixels), or none. Which of them came first is not
            known: for each region it is taken to be the one that lies deepest in it, as people start in the middle.

    Returns:
        ``float32 [k, f]``.
    """
    k = len(x)
    sums = totals(x, scene.sums)
    area: FloatArray = np.maximum(sums[:, 0], np.float32(1))
    share = area / float(scene.area.sum())
    rim = sums[:, 1]
    # Edges that a region cuts are few: all that is said of its border is counted on them alone.
    u, v = scene.ends[:, 0], scene.ends[:, 1]
    within = np.take(x, u, axis=1)
    row, edge = np.divmod(np.flatnonzero(within != np.take(x, v, axis=1)), max(len(u), 1))
    border = np.stack([np.bincount(row, w[edge], k) for w in scene.weights], axis=1).astype(np.float32)
    border_length = np.maximum(border[:, 0], 1e-6)
    around = np.maximum(border[:, 0] + rim, 1.0)
    strength = border[:, 1] / border_length
    apart = border[:, 2] / border_length
    weak = border[:, 3] / border_length
    inner = np.maximum(sums[:, 4:6] - border[:, :2], 0)
    inner_strength = inner[:, 1] / np.maximum(inner[:, 0], 2.0)
    left, top, right, bottom = extremes(scene, x)
    extent = area / np.maximum((right - left) * (bottom - top), 1.0)
    # The strips on both sides of the border, weighted by contact.
    first_inside = within[row, edge]
    pointer = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=k))]).astype(np.int32)
    contact = scene.weights[0][edge]

    def strip(superpixels: IntArray) -> FloatArray:
        return _shares(csr_array((contact, superpixels, pointer), shape=(k, scene.size)) @ scene.histogram)

    h_out = strip(np.where(first_inside, v[edge], u[edge]))
    h_in = strip(np.where(first_inside, u[edge], v[edge]))
    h_all = sums[:, 6:]
    h_rest = scene.whole - h_all
    h_rest[h_rest < 0.5] = 0  # less than half a pixel is rounding, and would count for all there is
    h_all, h_rest = _shares(h_all), _shares(h_rest)
    root = np.sqrt(h_all)
    root_out = np.sqrt(h_out)
    local = (root_out * np.sqrt(h_in)).sum(axis=1)
    overall = (root * np.sqrt(h_rest)).sum(axis=1)
    ring = (root * root_out).sum(axis=1)
    depth, offset = _depth_and_offset(scene, x, area, sums[:, 2:4] / area[:, None], anchors)
    log_area = np.log(share)
    return np.stack(
        [
            np.ones(len(x), np.float32),
            log_area,
            log_area**2 / 10,
            np.log(strength / scene.typical + 0.2),
            np.log(apart / scene.typical + 0.2),
            weak,
            np.log(inner_strength / scene.typical + 0.2),
            rim / around,
            (rim / around) ** 2,
            np.minimum(4 * np.pi * area / around**2, 1.2),
            extent,
            local,
            ring,
            overall,
            depth,
            depth**2,
            offset,
        ],
        axis=1,
    ).astype(np.float32)


def _depth_and_offset(
    scene: Scene, x: BoolArray, area: FloatArray, middle: FloatArray, anchors: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """How deep a click lies in each region and how far from its middle, both in units of the root of its area."""
    k = len(x)
    if anchors is None or not len(anchors):
        return np.full(k, UNPLACED[0], np.float32), np.full(k, UNPLACED[2], np.float32)
    h, w = scene.labels.shape
    size = np.sqrt(area)
    depths, offsets = [], []
    for px, py in anchors.tolist():
        distance = np.hypot(scene.centre[:, 0] - px, scene.centre[:, 1] - py)
        to_rim = max(min(px, py, w - px, h - py), 1.0) + scene.cell
        depths.append(np.minimum(np.where(x, np.float32(1e6), distance).min(axis=1), to_rim) / size)
        offsets.append(np.hypot(middle[:, 0] - px, middle[:, 1] - py) / size)
    depth, offset = np.stack(depths), np.stack(offsets)
    first = depth.argmax(axis=0)
    rows = np.arange(k)
    return np.minimum(depth[first, rows], 1.0), np.minimum(offset[first, rows], 2.0)


NAMES = (
    "one", "log area", "log area²", "strength", "colour step", "weak share", "inner strength", "rim share",
    "rim share²", "compactness", "extent", "local likeness", "ring likeness", "overall likeness", "depth",
    "depth²", "offset",
)  # fmt: skip
"""What the columns of ``figures`` are."""

UNPLACED = (0.45, 0.45**2, 0.0)
"""Depth, its square and offset where no click is known: what a click near the middle has."""

CLICK = np.asarray(
    [
        0.473, -0.026, -0.114, 0.013, -0.010, -0.017, 0.077, -0.372, -0.432, 0.360, 0.160, -0.236,
        -0.122, 0.093, 0.571, -0.375, -0.260,
    ],
    np.float32,
)  # fmt: skip
"""Weights of the figures in the guess at a region's IoU after clicks."""

SET = np.asarray(
    [
        0.550, -0.011, -0.086, 0.045, -0.002, -0.262, -0.004, -0.031, -0.648, 0.351, 0.197, -0.240,
        0.023, -0.116, 0.768, -0.632, -0.158, 0.063, 0.053, 0.010, -0.061,
    ],
    np.float32,
)  # fmt: skip
"""Weights in the guess at a region's IoU after several clicks; see ``set_figures``."""

ADD = np.asarray(
    [
        -0.056, -0.142, -0.002, 0.085, -0.169, 0.109, -0.646, 0.123, 0.250, 0.435, 0.016, -0.140,
        -0.562, 0.000, 0.000, 0.000, 0.003, 0.013, -0.061, 0.051, -0.035, -0.001, 0.555, -1.759,
        0.012, -0.067, -0.386, 0.310, 0.222, 0.192, -0.134, -0.019, 0.003, -0.052,
    ],
    np.float32,
)  # fmt: skip
"""Weights in the choice of what a positive click adds; see ``candidates.edit_figures``."""

REMOVE = np.asarray(
    [
        -0.236, -0.476, -0.069, 0.055, -0.045, -0.042, -0.325, 0.002, 0.287, 0.131, -0.018, -0.326,
        0.130, -0.000, 0.000, 0.000, 0.001, -0.001, -0.030, 0.055, 0.029, -0.014, -0.123, 0.058,
        -0.014, 0.036, 0.047, -0.049, 0.133, 0.160, -0.119, -0.005, -0.001, -0.014,
    ],
    np.float32,
)  # fmt: skip
"""Weights in the choice of what a negative click removes."""

BOX = np.asarray(
    [
        0.383, -0.013, -0.039, 0.049, -0.001, -0.190, 0.025, 0.267, -0.641, 0.232, 0.125, -0.090,
        -0.123, -0.197, 0.178, -0.148, -0.202, 0.117, 0.159, 0.164,
    ],
    np.float32,
)  # fmt: skip
"""Weights in the guess at a region's IoU after a box; see ``box_figures``."""


def box_overlap(
    left: FloatArray,
    top: FloatArray,
    right: FloatArray,
    bottom: FloatArray,
    box: tuple[float, float, float, float],
) -> FloatArray:
    """IoU of many boxes with one."""
    x0, y0, x1, y1 = box
    width = np.clip(np.minimum(right, x1) - np.maximum(left, x0), 0, None)
    height = np.clip(np.minimum(bottom, y1) - np.maximum(top, y0), 0, None)
    both = width * height
    either = (right - left) * (bottom - top) + (x1 - x0) * (y1 - y0) - both
    return np.asarray(both / np.maximum(either, 1e-6), np.float32)


def box_figures(scene: Scene, x: BoolArray, box: tuple[float, float, float, float]) -> FloatArray:
    """The figures of regions, with how tightly the box fits them and how full it is: ``float32 [k, f + 3]``."""
    x0, y0, x1, y1 = box
    plain = figures(scene, x, np.asarray([[(x0 + x1) / 2, (y0 + y1) / 2]], np.float32))
    tight = box_overlap(*extremes(scene, x), box)
    full = np.minimum(x @ scene.area / ((x1 - x0) * (y1 - y0)), 1.5)
    return np.concatenate([plain, np.stack([tight, tight**2, full], axis=1)], axis=1).astype(np.float32)


def set_figures(
    scene: Scene,
    x: BoolArray,
    anchors: FloatArray,
    wrong: tuple[FloatArray, FloatArray],
    spread: float,
) -> FloatArray:
    """The figures of regions after several clicks: ``float32 [k, f + 4]``.

    Args:
        scene: the image.
        x: ``bool [k, n]``, regions.
        anchors: ``[m, 2]``, the positive clicks, x and y in work pixels.
        wrong: shares of the positive clicks that a region lacked, and of the negative ones that it held, before it
            was mended.
        spread: how far the clicks lie apart, in work pixels: people click on a thing and around its border, so
            the thing is not much smaller than that, nor much larger.
    """
    area = np.maximum(x @ scene.area, 1.0)
    reach = np.clip(np.log(np.sqrt(area) / (spread + scene.cell / 2)), -3, 3)
    more = np.stack([wrong[0], wrong[1], reach, reach**2], axis=1)
    return np.concatenate([figures(scene, x, anchors), more], axis=1).astype(np.float32)
