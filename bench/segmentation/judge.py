"""A robot annotator, and what it makes of an engine.

The first click goes where the thing is deepest (the maximum of the distance transform); each further one to the
deepest place of the largest error, on whichever side it is. The protocol is that of Sofiiuk et al. (RITM, 2021).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.segmentation.photos import Photo, Thing
from labeling_ground.inference.classical.decode import decode_prompt
from labeling_ground.inference.classical.engine import encode_image
from labeling_ground.key import canonical
from labeling_ground.types import Box, Embedding, Point, Prediction, Prompt

BoolArray = NDArray[np.bool_]

CLICKS = 5
JITTER = 0.03
"""Standard deviation of a box corner, as a share of the box's side."""


@dataclass(frozen=True, slots=True)
class Marks:
    """IoUs of one thing, and milliseconds of each decode that it took."""

    photo: str
    thing: str
    share: float
    one_top: float
    one_best: float
    three: float
    five: float
    five_kept: float
    box: float
    obeyed: float
    decode_ms: tuple[float, ...]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def judge(photo: Photo, things: Sequence[Thing] | None = None) -> tuple[list[Marks], list[float]]:
    """Put every thing of a photo to the engine.

    Args:
        photo: the photo.
        things: only these of its things.

    Returns:
        The marks, and the milliseconds of three encodes.
    """
    encode_ms: list[float] = []
    for _ in range(3):
        start = time.perf_counter()
        embedding = encode_image(photo.pixels)
        encode_ms.append((time.perf_counter() - start) * 1000)
    stored = through_cache(embedding)
    rows = photo.things if things is None else things
    return [_one(photo.name, thing, stored) for thing in rows], encode_ms


def through_cache(embedding: Embedding) -> Embedding:
    """What comes back from a cache that keeps floats in half precision."""
    tensors = {
        name: t.astype(np.float16).astype(np.float32) if np.issubdtype(t.dtype, np.floating) else t
        for name, t in embedding.tensors.items()
    }
    return Embedding(tensors, embedding.height, embedding.width)


def iou(a: BoolArray, b: BoolArray) -> float:
    """Intersection over union."""
    return float((a & b).sum() / max(int((a | b).sum()), 1))


def _one(photo: str, thing: Thing, embedding: Embedding) -> Marks:
    truth = thing.mask
    times: list[float] = []
    obeyed: list[bool] = []

    def ask(prompt: Prompt) -> Prediction:
        start = time.perf_counter()
        answer = decode_prompt(embedding, prompt)
        times.append((time.perf_counter() - start) * 1000)
        best = answer.masks[0].pixels
        obeyed.extend(bool(best[int(p.y), int(p.x)]) == (p.label == 1) for p in prompt.points)
        return answer

    first = deepest(truth)
    answer = ask(canonical([Point(*first, 1)]))
    found = [iou(m.pixels, truth) for m in answer.masks]
    plain = _clicking(ask, truth, answer.masks[0].pixels, first)
    chosen = answer.masks[int(np.argmax(found))]
    kept = _clicking(ask, truth, chosen.pixels, first, chosen.logits)
    by_box = ask(canonical(box=jittered_box(truth, photo + thing.name), multimask=False))
    return Marks(
        photo=photo,
        thing=thing.name,
        share=float(truth.mean()),
        one_top=found[0],
        one_best=max(found),
        three=plain[2],
        five=plain[-1],
        five_kept=kept[-1],
        box=iou(by_box.masks[0].pixels, truth),
        obeyed=float(np.mean(obeyed)),
        decode_ms=tuple(times),
    )


def _clicking(
    ask: Callable[[Prompt], Prediction],
    truth: BoolArray,
    mask: BoolArray,
    first: tuple[float, float],
    logits: NDArray[np.float32] | None = None,
) -> list[float]:
    """IoU after each click. With ``logits`` every answer is sent back as the mask input of the next ask."""
    points = [Point(*first, 1)]
    result = [iou(mask, truth)]
    feedback = logits is not None
    for _ in range(CLICKS - 1):
        click = click_on_error(mask, truth)
        if click is None:
            result.append(result[-1])
            continue
        points.append(click)
        best = ask(canonical(points, mask_input=logits, multimask=False)).masks[0]
        mask = best.pixels
        if feedback:
            logits = best.logits
        result.append(iou(mask, truth))
    return result


def click_on_error(mask: BoolArray, truth: BoolArray) -> Point | None:
    """The robot's next click: the deepest place of the largest error; ``None`` where there is none."""
    missed, extra = _depth(truth & ~mask), _depth(mask & ~truth)
    positive = missed.max() >= extra.max()
    depth = missed if positive else extra
    if depth.max() <= 0:
        return None
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return Point(float(x) + 0.5, float(y) + 0.5, int(positive))


def deepest(mask: BoolArray) -> tuple[float, float]:
    """The middle of the pixel of a mask that is farthest from what is not in it: x and y."""
    depth = _depth(mask)
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x) + 0.5, float(y) + 0.5


def _depth(mask: BoolArray) -> NDArray[np.float32]:
    padded = np.pad(mask.astype(np.uint8), 1)
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 5), np.float32)[1:-1, 1:-1]


def jittered_box(mask: BoolArray, seed: str) -> Box:
    """The mask's box with each side moved by a seeded normal error of 3 % of the box's size."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x0, x1, y0, y1 = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    move = np.random.default_rng(list(seed.encode())).normal(0, JITTER, 4)
    width, height = x1 - x0, y1 - y0
    sides = [x0 + move[0] * width, y0 + move[1] * height, x1 + move[2] * width, y1 + move[3] * height]
    limits = [mask.shape[1], mask.shape[0]] * 2
    return Box(*(float(np.clip(side, 0, limit)) for side, limit in zip(sides, limits, strict=True)))
