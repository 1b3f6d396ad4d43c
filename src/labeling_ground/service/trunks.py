"""Images of a model that finds concepts: their trunks, and the embeddings that are made from trunks."""

from functools import partial
from typing import Any

from labeling_ground.codec import records
from labeling_ground.service.asks import Ask, Timing
from labeling_ground.service.batching import Computed, Place
from labeling_ground.service.counters import Accesses
from labeling_ground.service.detector import Detector
from labeling_ground.service.images import Embeddings, outcome_after
from labeling_ground.service.once import Attempt, Made
from labeling_ground.types import Embedding, Entry, Image, Kind, ModelVersion, Outcome


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
