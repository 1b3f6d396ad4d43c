"""Concepts on known images: trunks, embeddings made from trunks, and all instances of what a concept means."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from labeling_ground import key as keys
from labeling_ground.codec import records
from labeling_ground.codec.mask import area, bbox, to_rle
from labeling_ground.codec.records import CachedDetections, CachedMask, FoundInstance
from labeling_ground.errors import BackendFailed
from labeling_ground.inference.backend import ConceptBackend, DetectAsk, ExemplarsAsk, Tensors
from labeling_ground.sam.masks import unit_score
from labeling_ground.service.asks import Ask, Timing, check_box, clipped
from labeling_ground.service.batching import Computed, Place, Work
from labeling_ground.service.counters import Accesses
from labeling_ground.service.images import Embeddings, outcome_after
from labeling_ground.service.models import ServedModel, check_embedding, check_numbers
from labeling_ground.service.once import Attempt, Made
from labeling_ground.service.presence import Presence
from labeling_ground.service.queues import FairQueue
from labeling_ground.types import Concept, Detections, Embedding, Entry, Exemplar, Image, Kind, ModelVersion, Outcome


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
    check_numbers(tensors, "model")


def _check_scores(found: Detections) -> None:
    scores = np.asarray([one.score for one in found.instances], np.float64)
    boxes = np.asarray([(one.box.x0, one.box.y0, one.box.x1, one.box.y1) for one in found.instances], np.float64)
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
        raise BackendFailed("The detector's answer holds values that are no numbers.")
    if (np.diff(scores) > 0).any():
        raise BackendFailed("The detector's instances are not sorted from best to worst.")


class Trunks(Embeddings):
    """Gets an image's trunk, as ``Embeddings`` gets an embedding.

    Args:
        *parts: those of ``Embeddings``.
        detector: the rest of the model.
        accesses: where trunks that were computed are noted.
        **options: those of ``Embeddings``.
    """

    kind = Kind.TRUNK

    def __init__(self, *parts: Any, detector: Detector, accesses: Accesses, **options: Any) -> None:
        super().__init__(*parts, **options)
        self.detector = detector
        self._accesses = accesses

    def key(self, ask: Ask) -> str:
        """Key of the image's trunk."""
        return ask.trunk

    async def _encode(self, place: Place, ask: Ask, file: bytes, purge_count: int, outcome: Outcome) -> Made:
        made = await super()._encode(place, ask, file, purge_count, outcome)
        self._accesses.computed(ask, made)
        return made

    async def _compute(self, place: Place, version: ModelVersion, image: Image) -> Computed[Embedding]:
        return await self.detector.trunk(place, version, image)


class TrunkEmbeddings(Embeddings):
    """Gets an image's embedding where that is made from its trunk: so a click after a phrase encodes no image.

    Args:
        *parts: those of ``Embeddings``.
        trunks: gets the trunks; it shares its table of arriving files.
        **options: those of ``Embeddings``.
    """

    def __init__(self, *parts: Any, trunks: Trunks, **options: Any) -> None:
        super().__init__(*parts, **options)
        self.arriving = trunks.arriving
        self._trunks = trunks
        self._detector = trunks.detector

    async def store_file(self, ask: Ask, file: bytes, embedded: Entry, purge_count: int) -> None:
        """Store the file of an image that is encoded: before the answer, if a concept needs it for the trunk."""
        if self._store.peek(ask.trunk) is None:
            await self._files.store(ask, file, embedded, purge_count)
        else:
            await super().store_file(ask, file, embedded, purge_count)

    async def _make(self, ask: Ask, patient: bool, attempt: Attempt) -> Made:
        await attempt.wait()
        trunk = await self._trunks.get(ask, patient=patient)
        attempt.start()
        facts = records.open_facts(trunk.entry, ask.trunk)
        opened = records.open_embedding(trunk.entry, ask.trunk)

        async def embed(place: Place) -> Made:
            computed = await self._detector.embed(place, ask.version, opened)
            place.free()
            about: dict[str, Any] = {"cost": computed.seconds, "created": self.wall_clock()}
            about |= {"precision": self.precision, "note": facts.note, "use_preview": facts.use_preview}
            seal = partial(records.seal_embedding, ask.embedding, computed.value, **about)
            entry = await self.pools.values.run(seal)
            attempt.store(entry, source_purge_count=trunk.source_purge_count)
            timing = Timing(encode=(trunk.timing.encode or 0.0) + computed.seconds)
            source_purge_count = min(attempt.purge_count, trunk.source_purge_count)
            return Made(entry, outcome_after(trunk), timing, trunk.companion_bytes, source_purge_count)

        # Where the image has just had its turn with the encoder, it was taken on, and is not turned away half-way.
        patient = patient or trunk.outcome is not Outcome.HIT
        async with self._detector.queue.slot(ask.keys.tenant, patient=patient) as place:
            attempt.commit()
            return await place.call(partial(embed, place))


@dataclass(frozen=True, slots=True)
class ConceptAnswer:
    """What one concept came to: everything that was found, whatever its score.

    ``detections_id`` names it, as a prediction's id does, for a mask input that is one of its instances.
    """

    found: CachedDetections
    detections_id: str
    outcome: Outcome
    version: ModelVersion
    timing: Timing
    model_note: str = ""


