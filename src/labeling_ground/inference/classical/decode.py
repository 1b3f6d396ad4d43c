"""From a prompt to nested candidates."""

import numpy as np

from labeling_ground.inference.classical import candidates, regions
from labeling_ground.inference.classical.features import FloatArray
from labeling_ground.inference.classical.paint import paint
from labeling_ground.inference.classical.regions import BoolArray
from labeling_ground.inference.classical.scene import Scene, unpack
from labeling_ground.inference.classical.seeds import Seeds, read
from labeling_ground.types import Embedding, Prediction, Prompt

TRIES = 5


def decode_prompt(embedding: Embedding, prompt: Prompt) -> Prediction:
    """Find what a prompt means."""
    scene = unpack(embedding)
    seeds = read(scene, prompt)
    found, scores = find(scene, seeds, 3 if prompt.multimask else 1)
    return Prediction(tuple(paint(scene, x, prompt.points, float(s)) for x, s in zip(found, scores, strict=True)))


def find(scene: Scene, seeds: Seeds, wanted: int) -> tuple[BoolArray, FloatArray]:
    """The best regions for a prompt and their scores, best first."""
    if seeds.prior is not None:
        start = seeds.prior[None]
    elif seeds.box is not None:
        start = candidates.in_box(scene, seeds)
    else:
        start = candidates.around(scene, seeds)
    none = np.zeros(len(start), np.float32)
    rows = candidates.distinct(scene, start, rate(scene, start, seeds, none), TRIES, 0.85)
    mended = [candidates.mend(scene, start[row], seeds) for row in rows]
    x = np.stack([region for region, _ in mended])
    edits = np.asarray([count for _, count in mended], np.float32)
    x = candidates.refine(scene, x, seeds)
    x[:, seeds.negative] = False
    x[:, seeds.positive] = True
    scores = rate(scene, x, seeds, edits)
    rows = candidates.distinct(scene, x, scores, wanted, 0.9)
    return x[rows], np.clip(scores[rows], 0.0, 1.0).astype(np.float32)


def rate(scene: Scene, x: BoolArray, seeds: Seeds, edits: FloatArray) -> FloatArray:
    """Guess at the IoU of regions with what was meant."""
    if seeds.box is not None:
        missed, extra = seeds.wrong(x)
        plain = regions.box_figures(scene, x, seeds.box) @ regions.BOX
        return np.asarray(plain - 0.2 * (missed + extra) - 0.02 * edits, np.float32)
    if seeds.clicks > 1:
        figures = regions.set_figures(scene, x, seeds.anchors, seeds.wrong(x), edits)
        return np.asarray(figures @ regions.SET, np.float32)
    return np.asarray(regions.figures(scene, x, seeds.anchors) @ regions.CLICK, np.float32)
