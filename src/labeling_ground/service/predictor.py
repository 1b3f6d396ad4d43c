"""The main path: key → look-up ∥ prediction → store."""

import asyncio
import contextlib
import dataclasses
import math
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from labeling_ground import key as keys
from labeling_ground.cache.rules import LONGEST_CHAIN
from labeling_ground.cache.tiered import TieredStore
from labeling_ground.codec import image as image_codec
from labeling_ground.codec import records
from labeling_ground.codec.frame import Precision
from labeling_ground.errors import (
    BackendFailed,
    BadPrompt,
    LabelingGroundError,
    NoRoom,
    Overloaded,
    UnknownImage,
    UnknownPrediction,
)
from labeling_ground.inference.backend import Backend
from labeling_ground.key import ImageKeys
from labeling_ground.pools import Pools
from labeling_ground.service.asks import Ask
from labeling_ground.service.counters import Counters
from labeling_ground.service.engine_health import EngineHealth
from labeling_ground.service.flights import Flights
from labeling_ground.service.hedge import HedgeOutcome, StartGate, hedged_look_up
from labeling_ground.service.leases import SharedFlights
from labeling_ground.service.pixels import PixelBudget
from labeling_ground.service.presence import Presence
from labeling_ground.service.queues import FairQueue, Place
from labeling_ground.service.session_state import check_box, check_point
from labeling_ground.supervisor import Supervisor
from labeling_ground.trace.recorder import Recorder
from labeling_ground.types import (
    Box,
    Embedding,
    Entry,
    Image,
    ImageFacts,
    Kind,
    ModelVersion,
    Outcome,
    Point,
    Prediction,
    Prompt,
)

T = TypeVar("T")

_REMEMBERED_WITHOUT_ROOM = 1_000
"""So many images that could not be kept."""
_IMAGE_DEADLINE_S = 5.0
"""A kept image file is worth waiting for: without it the client must send it again."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one ask went, in seconds; ``None`` for what did not happen."""

    lookup: float | None = None
    encode: float | None = None
    decode: float | None = None

    @property
    def total(self) -> float:
        """From the ask to the answer."""
        return (self.lookup or 0.0) + (self.encode or 0.0) + (self.decode or 0.0)


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """What an ask for an embedding came to."""

    image_id: str
    width: int
    height: int
    outcome: Outcome
    version: ModelVersion
    timing: Timing
    note: str = ""
    """What to know of how the image was read; empty where there is nothing to say."""
    use_preview: bool = False
    """Whether a browser may draw the file in another way than it was read."""
    model_note: str = ""
    """What to know of the model's answers."""


@dataclass(frozen=True, slots=True)
class PrefetchAnswer:
    """What became of a prefetch: whether the image is queued, or was encoded already."""

    queued: bool
    version: ModelVersion
    model_note: str


@dataclass(frozen=True, slots=True)
class MaskAnswer:
    """What one prompt came to. ``prediction_id`` names it as a mask input of later prompts."""

    prediction: records.CachedPrediction
    prediction_id: str
    outcome: Outcome
    version: ModelVersion
    timing: Timing
    model_note: str = ""


@dataclass(frozen=True, slots=True)
class ImageState:
    """What is known of an image."""

    image_id: str
    width: int
    height: int
    encoded: bool
    version: ModelVersion
    encoding: bool = False
    """Whether it is being encoded here, or waits for its turn."""
    note: str = ""
    use_preview: bool = False
    """As in ``ImageAnswer``; not known in full before the image is encoded."""
    model_note: str = ""


@dataclass(frozen=True, slots=True)
class PromptAsk:
    """A prompt as a client sends it, before it is canonical.

    ``mask_input`` is either logits ``float32 [256, 256]`` or a reference: an earlier prediction's id and the index of
    the candidate that is meant.
    """

    points: Sequence[Point] = ()
    box: Box | None = None
    mask_input: NDArray[np.float32] | tuple[str, int] | None = None
    multimask: bool = True


@dataclass(frozen=True, slots=True)
class _Upload:
    """An image file that a client has just sent."""

    file: bytes
    header: image_codec.ImageHeader
    purged: int
    """How many purges there had been when it came: a later one means it, too."""


@dataclass(frozen=True, slots=True)
class _Made:
    """What a flight brings back."""

    entry: Entry
    outcome: Outcome
    timing: Timing
    beside: int = 0
    """Bytes of what was kept beside it: a mask's logits, an embedding's image file."""
    since: int = sys.maxsize
    """How many purges there had been when the image came that it was made of, where that may be long ago: a later one
    means also what is made of this."""


