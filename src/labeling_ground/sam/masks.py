"""From a decoder's low-res logits to masks in the original image's size, and which candidates are returned.

The reference upsamples 256 → 1024, cuts the padding off and resizes to the image, bilinear both times
(``segment_anything/modeling/sam.py``, ``postprocess_masks``); SAM 2 and EfficientSAM's ONNX files resize 256 → image in
one step, SAM 3 288 → image. The same is done here, to the same pixels, with one saving: an interpolated value is a mean
of its neighbours, so nothing can be positive far from a positive logit, and only the rectangle where something can be
is computed. A click on a small object of a 12-megapixel photograph then costs what the object costs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from labeling_ground.sam.family import Family
from labeling_ground.sam.geometry import LOW_RES, Frame
from labeling_ground.types import Mask, Prediction, Prompt

THRESHOLD = 0.0
"""A pixel belongs to the object where its logit is above this."""

STABILITY_DELTA = 0.05
STABILITY_THRESHOLD = 0.98
"""SAM 2's single mask is kept where moving the threshold by ± delta keeps this share of its area."""

SAM2_CLAMP = 32.0
"""SAM 2 limits the logits that it hands out, and that it is given back as a mask input, to ± this."""

FloatArray = NDArray[np.float32]
_ROWS_AT_ONCE = 64
"""Rows of the image that are interpolated together: few enough that they stay in a core's cache."""

_CROSSINGS = 8
"""Of a row by the outline, on average: where OpenCV is faster with all of an image than we are with the outline."""


@dataclass(frozen=True, slots=True)
class _Taps:
    """Along one axis: which pixels of the mask are computed, and from which two neighbours each.

    ``start`` is the first such pixel; ``low`` and ``high`` are indices of neighbours, ``weight`` the share of ``high``.
    """

    start: int
    low: NDArray[np.intp]
    high: NDArray[np.intp]
    weight: FloatArray

    @property
    def stop(self) -> int:
        """One past the last such pixel."""
        return self.start + self.low.size


def paint(logits: FloatArray, frame: Frame, family: Family) -> NDArray[np.bool_]:
    """The mask of the original image.

    Args:
        logits: ``float32 [256, 256]`` over the whole square; any other square of logits for other families than SAM.
        frame: how the square lies over the image.
        family: whose way of upsampling.

    Returns:
        ``bool [height, width]``.
    """
    return _paint(logits, frame, family)[0]


def _paint(logits: FloatArray, frame: Frame, family: Family) -> tuple[NDArray[np.bool_], tuple[int, int, int, int]]:
    """The mask, and a box (x, y, width, height) around it, not always the smallest one."""
    mask = np.zeros((frame.height, frame.width), np.bool_)
    window = _window(logits, frame, family, THRESHOLD)
    if window is None:
        return mask, (0, 0, 0, 0)
    source, down, across = window
    box = (across.start, down.start, across.low.size, down.low.size)
    rows_here, columns_here = slice(down.start, down.stop), slice(across.start, across.stop)
    target = mask[rows_here, columns_here]
    if _is_ragged(logits):
        whole = _enlarge(logits, 0, _inner(logits, frame, family)[0], frame, family)
        np.greater(_stretch(whole, frame.height, frame.width)[rows_here, columns_here], THRESHOLD, out=target)
        return mask, box
    wide = _stretch(source, source.shape[0], frame.width)[:, columns_here]
    if not down.weight.any():  # a row of the image is a row of the source
        np.greater(wide[: down.low.size], THRESHOLD, out=target)
    else:
        _interpolate_rows(wide, down, target)
    return mask, box


def paint_with_stability(
    logits: FloatArray, frame: Frame, family: Family, offset: float
) -> tuple[NDArray[np.bool_], float]:
    """The mask of the original image, and how little it depends on the threshold.

    The stability is the area above ``threshold + offset`` over the area above ``threshold - offset``, counted in the
    image's full size (``calculate_stability_score`` in ``segment_anything/utils/amg.py``); 0 where both are empty.

    Args:
        logits: ``float32 [256, 256]`` over the whole square.
        frame: how the square lies over the image.
        family: whose way of upsampling.
        offset: by how much the threshold is moved, at least 0.

    Returns:
        ``bool [height, width]``, and the stability, 0..1.
    """
    mask = np.zeros((frame.height, frame.width), np.bool_)
    window = _window(logits, frame, family, THRESHOLD - offset)
    if window is None:
        return mask, 0.0
    across = window[2]
    inner = outer = 0
    for rows, values in _values(window, frame):
        np.greater(values, THRESHOLD, out=mask[rows, across.start : across.stop])
        inner += int(np.count_nonzero(values > THRESHOLD + offset))
        outer += int(np.count_nonzero(values > THRESHOLD - offset))
    return mask, inner / outer if outer else 0.0


