"""Records what a server is asked for, so that its own accesses can be replayed."""

import asyncio
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from labeling_ground.key import LAYOUT, ImageKeys
from labeling_ground.trace.events import KINDS, OUTCOMES, What, digest
from labeling_ground.trace.files import TraceWriter
from labeling_ground.types import Entry, Kind, Outcome

_EVENT = struct.Struct("<dQQQQdIIIIBBBB")
"""The layout of ``events.EVENT``."""
_NUMBER_OF_KIND = {kind: number for number, kind in enumerate(KINDS)}
_NUMBER_OF_OUTCOME = {outcome: number for number, outcome in enumerate(OUTCOMES)}

_digest = lru_cache(16_384)(digest)
"""Images, embeddings and tenants come again and again; a mask's key mostly does not."""


class Recorder:
    """Turns asks, done hints and purges into events of a trace file. Belongs to one event loop.

    A purge of one model is not recorded: what a replay would make of it depends on models that the trace cannot name.

    Args:
        writer: the file.
        clock: seconds since 1970.
    """

    def __init__(self, writer: TraceWriter, clock: Callable[[], float] = time.time) -> None:
        self.writer = writer
        self._thread = ThreadPoolExecutor(1, "trace")
        self._clock = clock
        self._writing: asyncio.Future[None] | None = None

    def asked(
        self,
        kind: Kind,
        key: str,
        entry: Entry,
        outcome: Outcome,
        *,
        embedding: str,
        parent: str | None = None,
        beside: int = 0,
        what: What = What.ASKED,
    ) -> None:
        """Record an answered ask for a key, or a trunk that was computed.

        Args:
            kind: what it is.
            key: its key.
            entry: the answer.
            outcome: what the look-up came to.
            embedding: key of what it needs when it is missing: of the embedding, for detections of the trunk; the own
                key of an embedding and of a trunk.
            parent: key of the mask whose logits were put in; of the trunk that an embedding is made from.
            beside: bytes of what was kept beside it: a mask's logits, an embedding's file; 0 where nothing was.
            what: ``ASKED``, ``PREFETCHED`` where nobody waits for it, or ``COMPUTED``.
        """
        _, tenant, image, _ = key.split("/", 3)
        self._write(
            _EVENT.pack(
                self._clock(),
                digest(key) if kind in (Kind.MASK, Kind.DETECTIONS) else _digest(key),
                _digest(f"{LAYOUT}/{tenant}/{image}/"),
                _digest(embedding),
                digest(parent) if parent is not None else 0,
                entry.cost,
                entry.size,
                beside,
                _digest(embedding.rsplit("/", 1)[1]) & 0xFFFFFFFF,
                _digest(tenant) & 0xFFFFFFFF,
                what,
                _NUMBER_OF_KIND[kind],
                _NUMBER_OF_OUTCOME[outcome],
                0,
            )
        )

    def marked(self, group: str, done: bool) -> None:
        """The done hint was given for an image, or taken back."""
        self._image(What.DONE if done else What.OPENED, group.split("/")[1], group)

    def purged(self, tenant: str | None, image_id: str | None) -> None:
        """An image was purged, or all of a tenant's, or everything."""
        group = ImageKeys(tenant, image_id).group if image_id is not None and tenant is not None else None
        self._image(What.PURGED, tenant, group)

    async def flush(self) -> None:
        """Write what was gathered."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self.writer.flush)

    async def aclose(self) -> None:
        """Write what was gathered and close the file."""
        try:
            if self._writing is not None:
                await self._writing
        finally:
            await asyncio.get_running_loop().run_in_executor(self._thread, self.writer.close)
            self._thread.shutdown(wait=False)

    def _image(self, what: What, tenant: str | None, group: str | None) -> None:
        self._write(
            _EVENT.pack(
                self._clock(),
                0,
                _digest(group) if group is not None else 0,
                0,
                0,
                0.0,
                0,
                0,
                0,
                _digest(tenant) & 0xFFFFFFFF if tenant is not None else 0,
                what,
                0,
                0,
                0,
            )
        )

    def _write(self, event: bytes) -> None:
        if self.writer.append(event) and (self._writing is None or self._writing.done()):
            self._writing = asyncio.get_running_loop().run_in_executor(self._thread, self.writer.flush)
