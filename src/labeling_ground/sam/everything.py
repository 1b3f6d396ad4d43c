"""«Segment everything»: a grid of clicks, and which of the masks that they give are kept.

The rules are those of the reference's automatic mask generator (``segment_anything/automatic_mask_generator.py`` and
``utils/amg.py``; SAM 2's is the same but for a default): candidates are filtered by predicted IoU, then by stability,
and of masks whose boxes overlap too much the better-scored one stays. The stability is measured where the reference
measures it, on logits in the image's full size. One crop is made, the whole image, so the reference's rule on masks
that are cut off by a crop's edge has nothing to do. Unlike there, a mask without any pixel is never kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from labeling_ground.sam.family import Family
from labeling_ground.sam.geometry import Frame
from labeling_ground.sam.masks import FloatArray, paint_with_stability
from labeling_ground.types import EverythingOptions, Point

USUAL: Mapping[Family, EverythingOptions] = {
    Family.SAM: EverythingOptions(),
    Family.SAM_HQ: EverythingOptions(),
    Family.SAM2: EverythingOptions(pred_iou_thresh=0.8),
    Family.EFFICIENT_TAM: EverythingOptions(pred_iou_thresh=0.8),
    Family.EFFICIENT_SAM: EverythingOptions(),  # its authors have no such generator
    Family.SAM3: EverythingOptions(pred_iou_thresh=0.8),  # nor have these: its clicks are SAM 2's
}
"""The reference's defaults."""

CANDIDATES = 3
"""Most masks that one point gives."""

SECOND_NMS = 0.7
"""Least threshold where boxes are compared once more, after small regions went (the reference's between crops)."""


def grid(per_side: int, height: int, width: int) -> list[Point]:
    """The middles of ``per_side`` × ``per_side`` equal cells of an image, row by row."""
    steps = (np.arange(per_side) + 0.5) / per_side
    return [Point(float(x * width), float(y * height), 1) for y in steps for x in steps]


@dataclass(frozen=True, slots=True)
class SamSketch:
    """A candidate of a Segment Anything decoder that was not painted yet: that costs more the larger the image is.

    Attributes:
        score: predicted IoU as the decoder gave it; it may lie a little above 1.
        logits: ``float32 [side, side]``, as the decoder gave them.
        frame: how the square lies over the image.
        family: whose way of upsampling.
        likeness: see ``Sketch``; no two candidates are known to be alike.
    """

    score: float
    logits: FloatArray
    frame: Frame
    family: Family
    likeness: bytes | None = None

    def draw(self, offset: float) -> tuple[NDArray[np.bool_], float]:
        """The mask of the original image, ``bool [height, width]``, and its stability, 0..1."""
        return paint_with_stability(self.logits, self.frame, self.family, offset)


def sketches(logits: FloatArray, scores: FloatArray, frame: Frame, family: Family) -> list[SamSketch]:
    """A decoder's answer to one click, in the decoder's order: the three readings of an ambiguous prompt.

    Args:
        logits: ``float32 [4, 256, 256]``, of which the first, meant for prompts that are not ambiguous, is left out;
            or ``[3, 256, 256]`` of graphs that leave it out themselves.
        scores: as many.
        frame: how the square lies over the image.
        family: whose way of upsampling.
    """
    first = max(0, len(scores) - CANDIDATES)
    return [SamSketch(float(scores[i]), logits[i].copy(), frame, family) for i in range(first, len(scores))]


def stability(logits: FloatArray, offset: float) -> float:
    """The area above ``offset`` over the area above ``-offset``; 0 where both are empty."""
    outer = int(np.count_nonzero(logits > -offset))
    return int(np.count_nonzero(logits > offset)) / outer if outer else 0.0


def keep_best(boxes: Sequence[tuple[int, int, int, int]], scores: Sequence[float], threshold: float) -> list[int]:
    """Greedy non-maximum suppression by boxes: which are kept, as indices, best first; of equals the first.

    Args:
        boxes: x, y, width, height in pixels. As in the reference a box reaches from its first to its last pixel's
            centre for this purpose, so that one of 3 × 3 pixels has an area of 4; two without area do not overlap.
        scores: as many.
        threshold: largest IoU of two boxes that are both kept.
    """
    if not boxes:
        return []
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2] - 1
    rest = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    kept = []
    while rest.size:
        best, rest = rest[0], rest[1:]
        kept.append(int(best))
        rest = rest[~(_iou(corners[best], corners[rest]) > threshold)]
    return kept


def _iou(one: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    size = np.clip(np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2]), 0, None)
    common = size[:, 0] * size[:, 1]
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    union = (one[2] - one[0]) * (one[3] - one[1]) + areas - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0), np.float64)


def without_small_regions(
    mask: NDArray[np.bool_], box: tuple[int, int, int, int], least: int
) -> tuple[NDArray[np.bool_], bool]:
    """Fill holes, then remove islands, of fewer than ``least`` pixels; the largest island stays in any case.

    Regions are 8-connected. Only the mask's box with ``least`` pixels around it is looked at: a region that reaches
    from the mask to beyond that has more pixels, so the result is that of looking everywhere.

    Args:
        mask: ``bool [height, width]``.
        box: its x, y, width, height; not empty.
        least: pixels.

    Returns:
        The mask, and whether anything was small. A single island that is small stays and counts, as in the reference.
    """
    left, top, width, height = box
    window = (slice(max(0, top - least), top + height + least), slice(max(0, left - least), left + width + least))
    part = mask[window]
    holes = _small(~part, least)
    filled = part | holes
    islands = _small(filled, least)
    if not holes.any() and not islands.any():
        return mask, False
    if (islands == filled).all():
        _, labels, figures, _ = cv2.connectedComponentsWithStats(filled.view(np.uint8), connectivity=8)
        islands = labels != 1 + int(np.argmax(figures[1:, cv2.CC_STAT_AREA]))
    changed = mask.copy()
    changed[window] = filled & ~islands
    return changed, True


def _small(region: NDArray[np.bool_], least: int) -> NDArray[np.bool_]:
    """The connected parts that have fewer than ``least`` pixels."""
    _, labels, figures, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(region).view(np.uint8), connectivity=8
    )
    small = figures[:, cv2.CC_STAT_AREA] < least
    small[0] = False  # what is not the region
    return np.asarray(small[labels], np.bool_)
