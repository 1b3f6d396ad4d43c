"""What is asked of engines elsewhere, and what counts as the same answer."""

import numpy as np

from labeling_ground.types import Box, Image, Point, Prediction, Prompt

MASK = np.random.default_rng(5).normal(size=(256, 256)).astype(np.float32)


PROMPTS = (
    Prompt((Point(100, 50, 1),)),
    Prompt((Point(100, 50, 1),), multimask=False),
    Prompt((Point(100, 50, 1), Point(3, 200, 0)), multimask=False),
    Prompt((), Box(20, 30, 250, 200)),
    Prompt((Point(100, 50, 1),), Box(20, 30, 250, 200), MASK, multimask=False),
    Prompt((), None, MASK),
    Prompt(tuple(Point(7 * i, 5 * i, i % 2) for i in range(30))),
)


def image(seed: int = 0, height: int = 211, width: int = 307) -> Image:
    return Image("0" * 64, np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def same(one: list[Prediction], other: list[Prediction]) -> None:
    for a, b in zip(one, other, strict=True):
        assert [mask.score for mask in a.masks] == [mask.score for mask in b.masks]
        for p, q in zip(a.masks, b.masks, strict=True):
            np.testing.assert_array_equal(p.pixels, q.pixels)
            np.testing.assert_array_equal(p.logits, q.logits)
