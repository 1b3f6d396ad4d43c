"""A prompt, laid over the superpixels."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from labeling_ground.inference.classical.features import FloatArray
from labeling_ground.inference.classical.regions import BoolArray
from labeling_ground.inference.classical.scene import Scene, shrink
from labeling_ground.types import Prompt

CLOSE = 0.33
"""A click this near to a superpixel's border, in sides of a superpixel, may be about the border only."""

Rectangle = tuple[float, float, float, float]
"""x0, y0, x1, y1 in work pixels."""


@dataclass(frozen=True, slots=True)
class Seeds:
    """What the annotator said, in the decoder's terms.

    Attributes:
        positive: superpixels with a positive click, rising.
        negative: superpixels with negative clicks only, rising.
        anchors: ``float32 [m, 2]``, where the positive clicks lie, x and y in work pixels.
        box: the box, within the image.
        prior: ``bool [n]``, superpixels that the mask input covers for the most part, if it covers any.
        close: for a clicked superpixel, the other ones within a few work pixels of the click.
    """

    positive: NDArray[np.intp]
    negative: NDArray[np.intp]
    anchors: FloatArray
    box: Rectangle | None = None
    prior: BoolArray | None = None
    close: Mapping[int, NDArray[np.intp]] = field(default_factory=dict)

    def with_leaf(self, leaf: int, label: int) -> "Seeds":
        """The same with one more click."""
        if label:
            return replace(self, positive=np.union1d(self.positive, [leaf]))
        return replace(self, negative=np.union1d(self.negative, [leaf]))

    def settled(self, x: BoolArray, leaf: int, wanted: bool) -> bool:
        """Whether a region agrees with a click, or does so close by: then the border moves by pixels, in ``paint``."""
        if bool(x[leaf]) == wanted:
            return True
        close = self.close.get(leaf)
        return close is not None and bool((x[close] == wanted).any())

    @property
    def clicks(self) -> int:
        """How many superpixels were clicked."""
        return len(self.positive) + len(self.negative)

    def wrong(self, x: BoolArray) -> tuple[FloatArray, FloatArray]:
        """For each of ``[k, n]`` regions: the share of positive clicks outside it, and of negative ones inside.

        A click that is settled close by does not count: it is about the border, and the region may be right.
        """
        shares = []
        for leaves, wanted in ((self.positive, True), (self.negative, False)):
            share = np.zeros(len(x), np.float32)
            for leaf in leaves.tolist():
                near = np.append(self.close.get(leaf, leaves[:0]), leaf)
                share += ~(x[:, near] == wanted).any(axis=1)
            shares.append(share / np.float32(max(len(leaves), 1)))
        return shares[0], shares[1]

    def spread(self, scene: Scene) -> float:
        """How far the clicks lie apart: root mean square distance from their middle, in work pixels."""
        places = scene.centre[np.concatenate([self.positive, self.negative])]
        return float(np.sqrt(((places - places.mean(axis=0)) ** 2).sum(axis=1).mean()))

    def need_box(self) -> Rectangle:
        """The box, where there must be one."""
        if self.box is None:
            raise ValueError("There is no box among these seeds.")
        return self.box


def read(scene: Scene, prompt: Prompt) -> Seeds:
    """Lay a prompt over an image's superpixels.

    A superpixel that was clicked on both ways counts as positive; ``paint`` settles such clicks to the pixel.
    """
    h, w = scene.labels.shape
    sx, sy = w / scene.width, h / scene.height

    def leaf(x: float, y: float) -> int:
        return int(scene.labels[min(max(int(y * sy), 0), h - 1), min(max(int(x * sx), 0), w - 1)])

    positive = {leaf(p.x, p.y) for p in prompt.points if p.label == 1}
    negative = {leaf(p.x, p.y) for p in prompt.points if p.label == 0} - positive
    close: dict[int, NDArray[np.intp]] = {}
    radius = round(CLOSE * scene.cell)
    for p in prompt.points:
        x, y = min(max(int(p.x * sx), 0), w - 1), min(max(int(p.y * sy), 0), h - 1)
        patch = scene.labels[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
        close[leaf(p.x, p.y)] = np.unique(patch).astype(np.intp)
    marks = [(p.x * sx, p.y * sy) for p in prompt.points if p.label == 1]
    box = None
    if prompt.box is not None:
        b = prompt.box
        x0, y0 = min(max(b.x0 * sx, 0.0), w - 0.5), min(max(b.y0 * sy, 0.0), h - 0.5)
        box = (
            x0,
            y0,
            max(min(b.x1 * sx, float(w)), x0 + 0.5),
            max(min(b.y1 * sy, float(h)), y0 + 0.5),
        )
    prior = None
    if prompt.mask_input is not None:
        inside = (shrink(prompt.mask_input, scene) > 0).ravel()
        prior = np.bincount(scene.labels.ravel(), inside, scene.size) >= 0.5 * scene.area
        prior = prior if prior.any() else None
    return Seeds(
        np.asarray(sorted(positive), np.intp),
        np.asarray(sorted(negative), np.intp),
        np.asarray(marks, np.float32).reshape(-1, 2),
        box,
        prior,
        close,
    )
