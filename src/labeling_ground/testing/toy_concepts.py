"""A backend without weights that finds concepts, for tests: a phrase names a colour, an exemplar shows one."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from labeling_ground.errors import BackendFailed, BadPrompt
from labeling_ground.inference.backend import FLOOR_SCORE, DetectAsk, ExemplarsAsk, ModelInfo, Tensors
from labeling_ground.testing.toy_backend import ToyBackend
from labeling_ground.types import Box, Detections, Embedding, Exemplar, Image, Instance, ModelVersion

TOY_CONCEPTS = ModelVersion("toy-concepts", "1" * 64)

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 50),
    "blue": (40, 60, 220),
    "yellow": (230, 210, 40),
    "white": (250, 250, 250),
    "black": (10, 10, 10),
}
"""What phrases can be: one of these words, among others or alone. A phrase without one finds nothing."""
MOST_WORDS = 32
"""Words of the longest phrase, as a tokenizer has a most."""
_REACH = 120.0
"""So far from a colour, in RGB, does a pixel have a score of 0."""


class ToyConcepts(ToyBackend):
    """Connected regions of the colour that a phrase names or that exemplars show; clicks are those of ``ToyBackend``.

    What ``ToyBackend`` says of itself holds. ``asked`` has the name of each call that reached the model.

    Args:
        version: what it says it is.
        capabilities: what it says that it takes.
        trunk_s, detect_s: seconds that one call takes, however many asks it is given.
        **options: those of ``ToyBackend``.
    """

    def __init__(
        self,
        version: ModelVersion = TOY_CONCEPTS,
        *,
        capabilities: tuple[str, ...] = ("points", "box", "mask", "text", "exemplars"),
        trunk_s: float = 0.0,
        detect_s: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(version, **options)
        self.capabilities = capabilities
        self.trunk_s, self.detect_s = trunk_s, detect_s
        self.asked: list[str] = []

    @property
    def info(self) -> ModelInfo:
        """The version and note that it has now, what it takes, and how many asks it takes together."""
        return dataclasses.replace(super().info, capabilities=self.capabilities)

    async def encode(self, images: Sequence[Image]) -> list[Embedding]:
        """The trunks' embeddings."""
        return await self.embed(await self.trunk(images))

    async def trunk(self, images: Sequence[Image]) -> list[Embedding]:
        """The pixels themselves."""
        await self._call("trunk", len(images), self.trunk_s)
        return [Embedding({"trunk": image.pixels}, image.height, image.width) for image in images]

    async def embed(self, trunks: Sequence[Embedding]) -> list[Embedding]:
        """As ``ToyBackend`` encodes."""
        self.encodes += 1
        await self._call("embed", len(trunks), self.encode_s)
        return [self._embedding(_pixels(trunk)) for trunk in trunks]

    async def texts(self, phrases: Sequence[str]) -> list[Tensors]:
        """The colours that the phrases name.

        Raises:
            BadPrompt: a phrase has too many words.
        """
        await self._call("texts", len(phrases), 0.0)
        if any(len(phrase.split()) > MOST_WORDS for phrase in phrases):
            raise BadPrompt(f"The phrase has more than the {MOST_WORDS} words that this model takes: shorten it.")
        named = [[COLOURS[word] for word in phrase.split() if word in COLOURS] for phrase in phrases]
        return [{"colours": np.asarray(colours, np.float32).reshape(-1, 3) / 3} for colours in named]

    async def exemplars(self, asks: Sequence[ExemplarsAsk]) -> list[Tensors]:
        """The mean colours in the boxes."""
        await self._call("exemplars", len(asks), 0.0)
        return [
            {
                "colours": np.stack([_mean(_pixels(trunk), one.box) for one in exemplars]) / np.float32(3),
                "positive": np.asarray([one.positive for one in exemplars], np.uint8),
            }
            for trunk, exemplars in asks
        ]

    async def detect(self, asks: Sequence[DetectAsk]) -> list[Detections]:
        """Regions nearer to a colour that is meant than to one that is not."""
        await self._call("detect", len(asks), self.detect_s)
        return [_detect(*ask) for ask in asks]

    async def _call(self, name: str, asks: int, seconds: float) -> None:
        self.asked.append(name)
        self.batches.append(asks)
        await self._work(seconds)


def create(encode_threads: int = 1, decode_threads: int = 1) -> ToyConcepts:
    """The toy as a model that a server is told of: ``labeling_ground.testing.toy_concepts:create``."""
    return ToyConcepts()


def _pixels(trunk: Embedding) -> NDArray[np.uint8]:
    if "trunk" not in trunk.tensors:
        raise BackendFailed("The trunk is not one of this model's.")
    return np.asarray(trunk.tensors["trunk"], np.uint8)


def _mean(pixels: NDArray[np.uint8], box: Box) -> NDArray[np.float32]:
    rows = slice(max(0, int(box.y0)), max(1, int(np.ceil(box.y1))))
    columns = slice(max(0, int(box.x0)), max(1, int(np.ceil(box.x1))))
    return np.asarray(pixels[rows, columns].reshape(-1, 3).mean(axis=0), np.float32)


def _detect(trunk: Embedding, text: Tensors | None, exemplars: Tensors | None) -> Detections:
    pixels = _pixels(trunk)
    meant: list[NDArray[np.float32]] = [] if text is None else [*text["colours"].astype(np.float32)]
    others: list[NDArray[np.float32]] = []
    if exemplars is not None:
        for colour, positive in zip(exemplars["colours"].astype(np.float32), exemplars["positive"], strict=True):
            (meant if positive else others).append(colour)
    near = _nearness(pixels, meant)
    near[_nearness(pixels, others) >= near] = 0.0
    _, labels = cv2.connectedComponents((near > 0).astype(np.uint8), connectivity=8)
    found = [_instance(near, labels == number) for number in range(1, int(labels.max()) + 1)]
    return Detections(tuple(sorted((one for one in found if one.score >= FLOOR_SCORE), key=lambda one: -one.score)))


def _nearness(pixels: NDArray[np.uint8], colours: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """How near each pixel is to the nearest of the colours, which were stored as a third: 0, not at all, to 1."""
    near = np.zeros(pixels.shape[:2], np.float32)
    for colour in colours:
        away = np.linalg.norm(pixels.astype(np.float32) - colour * 3, axis=2)
        near = np.maximum(near, (1 - away / _REACH).clip(0, 1)).astype(np.float32)
    return near


def _instance(near: NDArray[np.float32], mask: NDArray[np.bool_]) -> Instance:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    return Instance(float(near[mask].mean()), box, partial(np.copy, mask))


def exemplar(x0: float, y0: float, x1: float, y1: float, *, positive: bool = True) -> Exemplar:
    """An exemplar, in pixels."""
    return Exemplar(Box(x0, y0, x1, y1), positive)
