"""Image files and their embeddings: read, stored, encoded, and encoded again from the stored file."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from labeling_ground import key as keys
from labeling_ground.cache.tiered import TieredStore
from labeling_ground.codec import image as image_codec
from labeling_ground.codec import records
from labeling_ground.codec.frame import Precision
from labeling_ground.errors import NoRoom, Overloaded, UnknownImage, UnreachableImage
from labeling_ground.pools import Pools
from labeling_ground.service.asks import Ask, ImageState, Timing
from labeling_ground.service.batching import Computed, Place
from labeling_ground.service.models import ServedModel
from labeling_ground.service.once import Attempt, Made, Once
from labeling_ground.supervisor import Background
from labeling_ground.types import Embedding, Entry, Image, ImageFacts, Kind, ModelVersion, Outcome


class PixelBudget:
    """Room for so many pixels, first come first served; one image that is larger than all of it has it for itself.

    Args:
        most: pixels.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def room(self, pixels: int) -> AsyncIterator[None]:
        """Wait until there is room for an image's pixels, and keep it."""
        pixels = min(pixels, self.most)
        if self._queue or self.taken + pixels > self.most:
            turn = asyncio.get_running_loop().create_future()
            place = (pixels, turn)
            self._queue.append(place)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.cancelled():
                    if place in self._queue:
                        self._queue.remove(place)
                    self._hand_on()  # a smaller one behind it may fit
                else:  # the turn came, and the caller was cancelled before it noticed
                    self._give_back(pixels)
                raise
        else:
            self.taken += pixels
        try:
            yield
        finally:
            self._give_back(pixels)

    def _give_back(self, pixels: int) -> None:
        self.taken -= pixels
        self._hand_on()

    def _hand_on(self) -> None:
        while self._queue and self.taken + self._queue[0][0] <= self.most:
            pixels, turn = self._queue.popleft()
            if not turn.done():
                self.taken += pixels
                turn.set_result(None)


_REMEMBERED_WITHOUT_ROOM = 1_000
"""So many images that could not be stored."""


Derive = Callable[[Embedding, Attempt], Awaitable[Entry]]
"""Computes and seals what is made of an embedding, or of a trunk; the attempt is told when that cannot be stopped."""


@dataclass(frozen=True, slots=True)
class Upload:
    """An image file that a client has just sent."""

    file: bytes
    header: ImageFacts
    purge_count: int
    """How many purges there had been when it came: a later one means it, too."""


