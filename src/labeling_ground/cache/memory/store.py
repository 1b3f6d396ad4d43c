"""Entries in this process, bounded in bytes."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from types import EllipsisType

from labeling_ground.cache.budgets import PARTS
from labeling_ground.cache.memory.entries import EntriesInMemory
from labeling_ground.cache.memory.records import SLICE, Record
from labeling_ground.cache.policies.migration import PolicyMigration
from labeling_ground.cache.policies.port import Policy, Reason
from labeling_ground.errors import BadSettings
from labeling_ground.types import Entry

_EXPIRED_AT_ONCE = 64
"""Expired entries that go at once for one that comes in; more of them only where that is too little room."""


class MemoryStore(EntriesInMemory):
    """Entries in this process, bounded in bytes at all times.

    For one thread, the event loop's: nothing here blocks or locks, and only what takes long awaits, to let others have
    their turn. It is no ``Store``: what takes microseconds needs no coroutine.

    The budget bounds the sum of the values' sizes. Keys and book-keeping come on top, about 1 KiB an entry.

    Args:
        budget_bytes: what the values may add up to.
        idle_s: seconds without use after which an entry goes; ``None``: never.
        max_age_s: seconds since its creation after which an entry goes, used or not; ``None``: never.
        policy: who goes when the bytes do not suffice. It must be empty, and no other store's.
        high_watermark: share of the budget above which room is made.
        low_watermark: share of the budget to evict down to then; by default just enough goes.
        clock, wall_clock: see ``EntriesInMemory``.

    Raises:
        BadSettings: the watermarks are not in order, or so low that what is admitted might not fit.
    """

    def __init__(
        self,
        *,
        budget_bytes: int,
        idle_s: float | None,
        max_age_s: float | None,
        policy: Policy,
        high_watermark: float = 1.0,
        low_watermark: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if not 0.125 <= low_watermark <= high_watermark <= 1.0:
            raise BadSettings(
                f"The watermarks of the memory tier are {low_watermark:g} and {high_watermark:g}; the low one must be "
                "at least 0.125, the high one not below it, and neither above 1."
            )
        super().__init__(clock, wall_clock)
        self._watermarks = low_watermark, high_watermark
        self._max_age_s = max_age_s
        self._policy = policy
        self.reconfigure(budget_bytes=budget_bytes, idle_s=idle_s)

    def peek(self, key: str, at: float | None = None, times: int = 1) -> Entry | None:
        """The entry, or ``None``. A hit restarts the idle timer; what expired goes and is counted.

        Args:
            key: its key.
            at: when it was used, in seconds of the store's clock, where that is not now.
            times: how often.
        """
        record = self._records.get(key)
        if record is None:
            return None
        now = self._clock() if at is None else at
        # Written out rather than called: this is what a server does most.
        if now - record.used >= self._idle_limit or self._max_age_s is not None:
            reason = self._expired(record, now)
            if reason is not None:
                self._remove(record, reason)
                return None
        record.used = now
        record.uses += times
        record.done = False
        self._records.move_to_end(key)
        self._policy.hit(record)
        if self.observer is not None:
            self.observer.hit(record)
        return record.entry

    def insert(
        self, key: str, entry: Entry, used: float | None = None, *, computed: bool = True, at: float | None = None
    ) -> None:
        """Keep the entry, making room first; a key that is here already counts as used.

        Above an eighth of the budget it is refused and counted, and so it is where there is no room and the policy
        makes none. One past ``max_age_s`` is left out.

        Args:
            key: its key.
            entry: the entry.
            used: when it was used last, seconds since 1970, where that is not now: it comes from a tier above, which
                has no room for it.
            computed: whether it was computed for itself: it neither comes with what was, nor from a tier below, nor was
                it made of what was here.
            at: when it comes in, as in ``peek``.
        """
        now = self._clock() if at is None else at
        record = self._records.get(key)
        if self.observer is not None:
            self.observer.arriving(key, entry, is_stored=record is not None, computed=computed)
        if record is not None:
            reason = self._expired(record, now)
            if reason is None:
                record.used = now
                record.uses += 1
                record.done = False
                self._records.move_to_end(key)
                self._policy.hit(record)
                return
            self._remove(record, reason)
        size = entry.size
        if size > self.largest:
            self._refused += 1
            return
        born = now - max(0.0, self._wall_clock() - entry.created)  # made in the future, by a clock that was ahead: now
        if self._max_age_s is not None and now - born >= self._max_age_s:
            return
        if self.bytes + size > self._high:
            # What has expired goes first, under its own reason.
            while (now >= self._idle_from or self._max_age_s is not None) and self.expire(_EXPIRED_AT_ONCE):
                if self.bytes + size <= self._high:
                    break
            if self.bytes + size > self._high:
                if not self._policy.makes_room:
                    self._refused += 1
                    return
                self._make_room(self._low - size, key, size)
        record = self._add(key, entry, size, now, born)
        if used is not None:
            record.used, record.uses = min(now, used - self._since_1970()), 0
        self._policy.insert(record)

    def expire(self, limit: int | None = None) -> int:
        """Remove what has expired and return how much; the work follows what goes, not what stays.

        Args:
            limit: how many may go at once, so that the event loop is not held up; call again for the rest.
        """
        gone, now = 0, self._clock()
        if self._max_age_s is not None:
            while gone != limit:
                oldest = self._ages.oldest()
                if oldest is None or now - oldest.born < self._max_age_s:
                    break
                self._remove(oldest, Reason.AGE)
                gone += 1
        if self._idle_s is not None:
            idle: list[Record] = []
            self._idle_from = now + self._idle_s
            for record in self._records.values():
                if now - record.used < self._idle_s or gone == limit:
                    # Who was used the longest ago may be used or go, which puts this off further, but never nearer. A
                    # little early, since a sum may round the other way than the difference.
                    self._idle_from = record.used + self._idle_s - 1.0
                    break
                idle.append(record)
                gone += 1
            for record in idle:
                self._remove(record, Reason.IDLE)
        self._ages.tidy()
        return gone

    def reconfigure(self, *, budget_bytes: int | None = None, idle_s: float | EllipsisType | None = ...) -> None:
        """Change what is given and keep all entries but those that a smaller budget forces out.

        What a shorter time makes expire goes in the next sweeps; nobody is given it meanwhile.

        Args:
            budget_bytes: the new budget, or ``None`` for the present one.
            idle_s: the new idle time, ``None`` to switch it off; left out, it stays.
        """
        if budget_bytes is not None:
            low, high = self._watermarks
            self.budget = budget_bytes
            self.largest = budget_bytes // PARTS
            self._low, self._high = int(budget_bytes * low), int(budget_bytes * high)
        if idle_s is not ...:
            self._idle_s = idle_s
            self._idle_limit = math.inf if idle_s is None else idle_s
            self._idle_from = -math.inf  # before this, nothing has expired that has not gone
        while self.bytes > self.budget and self.expire(_EXPIRED_AT_ONCE):
            pass
        self._make_room(self.budget)

    async def migrate(self, policy: Policy) -> None:
        """Go by another policy, new and empty, from now on. It is told of all entries; none goes.

        That takes a while with many of them, in which others get their turn.
        """
        migration = self._policy = PolicyMigration(self._policy, policy, self._by_image.each())
        try:
            while migration.advance(SLICE):  # noqa: ASYNC110 -- each turn does a part of the work
                await asyncio.sleep(0)
        finally:  # where the caller left in the middle, the rest is done at once
            while migration.advance(SLICE):
                pass
            self._policy = policy

    def mark(self, group: str, done: bool) -> None:
        """Set or take back the done hint on all keys of an image.

        A hit on a key takes it back too.
        """
        if self.observer is not None:
            self.observer.marked(group, done)
        for record in self._by_image.members(group):
            if record.done is not done:
                record.done = done
                self._policy.mark(record)

    @property
    def makes_room(self) -> bool:
        """Whether the policy evicts anything for what is new."""
        return self._policy.makes_room

    async def delete(self, pattern: str) -> int:
        """Purge all keys that match, and say how many; in between others get their turn."""
        gone = 0
        for part in self.purge(pattern):
            gone += part
            await asyncio.sleep(0)
        return gone

    def purge(self, pattern: str) -> Iterator[int]:
        """Purge all keys that match, a part for each step of the iterator: how many went in it."""
        if self.observer is not None:
            self.observer.purged(pattern)
        for part in self._by_image.matching(pattern, self._records):
            for record in part:
                self._remove(record, Reason.PURGE)
            yield len(part)

    def drop_damaged(self, key: str) -> None:
        """Remove an entry whose bytes turned out to be damaged, and count it so."""
        record = self._records.get(key)
        if record is not None:
            self._remove(record, Reason.DAMAGED)

    def _expired(self, record: Record, now: float) -> Reason | None:
        if self._max_age_s is not None and now - record.born >= self._max_age_s:
            return Reason.AGE
        if self._idle_s is not None and now - record.used >= self._idle_s:
            return Reason.IDLE
        return None

    def _make_room(self, highest: int, key: str = "", size: int = 0) -> None:
        room_for = getattr(self._policy, "room_for", None)  # ``TenantPolicy`` has it
        if room_for is not None:
            room_for(key, size)
        evict = self._policy.evict
        while self.bytes > highest and (item := evict()) is not None:
            self._forget(item.key, Reason.BUDGET)

    def _remove(self, record: Record, reason: Reason) -> None:
        self._policy.remove(record)
        self._forget(record.key, reason)
