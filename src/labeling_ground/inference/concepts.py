"""What engines that find concepts share, also with a server that asks them in another process. Light on purpose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from labeling_ground.errors import BackendFailed
from labeling_ground.inference.backend import Tensors
from labeling_ground.inference.graphs import Engine, FloatArray
from labeling_ground.sam.family import Family
from labeling_ground.sam.masks import paint
from labeling_ground.types import Box, Detections, Embedding, Exemplar, Instance


@dataclass(frozen=True, slots=True)
class Detected:
    """What a detector says to one concept, of the queries that score enough, best first.

    Attributes:
        scores: ``float32 [n]``, 0..1.
        boxes: ``float32 [n, 4]``, x0, y0, x1, y1 in shares of the image.
        logits: ``float32 [n, side, side]`` over the whole square, 288 a side.
    """

    scores: FloatArray
    boxes: FloatArray
    logits: FloatArray


class ConceptEngine(Engine, Protocol):
    """An engine that finds concepts, too. All calls block, and may come from several threads at once."""

    def trunk(self, pixels: NDArray[np.uint8]) -> FloatArray:
        """RGB ``uint8 [height, width, 3]`` → the trunk, ``float32 [1, places, width]``."""
        ...

    def embed(self, trunk: Embedding) -> Mapping[str, FloatArray]:
        """The trunk → what clicks are decoded with."""
        ...

    def text(self, phrase: str) -> FloatArray:
        """A phrase → ``float32 [tokens, 256]``. Raises ``BadPrompt``: it is longer than the model reads."""
        ...

    def exemplars(self, trunk: Embedding, exemplars: Sequence[Exemplar]) -> FloatArray:
        """n exemplars → ``float32 [n + 1, 256]``."""
        ...

    def detect(
        self, trunk: Embedding, text: NDArray[Any] | None, exemplars: NDArray[Any] | None, *, least: float
    ) -> Detected:
        """What the results of ``text`` and ``exemplars`` stand for, of at least this score; one of the two may be
        missing."""
        ...


def tensor_of(tensors: Tensors | None, name: str) -> FloatArray | None:
    """A phrase's or exemplars' tensor, in ``float32``; ``None`` where there are none.

    Raises:
        BackendFailed: they are another model's.
    """
    if tensors is None:
        return None
    if name not in tensors:
        raise BackendFailed(f"The tensors are not this model's: there is no {name}.")
    return np.asarray(tensors[name], np.float32)


def detections(found: Detected, height: int, width: int) -> Detections:
    """What was found, on an image of this many rows and columns."""
    size = np.array([width, height] * 2, np.float32)
    boxes = (found.boxes.clip(0, 1) * size).astype(float)
    return Detections(
        tuple(
            Instance(float(score), Box(*box), partial(_draw, logits, height, width))
            for score, box, logits in zip(found.scores, boxes.tolist(), found.logits, strict=True)
        )
    )


def _draw(logits: FloatArray, height: int, width: int) -> NDArray[np.bool_]:
    """An instance's mask. Unlike a click's, it is its probability that is interpolated, so that is done here too."""
    odds = 1 / (1 + np.exp(-logits)) - 0.5
    return paint(odds.astype(np.float32), Family.SAM3.frame(height, width), Family.SAM3)