class Concepts:
    """Answers concepts on known images. Each is an entry, and so are the trunk and all tensors in between.

    Args:
        trunks: gets the images' trunks; what is found in them is stored as they are.
        accesses: where asks are noted.
        presence: who works on which image.
    """

    def __init__(self, trunks: Trunks, accesses: Accesses, presence: Presence) -> None:
        self.detector = trunks.detector
        self._trunks = trunks
        self._accesses = accesses
        self._presence = presence
        self._once, self._pools = trunks.once, trunks.pools

    async def find(
        self, tenant: str, image_id: str, concepts: Sequence[Concept], *, client: str | None = None
    ) -> AsyncGenerator[tuple[int, ConceptAnswer], None]:
        """Each concept's answer as it comes, with the concept's place among them. Close the generator to leave.

        Raises:
            BadPrompt: a phrase is longer than the model takes, or an exemplar is not on the image.
            UnknownImage: send it again.
            Overloaded, BackendFailed: the model does not do it now.
        """
        ask = self.detector.model.bind(tenant, image_id)
        tasks = {asyncio.ensure_future(self._answer(ask, concept)): n for n, concept in enumerate(concepts)}
        waiting = set(tasks)
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=tasks.__getitem__):
                    answer = task.result()
                    if client is not None:
                        self._presence.opened(f"{tenant}/{client}", ask.keys.group)
                    yield tasks[task], answer
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                if not task.cancelled():
                    task.exception()  # seen: the first failure is the answer, and who has left is told nothing

    async def _answer(self, ask: Ask, concept: Concept) -> ConceptAnswer:
        started = time.perf_counter()
        digest = keys.concept_digest(concept)
        key = ask.detections(digest)
        made = await self._trunks.derive(Kind.DETECTIONS, ask, key, partial(self._detect, ask, key, concept))
        self._accesses.note(Kind.DETECTIONS, ask, key, made)
        timing = made.timing.within(time.perf_counter() - started)
        found = await self._pools.values.run(records.open_detections, made.entry, key)
        return ConceptAnswer(found, digest, made.outcome, ask.version, timing, ask.model_note)

    async def _detect(self, ask: Ask, key: str, concept: Concept, trunk: Embedding, attempt: Attempt) -> Entry:
        for exemplar in concept.exemplars:
            check_box(exemplar.box, trunk.width, trunk.height)
        text = None if concept.phrase is None else await self._text(ask, concept.phrase)
        shown = None if not concept.exemplars else await self._exemplars(ask, concept.exemplars)

        async def detect(place: Place) -> Entry:
            computed = await self.detector.detect(place, ask.version, (trunk, text, shown))
            place.free()
            seal = partial(_seal, key, concept, trunk, computed, created=self._trunks.wall_clock())
            return await self._pools.grids.run(seal)

        async with self.detector.queue.slot(ask.keys.tenant) as place:
            attempt.commit()
            return await place.call(partial(detect, place))

    async def _text(self, ask: Ask, phrase: str) -> Tensors:
        key = keys.text_key(ask.keys.tenant, ask.version, phrase)

        async def make(attempt: Attempt) -> Made:
            await attempt.wait()
            attempt.start()
            compute = partial(self.detector.text, version=ask.version, phrase=phrase)
            entry = await self._tensors(Kind.TEXT, key, ask, compute, attempt)
            attempt.store(entry)
            return Made(entry, Outcome.MISS)

        made = await self._once.get(Kind.TEXT, key, make)
        return records.open_tensors(made.entry, key)

    async def _exemplars(self, ask: Ask, exemplars: tuple[Exemplar, ...]) -> Tensors:
        key = ask.keys.exemplars(ask.version, exemplars)

        async def make(trunk: Embedding, attempt: Attempt) -> Entry:
            on_image = tuple(Exemplar(clipped(one.box, trunk.width, trunk.height), one.positive) for one in exemplars)
            compute = partial(self.detector.exemplars, version=ask.version, ask=(trunk, on_image))
            return await self._tensors(Kind.EXEMPLARS, key, ask, compute, attempt)

        made = await self._trunks.derive(Kind.EXEMPLARS, ask, key, make)
        return records.open_tensors(made.entry, key)

    async def _tensors(
        self,
        kind: Kind,
        key: str,
        ask: Ask,
        compute: Callable[[Place], Awaitable[Computed[Tensors]]],
        attempt: Attempt,
    ) -> Entry:
        async def work(place: Place) -> Entry:
            computed = await compute(place)
            place.free()
            facts = {"cost": computed.seconds, "created": self._trunks.wall_clock()}
            seal = partial(records.seal_tensors, key, kind, computed.value, precision=self._trunks.precision, **facts)
            return await self._pools.values.run(seal)

        async with self.detector.queue.slot(ask.keys.tenant) as place:
            attempt.commit()
            return await place.call(partial(work, place))


def _seal(key: str, concept: Concept, trunk: Embedding, computed: Computed[Detections], *, created: float) -> Entry:
    """Paint the instances, one after the other, and seal them; those without a pixel are left out. Blocking.

    Raises:
        BackendFailed: a mask is none.
    """
    started = time.perf_counter()
    instances = []
    for one in computed.value.instances:
        pixels = one.draw()
        if pixels.shape != (trunk.height, trunk.width) or pixels.dtype != np.bool_:
            raise BackendFailed("The detector's mask does not have the image's size, or is none.")
        box = bbox(pixels)
        if box[2]:
            mask = CachedMask(to_rle(pixels, box)["counts"], unit_score(one.score), area(pixels, box), box)
            instances.append(FoundInstance(mask, clipped(one.box, trunk.width, trunk.height)))
    found = CachedDetections(trunk.height, trunk.width, concept, tuple(instances))
    cost = computed.seconds + time.perf_counter() - started
    return records.seal_detections(key, found, cost=cost, created=created)
