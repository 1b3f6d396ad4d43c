"""SAM 3 behind the port: clicks as of any Segment Anything model, and concepts."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from labeling_ground.errors import BackendFailed
from labeling_ground.inference.backend import FLOOR_SCORE, DetectAsk, ExemplarsAsk, Tensors
from labeling_ground.inference.graphs import FloatArray
from labeling_ground.inference.sam import SamBackend, failing
from labeling_ground.inference.sam3.engine import Sam3Engine
from labeling_ground.sam.family import Family
from labeling_ground.sam.masks import paint
from labeling_ground.types import Box, Detections, Embedding, Image, Instance, ModelVersion

A = TypeVar("A")
T = TypeVar("T")


class Sam3Backend(SamBackend):
    """A ``ConceptBackend`` over ``Sam3Engine``.

    Trunks are computed one at a time, in the thread of ``encode``. What is computed from them has a thread of its own,
    so that a phrase on an image whose trunk is there waits behind no other image.

    Args:
        engine: what computes.
        version: which model, which weights, which precision.
        note: a sentence for every answer; empty in full precision.
        decode_threads: prompts that are decoded at the same time.
    """

    engine: Sam3Engine

    def __init__(self, engine: Sam3Engine, version: ModelVersion, note: str, *, decode_threads: int) -> None:
        super().__init__(engine, version, note, decode_threads=decode_threads)
        self._concepts = ThreadPoolExecutor(1, "sam3-concepts")

    async def trunk(self, images: Sequence[Image]) -> list[Embedding]:
        """One trunk for each image, in their order: a tensor ``trunk``, ``float32 [1, 5184, 1024]``.

        Raises:
            BackendFailed: the engine failed.
        """

        def made(image: Image) -> Embedding:
            return Embedding({"trunk": self.engine.trunk(image.pixels)}, image.height, image.width)

        return await self._calls(self._encoders, "encode", made, images)

    async def embed(self, trunks: Sequence[Embedding]) -> list[Embedding]:
        """What clicks are decoded with, one for each trunk, in their order.

        Raises:
            BackendFailed: the engine failed, or a trunk is not one of this model's.
        """

        def made(trunk: Embedding) -> Embedding:
            return Embedding(self.engine.embed(trunk), trunk.height, trunk.width)

        return await self._calls(self._concepts, "embed", made, trunks)

    async def texts(self, phrases: Sequence[str]) -> list[Tensors]:
        """A tensor ``text`` of each phrase, ``float32 [tokens, 256]``, in their order.

        Raises:
            BadPrompt: a phrase has more tokens than the model reads.
            BackendFailed: the engine failed.
        """

        def made(phrase: str) -> Tensors:
            return {"text": self.engine.text(phrase)}

        return await self._calls(self._concepts, "read the phrase", made, phrases)

    async def exemplars(self, asks: Sequence[ExemplarsAsk]) -> list[Tensors]:
        """A tensor ``exemplars`` of each ask, ``float32 [exemplars + 1, 256]``, in their order.

        Raises:
            BackendFailed: the engine failed, or a trunk is not one of this model's.
        """

        def made(ask: ExemplarsAsk) -> Tensors:
            return {"exemplars": self.engine.exemplars(*ask)}

        return await self._calls(self._concepts, "read the exemplars", made, asks)

    async def detect(self, asks: Sequence[DetectAsk]) -> list[Detections]:
        """All instances that score at least ``FLOOR_SCORE``, of each ask, in their order.

        Raises:
            BackendFailed: the engine failed, or tensors are not this model's.
        """
        return await self._calls(self._concepts, "detect", self._detect, asks)

    async def aclose(self) -> None:
        """Give the threads back; what still waits in a queue is dropped."""
        await super().aclose()
        self._concepts.shutdown(wait=False, cancel_futures=True)

    async def _calls(self, pool: ThreadPoolExecutor, what: str, make: Callable[[A], T], asks: Sequence[A]) -> list[T]:
        """``make`` of each ask, in the pool's threads."""
        loop = asyncio.get_running_loop()

        def call(ask: A) -> T:
            with failing(what):
                return make(ask)

        return await asyncio.gather(*(loop.run_in_executor(pool, call, ask) for ask in asks))

    def _detect(self, ask: DetectAsk) -> Detections:
        trunk, text, exemplars = ask
        found = self.engine.detect(trunk, _tensor(text, "text"), _tensor(exemplars, "exemplars"), least=FLOOR_SCORE)
        size = np.array([trunk.width, trunk.height] * 2, np.float32)
        boxes = (found.boxes.clip(0, 1) * size).astype(float)
        return Detections(
            tuple(
                Instance(float(score), Box(*box), partial(_draw, logits, trunk.height, trunk.width))
                for score, box, logits in zip(found.scores, boxes.tolist(), found.logits, strict=True)
            )
        )


def _tensor(tensors: Tensors | None, name: str) -> NDArray[np.float32] | None:
    if tensors is None:
        return None
    if name not in tensors:
        raise BackendFailed(f"The tensors are not this model's: there is no {name}.")
    return np.asarray(tensors[name], np.float32)


def _draw(logits: FloatArray, height: int, width: int) -> NDArray[np.bool_]:
    """An instance's mask. Unlike a click's, it is its probability that is interpolated, so that is done here too."""
    odds = 1 / (1 + np.exp(-logits)) - 0.5
    return paint(odds.astype(np.float32), Family.SAM3.frame(height, width), Family.SAM3)