class ImageFiles:
    """Reads, decodes and stores the files that clients send.

    Args:
        store: the tiers.
        pools: threads for blocking work.
        max_pixels: largest image.
        max_side: its longest side.
        pixels_at_once: most pixels of all images that are decoded and encoded at the same time.
        wall_clock: seconds since 1970.
    """

    def __init__(
        self,
        store: TieredStore,
        pools: Pools,
        *,
        max_pixels: int,
        max_side: int,
        pixels_at_once: int,
        wall_clock: Callable[[], float],
    ) -> None:
        self.pixels = PixelBudget(pixels_at_once)
        self._store = store
        self._pools = pools
        self._limits = {"max_pixels": max_pixels, "max_side": max_side}
        self._wall_clock = wall_clock
        self._without_room: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """Images that were sent and that nothing was stored of: group → bytes of embedding and file."""

    async def receive(self, file: bytes) -> Upload:
        """An upload, its header read: cheap, so what cannot be used is refused before it takes a place in a queue.

        Raises:
            BadImage, TooLarge: the file cannot be used.
        """
        purge_count = self._store.purges.count
        return Upload(file, await self._header(file), purge_count)

    async def _header(self, file: bytes) -> ImageFacts:
        return await self._pools.requests.run(partial(image_codec.read_header, file, **self._limits))

    @asynccontextmanager
    async def room(self, file: bytes) -> AsyncIterator[None]:
        """Room for the pixels of an image file, while they are decoded and worked on."""
        header = await self._header(file)
        async with self.pixels.room(header.width * header.height):
            yield

    async def decode(self, ask: Ask, file: bytes, *, background: bool = False) -> Image:
        """The pixels of an image file, stretched as its id says.

        Raises:
            BadImage, TooLarge: the file cannot be used.
        """
        image_id = ask.keys.image_id
        stretch = keys.stretch_of(image_id)
        decode = partial(image_codec.decode, file, image_id=image_id, stretch=stretch, **self._limits)
        return await self._pools.images.run(decode, background=background)

    async def seal(self, ask: Ask, file: bytes, image: Image | ImageFacts, cost: float) -> Entry:
        """The entry of an image file; ``cost``: the seconds that losing it would cost."""
        facts: dict[str, Any] = {"cost": cost, "created": self._wall_clock(), "use_preview": image.use_preview}
        seal = partial(records.seal_image, ask.image, file, image.width, image.height, **facts)
        return await self._pools.values.run(seal)

    async def store(self, ask: Ask, file: bytes, embedded: Entry, purge_count: int, key: str = "") -> None:
        """See to it that the file of an image whose embedding was found is stored, or stored for longer.

        ``key`` is that of what was found, where it is no embedding.
        """
        if await self._store.touch(ask.image):
            return
        facts = records.open_facts(embedded, key or ask.embedding_in(embedded))
        self._store.put(ask.image, await self.seal(ask, file, facts, embedded.cost), purge_count)

    async def find(self, ask: Ask) -> Entry:
        """The entry of the image's file.

        Raises:
            UnreachableImage: the tier that would have it does not answer.
            UnknownImage: it is not stored.
        """
        entry = self._store.peek(ask.image) or await self._store.look_up(
            ask.image,
            deadline_s=self._store.file_deadline_s,
            unreachable=UnreachableImage(ask.keys.image_id),
        )
        if entry is None:
            raise self.unknown(ask)
        return entry

    def check_stored(self, ask: Ask, file: bytes, made: Made, purge_count: int) -> None:
        """See that something is left of an image that was just sent.

        Raises:
            NoRoom: no tier has taken its embedding or its file, and no purge has meant them since.
        """
        sizes = made.entry.size, len(file)
        self._without_room.pop(ask.keys.group, None)
        if made.outcome is Outcome.HIT or self._store.purges.count != purge_count or self._has_room(ask, sizes):
            return
        self._without_room[ask.keys.group] = sizes
        if len(self._without_room) > _REMEMBERED_WITHOUT_ROOM:
            self._without_room.popitem(last=False)
        raise self.unknown(ask)

    def unknown(self, ask: Ask) -> UnknownImage:
        """What to say of an image that is not here: whether sending it again would help."""
        sizes = self._without_room.get(ask.keys.group)
        if sizes is None or self._has_room(ask, sizes):
            return UnknownImage(ask.keys.image_id)
        return NoRoom(ask.keys.image_id, *sizes)

    def _has_room(self, ask: Ask, sizes: tuple[int, int]) -> bool:
        """Whether an image's embedding, or its file, of these bytes has a place in the cache."""
        fits = self._store.has_room_for
        return fits(ask.embedding, Kind.EMBEDDING, sizes[0]) or fits(ask.image, Kind.IMAGE, sizes[1])


