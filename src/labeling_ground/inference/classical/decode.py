"""From a prompt to at most three candidates: propose, mend, vote, sharpen, paint.

A decode depends on the embedding and the prompt only. The order of clicks is not part of a prompt, so several
starting regions are each made to agree with all the clicks, and what most of them agree on goes first.
"""

from dataclasses import dataclass

import numpy as np

from labeling_ground.inference.classical import candidates, regions
from labeling_ground.inference.classical.features import FloatArray
from labeling_ground.inference.classical.paint import paint
from labeling_ground.inference.classical.regions import BoolArray
from labeling_ground.inference.classical.scene import Scene, unpack
from labeling_ground.inference.classical.seeds import Seeds, read
from labeling_ground.sam.everything import stability
from labeling_ground.types import Embedding, Prediction, Prompt

LOOKED_AT = 48
"""Starting regions that are judged in full. Many clicks propose more; those that defy most of the clicks drop out."""

TRIES = 4
"""Starting regions that are followed to the end. More cost time and bring little."""

UNLIKE = 0.75
"""Two starting regions have at most this IoU, or one of them is a waste of a try."""

DISTINCT = 0.8
"""Two candidates of an answer have at most this IoU, or the annotator could not tell them apart."""

SHARPNESS = 0.05
"""Difference in the guessed IoU that gives one region e times another's say in a vote."""


def decode_prompt(embedding: Embedding, prompt: Prompt) -> Prediction:
    """Find what a prompt means.

    Args:
        embedding: what ``engine.encode_image`` made; floats of any precision, arrays may be read-only.
        prompt: a canonical prompt for that image.

    Returns:
        Three candidates, best first, fewer where there are no three that differ; one if ``multimask`` is false.

    Raises:
        BackendFailed: the embedding is not one of this engine.
    """
    scene = unpack(embedding)
    seeds = read(scene, prompt)
    found, scores = find(scene, seeds, 3 if prompt.multimask else 1)
    return Prediction(
        tuple(paint(scene, region, prompt.points, float(score)) for region, score in zip(found, scores, strict=True))
    )


@dataclass(frozen=True, slots=True)
class RegionSketch:
    """A region that was not painted yet. Many clicks mean the same one."""

    scene: Scene
    region: BoolArray
    score: float

    @property
    def likeness(self) -> bytes:
        """The superpixels: what the mask depends on, as no click has the last word on its border here."""
        return np.packbits(self.region).tobytes()

    def draw(self, offset: float) -> tuple[BoolArray, float]:
        """The mask, ``bool [height, width]``, and its stability on the low-res logits, 0..1."""
        mask = paint(self.scene, self.region, (), self.score)
        return mask.pixels, stability(mask.logits, offset)


def sketch_prompt(embedding: Embedding, prompt: Prompt) -> list[RegionSketch]:
    """What ``decode_prompt`` finds, before it is painted.

    Raises:
        BackendFailed: the embedding is not one of this engine.
    """
    scene = unpack(embedding)
    found, scores = find(scene, read(scene, prompt), 3 if prompt.multimask else 1)
    return [RegionSketch(scene, region, float(score)) for region, score in zip(found, scores, strict=True)]


def find(scene: Scene, seeds: Seeds, wanted: int) -> tuple[BoolArray, FloatArray]:
    """The best regions for a prompt, ``bool [k, n]`` with 1 ≤ k ≤ ``wanted``, and their scores, best first."""
    start = _starts(scene, seeds)
    wrong = seeds.wrong(start)
    if len(start) > LOOKED_AT:
        least = np.sort(np.argsort(wrong[0] + wrong[1], kind="stable")[:LOOKED_AT])
        start, wrong = start[least], (wrong[0][least], wrong[1][least])
    hopes = rate(scene, start, seeds, wrong)
    tried = candidates.distinct(scene, start, hopes, TRIES, UNLIKE)
    wrong = wrong[0][tried], wrong[1][tried]
    x = candidates.mend(scene, start[tried], seeds)
    if seeds.box is None and seeds.clicks == 1 and seeds.prior is None:
        x = candidates.refine(scene, x, seeds)
        scores = rate(scene, x, seeds, wrong)
    else:
        x, scores = _with_vote(x, rate(scene, x, seeds, wrong))
        x, scores = x[:wanted], scores[:wanted]
        x = candidates.refine(scene, x, seeds)
    rows = candidates.distinct(scene, x, scores, wanted, DISTINCT)
    return x[rows], np.clip(scores[rows], 0.0, 1.0).astype(np.float32)


def rate(scene: Scene, x: BoolArray, seeds: Seeds, wrong: tuple[FloatArray, FloatArray]) -> FloatArray:
    """Guess at the IoU of regions with what was meant: ``float32 [k]``, mostly in 0..1.

    Args:
        scene: the image.
        x: ``bool [k, n]``, regions.
        seeds: the prompt.
        wrong: shares of the clicks that each region disagreed with before it was mended; see ``Seeds.wrong``.
    """
    if seeds.box is not None:
        plain = regions.box_figures(scene, x, seeds.box) @ regions.BOX
        return np.asarray(plain - 0.2 * (wrong[0] + wrong[1]), np.float32)
    if seeds.clicks > 1:
        figures = regions.set_figures(scene, x, seeds.anchors, wrong, seeds.spread(scene))
        return np.asarray(figures @ regions.SET, np.float32)
    return np.asarray(regions.figures(scene, x, seeds.anchors) @ regions.CLICK, np.float32)


def _starts(scene: Scene, seeds: Seeds) -> BoolArray:
    if seeds.prior is not None:
        return seeds.prior[None]
    if seeds.box is not None:
        return candidates.in_box(scene, seeds)
    if len(seeds.positive):
        return candidates.around(scene, seeds)
    return np.ones((1, scene.size), np.bool_)  # a mask input without anything positive in it, and no click either


def _with_vote(x: BoolArray, scores: FloatArray) -> tuple[BoolArray, FloatArray]:
    """Put what most regions agree on, each with a say by its score, before the regions themselves."""
    order = np.argsort(-scores, kind="stable")
    x, scores = x[order], scores[order]
    say = np.exp((scores - scores[0]) / SHARPNESS)
    vote = say @ x > 0.5 * say.sum()
    if len(x) < 3 or not vote.any():
        return x, scores
    return np.concatenate([vote[None], x]), np.concatenate([scores[:1], scores])