class Predictor:
    """Answers every ask for an embedding or a mask, and computes nothing twice.

    Args:
        store: the tiers.
        backend: the model.
        encode_lane: queue in front of the encoder.
        decode_lane: queue in front of the decoder.
        pools: threads for blocking work; they are closed with the predictor.
        shared: what makes flights common to all processes that share a tier; without it they are this process's own.
        precision: how embeddings are stored.
        max_pixels: largest image.
        max_side: its longest side.
        pixels_at_once: most pixels of all images that are decoded and encoded at the same time.
        mode: ``parallel`` or ``first``.
        mask_window_s: shortest wait of a queued mask prediction for its look-up.
        embedding_window_s: the same for an embedding.
        prefetch_per_client: how many images a client's prefetches can hold.
        most_bytes_ahead: how many bytes of image files all prefetches can hold that wait for the encoder.
        tenant_share: part of these bytes that one tenant's prefetches can hold; ``None``: tenants are not told apart.
        recorder: writes down what is asked for, so that it can be replayed.
        supervisor: counts what goes wrong behind the answers.
        engine_health: counts the model's failures.
        wall_clock: seconds since 1970.
    """

    def __init__(
        self,
        *,
        store: TieredStore,
        backend: Backend,
        encode_lane: FairQueue,
        decode_lane: FairQueue,
        pools: Pools,
        shared: SharedFlights | None = None,
        precision: Precision = "fp16",
        max_pixels: int = 50_000_000,
        max_side: int = image_codec.MAX_SIDE,
        pixels_at_once: int = 50_000_000,
        mode: str = "parallel",
        mask_window_s: float = 0.002,
        embedding_window_s: float = 0.005,
        prefetch_per_client: int = 4,
        most_bytes_ahead: int = 512 << 20,
        tenant_share: float | None = None,
        recorder: Recorder | None = None,
        supervisor: Supervisor | None = None,
        engine_health: EngineHealth | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.supervisor = supervisor or Supervisor()
        self.engine_health = engine_health or EngineHealth()
        self.store = store
        self.backend = backend
        self.encode_lane = encode_lane
        self.decode_lane = decode_lane
        self.pools = pools
        self.counters = Counters()
        self.flights: Flights[_Made] = Flights(self._landed)
        self.shared = shared
        store.on_purge.append(self._part_with)
        self.recorder = recorder
        self.presence = Presence(self._mark_done, prefetch_per_client)
        self._precision: Precision = precision
        self._max_pixels = max_pixels
        self._max_side = max_side
        self.pixels = PixelBudget(pixels_at_once)
        self._mode = mode
        self._mask_window_s = mask_window_s
        self._embedding_window_s = embedding_window_s
        self._wall_clock = wall_clock
        self._background: set[asyncio.Task[None]] = set()
        self._arriving: dict[str, _Upload] = {}
        self._ahead: dict[str, list[int]] = {}
        """Prefetches that were taken on and are not encoded yet: by the embedding's key, the bytes of their files."""
        self._most_bytes_ahead = most_bytes_ahead
        self._tenant_share = tenant_share
        self._without_room: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """Images that were sent and that nothing was kept of: group → bytes of embedding and file."""
        encode_lane.on_late = partial(self.engine_health.late, "encoder")
        decode_lane.on_late = partial(self.engine_health.late, "decoder")

    @property
    def bytes_ahead(self) -> int:
        """Bytes of the image files that prefetches hold."""
        return sum(sum(sizes) for sizes in self._ahead.values())

    # --- images -------------------------------------------------------------------------------------------------

    async def add_image(self, tenant: str, file: bytes, image_id: str, *, client: str | None = None) -> ImageAnswer:
        """Encode an image, unless that was done before.

        Args:
            tenant: whose namespace.
            file: the image file.
            image_id: its SHA-256.
            client: who works on it now, if that is known.

        Raises:
            BadImage, TooLarge: the file cannot be used.
            Overloaded: too many images wait already.
            BackendFailed: the model did not answer.
            NoRoom: the cache keeps neither the image nor its embedding, so nothing could be asked about it.
        """
        ask = self.bind(tenant, image_id)
        started = time.perf_counter()
        # A header is cheap to read: what cannot be used is refused before it takes a place in a queue.
        purged = self.store.purged
        upload = await self._upload(file) if self.store.peek(ask.embedding) is None else None
        made = await self._embedding(ask, upload)
        self._record(Kind.EMBEDDING, ask, ask.embedding, made)
        self._check_room(ask, file, made, purged)
        if client is not None:
            self.presence.opened(f"{tenant}/{client}", ask.keys.group)
        if made.outcome is Outcome.HIT:
            self._in_background(self._keep_file(ask, file, made.entry, purged))
        return _image_answer(ask, made, started)

    async def prefetch(self, tenant: str, file: bytes, image_id: str, *, client: str | None = None) -> PrefetchAnswer:
        """Queue an image to be encoded while nobody waits for it, unless it is encoded or queued already.

        Raises:
            BadImage, TooLarge: the file cannot be used, as far as its header tells.
            Overloaded: too many images wait already, or too many bytes of them.
        """
        ask = self.bind(tenant, image_id)
        key = ask.embedding
        known = self.store.peek(key)
        upload = await self._upload(file) if known is None else None
        is_queued = key in self._ahead and key in self.flights
        if upload is not None and not is_queued:
            self._check_room_ahead(tenant, len(file))
        if client is not None:
            self.presence.fetched_ahead(f"{tenant}/{client}", ask.keys.group)
        if known is not None:
            self._record(Kind.EMBEDDING, ask, key, _Made(known, Outcome.HIT, Timing()), ahead=True)
            self._in_background(self._keep_file(ask, file, known, self.store.purged))
        if upload is not None and not is_queued:
            self._ahead.setdefault(key, []).append(len(file))
            self._in_background(self._fetch(ask, upload))
            await asyncio.sleep(0)  # the flight is under way before the caller can ask about it
        return PrefetchAnswer(upload is not None, ask.version, ask.model_note)

    async def image_state(self, tenant: str, image_id: str) -> ImageState:
        """What is known of an image.

        Raises:
            UnknownImage: nothing.
        """
        ask = self.bind(tenant, image_id)
        key = ask.embedding

        def state(facts: ImageFacts | image_codec.ImageHeader, **more: Any) -> ImageState:
            about: dict[str, Any] = {"use_preview": facts.use_preview, "model_note": ask.model_note} | more
            return ImageState(image_id, facts.width, facts.height, version=ask.version, **about)

        entry = self.store.peek(key) or await self.store.look_up(key)
        if entry is not None:
            facts = records.open_facts(entry, key)
            return state(facts, encoded=True, note=facts.note)
        arriving = self._arriving.get(key)
        if arriving is not None:
            return state(arriving.header, encoded=False, encoding=True)
        kept_entry = await self._kept(ask.keys)
        if kept_entry is None:
            raise self._unknown(ask)
        return state(records.open_facts(kept_entry, ask.keys.image), encoded=False, encoding=key in self.flights)

    @asynccontextmanager
    async def picture(self, tenant: str, image_id: str) -> AsyncIterator[Image]:
        """The pixels of a known image, as they are given to the model; they take memory as long as this is open.

        Raises:
            UnknownImage: the file is not kept.
        """
        ask = self.bind(tenant, image_id)
        file, _, _ = await self._file(ask, self.store.purged)
        async with self._room(file):
            yield await self._decoded(ask, file, background=True)

    async def embedding(self, tenant: str, image_id: str) -> tuple[Embedding, ImageAnswer]:
        """The embedding of a known image, computed again from the kept file where it was evicted.

        Raises:
            UnknownImage: neither the embedding nor the file is kept.
            Overloaded, BackendFailed: as in ``add_image``.
        """
        ask = self.bind(tenant, image_id)
        started = time.perf_counter()
        made = await self._embedding(ask)
        self._record(Kind.EMBEDDING, ask, ask.embedding, made)
        embedding = records.open_embedding(made.entry, ask.embedding)
        return embedding, _image_answer(ask, made, started)

    # --- masks --------------------------------------------------------------------------------------------------

    async def masks(
        self, tenant: str, image_id: str, prompts: Sequence[PromptAsk], *, client: str | None = None
    ) -> list[MaskAnswer]:
        """Masks for one or many prompts on a known image, in the prompts' order.

        Raises:
            BadPrompt: a prompt makes no sense for this image.
            UnknownImage: send it again.
            UnknownPrediction: a mask input refers to a prediction that is not kept.
            Overloaded, BackendFailed: as in ``add_image``.
        """
        ask = self.bind(tenant, image_id)
        found = await self._masks(ask, prompts)
        if client is not None:
            self.presence.opened(f"{tenant}/{client}", ask.keys.group)
        return found

    async def _masks(self, ask: Ask, prompts: Sequence[PromptAsk]) -> list[MaskAnswer]:
        if len(prompts) == 1:
            return [await self._mask(ask, prompts[0])]
        tasks = [asyncio.ensure_future(self._mask(ask, prompt)) for prompt in prompts]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    def bind(self, tenant: str, image_id: str) -> Ask:
        """A request on one image, to be answered by the model version that is served now."""
        return Ask(ImageKeys(tenant, image_id), self.backend.version, self.backend.note)

    def check_model(self, version: ModelVersion) -> None:
        """See that the backend still serves what a key was made for; one in another process may change its model.

        To be called right before the backend, with nothing awaited in between: a call keeps to the version that it
        begins with.

        Raises:
            BackendFailed: it serves another one by now.
        """
        if self.backend.version != version:
            raise BackendFailed("The model was changed in the middle of this request. Try again in a moment.")

    # --- whatever else an embedding is good for -----------------------------------------------------------------

    async def derived(
        self, kind: Kind, ask: Ask, key: str, make: Callable[[Embedding], Awaitable[Entry]]
    ) -> tuple[Entry, Outcome, Timing]:
        """An entry that is computed from an image's embedding: looked up, or made in a flight, and kept.

        It is costly, so it is begun only when the look-up has missed.

        Args:
            kind: what it is.
            ask: the image, and by which model version.
            key: the entry's own key.
            make: computes and seals it.

        Raises:
            UnknownImage: send the image again.
            Overloaded, BackendFailed: as in ``add_image``, or of ``make``.
        """
        started = time.perf_counter()
        purged = self.store.purged

        async def predict(gate: StartGate) -> _Made:
            await gate.wait()
            gate.begun = True
            embedded = await self._embedding(ask)
            embedding = records.open_embedding(embedded.entry, ask.embedding)
            entry = await make(embedding)
            self.store.keep(key, entry, min(purged, embedded.since))
            outcome = Outcome.RECOMPUTED if embedded.outcome is Outcome.RECOMPUTED else Outcome.MISS
            return _Made(entry, outcome, Timing(encode=embedded.timing.encode, decode=entry.cost))

        # A grid is many calls of the engine: those that have begun end, the others go with the last asker.
        made = await self._obtain(kind, key, lambda _: self._race(kind, key, predict, None))
        if made.outcome is Outcome.HIT:
            self.store.touch_later(ask.keys.image)
            self.store.touch_later(ask.embedding)
        self._record(kind, ask, key, made)
        return made.entry, made.outcome, _with_lookup(made, started)

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
        for task in list(self._background):
            task.cancel()
        if self._background:
            await asyncio.wait(set(self._background), timeout=5)
        async with AsyncExitStack() as closing:  # closes each, in reverse, also where another one fails to
            closing.callback(self.pools.close)
            if self.recorder is not None:
                closing.push_async_callback(self.recorder.aclose)
            closing.push_async_callback(self.backend.aclose)
            closing.push_async_callback(self.store.aclose)
            if self.shared is not None:
                closing.push_async_callback(self.shared.aclose)
            for lane in (self.encode_lane, self.decode_lane):
                closing.push_async_callback(lane.aclose)
            closing.push_async_callback(self.flights.aclose)

    # --- within -------------------------------------------------------------------------------------------------

    def _part_with(self, match: Callable[[str], bool]) -> None:
        """A purge, here or by another process: what flies will not be kept, so whoever asks from now on starts anew."""
        self.flights.part_with(match)
        if self.shared is not None:
            self.shared.part_with(match)

    def _mark_done(self, group: str, done: bool) -> None:
        self.store.mark_done(group, done)
        if self.recorder is not None:
            self.recorder.marked(group, done)

    def _record(
        self,
        kind: Kind,
        ask: Ask,
        key: str,
        made: _Made,
        *,
        parent: tuple[str, int] | None = None,
        ahead: bool = False,
    ) -> None:
        if not ahead:
            self.counters.asked(kind, made.outcome)
        if self.recorder is None:
            return
        self.recorder.asked(
            kind,
            key,
            made.entry,
            made.outcome,
            embedding=ask.embedding,
            parent=None if parent is None else ask.mask(parent[0]),
            beside=made.beside,
            ahead=ahead,
        )

    def _check_room_ahead(self, tenant: str, size: int) -> None:
        """Refuse a tenant's prefetch of so many bytes for which there is no room.

        Raises:
            Overloaded: too many images wait for the encoder, or too many bytes of prefetches.
        """
        # What is taken on here finds a place in the queue later, also if that has filled meanwhile.
        promised: Counter[str] = Counter()
        for key, sizes in self._ahead.items():
            promised[keys.tenant_in(key)] += len(sizes)
        self.encode_lane.check_room(tenant, promised)
        own = sum(sum(sizes) for key, sizes in self._ahead.items() if keys.tenant_in(key) == tenant)
        is_full = self.bytes_ahead + size > self._most_bytes_ahead
        if self._tenant_share is not None:
            is_full = is_full or own + size > self._tenant_share * self._most_bytes_ahead
        # One file may be as large as its own limit; and what others hold keeps nobody out.
        if is_full and (self.bytes_ahead if self._tenant_share is None else own):
            raise Overloaded(
                f"Images that wait to be encoded hold {self.bytes_ahead} bytes, and more than "
                f"{self._most_bytes_ahead} are not taken on. Try again in a moment.",
                retry_after=max(1.0, self.encode_lane.typical_s or 0.0),
            )

    async def _fetch(self, ask: Ask, upload: _Upload) -> None:
        """Encode an image that nobody waits for, and that was counted as such."""
        try:
            made = await self._embedding(ask, upload, patient=True)
        except LabelingGroundError:
            return  # counted where it happened; whoever opens the image will be told
        finally:
            self._ahead[ask.embedding].remove(len(upload.file))
            if not self._ahead[ask.embedding]:
                del self._ahead[ask.embedding]
        self._record(Kind.EMBEDDING, ask, ask.embedding, made, ahead=True)
        with contextlib.suppress(NoRoom):  # whoever opens the image will be told
            self._check_room(ask, upload.file, made, upload.purged)
        if made.outcome is Outcome.HIT:
            await self._keep_file(ask, upload.file, made.entry, upload.purged)

    def _landed(self, key: str) -> None:
        """A flight has ended; the file that it set off with may go, also where nobody waited for it any more."""
        if key not in self.flights:
            self._arriving.pop(key, None)

    async def _embedding(self, ask: Ask, upload: _Upload | None = None, *, patient: bool = False) -> _Made:
        key = ask.embedding
        try:
            while True:
                if upload is not None:
                    self._arriving[key] = upload  # also for a flight that set off without a file
                try:
                    made = await self._obtain(
                        Kind.EMBEDDING, key, lambda begin: self._make_embedding(ask, patient, begin)
                    )
                    break
                except UnknownImage:
                    if upload is None:  # else it joined a flight that had looked for the file before this upload came
                        raise
                except Overloaded:
                    if not patient:  # else it joined a flight of somebody who was turned away
                        raise
        finally:
            self._landed(key)
        if upload is not None and made.since < upload.purged:
            # It joined a flight with a file from before a purge, which is not kept. This one came after it.
            self.store.keep(key, made.entry, upload.purged)
            self._in_background(self._keep_file(ask, upload.file, made.entry, upload.purged))
        if made.outcome is Outcome.HIT:
            self.store.touch_later(ask.keys.image)
        return made

    async def _make_embedding(self, ask: Ask, patient: bool, begin: Callable[[], None]) -> _Made:
        key = ask.embedding
        purged = self.store.purged

        async def predict(gate: StartGate) -> _Made:
            async def encode() -> _Made:
                async with self._room(file), self.encode_lane.timed():
                    return await self._encode(ask, file, since, outcome)

            # Who sends no file queues with the kept one in hand, or learns here that there is none: a slow tier must
            # not hold a place that others could use.
            if key not in self._arriving:
                await gate.wait()
            file, outcome, since = await self._file(ask, purged)
            async with self.encode_lane.slot(ask.keys.tenant, patient=patient) as place:
                await gate.wait()
                late = self.store.peek(key)
                if late is not None:  # one that was given up as too slow has come to its end meanwhile
                    return _Made(late, Outcome.HIT, Timing())
                gate.begun = True
                begin()
                return await place.call(encode)

        window = max(self._embedding_window_s, self.store.p99_s)
        if self.encode_lane.typical_s is not None:
            window = min(window, self.encode_lane.typical_s / 3)
        made = await self._race(Kind.EMBEDDING, key, predict, window)
        if made.outcome is Outcome.JOINED and key in self._arriving:
            # Whoever computed it has kept the file where only its own machine may find it.
            arrived = self._arriving[key]
            self._in_background(self._keep_file(ask, arrived.file, made.entry, min(purged, arrived.purged)))
        return made

    async def _encode(self, ask: Ask, file: bytes, purged: int, outcome: Outcome) -> _Made:
        key = ask.embedding
        started = time.perf_counter()
        image = await self._decoded(ask, file)
        beside = 0
        if outcome is not Outcome.RECOMPUTED:
            # What losing the file costs is an upload and an encode; before the first encode there is no better guess.
            worth = self.encode_lane.typical_s or time.perf_counter() - started
            kept = await self._sealed_file(ask.keys, file, image, worth)
            self.store.keep(ask.keys.image, kept, purged)
            beside = kept.size
        self.check_model(ask.version)
        with self.engine_health.call("encoder"):
            embedding = await self.backend.encode(image)
            cost = time.perf_counter() - started
            _check_embedding(embedding, image.width, image.height)
        facts: dict[str, Any] = {"cost": cost, "created": self._wall_clock(), "precision": self._precision}
        facts |= {"note": image.note, "use_preview": image.use_preview}
        entry = await self.pools.values.run(partial(records.seal_embedding, key, embedding, **facts))
        self.store.keep(key, entry, purged)
        return _Made(entry, outcome, Timing(encode=cost), beside, purged)

    async def _mask(self, ask: Ask, sent: PromptAsk) -> MaskAnswer:
        started = time.perf_counter()
        prompt, parent = await self._settle_prompt(ask, sent)
        digest = keys.prompt_digest(prompt)
        key = ask.mask(digest)
        made = await self._obtain(Kind.MASK, key, lambda begin: self._make_mask(ask, digest, prompt, parent, begin))
        if made.outcome is Outcome.HIT:  # the image is being worked on: its next click shall need no encoder
            self.store.touch_later(ask.keys.image)
            self.store.touch_later(ask.embedding)
        self._record(Kind.MASK, ask, key, made, parent=parent)
        prediction = records.open_prediction(made.entry, key)
        for point in sent.points:  # as they were sent: the edge itself is outside, and shares its key with what is not
            check_point(point, prediction.width, prediction.height)
        return MaskAnswer(prediction, digest, made.outcome, ask.version, _with_lookup(made, started), ask.model_note)

    async def _make_mask(
        self, ask: Ask, digest: str, prompt: Prompt, parent: tuple[str, int] | None, begin: Callable[[], None]
    ) -> _Made:
        async def predict(gate: StartGate) -> _Made:
            await gate.wait()
            gate.begun = True
            made, _ = await self._decode(ask, digest, prompt, parent, begin)
            return made

        return await self._race(Kind.MASK, ask.mask(digest), predict, self._mask_window_s)

    async def _decode(
        self, ask: Ask, digest: str, prompt: Prompt, parent: tuple[str, int] | None, begin: Callable[[], None]
    ) -> tuple[_Made, Entry]:
        """The masks, and the entry of their logits: the store need not have had room for it."""
        purged = self.store.purged
        embedded = await self._embedding(ask)
        purged = min(purged, embedded.since)
        embedding = records.open_embedding(embedded.entry, ask.embedding)
        fitted = _fit(prompt, embedding.width, embedding.height)

        async def predict(place: Place) -> tuple[_Made, Entry]:
            started = time.perf_counter()
            self.check_model(ask.version)
            async with self.decode_lane.timed():
                with self.engine_health.call("decoder"):
                    predictions = await self.backend.decode(embedding, [fitted])
                    cost = time.perf_counter() - started
                    prediction = _check_prediction(predictions, embedding.width, embedding.height)
            place.free()
            mask_key, logits_key = ask.mask(digest), ask.logits(digest)
            facts = {"cost": cost, "created": self._wall_clock()}
            entry, logits = await asyncio.gather(  # side by side: each takes a millisecond of every click
                self.pools.values.run(partial(records.seal_prediction, mask_key, prediction, prompt, parent, **facts)),
                self.pools.values.run(partial(records.seal_logits, logits_key, prediction, **facts)),
            )
            self.store.keep(mask_key, entry, purged)
            self.store.keep(logits_key, logits, purged)
            outcome = Outcome.RECOMPUTED if embedded.outcome is Outcome.RECOMPUTED else Outcome.MISS
            return _Made(entry, outcome, Timing(encode=embedded.timing.encode, decode=cost), logits.size), logits

        async with self.decode_lane.slot(ask.keys.tenant) as place:
            begin()
            return await place.call(partial(predict, place))

    async def _settle_prompt(self, ask: Ask, sent: PromptAsk, depth: int = 0) -> tuple[Prompt, tuple[str, int] | None]:
        parent = sent.mask_input if isinstance(sent.mask_input, tuple) else None
        logits = None if isinstance(sent.mask_input, tuple) else sent.mask_input
        if parent is not None:
            logits = await self._logits(ask, *parent, depth)
        return keys.canonical(sent.points, sent.box, logits, multimask=sent.multimask), parent

    async def _logits(self, ask: Ask, prediction_id: str, index: int, depth: int) -> NDArray[np.float32]:
        """Low-res logits of an earlier prediction, computed again from its own prompt where they were evicted."""
        logits_key, mask_key = ask.logits(prediction_id), ask.mask(prediction_id)
        entry = self.store.peek(logits_key)
        if entry is None:
            kept = self.store.peek(mask_key) or await self.store.look_up(mask_key)
            if kept is None:
                raise UnknownPrediction(
                    f"The prediction {prediction_id} is not kept any more. Ask for its prompt again, then refer to it."
                )
            origin = records.open_prediction(kept, mask_key).origin
            if depth == LONGEST_CHAIN:
                raise UnknownPrediction(
                    f"The logits of prediction {prediction_id} and of the {LONGEST_CHAIN} that refine it are not kept "
                    "any more. Ask for the prompt without a mask_input."
                )
            if not origin.repeatable:
                raise UnknownPrediction(
                    f"The logits of prediction {prediction_id} are not kept any more, and its own mask input came by "
                    "value. Send the mask input by value again."
                )
            again = PromptAsk(origin.points, origin.box, origin.parent, origin.multimask)
            prompt, parent = await self._settle_prompt(ask, again, depth + 1)

            async def once_more(begin: Callable[[], None]) -> _Made:
                made, logits = await self._decode(ask, prediction_id, prompt, parent, begin)
                return dataclasses.replace(made, entry=logits)

            entry = (await self._obtain(Kind.MASK, logits_key, once_more)).entry
        candidates = records.open_logits(entry, logits_key)
        if not 0 <= index < len(candidates):
            raise BadPrompt(f"Prediction {prediction_id} has {len(candidates)} candidates; {index} is not one of them.")
        return candidates[index]

    async def _upload(self, file: bytes) -> _Upload:
        purged = self.store.purged
        return _Upload(file, await self._header(file), purged)

    async def _header(self, file: bytes) -> image_codec.ImageHeader:
        read = partial(image_codec.read_header, file, max_pixels=self._max_pixels, max_side=self._max_side)
        return await self.pools.requests.run(read)

    @asynccontextmanager
    async def _room(self, file: bytes) -> AsyncIterator[None]:
        """Room for the pixels of an image file, while they are decoded and worked on."""
        header = await self._header(file)
        async with self.pixels.room(header.width * header.height):
            yield

    async def _decoded(self, ask: Ask, file: bytes, *, background: bool = False) -> Image:
        image_id = ask.keys.image_id
        stretch = keys.stretch_of(image_id)
        limits = {"max_pixels": self._max_pixels, "max_side": self._max_side}
        decode = partial(image_codec.decode, file, image_id=image_id, stretch=stretch, **limits)
        return await self.pools.images.run(decode, background=background)

    async def _sealed_file(self, image_keys: ImageKeys, file: bytes, image: Image | ImageFacts, cost: float) -> Entry:
        facts: dict[str, Any] = {"cost": cost, "created": self._wall_clock(), "use_preview": image.use_preview}
        seal = partial(records.seal_image, image_keys.image, file, image.width, image.height, **facts)
        return await self.pools.values.run(seal)

    async def _keep_file(self, ask: Ask, file: bytes, embedded: Entry, purged: int) -> None:
        """See to it that the file of an image whose embedding was a hit is kept, or kept for longer."""
        if await self.store.touch(ask.keys.image):
            return
        facts = records.open_facts(embedded, ask.embedding)
        entry = await self._sealed_file(ask.keys, file, facts, embedded.cost)
        self.store.keep(ask.keys.image, entry, purged)

    def _check_room(self, ask: Ask, file: bytes, made: _Made, purged: int) -> None:
        """See that something is left of an image that was just sent.

        Raises:
            NoRoom: no tier has taken its embedding or its file, and no purge has meant them since.
        """
        sizes = made.entry.size, len(file)
        self._without_room.pop(ask.keys.group, None)
        if made.outcome is Outcome.HIT or self.store.purged != purged or self._has_room(ask, sizes):
            return
        self._without_room[ask.keys.group] = sizes
        if len(self._without_room) > _REMEMBERED_WITHOUT_ROOM:
            self._without_room.popitem(last=False)
        raise self._unknown(ask)

    def _has_room(self, ask: Ask, sizes: tuple[int, int]) -> bool:
        """Whether an image's embedding, or its file, of these bytes has a place in the cache."""
        keeps = self.store.keeps
        return keeps(ask.embedding, Kind.EMBEDDING, sizes[0]) or keeps(ask.keys.image, Kind.IMAGE, sizes[1])

    def _unknown(self, ask: Ask) -> UnknownImage:
        """What to say of an image that is not here: whether sending it again would help."""
        sizes = self._without_room.get(ask.keys.group)
        if sizes is None or self._has_room(ask, sizes):
            return UnknownImage(ask.keys.image_id)
        return NoRoom(ask.keys.image_id, *sizes)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.supervisor.watch("after an answer", task)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _kept(self, image_keys: ImageKeys) -> Entry | None:
        return self.store.peek(image_keys.image) or await self.store.look_up(
            image_keys.image, deadline_s=_IMAGE_DEADLINE_S
        )

    async def _file(self, ask: Ask, purged: int) -> tuple[bytes, Outcome, int]:
        """The file to encode; what encoding it will have been: a miss, or recomputed from a kept file; and since which
        purge, ``purged`` or an earlier one, it has been here."""
        key = ask.embedding
        if key not in self._arriving:
            entry = await self._kept(ask.keys)
            if entry is not None:
                return records.open_image(entry, ask.keys.image)[0], Outcome.RECOMPUTED, purged
        if key not in self._arriving:  # it may have been sent meanwhile
            raise self._unknown(ask)
        arrived = self._arriving[key]
        return arrived.file, Outcome.MISS, min(purged, arrived.purged)

    async def _race(
        self, kind: Kind, key: str, predict: Callable[[StartGate], Awaitable[_Made]], window_s: float | None
    ) -> _Made:
        if not self.store.has_lower:
            made = await predict(StartGate(0.0))
            self.counters.hedge(kind, HedgeOutcome.USED)
            return made

        async def look_up(outcome: Outcome = Outcome.HIT, deadline_s: float | None = None) -> _Made | None:
            entry = await self.store.look_up(key, deadline_s=deadline_s)
            return None if entry is None else _Made(entry, outcome, Timing())

        async def in_turn(gate: StartGate) -> _Made:
            if self.shared is None or not self.shared.covers(kind):
                return await predict(gate)
            patience_s = self.shared.patience_s(kind)
            return await self.shared.fly(key, gate, predict, partial(look_up, deadline_s=patience_s), patience_s)

        def count(outcome: HedgeOutcome) -> None:
            self.counters.hedge(kind, outcome)

        window = window_s if self._mode == "parallel" else None
        return await hedged_look_up(look_up(), in_turn, window_s=window, count=count)

    async def _obtain(self, kind: Kind, key: str, work: Callable[[Callable[[], None]], Awaitable[_Made]]) -> _Made:
        """What is at hand, or else what the flight brings; counted."""
        entry = self.store.peek(key)
        if entry is not None:
            made = _Made(entry, Outcome.HIT, Timing())
        else:
            try:
                made, joined = await self.flights.join(key, work)
            except Exception:
                self.counters.failure(kind)
                raise
            if joined and made.outcome is not Outcome.HIT:
                made = _Made(made.entry, Outcome.JOINED, Timing(), since=made.since)
        self.counters.outcome(kind, made.outcome, made.entry.cost)
        return made


def _image_answer(ask: Ask, made: _Made, started: float) -> ImageAnswer:
    facts = records.open_facts(made.entry, ask.embedding)
    return ImageAnswer(
        ask.keys.image_id,
        facts.width,
        facts.height,
        made.outcome,
        ask.version,
        _with_lookup(made, started),
        facts.note,
        facts.use_preview,
        ask.model_note,
    )


def _with_lookup(made: _Made, started: float) -> Timing:
    """Everything that was not encoding or decoding is the look-up's (and the queue's) time."""
    total = time.perf_counter() - started
    spent = (made.timing.encode or 0.0) + (made.timing.decode or 0.0)
    return dataclasses.replace(made.timing, lookup=max(0.0, total - spent))


def _fit(prompt: Prompt, width: int, height: int) -> Prompt:
    """Check a prompt against the image's size, and keep within it what snapping or a box's corners lie beyond."""
    points = tuple(Point(_within(p.x, width), _within(p.y, height), p.label) for p in prompt.points)
    for point in points:
        check_point(point, width, height)
    prompt = dataclasses.replace(prompt, points=points)
    if prompt.box is None:
        return prompt
    check_box(prompt.box, width, height)
    box = prompt.box
    return dataclasses.replace(
        prompt, box=Box(max(0.0, box.x0), max(0.0, box.y0), min(width, box.x1), min(height, box.y1))
    )


def _within(coordinate: float, size: int) -> float:
    """A click in the last half step before the edge snaps onto the edge: it is taken back by one step."""
    return size - keys.STEP if coordinate == size else coordinate


def _check_embedding(embedding: Embedding, width: int, height: int) -> None:
    if (embedding.width, embedding.height) != (width, height) or not embedding.tensors:
        raise BackendFailed("The encoder's answer does not belong to this image.")
    for name, tensor in embedding.tensors.items():
        if np.issubdtype(tensor.dtype, np.floating) and not np.isfinite(tensor).all():
            raise BackendFailed(f"The encoder's answer holds values that are no numbers ({name}).")


def _check_prediction(predictions: Sequence[Prediction], width: int, height: int) -> Prediction:
    if len(predictions) != 1 or not predictions[0].masks:
        raise BackendFailed("The decoder gave no mask.")
    for mask in predictions[0].masks:
        if mask.pixels.shape != (height, width) or mask.logits.shape != (256, 256) or mask.pixels.dtype != np.bool_:
            raise BackendFailed("The decoder's mask does not have the image's size, or is none.")
        if not (math.isfinite(mask.score) and np.isfinite(mask.logits).all()):
            raise BackendFailed("The decoder's answer holds values that are no numbers.")
    return predictions[0]
