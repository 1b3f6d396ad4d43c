"""The last step before an embedding is dropped: once more in int8, where memory is the only tier."""

from collections.abc import Callable
from functools import partial

from labeling_ground.cache.memory import MemoryStore
from labeling_ground.cache.purges import Purges
from labeling_ground.codec import records
from labeling_ground.key import group_of, int8_of, model_in
from labeling_ground.pools import Pool
from labeling_ground.supervisor import Background, Supervisor
from labeling_ground.types import Entry, Kind

_PART = 16
"""What waits to be rounded takes at most this part of memory's budget, on top of it, or is one embedding."""


class Int8Embeddings:
    """Rounds the embeddings that memory's budget evicts, and stores them again under keys of their own.

    The int8 form is another entry of another kind. It comes in as what was used last when the full one was, so the
    eviction policy weighs it by its own size, and it expires when the full one would have. When it is evicted itself,
    it is gone: nothing is rounded twice.

    Args:
        memory: the only tier.
        purges: what was purged while it was being rounded is not stored.
        pool: threads; rounding takes one to nine milliseconds.
        supervisor: counts what goes wrong.
    """

    def __init__(self, memory: MemoryStore, purges: Purges, pool: Pool, supervisor: Supervisor) -> None:
        self.models: set[str] = set()
        """Ids of the models whose embeddings are rounded; none by default."""
        self.pending: dict[str, Entry] = {}
        """Full embeddings that are being rounded, by key: as good as being in memory."""
        self._pending_bytes = 0
        self._memory = memory
        self._purges = purges
        self._pool = pool
        self._background = Background(supervisor, "round embeddings")
        purges.on_purge.append(self._forget)

    def evicted(self, key: str, entry: Entry, used: float, done: bool) -> None:
        """Round an embedding that memory has just let go, if its model's are rounded.

        ``used`` is when it was used last, seconds since 1970; ``done`` is its done hint. Of many at once, those beyond
        a sixteenth of the budget are dropped.
        """
        if not self.models or entry.kind is not Kind.EMBEDDING:
            return
        if model_in(key) not in self.models or int8_of(key) in self._memory:
            return
        if self._pending_bytes and self._pending_bytes + entry.size > self._memory.budget // _PART:
            return
        self.pending[key] = entry
        self._pending_bytes += entry.size
        self._background.start(self._round(key, entry, used, done, self._purges.count))

    async def _round(self, key: str, entry: Entry, used: float, done: bool, purge_count: int) -> None:
        rounded_key = int8_of(key)
        try:
            rounded = await self._pool.run(partial(records.seal_int8, entry, key, rounded_key))
        finally:
            if self.pending.get(key) is entry:
                del self.pending[key]
            self._pending_bytes -= entry.size
        if not (self._purges.meant_since(key, purge_count) or self._purges.is_under_way(key)):
            self._memory.insert(rounded_key, rounded, used, computed=False)
            if done:  # since the hint, nothing of the image was used: that would have been a use of its embedding
                self._memory.mark(group_of(key), done)

    def _forget(self, match: Callable[[str], bool]) -> None:
        for key in [key for key in self.pending if match(key)]:
            del self.pending[key]

    async def aclose(self) -> None:
        """Round nothing more."""
        await self._background.aclose()