class Embeddings:
    """Gets an image's embedding: from memory, joined, looked up, or encoded from what was sent or from the stored file.

    ``service/concepts.py`` has the others: trunks, which are come by in the same way, and embeddings made from trunks.

    Args:
        once: computes what is not there.
        model: encodes.
        files: the image files.
        store: the tiers.
        pools: threads for blocking work.
        background: runs what goes on after an answer.
        precision: how embeddings are stored.
        window_s: shortest wait of a queued encode for its look-up.
        wall_clock: seconds since 1970.
    """

    kind = Kind.EMBEDDING

    def __init__(
        self,
        once: Once,
        model: ServedModel,
        files: ImageFiles,
        store: TieredStore,
        pools: Pools,
        background: Background,
        *,
        precision: Precision,
        window_s: float,
        wall_clock: Callable[[], float],
    ) -> None:
        self.arriving: dict[str, Upload] = {}
        """Files that clients have sent and that wait to be encoded, by the embedding's key."""
        self.once = once
        self._model = model
        self._files = files
        self._store = store
        self.pools = pools
        self._background = background
        self.precision: Precision = precision
        self._window_s = window_s
        self.wall_clock = wall_clock
        once.flights.on_land = self._landed

    def key(self, ask: Ask) -> str:
        """Key of the image's embedding."""
        return ask.embedding

    async def get(self, ask: Ask, upload: Upload | None = None, *, patient: bool = False) -> Made:
        """The entry of the image's embedding.

        Args:
            ask: which image, and by which model version.
            upload: its file, where the client has just sent it.
            patient: wait though the queue is full: it was taken on before.

        Raises:
            UnknownImage: there is no file to encode: send it again.
            BadImage: the file cannot be decoded.
            Overloaded, BackendFailed: the model does not do it now.
        """
        key = self.key(ask)
        try:
            while True:
                if upload is not None:
                    self.arriving[ask.embedding] = upload  # also for a flight that set off without a file
                try:
                    made = await self.once.get(
                        self.kind,
                        key,
                        partial(self._make, ask, patient),
                        window_s=self._window,
                        made_elsewhere=partial(self._store_file, ask),
                    )
                    break
                except UnknownImage:
                    if upload is None:  # else it joined a flight that had looked for the file before this upload came
                        raise
                except Overloaded:
                    if not patient:  # else it joined a flight of somebody who was turned away
                        raise
        finally:
            self._landed(ask.embedding)
        if upload is not None and made.source_purge_count < upload.purge_count:
            # It joined a flight with a file from before a purge, which is not stored. This one came after it.
            self._store.put(key, made.entry, upload.purge_count)
            self._background.start(self._files.store(ask, upload.file, made.entry, upload.purge_count, key))
        if made.outcome is Outcome.HIT:
            self._store.use(ask.image)
        return made

    async def derive(self, kind: Kind, ask: Ask, key: str, make: Derive) -> Made:
        """An entry that is computed from an image's embedding: looked up, or made in a flight, and stored.

        It is costly, so it is begun only when the look-up has missed; and where it is many calls of the engine, those
        that have begun end when the last asker leaves, and the others do not begin.

        Args:
            kind: what it is.
            ask: the image, and by which model version.
            key: the entry's own key.
            make: computes and seals it.

        Raises:
            UnknownImage, Overloaded, BackendFailed: as in ``get``, or of ``make``.
        """

        async def work(attempt: Attempt) -> Made:
            await attempt.wait()
            attempt.start()
            embedded = await self.get(ask)
            entry = await make(records.open_embedding(embedded.entry, self.key(ask)), attempt)
            attempt.store(entry, source_purge_count=embedded.source_purge_count)
            timing = Timing(encode=embedded.timing.encode, decode=entry.cost)
            return Made(entry, outcome_after(embedded), timing)

        made = await self.once.get(kind, key, work)
        if made.outcome is Outcome.HIT:
            self._store.use(ask.image, self.key(ask))  # its next click shall need no encoder
        return made

    async def store_file(self, ask: Ask, file: bytes, embedded: Entry, purge_count: int) -> None:
        """Store the file of an image that is encoded, after the answer."""
        self._background.start(self._files.store(ask, file, embedded, purge_count))

    async def state(self, ask: Ask) -> ImageState:
        """What is known of an image.

        Raises:
            UnknownImage: nothing.
        """
        key = ask.embedding

        def state(facts: ImageFacts, **more: Any) -> ImageState:
            about: dict[str, Any] = {"use_preview": facts.use_preview, "model_note": ask.model_note} | more
            return ImageState(ask.keys.image_id, facts.width, facts.height, version=ask.version, **about)

        entry = self._store.peek(key) or self._store.peek(ask.embedding_int8) or await self._store.look_up(key)
        if entry is not None:
            facts = records.open_facts(entry, ask.embedding_in(entry))
            return state(facts, encoded=True, note=facts.note, is_int8=entry.kind is Kind.EMBEDDING_INT8)
        arriving = self.arriving.get(key)
        if arriving is not None:
            return state(arriving.header, **self._progress(key))
        stored = await self._files.find(ask)
        return state(records.open_facts(stored, ask.image), **self._progress(key))

    @asynccontextmanager
    async def picture(self, ask: Ask) -> AsyncIterator[Image]:
        """The pixels of a known image, as they are given to the model; they take memory as long as this is open.

        Raises:
            UnknownImage: the file is not stored.
        """
        file, _, _ = await self._file(ask, self._store.purges.count)
        async with self._files.room(file):
            yield await self._files.decode(ask, file, background=True)

    def _progress(self, key: str) -> dict[str, Any]:
        """Of an image that is not encoded: whether that is under way, and when it is probably through."""
        if key not in self.arriving and key not in self.once.flights:
            return {"encoded": False}
        queue = self._model.encode_queue
        waits = queue.outlook(key)
        if waits is None:  # it has begun
            return {"encoded": False, "encoding": True, "seconds_expected": queue.typical_s}
        return {"encoded": False, "encoding": True, "place": waits.place, "seconds_expected": waits.seconds}

    def _window(self) -> float:
        window = max(self._window_s, self._store.p99_s)
        typical_s = self._model.encode_queue.typical_s
        return window if typical_s is None else min(window, typical_s / 3)

    def _store_file(self, ask: Ask, made: Made, purge_count: int) -> None:
        """Store the file that was sent: the process that encoded it may have stored it on another machine only."""
        arrived = self.arriving.get(ask.embedding)
        if arrived is not None:
            self._background.start(
                self._files.store(ask, arrived.file, made.entry, min(purge_count, arrived.purge_count), self.key(ask))
            )

    def _landed(self, key: str) -> None:
        """A flight has ended; the file that it set off with may go, also where nobody waited for it any more."""
        if key in self.arriving and key not in self.once.flights:
            del self.arriving[key]

    async def _file(self, ask: Ask, purge_count: int) -> tuple[bytes, Outcome, int]:
        """The file to encode; the outcome of encoding it: a miss, or recomputed where the file was stored; and how many
        purges there had been when the file came: ``purge_count`` or fewer."""
        key = ask.embedding
        if key not in self.arriving:
            try:
                entry = await self._files.find(ask)
                return records.open_image(entry, ask.image)[0], Outcome.RECOMPUTED, purge_count
            except UnknownImage:
                if key not in self.arriving:  # else it was sent meanwhile
                    raise
        arrived = self.arriving[key]
        return arrived.file, Outcome.MISS, min(purge_count, arrived.purge_count)

    async def _make(self, ask: Ask, patient: bool, attempt: Attempt) -> Made:
        key = self.key(ask)
        queue = self._model.encode_queue

        async def encode(place: Place) -> Made:
            async with self._files.room(file), queue.timed():
                return await self._encode(place, ask, file, source_purge_count, outcome)

        # Who sends no file queues with the stored one in hand, or learns here that there is none: a slow tier must not
        # hold a place that others could use.
        if ask.embedding not in self.arriving:
            await attempt.wait()
        file, outcome, source_purge_count = await self._file(ask, attempt.purge_count)
        async with queue.slot(ask.keys.tenant, key=ask.embedding, patient=patient) as place:
            await attempt.wait()
            late = self._store.peek(key)
            if late is not None:  # one that was given up as too slow has come to its end meanwhile
                return Made(late, Outcome.HIT)
            attempt.start()
            attempt.commit()
            return await place.call(partial(encode, place))

    async def _encode(self, place: Place, ask: Ask, file: bytes, purge_count: int, outcome: Outcome) -> Made:
        key = self.key(ask)
        started = time.perf_counter()
        image = await self._files.decode(ask, file)
        companion_bytes = 0
        if outcome is not Outcome.RECOMPUTED:
            # What losing the file costs is an upload and an encode; before the first encode there is no better guess.
            worth = self._model.encode_queue.typical_s or time.perf_counter() - started
            sealed = await self._files.seal(ask, file, image, worth)
            self._store.put(ask.image, sealed, purge_count)
            companion_bytes = sealed.size
        cost = time.perf_counter() - started
        computed = await self._compute(place, ask.version, image)
        embedding, cost = computed.value, cost + computed.seconds
        facts: dict[str, Any] = {
            "cost": cost,
            "created": self.wall_clock(),
            "precision": self.precision,
            "kind": self.kind,
        }
        facts |= {"note": image.note, "use_preview": image.use_preview}
        entry = await self.pools.values.run(partial(records.seal_embedding, key, embedding, **facts))
        self._store.put(key, entry, purge_count)
        return Made(entry, outcome, Timing(encode=cost), companion_bytes, purge_count)

    async def _compute(self, place: Place, version: ModelVersion, image: Image) -> Computed[Embedding]:
        return await self._model.encode(place, version, image)


def outcome_after(embedded: Made) -> Outcome:
    """The outcome of what was computed from this embedding: recomputed where that was encoded again from a stored file,
    else a miss."""
    return Outcome.RECOMPUTED if embedded.outcome is Outcome.RECOMPUTED else Outcome.MISS
