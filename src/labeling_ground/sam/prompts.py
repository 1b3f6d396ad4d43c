"""From a prompt to what a decoder reads.

The rules are those of ``segment_anything/modeling/prompt_encoder.py`` and ``predictor.py``, of
``sam2/sam2_image_predictor.py``, and of EfficientSAM's ``efficient_sam_decoder.py``: positive points are 1, negative
ones 0, a box is its two corners as 2 and 3, and -1 is padding. «No mask» is ``has_mask_input`` 0, and nothing else:
graphs blend with that number.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from labeling_ground.errors import BadPrompt
from labeling_ground.sam.family import Family
from labeling_ground.sam.geometry import LOW_RES, Frame
from labeling_ground.types import Prompt

_CORNERS = (2.0, 3.0)
PADDING = -1.0
"""The label of the padding point."""
_PADDING = (0.0, 0.0, PADDING)

EFFICIENT_SAM_TOKENS = 6
"""EfficientSAM's decoder takes this many points and corners; further ones it would leave out without a word."""

MASK_LOGIT = 10.0
"""Where a mask that is given as pixels is sure. SAM 2 scales the masks that it is given to the same ±10."""

_NO_MASK = np.zeros((1, 1, LOW_RES, LOW_RES), np.float32)
_NO_MASK.flags.writeable = False


@dataclass(frozen=True, slots=True)
class PromptTensors:
    """One prompt, ready for a decoder. A batch dimension of 1 leads each tensor.

    Attributes:
        point_coords: ``float32 [1, tokens, 2]``, x and y in the square's pixels.
        point_labels: ``float32 [1, tokens]``.
        mask_input: ``float32 [1, 1, 256, 256]``, zeros where there is none.
        has_mask_input: ``float32 [1]``, 0 or 1.
    """

    point_coords: NDArray[np.float32]
    point_labels: NDArray[np.float32]
    mask_input: NDArray[np.float32]
    has_mask_input: NDArray[np.float32]

    @property
    def tokens(self) -> int:
        """Points, corners and padding together."""
        return int(self.point_labels.shape[1])


def tensors(prompt: Prompt, frame: Frame, family: Family) -> PromptTensors:
    """Write a prompt as tensors.

    SAM 1 and SAM-HQ: points, then corners; a padding point only where there are points and no box. SAM 2 and 3:
    corners, then points, and a padding point with either. A prompt of nothing but a mask input has no token at all, in
    all of these.
    EfficientSAM: points and corners, and what is missing to six is padded in the graph; it has no mask input.

    Raises:
        BadPrompt: neither points, nor a box, nor a mask input; or more than the family's models can read.
    """
    if not prompt.points and prompt.box is None and prompt.mask_input is None:
        raise BadPrompt("The prompt is empty: give at least one point with label 1, a box, or a mask_input.")
    points = [(*frame.place(p.x, p.y), float(p.label)) for p in prompt.points]
    box = prompt.box
    corners = (
        []
        if box is None
        else [
            (*frame.place(box.x0, box.y0), _CORNERS[0]),
            (*frame.place(box.x1, box.y1), _CORNERS[1]),
        ]
    )
    rows = points + corners if family.reads_as_sam else corners + points
    if family is Family.EFFICIENT_SAM:
        _check_efficient_sam(prompt, len(rows))
    elif rows and (family.decides_as_sam2 or not corners):
        rows.append(_PADDING)
    table = np.asarray(rows, np.float64).reshape(1, -1, 3)
    return as_tensors(
        np.ascontiguousarray(table[:, :, :2], np.float32),
        np.ascontiguousarray(table[:, :, 2], np.float32),
        None if prompt.mask_input is None else _as_mask_input(prompt.mask_input),
    )


def as_tensors(
    point_coords: NDArray[np.float32], point_labels: NDArray[np.float32], mask_input: NDArray[np.float32] | None
) -> PromptTensors:
    """The four tensors from the three that say something; shapes as in ``PromptTensors``."""
    given = mask_input is not None
    return PromptTensors(
        point_coords,
        point_labels,
        mask_input=_NO_MASK if mask_input is None else mask_input,
        has_mask_input=np.array([1.0 if given else 0.0], np.float32),
    )


def stacked(prompts: Sequence[PromptTensors]) -> PromptTensors:
    """Prompts of one shape (as many tokens, all with a mask input or none) as one; its leading dimension is their
    number."""
    parts = ("point_coords", "point_labels", "mask_input", "has_mask_input")
    return PromptTensors(*(np.concatenate([getattr(prompt, part) for prompt in prompts]) for part in parts))


def low_res_logits(mask: NDArray[np.bool_], frame: Frame) -> NDArray[np.float32]:
    """A mask in the image's pixels as a mask input: low-res logits ``float32 [256, 256]`` over the frame's square.

    Each value says how much of its place the mask covers: ``MASK_LOGIT`` where it covers all, the negative where it
    covers nothing, as in the padding, and 0 where it covers half.

    Args:
        mask: ``bool [height, width]``, of the image's size.
        frame: the square over an image of that size.
    """
    rows, columns = (max(1, round(length * LOW_RES / frame.side)) for length in (frame.inner_height, frame.inner_width))
    values = mask.view(np.uint8) * np.uint8(255)
    covered = cv2.resize(values, (columns, rows), interpolation=cv2.INTER_AREA).reshape(rows, columns) / np.float32(255)
    logits = np.full((LOW_RES, LOW_RES), -MASK_LOGIT, np.float32)
    logits[:rows, :columns] = (2.0 * covered - 1.0) * MASK_LOGIT
    return logits


def _check_efficient_sam(prompt: Prompt, tokens: int) -> None:
    if prompt.mask_input is not None:
        raise BadPrompt("EfficientSAM has no mask_input: give points or a box alone.")
    if tokens > EFFICIENT_SAM_TOKENS:
        raise BadPrompt(
            f"EfficientSAM reads at most {EFFICIENT_SAM_TOKENS} points, and a box counts as two: this prompt has "
            f"{tokens}. Begin the object anew with fewer, or use another model for it."
        )


def _as_mask_input(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    if logits.shape != (LOW_RES, LOW_RES):
        raise BadPrompt("mask_input must hold 256 × 256 low-res logits.")
    return np.ascontiguousarray(logits, np.float32)[None, None]
