"""From a decoder's low-res logits to masks in the original image's size, and which candidates are returned.

The reference upsamples 256 → 1024, cuts the padding off and resizes to the image, bilinear both times
(``segment_anything/modeling/sam.py``, ``postprocess_masks``); SAM 2 resizes 256 → image in one step. The same is done
here, to the same pixels, with one saving: an interpolated value is a mean of its neighbours, so nothing can be positive
far from a positive logit, and only the rectangle where something can be is computed. A click on a small object of a
12-megapixel photograph then costs what the object costs.
"""

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
_ROWS_AT_ONCE = 32
"""Rows of the image that are interpolated together: few enough that they stay in a core's cache."""


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
        logits: ``float32 [256, 256]`` over the whole square.
        frame: how the square lies over the image.
        family: whose way of upsampling.

    Returns:
        ``bool [height, width]``.
    """
    mask = np.zeros((frame.height, frame.width), np.bool_)
    positive = logits > THRESHOLD
    rows, columns = np.flatnonzero(positive.any(axis=1)), np.flatnonzero(positive.any(axis=0))
    if rows.size == 0:
        return mask
    source, factor = np.ascontiguousarray(logits, np.float32), 1
    if family is Family.SAM:
        factor = frame.side // LOW_RES
        source = _stretch(source, frame.side, frame.side)[: frame.inner_height, : frame.inner_width]
    down = _taps(source.shape[0], frame.height, int(rows[0]), int(rows[-1]), factor)
    across = _taps(source.shape[1], frame.width, int(columns[0]), int(columns[-1]), factor)
    if down.low.size == 0 or across.low.size == 0:
        return mask  # what is positive lies in the padding
    rows_here, columns_here = slice(down.start, down.stop), slice(across.start, across.stop)
    target = mask[rows_here, columns_here]
    if down.low.size > frame.height // 2:
        # Most of the image: OpenCV does all of it faster than we do a part.
        np.greater(_stretch(source, frame.height, frame.width)[rows_here, columns_here], THRESHOLD, out=target)
        return mask
    used = source[down.low[0] : down.high[-1] + 1]
    wide = _stretch(used, used.shape[0], frame.width)[:, columns_here]
    if source.shape[0] == frame.height:
        np.greater(wide[: down.low.size], THRESHOLD, out=target)
    else:
        _interpolate_rows(wide, down, target)
    return mask


def _stretch(source: FloatArray, height: int, width: int) -> FloatArray:
    """Bilinear, pixel centres half a pixel in, no antialiasing; nothing where the size is right already."""
    if source.shape == (height, width):
        return source
    return np.asarray(cv2.resize(source, (width, height), interpolation=cv2.INTER_LINEAR), np.float32).reshape(
        height, width
    )


def _interpolate_rows(wide: FloatArray, down: _Taps, target: NDArray[np.bool_]) -> None:
    """Interpolate down the rows and compare: ``upper + share · (lower - upper) > 0``.

    Written so that a block stays in the core's cache and takes no fresh memory: four passes, half the time of the
    formula as it stands.
    """
    low, steps = down.low - down.low[0], np.diff(wide, axis=0, append=wide[-1:])
    upper, change = (np.empty((_ROWS_AT_ONCE, wide.shape[1]), np.float32) for _ in range(2))
    for start in range(0, low.size, _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        rows = low[block]
        some = slice(0, rows.size)
        np.take(wide, rows, axis=0, out=upper[some], mode="clip")
        np.take(steps, rows, axis=0, out=change[some], mode="clip")
        change[some] *= -down.weight[block, None]
        np.greater(upper[some], change[some], out=target[block])


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
    - One mask wanted, SAM 2: 0 if it is stable, else the best-scored of 1, 2, 3 (``mask_decoder.py`` and
      ``build_sam.py`` of sam2).

    Args:
        logits: ``float32 [4, 256, 256]``.
        scores: ``float32 [4]``.
        prompt: what was asked.
        family: whose rule.
    """
    ambiguous = [int(i) + 1 for i in np.argsort(-scores[1:], kind="stable")]
    if prompt.multimask:
        return ambiguous
    if family is Family.SAM2:
        return [0] if is_stable(logits[0]) else ambiguous[:1]
    lone = len(prompt.points) == 1 and prompt.box is None and prompt.mask_input is None
    return ambiguous[:1] if lone else [0]


def is_stable(logits: FloatArray) -> bool:
    """Whether a mask's area hardly depends on the threshold; an empty one is stable."""
    inner = int(np.count_nonzero(logits > STABILITY_DELTA))
    outer = int(np.count_nonzero(logits > -STABILITY_DELTA))
    return outer == 0 or inner / outer >= STABILITY_THRESHOLD


def prediction(logits: FloatArray, scores: FloatArray, prompt: Prompt, frame: Frame, family: Family) -> Prediction:
    """Everything from a decoder's answer to one prompt to masks.

    Args:
        logits: ``float32 [4, 256, 256]``, or ``[1, 256, 256]`` and ``[3, 256, 256]`` of graphs that choose themselves.
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
    pixels = paint(logits, frame, family)
    kept = np.clip(logits, -SAM2_CLAMP, SAM2_CLAMP) if family is Family.SAM2 else logits.copy()
    return Mask(pixels, min(1.0, max(0.0, score)), kept.astype(np.float32, copy=False))
