"""Prefetches: images that are encoded while nobody waits for them, bounded in number and in bytes."""

import asyncio
import contextlib
from collections import Counter

from labeling_ground import key as keys
from labeling_ground.errors import LabelingGroundError, NoRoom, Overloaded
from labeling_ground.service.asks import Ask
from labeling_ground.service.counters import Accesses
from labeling_ground.service.images import Embeddings, ImageFiles, Upload
from labeling_ground.service.int8 import EmbeddingsInInt8
from labeling_ground.service.once import Once
from labeling_ground.service.queues import FairQueue
from labeling_ground.supervisor import Background
from labeling_ground.types import Kind, Outcome, Priority
from labeling_ground.urgency import asked_at_best, current_urgency


class Prefetches:
    """Takes images on that are to be encoded when the encoder has time for them.

    Args:
        once: knows what is being encoded.
        embeddings: encodes.
        int8: knows of the images that count as encoded.
        files: stores the files.
        queue: queue in front of the encoder.
        accesses: where prefetches are noted.
        background: runs them.
        most_bytes: how many bytes of image files all prefetches can hold that wait for the encoder.
        tenant_share: part of these bytes that one tenant's prefetches can hold; ``None``: tenants are not told apart.
        sibling: those of another model of the same server, to which this bound is common.
    """

    def __init__(
        self,
        once: Once,
        embeddings: Embeddings,
        int8: EmbeddingsInInt8,
        files: ImageFiles,
        queue: FairQueue,
        accesses: Accesses,
        background: Background,
        *,
        most_bytes: int,
        tenant_share: float | None,
        sibling: "Prefetches | None" = None,
    ) -> None:
        self._bytes_by_tenant: Counter[str] = sibling._bytes_by_tenant if sibling else Counter()
        """By tenant: bytes of the image files that prefetches hold."""
        self._once = once
        self._embeddings = embeddings
        self._int8 = int8
        self._files = files
        self._queue = queue
        self._accesses = accesses
        self._background = background
        self._most_bytes = most_bytes
        self._tenant_share = tenant_share
        self._waiting: dict[str, list[int]] = {}
        """Those that were taken on and are not encoded yet: by the embedding's key, the bytes of their files."""

    async def take_on(self, ask: Ask, file: bytes) -> None:
        """Queue an image, unless it is queued already; it is under way when this returns.

        Raises:
            BadImage, TooLarge: the file cannot be used, as far as its header tells.
            Overloaded: too many images wait already, or too many bytes of them.
        """
        upload = await self._files.receive(file)
        if ask.embedding in self._waiting and ask.embedding in self._once.flights:
            return
        self._check_room(ask.keys.tenant, len(file))
        self._waiting.setdefault(ask.embedding, []).append(len(file))
        self._bytes_by_tenant[ask.keys.tenant] += len(file)
        with asked_at_best(Priority.PREFETCH):
            self._background.start(self._fetch(ask, upload))
        await asyncio.sleep(0)  # the flight is under way before the caller can ask about it

    async def of_stored_file(self, ask: Ask) -> None:
        """Encode an image whose file is stored while nobody waits for it, unless it is encoded.

        Raises:
            UnknownImage: neither the embedding nor the file is stored.
            Overloaded, BackendFailed: the model does not do it now.
        """
        with asked_at_best(Priority.PREFETCH):
            made = self._int8.at_hand(ask) or await self._embeddings.get(ask)
        self._accesses.note(Kind.EMBEDDING, ask, ask.embedding, made, ahead=True)

    def _check_room(self, tenant: str, size: int) -> None:
        """Refuse a tenant's prefetch of so many bytes for which there is no room.

        Raises:
            Overloaded: too many images wait for the encoder, or too many bytes of prefetches.
        """
        # What is taken on here finds a place in the queue later, also if that has filled meanwhile.
        promised: Counter[str] = Counter()
        for key, sizes in self._waiting.items():
            promised[keys.tenant_in(key)] += len(sizes)
        self._queue.check_room(tenant, promised, max(Priority.PREFETCH, current_urgency().priority))
        own = self._bytes_by_tenant[tenant]
        is_full = self.bytes + size > self._most_bytes
        if self._tenant_share is not None:
            is_full = is_full or own + size > self._tenant_share * self._most_bytes
        # One file may be as large as its own limit; and what others hold keeps nobody out.
        if is_full and (self.bytes if self._tenant_share is None else own):
            raise Overloaded(
                f"Images that wait to be encoded hold {self.bytes} bytes, and more than "
                f"{self._most_bytes} are not taken on. Try again in a moment.",
                retry_after=max(1.0, self._queue.typical_s or 0.0),
            )

    async def _fetch(self, ask: Ask, upload: Upload) -> None:
        """Encode an image that nobody waits for, and that was counted as such."""
        try:
            made = await self._embeddings.get(ask, upload, patient=True)
        except LabelingGroundError:
            return  # counted where it happened; who opens the image will be told
        finally:
            self._waiting[ask.embedding].remove(len(upload.file))
            self._bytes_by_tenant[ask.keys.tenant] -= len(upload.file)
            if not self._waiting[ask.embedding]:
                del self._waiting[ask.embedding]
        self._accesses.note(Kind.EMBEDDING, ask, ask.embedding, made, ahead=True)
        with contextlib.suppress(NoRoom):  # who opens the image will be told
            self._files.check_stored(ask, upload.file, made, upload.purge_count)
        if made.outcome is Outcome.HIT:
            await self._files.store(ask, upload.file, made.entry, upload.purge_count)

    @property
    def bytes(self) -> int:
        """Bytes of the image files that prefetches hold."""
        return self._bytes_by_tenant.total()
