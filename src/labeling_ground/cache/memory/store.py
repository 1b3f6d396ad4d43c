"""Entries in this process, bounded in bytes."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import EllipsisType
from typing import Protocol

from labeling_ground.cache.budgets import PARTS
from labeling_ground.cache.memory.ages import Ages
from labeling_ground.cache.memory.records import GONE, NOWHERE, SLICE, Record, RecordsByImage, Tally, all_of
from labeling_ground.cache.policies.migration import PolicyMigration
from labeling_ground.cache.policies.port import Policy, Reason
from labeling_ground.errors import BadSettings
from labeling_ground.types import Entry, Kind, StoreStats

_EXPIRED_AT_ONCE = 64
"""Expired entries that go at once for one that comes in; more of them only where that is too little room."""


class MemoryObserver(Protocol):
    """Told what happens in a memory store. It must neither raise nor call back into the store."""

    def hit(self, record: Record) -> None:
        """An entry was found."""
        ...

    def arriving(self, key: str, entry: Entry, *, held: bool, computed: bool) -> None:
        """An entry is about to be kept; ``held``: it is here already; ``computed``: it does not come from below."""
        ...

    def evicted(self, key: str, reason: Reason, used: float) -> None:
        """An entry is about to go that was used last then (seconds since 1970)."""
        ...

    def marked(self, group: str, done: bool) -> None:
        """The done hint of an image changed."""
        ...

    def purged(self, pattern: str) -> None:
        """Keys are about to be purged."""
        ...


class MemoryStore:
    """Entries in this process, bounded in bytes at all times.

    For one thread, the event loop's: nothing here blocks or locks, and only what takes long awaits, to let others have
    their turn. It is no ``Store``: what takes microseconds needs no coroutine.

    The budget bounds the sum of the values' sizes. Keys and book-keeping come on top, about 1 KiB
    an entry.

    Args:
        budget_bytes: what the values may add up to.
        idle_s: seconds without use after which an entry goes; ``None``: never.
        max_age_s: seconds since its creation after which an entry goes, used or not; ``None``:
        never.
        policy: who goes when the bytes do not suffice. It must be empty, and no other store's.
        high_watermark: share of the budget above which room is made.
        low_watermark: share of the budget to evict down to then; by default just enough goes.
        clock: monotonic seconds. What is measured by it goes on while the wall clock is set.
        wall_clock: seconds since 1970: the time of all times that are handed in or out.

    Raises:
        BadSettings: the watermarks are not in order, or so low that what is admitted might not fit.
    """

    name = "memory"

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
        self.on_evict: Callable[[str, Entry, str, float], None] | None = None
        """Told of every entry after it went: key, entry, ``Reason``, when it was used last (seconds since 1970).
        It must neither raise nor call back into the store."""
        self.observer: MemoryObserver | None = None
        """Told of what happens here, where that is wanted."""
        self.peak_bytes = 0
        """The most bytes held so far."""
        self._watermarks = low_watermark, high_watermark
        self.bytes = 0
        """Bytes held."""
        self.evictions: dict[str, int] = dict.fromkeys(Reason, 0)
        """Entries that went, by reason."""
        self._max_age_s = max_age_s
        self._policy = policy
        self._clock = clock
        self._wall_clock = wall_clock
        self._records: OrderedDict[str, Record] = OrderedDict()  # by last use, the longest ago first
        self._by_image = RecordsByImage()
        self._ages = Ages(self._records)
        self._refused = 0
        self._tallies: dict[Kind, Tally] = {kind: Tally() for kind in Kind}
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
            computed: whether it was computed, and not found in a tier below.
            at: when it comes in, as in ``peek``.
        """
        now = self._clock() if at is None else at
        record = self._records.get(key)
        if self.observer is not None:
            self.observer.arriving(key, entry, held=record is not None, computed=computed)
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
        group = self._by_image.of(key)
        tally = self._tallies[entry.kind]
        record = self._records[key] = Record(key, group, entry, size, tally, now, born)
        if used is not None:
            record.used, record.uses = min(now, used - self._since_1970()), 0
        group.records.append(record)
        group.alive += 1
        self._ages.add(record)
        self.bytes += size
        if self.bytes > self.peak_bytes:
            self.peak_bytes = self.bytes
        tally.entries += 1
        tally.bytes += size
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

    def reconfigure(
        self,
        *,
        budget_bytes: int | None = None,
        idle_s: float | EllipsisType | None = ...,
    ) -> None:
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

    def uses(self, within_s: float) -> Iterator[tuple[str, float]]:
        """The keys that were used within so many seconds, and when (seconds since 1970), in any order.

        It may be gone through a part at a time, with other things in between.
        """
        since, offset = self._clock() - within_s, self._since_1970()
        return ((record.key, record.used + offset) for record in all_of(self._records) if record.used > since)

    @property
    def makes_room(self) -> bool:
        """Whether the policy evicts anything for what is new."""
        return self._policy.makes_room

    def __contains__(self, key: str) -> bool:
        """Whether the key is held, which is no use of it; it may have expired."""
        return key in self._records

    @property
    def entries(self) -> int:
        """Entries held."""
        return len(self._records)

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

    def stats(self) -> StoreStats:
        """What is held, and what went for which reason."""
        return StoreStats(
            tier=self.name,
            entries=len(self._records),
            bytes=self.bytes,
            budget=self.budget,
            oldest_created=None if (oldest := self._ages.oldest()) is None else oldest.entry.created,
            evictions={reason.value: self.evictions[reason] for reason in Reason},
            entries_by_kind={kind.value: tally.entries for kind, tally in self._tallies.items()},
            bytes_by_kind={kind.value: tally.bytes for kind, tally in self._tallies.items()},
            refused=self._refused,
        )

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

    def _forget(self, key: str, reason: Reason) -> None:
        """Take out what the policy knows no more."""
        record = self._records.pop(key)
        if self.observer is not None:
            self.observer.evicted(key, reason, record.used + self._since_1970())
        entry, group, size = record.entry, record.group, record.size
        record.entry, record.group = GONE, NOWHERE  # lists may still hold the record, but nothing else with it
        self._by_image.leave(group)
        self.bytes -= size
        tally = record.tally
        tally.entries -= 1
        tally.bytes -= size
        self.evictions[reason] += 1
        if self.on_evict is not None:
            self.on_evict(key, entry, reason, record.used + self._since_1970())

    def _since_1970(self) -> float:
        """What to add to this store's times."""
        return self._wall_clock() - self._clock()
