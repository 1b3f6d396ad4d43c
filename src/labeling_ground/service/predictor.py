"""What can be asked of one model over the cache: images, masks, and purges. Start reading here."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from labeling_ground import key as keys
from labeling_ground.cache.tiered import TieredStore
from labeling_ground.codec import image as image_codec
from labeling_ground.codec import records
from labeling_ground.codec.frame import Precision
from labeling_ground.inference.backend import Backend, concepts_of
from labeling_ground.pools import Pools
from labeling_ground.service.asks import Ask, ImageAnswer, ImageState, MaskAnswer, PrefetchAnswer, PromptAsk
from labeling_ground.service.concepts import Concepts, Detector, TrunkEmbeddings, Trunks
from labeling_ground.service.counters import Accesses, Counters
from labeling_ground.service.images import Embeddings, ImageFiles
from labeling_ground.service.int8 import EmbeddingsInInt8
from labeling_ground.service.leases import SharedFlights
from labeling_ground.service.masks import Answers, Masks
from labeling_ground.service.models import EngineHealth, ServedModel
from labeling_ground.service.once import Flights, Made, Once
from labeling_ground.service.prefetches import Prefetches
from labeling_ground.service.presence import Presence
from labeling_ground.service.queues import FairQueue
from labeling_ground.supervisor import Background, Supervisor
from labeling_ground.trace.recorder import Recorder
from labeling_ground.types import Embedding, Image, Kind, Outcome


@dataclass(frozen=True, slots=True)
class PredictorOptions:
    """What an operator decides about a model's answers.

    Attributes:
        precision: how embeddings are stored.
        max_pixels: largest image.
        max_side: its longest side.
        pixels_at_once: most pixels of all images that are decoded and encoded at the same time.
        mode: ``parallel`` or ``first``.
        mask_window_s: shortest wait of a queued mask prediction for its look-up.
        embedding_window_s: the same for an embedding.
        answers_bytes: what masks that were answered lately may take of the memory, besides their entries, so that they
            need not be written anew.
        prefetch_per_client: how many images a client's prefetches can hold.
        most_bytes_ahead: how many bytes of image files all prefetches can hold that wait for the encoder.
        tenant_share: part of these bytes that one tenant's prefetches can hold; ``None``: tenants are not told apart.
    """

    precision: Precision = "fp16"
    max_pixels: int = 50_000_000
    max_side: int = image_codec.MAX_SIDE
    pixels_at_once: int = 50_000_000
    mode: str = "parallel"
    mask_window_s: float = 0.002
    embedding_window_s: float = 0.005
    answers_bytes: int = 32 << 20
    prefetch_per_client: int = 4
    most_bytes_ahead: int = 512 << 20
    tenant_share: float | None = None


class Predictor:
    """Answers every ask for an embedding or a mask, and computes nothing twice.

    Args:
        store: the tiers.
        backend: the model.
        encode_queue, decode_queue: queues in front of its halves.
        detect_queue: the same in front of what a model with concepts computes from trunks; one place if left out.
        pools: threads for blocking work; they are closed with the predictor.
        shared: what makes flights common to all processes that share a tier; without it they are this process's own.
        options: what an operator decides.
        recorder: writes down what is asked for, so that it can be replayed.
        supervisor: counts what goes wrong behind the answers; all else is counted in its metrics.
        engine_health: counts the model's failures.
        sibling: another model's predictor in this server, whose presence, files and bound of prefetches are shared.
        wall_clock: seconds since 1970.
    """

    def __init__(
        self,
        *,
        store: TieredStore,
        backend: Backend,
        encode_queue: FairQueue,
        decode_queue: FairQueue,
        detect_queue: FairQueue | None = None,
        pools: Pools,
        shared: SharedFlights | None = None,
        options: PredictorOptions = PredictorOptions(),
        recorder: Recorder | None = None,
        supervisor: Supervisor | None = None,
        engine_health: EngineHealth | None = None,
        sibling: "Predictor | None" = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.store, self.pools, self.recorder = store, pools, recorder
        self.backend, self.encode_queue, self.decode_queue = backend, encode_queue, decode_queue
        self.supervisor = supervisor or Supervisor()
        self.background = Background(self.supervisor, "after an answer")
        self.engine_health = engine_health or EngineHealth()
        self.counters = Counters(self.supervisor.metrics, backend.info.version.model)
        self.accesses = Accesses(self.counters, recorder, has_trunks=concepts_of(backend) is not None)
        per_client = options.prefetch_per_client
        self.presence: Presence = sibling.presence if sibling else Presence(self._mark_done, per_client)
        self.model = ServedModel(backend, encode_queue, decode_queue, self.engine_health)
        self.once = Once(store, self.counters, shared=shared, mode=options.mode)
        self.files: ImageFiles = (
            sibling.files
            if sibling
            else ImageFiles(
                store,
                pools,
                max_pixels=options.max_pixels,
                max_side=options.max_side,
                pixels_at_once=options.pixels_at_once,
                wall_clock=wall_clock,
            )
        )
        parts = (self.once, self.model, self.files, store, pools, self.background)
        facts: dict[str, Any] = {"precision": options.precision, "wall_clock": wall_clock}
        facts["window_s"] = options.embedding_window_s
        finder = concepts_of(backend)
        detector = None if finder is None else Detector(finder, self.model, detect_queue)
        self.queues = (encode_queue, decode_queue, *([detector.queue] if detector else []))
        trunks = None if detector is None else Trunks(*parts, detector=detector, accesses=self.accesses, **facts)
        self.embeddings = TrunkEmbeddings(*parts, trunks=trunks, **facts) if trunks else Embeddings(*parts, **facts)
        self._int8 = EmbeddingsInInt8(self.embeddings, store)
        self.concepts = Concepts(trunks, self.accesses, self.presence) if trunks else None
        waiting = (self.once, self.embeddings, self._int8, self.files, encode_queue, self.accesses, self.background)
        self.prefetches: Prefetches = Prefetches(
            *waiting,
            most_bytes=options.most_bytes_ahead,
            tenant_share=options.tenant_share,
            sibling=sibling.prefetches if sibling else None,
        )
        behind = (store, pools, self.accesses, self.background)
        self._masks = Masks(
            self.once,
            self.model,
            self.embeddings,
            self._int8,
            *behind,
            window_s=options.mask_window_s,
            answers_bytes=options.answers_bytes,
            wall_clock=wall_clock,
        )

    @property
    def flights(self) -> Flights[Made]:
        """Computations under way."""
        return self.once.flights

    async def open_image(self, tenant: str, file: bytes, image_id: str, *, client: str | None = None) -> ImageAnswer:
        """Encode an image file, whose SHA-256 is ``image_id``, unless that was done before in the tenant's namespace.

        ``client`` says who works on it now, if that is known.

        Raises:
            BadImage, TooLarge: the file cannot be used.
            Overloaded: too many images wait already.
            BackendFailed: the model did not answer.
            NoRoom: the cache keeps neither the image nor its embedding, so nothing could be asked about it.
        """
        ask = self.model.bind(tenant, image_id)
        started = time.perf_counter()
        purge_count = self.store.purges.count
        made = self._int8.at_hand(ask)
        if made is None:
            upload = await self.files.receive(file) if self.store.peek(ask.embedding) is None else None
            made = await self.embeddings.get(ask, upload)
        self.accesses.note(Kind.EMBEDDING, ask, ask.embedding, made)
        self.files.check_stored(ask, file, made, purge_count)
        self._opened(ask, client, encoded=made.outcome in (Outcome.MISS, Outcome.RECOMPUTED))
        if made.outcome is Outcome.HIT:
            await self.embeddings.store_file(ask, file, made.entry, purge_count)
        return _image_answer(ask, made, started)

    async def prefetch(self, tenant: str, file: bytes, image_id: str, *, client: str | None = None) -> PrefetchAnswer:
        """Queue an image to be encoded while nobody waits for it, unless it is encoded or queued already.

        Raises:
            BadImage, TooLarge: the file cannot be used, as far as its header tells.
            Overloaded: too many images wait already, or too many bytes of them.
        """
        ask = self.model.bind(tenant, image_id)
        found = self.store.peek(ask.embedding) or self.store.peek(ask.embedding_int8)
        if found is None:
            await self.prefetches.take_on(ask, file)
        else:
            self.accesses.note(Kind.EMBEDDING, ask, ask.embedding, Made(found, Outcome.HIT), ahead=True)
            await self.embeddings.store_file(ask, file, found, self.store.purges.count)
        if client is not None:
            self.presence.fetched_ahead(f"{tenant}/{client}", ask.keys.group)
        return PrefetchAnswer(found is None, ask.version, ask.model_note)

    async def image_state(self, tenant: str, image_id: str, *, waiting: bool = False) -> ImageState:
        """What is known of an image; ``waiting`` makes its encoding as urgent as this request, for somebody waits.

        Raises:
            UnknownImage: nothing.
        """
        ask = self.model.bind(tenant, image_id)
        if waiting:
            self.once.flights.lift(ask.embedding)
        return await self.embeddings.state(ask)

    @asynccontextmanager
    async def picture(self, tenant: str, image_id: str) -> AsyncIterator[Image]:
        """The pixels of a known image, as they are given to the model; they take memory as long as this is open.

        Raises:
            UnknownImage: the file is not kept.
        """
        async with self.embeddings.picture(self.model.bind(tenant, image_id)) as image:
            yield image

    async def embedding(self, tenant: str, image_id: str) -> tuple[Embedding, ImageAnswer]:
        """The embedding of a known image, computed again from the kept file where it was evicted.

        Raises:
            UnknownImage: neither the embedding nor the file is kept.
            Overloaded, BackendFailed: as in ``open_image``.
        """
        ask = self.model.bind(tenant, image_id)
        started = time.perf_counter()
        made = await self.embeddings.get(ask)
        self.accesses.note(Kind.EMBEDDING, ask, ask.embedding, made)
        return records.open_embedding(made.entry, ask.embedding), _image_answer(ask, made, started)

    async def masks(
        self, tenant: str, image_id: str, prompts: Sequence[PromptAsk], *, client: str | None = None
    ) -> list[MaskAnswer]:
        """Masks for one or many prompts on a known image, in the prompts' order.

        Raises:
            BadPrompt: a prompt makes no sense for this image.
            UnknownImage: send it again.
            UnknownPrediction: a mask input refers to a prediction that is not kept.
            Overloaded, BackendFailed: as in ``open_image``.
        """
        found = self.masks_at_once(tenant, image_id, prompts, client=client)
        return found if isinstance(found, list) else await found()

    def masks_at_once(
        self, tenant: str, image_id: str, prompts: Sequence[PromptAsk], *, client: str | None = None
    ) -> Answers:
        """The same; what is in memory is not waited for, which is a good part of what a cache hit costs.

        Raises:
            BadPrompt: a prompt makes no sense. All else is raised by what waits.
        """
        ask = self.model.bind(tenant, image_id)
        found = self._masks.answers(ask, prompts)
        if client is not None and not isinstance(found, list):
            return partial(self._after, found, ask, client)
        if client is not None:
            self.presence.opened(f"{tenant}/{client}", ask.keys.group)
        return found

    async def purge(self, tenant: str | None, *, image_id: str | None = None, model: str | None = None) -> int:
        """Delete one image's entries, one model's, or everything, in one namespace or in all.

        Raises:
            StoreFailed: a tier did not do it; trying again is safe.
        """
        if self.recorder is not None and model is None:
            self.recorder.purged(tenant, image_id)
        return await self.store.delete(keys.pattern(tenant, image_id, model))

    async def aclose(self) -> None:
        """Call off what nobody waits for, write what is pending, close the engine and the tiers."""
        async with AsyncExitStack() as closing:  # closes each, in reverse, also where another one fails to
            closing.callback(self.pools.close)
            if self.recorder is not None:
                closing.push_async_callback(self.recorder.aclose)
            closing.push_async_callback(self.store.aclose)
            if self.once.shared is not None:
                closing.push_async_callback(self.once.shared.aclose)
            closing.push_async_callback(self.unload)

    @property
    def is_working(self) -> bool:
        """Whether something is being computed, or done behind an answer."""
        return bool(len(self.flights) or len(self.background) or any(queue.running for queue in self.queues))

    async def unload(self) -> None:
        """Call off what nobody waits for, and close the engine. The tiers and threads stay open: others use them."""
        await self.background.aclose()
        async with AsyncExitStack() as closing:
            closing.push_async_callback(self.backend.aclose)
            for queue in self.queues:
                closing.push_async_callback(queue.aclose)
            closing.push_async_callback(self.once.aclose)

    async def _after(self, wait: Callable[[], Awaitable[list[MaskAnswer]]], ask: Ask, client: str) -> list[MaskAnswer]:
        found = await wait()
        self._opened(ask, client, encoded=any(answer.outcome is Outcome.RECOMPUTED for answer in found))
        return found

    def _opened(self, ask: Ask, client: str | None, *, encoded: bool) -> None:
        if client is not None:
            self.presence.opened(f"{ask.keys.tenant}/{client}", ask.keys.group, encoded=encoded)

    def _mark_done(self, group: str, done: bool) -> None:
        self.store.mark_done(group, done)
        if self.recorder is not None:
            self.recorder.marked(group, done)


def _image_answer(ask: Ask, made: Made, started: float) -> ImageAnswer:
    facts = records.open_facts(made.entry, ask.embedding_in(made.entry))
    return ImageAnswer(
        ask.keys.image_id,
        facts.width,
        facts.height,
        made.outcome,
        ask.version,
        made.timing.within(time.perf_counter() - started),
        facts.note,
        facts.use_preview,
        ask.model_note,
        made.entry.kind is Kind.EMBEDDING_INT8,
    )
