"""What the comparisons with the reference implementations share: images, prompts of every kind, and what is equal."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.sam.references import TOLERANCE

from labeling_ground.types import Box, Mask, Point, Prompt

SIZES = [(601, 801), (37, 1)]
"""Height and width: a photograph, and the narrowest image."""


MASK = np.random.default_rng(3).normal(0, 6, (16, 16)).repeat(16, 0).repeat(16, 1).astype(np.float32)


def photo(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height * 10_000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def prompts(height: int, width: int) -> dict[str, Prompt]:
    """Every kind of prompt, at the image's edges too."""
    right, bottom = width - 1, height - 1
    corner, middle = Point(right, bottom, 1), Point(width / 2, height / 2, 1)
    box = Box(width * 0.1, height * 0.2, width * 0.8, height * 0.9)
    return {
        "a click": Prompt((middle,)),
        "a click at the origin": Prompt((Point(0, 0, 1),)),
        "a click at the far corner": Prompt((corner,)),
        "two clicks": Prompt((middle, Point(0, bottom, 0))),
        "two clicks, one mask": Prompt((middle, Point(0, bottom, 0)), multimask=False),
        "a box, one mask": Prompt((), box, multimask=False),
        "the whole image as a box": Prompt((), Box(0, 0, width, height)),
        "a box and clicks": Prompt((middle, Point(0, 0, 0)), box),
        "a click and a mask": Prompt((middle,), None, MASK),
        "a box and a mask, one mask": Prompt((), box, MASK, multimask=False),
        "everything": Prompt((middle, corner), box, MASK),
        "twenty clicks": Prompt(tuple(Point(width * i / 20, height * i / 20, i % 2) for i in range(20))),
    }


def ask_reference(predictor: Any, prompt: Prompt) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Full-size logits, scores and low-res logits, as the reference gives them."""
    given: dict[str, Any] = {"multimask_output": prompt.multimask, "return_logits": True}
    if prompt.points:
        given["point_coords"] = np.array([[p.x, p.y] for p in prompt.points])
        given["point_labels"] = np.array([p.label for p in prompt.points])
    if prompt.box is not None:
        given["box"] = np.array([prompt.box.x0, prompt.box.y0, prompt.box.x1, prompt.box.y1])
    if prompt.mask_input is not None:
        given["mask_input"] = prompt.mask_input[None]
    full, scores, low = predictor.predict(**given)
    best_first = np.argsort(-scores, kind="stable")
    return full[best_first], scores[best_first], low[best_first]


def check(mask: Mask, full: NDArray[Any], score: float, low: NDArray[Any]) -> None:
    assert np.abs(mask.logits - low).max() < TOLERANCE
    assert mask.score == pytest.approx(min(1, max(0, score)), abs=TOLERANCE)
    wrong = mask.pixels != (full > 0)
    assert np.abs(full[wrong]).max(initial=0) < TOLERANCE
