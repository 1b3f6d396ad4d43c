"""The parts of a model that finds concepts, behind the version that an ask is bound to: trunk, text, instances."""

from collections.abc import Callable
from typing import Any

import numpy as np

from labeling_ground.errors import BackendFailed
from labeling_ground.inference.backend import ConceptBackend, DetectAsk, ExemplarsAsk, Tensors
from labeling_ground.service.batching import Computed, Place, Work
from labeling_ground.service.models import ServedModel, check_embedding
from labeling_ground.service.queues import FairQueue
from labeling_ground.types import Detections, Embedding, Image, ModelVersion


class Detector:
    """Computes what a model makes of images, phrases and exemplars, each checked, with its share of the seconds.

    Every method raises ``BackendFailed`` where the model serves another version by now, did not answer, or its answer
    is none; ``texts`` also ``BadPrompt``.

    Args:
        backend: the model.
        model: the same as one that is clicked on.
        queue: in front of all that is computed from trunks, and of phrases; clicks do not wait behind it. One with a
            single place where there is none.
    """

    def __init__(self, backend: ConceptBackend, model: ServedModel, queue: FairQueue | None) -> None:
        self.queue = queue or FairQueue("detector", 1, 64)
        self.model = model
        # One for each call, as what is equal is computed together.
        self._trunk, self._embed = model.of_version(backend.trunk), model.of_version(backend.embed)
        self._texts, self._exemplars = model.of_version(backend.texts), model.of_version(backend.exemplars)
        self._detect = model.of_version(backend.detect)
        model.health.watch("detector", self.queue)

    async def trunk(self, place: Place, version: ModelVersion, image: Image) -> Computed[Embedding]:
        """The image's trunk; the place is in the encoder's queue."""
        with self.model.health.call("encoder"):
            computed = await place.compute(self._trunk, [(version, image)])
            [trunk] = computed.value
            check_embedding(trunk, image.width, image.height)
        return Computed(trunk, computed.seconds)

    async def embed(self, place: Place, version: ModelVersion, trunk: Embedding) -> Computed[Embedding]:
        """The embedding that prompts are decoded with."""

        def check(embedding: Embedding) -> None:
            check_embedding(embedding, trunk.width, trunk.height)

        return await self._one(place, self._embed, version, trunk, check)

    async def text(self, place: Place, version: ModelVersion, phrase: str) -> Computed[Tensors]:
        """The tensors of a canonical phrase."""
        return await self._one(place, self._texts, version, phrase, _check_tensors)

    async def exemplars(self, place: Place, version: ModelVersion, ask: ExemplarsAsk) -> Computed[Tensors]:
        """The tensors of exemplars on an image."""
        return await self._one(place, self._exemplars, version, ask, _check_tensors)

    async def detect(self, place: Place, version: ModelVersion, ask: DetectAsk) -> Computed[Detections]:
        """All instances above the floor score."""
        return await self._one(place, self._detect, version, ask, _check_scores)

    async def _one(
        self, place: Place, work: Work, version: ModelVersion, ask: Any, check: Callable[[Any], None]
    ) -> Computed[Any]:
        async with self.queue.timed():
            with self.model.health.call("detector"):
                computed = await place.compute(work, [(version, ask)])
                [value] = computed.value
                check(value)
        return Computed(value, computed.seconds)


def _check_tensors(tensors: Tensors) -> None:
    if not tensors:
        raise BackendFailed("The model gave nothing for the phrase, or for the exemplars.")
    for name, tensor in tensors.items():
        if np.issubdtype(tensor.dtype, np.floating) and not np.isfinite(tensor).all():
            raise BackendFailed(f"The model's answer holds values that are no numbers ({name}).")


def _check_scores(found: Detections) -> None:
    scores = np.asarray([one.score for one in found.instances], np.float64)
    boxes = np.asarray([(one.box.x0, one.box.y0, one.box.x1, one.box.y1) for one in found.instances], np.float64)
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
        raise BackendFailed("The detector's answer holds values that are no numbers.")
    if (np.diff(scores) > 0).any():
        raise BackendFailed("The detector's instances are not sorted from best to worst.")