_Window = tuple[FloatArray, _Taps, _Taps]
"""The rows that are interpolated, from the first that is used to the last, and the taps down and across."""


def _window(logits: FloatArray, frame: Frame, family: Family, least: float) -> _Window | None:
    """Where a logit can be above ``least`` in the image; ``None`` if nowhere."""
    above = logits > least
    rows, columns = np.flatnonzero(above.any(axis=1)), np.flatnonzero(above.any(axis=0))
    if rows.size == 0:
        return None
    height, width, factor = _inner(logits, frame, family)
    down = _taps(height, frame.height, int(rows[0]), int(rows[-1]), factor)
    across = _taps(width, frame.width, int(columns[0]), int(columns[-1]), factor)
    if down.low.size == 0 or across.low.size == 0:
        return None  # it lies in the padding
    return _enlarge(logits, int(down.low[0]), int(down.high[-1]) + 1, frame, family), down, across


def _inner(logits: FloatArray, frame: Frame, family: Family) -> tuple[int, int, int]:
    """Rows and columns of what is resized to the image, and how often it is enlarged before that."""
    if family.reads_as_sam:
        return frame.inner_height, frame.inner_width, frame.side // LOW_RES
    return logits.shape[0], logits.shape[1], 1


def _enlarge(logits: FloatArray, top: int, bottom: int, frame: Frame, family: Family) -> FloatArray:
    """Rows ``top`` to ``bottom`` of what is resized to the image."""
    _, width, factor = _inner(logits, frame, family)
    side = logits.shape[0]
    # One low-res row more on either side: then enlarging these rows alone gives what enlarging all of them gives.
    first, end = max(0, top // factor - 1), min(side, (bottom - 1) // factor + 2)
    rows = np.ascontiguousarray(logits[first:end], np.float32)
    start = top - factor * first
    return _stretch(rows, factor * (end - first), factor * side)[start : start + bottom - top, :width]


def _is_ragged(logits: FloatArray) -> bool:
    """Whether the outline is so long that OpenCV does the whole image faster than we do what lies along it."""
    positive = logits > THRESHOLD
    crossings = int(np.count_nonzero(positive[:, 1:] != positive[:, :-1]))
    return crossings > _CROSSINGS * max(1, int(np.count_nonzero(positive.any(axis=1))))


def _values(window: _Window, frame: Frame) -> Iterator[tuple[slice, FloatArray]]:
    """The logits in the image's size within a window, some rows at a time: few, whatever the image's size."""
    source, down, across = window
    wide = _stretch(source, source.shape[0], frame.width)[:, across.start : across.stop]
    steps = np.diff(wide, axis=0, append=wide[-1:])
    low = down.low - down.low[0]
    for start in range(0, low.size, _ROWS_AT_ONCE):
        block = slice(start, min(start + _ROWS_AT_ONCE, low.size))
        values = steps[low[block]]
        values *= down.weight[block, None]
        values += wide[low[block]]
        yield slice(down.start + block.start, down.start + block.stop), values


def _stretch(source: FloatArray, height: int, width: int) -> FloatArray:
    """Bilinear, pixel centres half a pixel in, no antialiasing; nothing where the size is right already."""
    if source.shape == (height, width):
        return source
    return np.asarray(cv2.resize(source, (width, height), interpolation=cv2.INTER_LINEAR), np.float32).reshape(
        height, width
    )


def _interpolate_rows(wide: FloatArray, down: _Taps, target: NDArray[np.bool_]) -> None:
    """Interpolate down the rows and compare: ``upper + share · (lower - upper) > 0``.

    Some rows at a time, and of these only the columns in which the sign changes: a mean of positive values is positive.
    So the cost is that of the object's outline.
    """
    low = down.low - down.low[0]
    for start in range(0, low.size, _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        rows = low[block] - low[start]
        used = wide[low[start] : low[start] + rows[-1] + 2]
        inside = used.min(axis=0) > THRESHOLD
        target[block] = inside
        mixed = np.flatnonzero((used.max(axis=0) > THRESHOLD) & ~inside)
        part = used[:, mixed]
        change = np.diff(part, axis=0, append=part[-1:])[rows]
        change *= -down.weight[block, None]
        target[block, mixed] = part[rows] > change


def _taps(source: int, length: int, first: int, last: int, factor: int) -> _Taps:
    """Bilinear taps from ``source`` to ``length`` pixels, where a positive low-res logit (``first``..``last``) reaches.

    The arithmetic is float32 like the reference's (``align_corners`` false): a pixel's centre is half a pixel in.
    """
    scale = np.float32(source / length)
    place = np.maximum(scale * (np.arange(length, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), np.float32(0))
    low = np.minimum(np.floor(place).astype(np.intp), source - 1)
    high = np.minimum(low + 1, source - 1)
    weight = (place - low).astype(np.float32)
    # One low-res logit reaches one low-res pixel further to either side: ``factor`` pixels of the source, and its own.
    reached = np.flatnonzero((high >= factor * (first - 1)) & (low < factor * (last + 2)))
    if reached.size == 0:
        return _Taps(0, low[:0], high[:0], weight[:0])
    span = slice(int(reached[0]), int(reached[-1]) + 1)
    return _Taps(int(reached[0]), low[span], high[span], weight[span])


def order(logits: FloatArray, scores: FloatArray, prompt: Prompt, family: Family) -> list[int]:
    """Which of a decoder's four candidates are returned, the best one first.

    Candidate 0 is the one for prompts that mean one thing; 1, 2 and 3 are an ambiguous prompt's readings.

    - Several masks wanted: 1, 2, 3 by falling score; at equal scores the lower index first.
    - One mask wanted, SAM 1: a lone click means several things, so the best-scored of 1, 2, 3; for everything else 0.
      (``segment_anything/utils/onnx.py`` counts tokens to that end, and so takes a box without points for a lone
      click; ``predictor.py`` and the paper do not, nor do we.)
    - One mask wanted, SAM 2 and 3 and EfficientTAM: 0 if it is stable, else the best-scored of 1, 2, 3
      (``mask_decoder.py`` and ``build_sam.py`` of sam2).

    Args:
        logits: ``float32 [4, 256, 256]``.
        scores: ``float32 [4]``.
        prompt: what was asked.
        family: whose rule.
    """
    ambiguous = [int(i) + 1 for i in np.argsort(-scores[1:], kind="stable")]
    if prompt.multimask:
        return ambiguous
    if family.decides_as_sam2:
        return [0] if is_stable(logits[0]) else ambiguous[:1]
    return ambiguous[:1] if _is_lone_click(prompt) else [0]


def needed(prompt: Prompt, family: Family) -> tuple[tuple[int, ...], bool]:
    """What ``order`` must be shown of a decoder's four candidates, so that no more need travel.

    Returns:
        Their indices (none: all four), and whether the best-scored one of them is enough.
    """
    if family is Family.EFFICIENT_SAM:
        return (), False  # it has three candidates, all of them readings of an ambiguous prompt
    if prompt.multimask:
        return (1, 2, 3), False
    if family.decides_as_sam2:
        return (), False
    return ((1, 2, 3), True) if _is_lone_click(prompt) else ((0,), False)


def _is_lone_click(prompt: Prompt) -> bool:
    return len(prompt.points) == 1 and prompt.box is None and prompt.mask_input is None


def is_stable(logits: FloatArray) -> bool:
    """Whether a mask's area hardly depends on the threshold; an empty one is stable."""
    inner = int(np.count_nonzero(logits > STABILITY_DELTA))
    outer = int(np.count_nonzero(logits > -STABILITY_DELTA))
    return outer == 0 or inner / outer >= STABILITY_THRESHOLD


def prediction(logits: FloatArray, scores: FloatArray, prompt: Prompt, frame: Frame, family: Family) -> Prediction:
    """Everything from a decoder's answer to one prompt to masks.

    Args:
        logits: ``float32 [4, 256, 256]``, or ``[1, 256, 256]`` and ``[3, 256, 256]`` of graphs that choose themselves;
            288 in place of 256 of SAM 3.
        scores: as many, predicted IoU.
        prompt: what was asked.
        frame: how the square lies over the image.
        family: whose rules.
    """
    if len(scores) == 4:
        chosen = order(logits, scores, prompt, family)
    else:
        chosen = [int(i) for i in np.argsort(-scores, kind="stable")][: 3 if prompt.multimask else 1]
    return Prediction(tuple(_mask(logits[i], float(scores[i]), frame, family) for i in chosen))


def _mask(logits: FloatArray, score: float, frame: Frame, family: Family) -> Mask:
    pixels, box = _paint(logits, frame, family)
    return Mask(pixels, unit_score(score), handed_out(logits, family), box)


def unit_score(score: float) -> float:
    """A score within 0..1: models give a little less or more now and then."""
    return min(1.0, max(0.0, score))


def handed_out(logits: FloatArray, family: Family) -> FloatArray:
    """The low-res logits of a prediction as a later prompt's ``mask_input``: ``float32 [256, 256]``, a copy."""
    small = np.array(_stretch(logits, LOW_RES, LOW_RES), np.float32)
    return np.clip(small, -SAM2_CLAMP, SAM2_CLAMP, out=small) if family.decides_as_sam2 else small
