"""SAM 3 behind the port: clicks as of any Segment Anything model, and concepts."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from labeling_ground.inference.backend import FLOOR_SCORE, DetectAsk, ExemplarsAsk, Tensors
from labeling_ground.inference.concepts import detections, tensor_of
from labeling_ground.inference.sam import SamBackend, failing
from labeling_ground.inference.sam3.engine import Sam3Engine
from labeling_ground.types import Detections, Embedding, Image, ModelVersion

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
        precision: in which the engine computes.
    """

    engine: Sam3Engine

    def __init__(
        self, engine: Sam3Engine, version: ModelVersion, note: str, *, decode_threads: int, precision: str = "fp32"
    ) -> None:
        super().__init__(engine, version, note, decode_threads=decode_threads, precision=precision)
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
        found = self.engine.detect(trunk, tensor_of(text, "text"), tensor_of(exemplars, "exemplars"), least=FLOOR_SCORE)
        return detections(found, trunk.height, trunk.width)
