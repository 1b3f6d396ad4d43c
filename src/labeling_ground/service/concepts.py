"""Concepts on known images: all instances of what a phrase names, or of what is like the exemplars."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from labeling_ground import key as keys
from labeling_ground.codec import records
from labeling_ground.codec.mask import area, bbox, to_rle
from labeling_ground.codec.records import CachedDetections, CachedMask, FoundInstance
from labeling_ground.errors import BackendFailed
from labeling_ground.inference.backend import Tensors
from labeling_ground.service.asks import Ask, Timing, check_box, clipped
from labeling_ground.service.batching import Computed, Place
from labeling_ground.service.counters import Accesses
from labeling_ground.service.once import Attempt, Made
from labeling_ground.service.presence import Presence
from labeling_ground.service.trunks import Trunks
from labeling_ground.types import Concept, Detections, Embedding, Entry, Exemplar, Kind, ModelVersion, Outcome


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
            mask = CachedMask(to_rle(pixels, box)["counts"], min(1.0, max(0.0, one.score)), area(pixels, box), box)
            instances.append(FoundInstance(mask, clipped(one.box, trunk.width, trunk.height)))
    found = CachedDetections(trunk.height, trunk.width, concept, tuple(instances))
    cost = computed.seconds + time.perf_counter() - started
    return records.seal_detections(key, found, cost=cost, created=created)
