"""A model that is served: its backend, the queues in front of both halves, and whether these answer."""

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling_ground.errors import BackendFailed, LabelingGroundError
from labeling_ground.inference.backend import Backend, DecodeAsk
from labeling_ground.inference.sketch import Sketch, sketcher_of
from labeling_ground.service.asks import Ask, bind
from labeling_ground.service.batching import Computed, Place, Work
from labeling_ground.service.queues import FairQueue
from labeling_ground.types import Embedding, Image, ModelVersion, Prediction, Prompt


class EngineHealth:
    """Counts failed calls in a row, for each half of the model.

    Args:
        failures: failed calls in a row after which a half counts as failing, until it answers again.
    """

    def __init__(self, failures: int = 10) -> None:
        self._limit = failures
        self._queues: dict[str, FairQueue] = {}
        self._in_a_row: Counter[str] = Counter()
        self._last: dict[str, str] = {}

    def watch(self, half: str, queue: FairQueue) -> None:
        """Count the calls of a half that are late, and see whether all places of its queue hang."""
        self._queues[half] = queue
        queue.calls.on_late = partial(self._late, half)

    @contextmanager
    def call(self, half: str) -> Iterator[None]:
        """Count one call of ``encoder`` or ``decoder``, the check of its answer included.

        A call that is cancelled, turned away for want of room, or refused for its input says nothing about the half.
        """
        try:
            yield
        except Exception as error:
            if isinstance(error, BackendFailed) or not isinstance(error, LabelingGroundError):
                self._in_a_row[half] += 1
                self._last[half] = str(error) or type(error).__name__
            raise
        self._in_a_row[half] = 0

    def _late(self, half: str, sentence: str) -> None:
        self._in_a_row[half] += 1
        self._last[half] = sentence

    def failing(self) -> Mapping[str, str]:
        """The halves that are failing, each with a sentence; empty if all is well."""
        found = {half: hangs for half, queue in self._queues.items() if (hangs := queue.hangs)}
        for half, count in self._in_a_row.items():
            if count >= self._limit:
                found.setdefault(half, f"The last {count} calls failed: {self._last[half]}")
        return found

    @property
    def wants_trial(self) -> bool:
        """Whether another call may show that a failing half answers again. One that hangs has none to spare."""
        return bool(self.failing()) and not any(queue.hangs for queue in self._queues.values())


class ServedModel:
    """Encodes images and decodes prompts by the model version that an ask is bound to, and by no other.

    Args:
        backend: the model.
        encode_queue: queue in front of the encoder.
        decode_queue: queue in front of the decoder.
        health: counts the model's failures.
    """

    def __init__(
        self, backend: Backend, encode_queue: FairQueue, decode_queue: FairQueue, health: EngineHealth
    ) -> None:
        self.backend = backend
        self.sketcher = sketcher_of(backend)
        # One for each call: those that are equal are computed together.
        self._encode, self._decode = self.of_version(backend.encode), self.of_version(backend.decode)
        self._sketch = self.of_version(self.sketcher.sketch)
        self.encode_queue = encode_queue
        self.decode_queue = decode_queue
        self.health = health
        health.watch("encoder", encode_queue)
        health.watch("decoder", decode_queue)

    def bind(self, tenant: str, image_id: str) -> Ask:
        """A request on one image, to be answered by the model version that is served now."""
        return bind(tenant, image_id, self.backend.info.version, self.backend.info.note)

    def check(self, version: ModelVersion) -> None:
        """See that the backend still serves what a key was made for; one in another process may change its model.

        To be called right before the backend, with nothing awaited in between: a call keeps to the version that it
        begins with.

        Raises:
            BackendFailed: it serves another one by now.
        """
        if self.backend.info.version != version:
            raise BackendFailed("The model was changed in the middle of this request. Try again in a moment.")

    async def encode(self, place: Place, version: ModelVersion, image: Image) -> Computed[Embedding]:
        """The image's embedding by this version, checked, and its share of the call's seconds.

        Args:
            place: in the encoder's queue. Those who have it together are encoded in one call.
            version: by which the image is encoded.
            image: it.

        Raises:
            BackendFailed: the model serves another version by now, did not answer, or its answer is none.
        """
        with self.health.call("encoder"):
            computed = await place.compute(self._encode, [(version, image)])
            [embedding] = computed.value
            check_embedding(embedding, image.width, image.height)
        return Computed(embedding, computed.seconds)

    async def decode(
        self, place: Place, version: ModelVersion, embedding: Embedding, prompt: Prompt
    ) -> Computed[Prediction]:
        """The prediction for one prompt by this version, checked, and its share of the call's seconds.

        Args:
            place: in the decoder's queue. Those who have it together are decoded in one call.
            version: whose embedding it is.
            embedding: of the image.
            prompt: what is asked of it.

        Raises:
            BackendFailed: the model serves another version by now, did not answer, or its answer is none.
        """
        async with self.decode_queue.timed():
            with self.health.call("decoder"):
                computed = await place.compute(self._decode, [(version, (embedding, prompt))])
                [prediction] = computed.value
                _check_prediction(prediction, embedding.width, embedding.height)
        return Computed(prediction, computed.seconds)

    async def sketch(self, place: Place, version: ModelVersion, asks: Sequence[DecodeAsk]) -> list[list[Sketch]]:
        """The candidates for each ask by this version, not painted yet. Errors are those of ``decode``.

        Args:
            place: in the decoder's queue, of as many asks.
            version: whose embeddings these are.
            asks: pairs of an embedding and a prompt.
        """
        with self.health.call("decoder"):
            return (await place.compute(self._sketch, [(version, ask) for ask in asks])).value

    def of_version(self, call: Callable[[Sequence[Any]], Awaitable[list[Any]]]) -> Work:
        """A call of the backend that takes asks with the versions that they are bound to.

        It raises ``BackendFailed`` where one of these is not served any more.
        """

        async def work(asks: Sequence[tuple[ModelVersion, Any]]) -> list[Any]:
            for version, _ in asks:
                self.check(version)
            return await call([ask for _, ask in asks])

        return work


def check_embedding(embedding: Embedding, width: int, height: int) -> None:
    """See that an embedding, or a trunk, is of an image of this size, and made of numbers.

    Raises:
        BackendFailed: it is not.
    """
    if (embedding.width, embedding.height) != (width, height) or not embedding.tensors:
        raise BackendFailed("The encoder's answer does not belong to this image.")
    check_numbers(embedding.tensors, "encoder")


def check_numbers(tensors: Mapping[str, NDArray[Any]], maker: str) -> None:
    """See that tensors hold finite numbers; ``maker`` is who made them, for the error's sentence.

    Raises:
        BackendFailed: one does not.
    """
    for name, tensor in tensors.items():
        if np.issubdtype(tensor.dtype, np.floating) and not np.isfinite(tensor).all():
            raise BackendFailed(f"The {maker}'s answer holds values that are no numbers ({name}).")


def _check_prediction(prediction: Prediction, width: int, height: int) -> None:
    if not prediction.masks:
        raise BackendFailed("The decoder gave no mask.")
    for mask in prediction.masks:
        if mask.pixels.shape != (height, width) or mask.logits.shape != (256, 256) or mask.pixels.dtype != np.bool_:
            raise BackendFailed("The decoder's mask does not have the image's size, or is none.")
        if not (math.isfinite(mask.score) and np.isfinite(mask.logits).all()):
            raise BackendFailed("The decoder's answer holds values that are no numbers.")
