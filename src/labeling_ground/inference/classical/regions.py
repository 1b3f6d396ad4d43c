"""What sets a thing apart: figures of a region, and a guess at how well it is outlined.

A region is a set of superpixels. Many are judged at once: ``x`` is ``bool [k, n]``, a region a row.
"""

import numpy as np
from numpy.typing import NDArray

from labeling_ground.inference.classical.features import FloatArray
from labeling_ground.inference.classical.scene import Scene

BoolArray = NDArray[np.bool_]


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
    one = x.astype(np.float32)
    whole = float(scene.area.sum())
    area = np.maximum(one @ scene.area, 1.0)
    share = area / whole
    u, v = scene.ends[:, 0], scene.ends[:, 1]
    cut = (x[:, u] != x[:, v]).astype(np.float32)
    inner = (x[:, u] & x[:, v]).astype(np.float32)
    weights = np.stack(
        [
            scene.length,
            scene.length * scene.strength,
            scene.length * scene.apart,
            scene.length * (scene.cost < 0.6 * scene.typical),
        ],
        axis=1,
    )
    border = cut @ weights
    border_length = np.maximum(border[:, 0], 1e-6)
    inside = inner @ weights[:, :2]
    rim = one @ scene.rim
    around = np.maximum(border[:, 0] + rim, 1.0)
    strength = border[:, 1] / border_length
    apart = border[:, 2] / border_length
    weak = border[:, 3] / border_length
    inner_strength = inside[:, 1] / np.maximum(inside[:, 0], 1.0)
    left = np.where(x, scene.box[:, 0], np.inf).min(axis=1)
    top = np.where(x, scene.box[:, 1], np.inf).min(axis=1)
    right = np.where(x, scene.box[:, 2], -np.inf).max(axis=1)
    bottom = np.where(x, scene.box[:, 3], -np.inf).max(axis=1)
    extent = area / np.maximum((right - left) * (bottom - top), 1.0)
    # The strips on both sides of the border, weighted by contact.
    touched = np.asarray(scene.contact @ one.T).T
    outer = touched * (1 - one)
    inner_strip = np.asarray(scene.contact @ (1 - one).T).T * one
    h_out = outer @ scene.histogram / np.maximum(outer.sum(axis=1), 1e-6)[:, None]
    h_in = inner_strip @ scene.histogram / np.maximum(inner_strip.sum(axis=1), 1e-6)[:, None]
    h_all = (one * scene.area) @ scene.histogram
    h_rest = scene.area @ scene.histogram - h_all
    local = np.sqrt(h_out * h_in).sum(axis=1)
    h_all /= np.maximum(h_all.sum(axis=1), 1e-6)[:, None]
    h_rest = np.maximum(h_rest, 0)
    h_rest /= np.maximum(h_rest.sum(axis=1), 1e-6)[:, None]
    overall = np.sqrt(h_all * h_rest).sum(axis=1)
    ring = np.sqrt(h_all * h_out).sum(axis=1)
    size = np.sqrt(area)
    depth, offset = _depth_and_offset(scene, one, size, anchors)
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
    scene: Scene, one: FloatArray, size: FloatArray, anchors: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """How deep a click lies in each region and how far from its middle, both in units of the root of its area."""
    k = len(one)
    if anchors is None or not len(anchors):
        return np.full(k, 0.45, np.float32), np.zeros(k, np.float32)
    h, w = scene.labels.shape
    area = np.maximum(one @ scene.area, 1.0)
    middle = (one * scene.area) @ scene.centre / area[:, None]
    far = one * np.float32(1e6)
    depths, offsets = [], []
    for px, py in anchors.tolist():
        distance = np.hypot(scene.centre[:, 0] - px, scene.centre[:, 1] - py)
        to_rim = max(min(px, py, w - px, h - py), 1.0) + scene.cell
        depths.append(np.minimum((distance + far).min(axis=1), to_rim) / size)
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

CLICK = np.asarray(
    [
        0.586, -0.026, -0.104, -0.004, -0.048, -0.227, 0.075, -0.298, -0.777, 0.302, 0.166, -0.172,
        -0.238, 0.103, 0.643, -0.437, -0.265,
    ],
    np.float32,
)  # fmt: skip
"""Weights of the figures in the guess at a region's IoU after clicks."""

SET = np.asarray(
    [
        0.425, -0.063, -0.133, 0.112, -0.114, -0.240, 0.057, 0.038, -0.993, 0.241, 0.291, -0.066,
        -0.305, -0.041, 1.022, -0.800, -0.135, -0.187, -0.037, 0.056, -0.024,
    ],
    np.float32,
)  # fmt: skip
"""Weights in the guess at a region's IoU after several clicks; see ``set_figures``."""

ADD = np.asarray(
    [
        -0.090, -0.136, 0.106, 0.025, -0.282, 0.158, -1.402, 1.430, 0.120, 0.261, 0.149, -0.402,
        -0.917, 0.000, 0.000, 0.000, -0.013, -0.010, -0.003, -0.023, -0.043, 0.008, 1.188, -3.305,
        0.135, -0.189, -0.206, 0.052, 0.393, 0.186, -0.146, -0.044, 0.013, 0.008,
    ],
    np.float32,
)  # fmt: skip
"""Weights in the choice of what a positive click adds; see ``candidates.edit_figures``."""

REMOVE = np.asarray(
    [
        -0.074, -0.189, -0.094, 0.090, -0.098, 0.007, -0.396, 0.001, 0.550, -0.247, 0.018, -0.442,
        0.518, 0.000, 0.000, 0.000, -0.000, -0.021, -0.089, 0.089, 0.109, -0.043, -0.252, 0.656,
        0.098, -0.073, 0.097, -0.149, 0.291, 0.055, 0.021, 0.053, -0.018, -0.014,
    ],
    np.float32,
)  # fmt: skip
"""Weights in the choice of what a negative click removes."""

BOX = np.asarray(
    [
        0.423, -0.006, -0.021, 0.022, -0.000, -0.084, 0.008, 0.563, -0.937, 0.199, 0.041, -0.113,
        -0.140, -0.120, 0.065, 0.071, -0.186, 0.130, 0.227, 0.118,
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
    left = np.where(x, scene.box[:, 0], np.inf).min(axis=1)
    top = np.where(x, scene.box[:, 1], np.inf).min(axis=1)
    right = np.where(x, scene.box[:, 2], -np.inf).max(axis=1)
    bottom = np.where(x, scene.box[:, 3], -np.inf).max(axis=1)
    tight = box_overlap(left, top, right, bottom, box)
    full = np.minimum(x @ scene.area / ((x1 - x0) * (y1 - y0)), 1.5)
    return np.concatenate([plain, np.stack([tight, tight**2, full], axis=1)], axis=1).astype(np.float32)


def set_figures(
    scene: Scene,
    x: BoolArray,
    anchors: FloatArray,
    wrong: tuple[FloatArray, FloatArray],
    edits: FloatArray,
) -> FloatArray:
    """The figures of regions after several clicks: ``float32 [k, f + 4]``.

    Args:
        scene: the image.
        x: ``bool [k, n]``, regions.
        anchors: ``[m, 2]``, the positive clicks, x and y in work pixels.
        wrong: shares of the positive clicks that a region lacks, and of the negative ones that it holds.
        edits: ``[k]``, how many edits made the region agree with the clicks.
    """
    more = np.stack([wrong[0], wrong[1], edits, edits**2 / 5], axis=1)
    return np.concatenate([figures(scene, x, anchors), more], axis=1).astype(np.float32)
