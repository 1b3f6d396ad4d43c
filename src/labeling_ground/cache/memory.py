"""The memory tier: a dict with a byte budget."""

import asyncio
import heapq
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import count
from types import EllipsisType
from typing import Protocol

from labeling_ground import key as keys
from labeling_ground.cache.budgets import PARTS
from labeling_ground.cache.policies.migration import PolicyMigration
from labeling_ground.cache.policies.port import Item, Policy, Reason
from labeling_ground.errors import BadSettings
from labeling_ground.types import Entry, Kind, StoreStats

_SLACK = 64
"""Dead items that are not worth rebuilding a small heap for."""
_SLICE = 1000
"""Entries that a change of policy, or a purge, looks at before others get their turn: a few milliseconds."""
_EXPIRED_AT_ONCE = 64
"""Expired entries that go at once for one that comes in; more of them only where that is too little room."""
_GONE = Entry(Kind.IMAGE, b"", 0.0, 0.0)
"""In place of what was evicted, where a record of it is still noted somewhere."""


class MemoryObserver(Protocol):
    """Told what happens in a memory store. It must neither raise nor call back into the store."""

    def hit(self, key: str, entry: Entry) -> None:
        """An entry was found."""
        ...

    def arriving(self, key: str, entry: Entry, *, held: bool, computed: bool) -> None:
        """An entry is about to be kept; ``held``: it is here already; ``computed``: it does not come from below."""
        ...

    def evicted(self, key: str, reason: Reason, used: float) -> None:
        """An entry went that was used last then (seconds since 1970)."""
        ...

    def marked(self, group: str, done: bool) -> None:
        """The done hint of an image changed."""
        ...

    def purged(self, pattern: str) -> None:
        """Keys are about to be purged."""
        ...


class _Tally:
    """What is held of one kind."""

    __slots__ = ("bytes", "entries")

    def __init__(self) -> None:
        self.entries = 0
        self.bytes = 0


class _Group:
    """The entries of one image. Those that went stay in the list until there are more of them than of the others."""

    __slots__ = ("alive", "name", "records")

    def __init__(self, name: str) -> None:
        self.name = name
        self.records: list[_Record] = []
        self.alive = 0

    def members(self) -> list["_Record"]:
        """Those that are there."""
        return [record for record in self.records if record.entry is not _GONE]


class _Record(Item):
    """An entry, and what the store and its policy know of it: one object, for the sake of speed."""

    __slots__ = ("born", "entry", "group", "tally")

    def __init__(
        self, key: str, group: _Group, entry: Entry, size: int, tally: _Tally, used: float, born: float
    ) -> None:
        # Not by way of ``super()``: a call is a good part of what taking an entry in costs.
        self.key = key
        self.size = size
        self.cost = entry.cost
        self.used = used
        self.uses = 1
        self.done = False
        self.group = group
        self.entry = entry
        self.tally = tally
        self.born = born  # when the value was computed, by the store's clock: that of ``entry.created`` may be set


_NOWHERE = _Group("")


class MemoryStore:
    """Entries in this process, bounded in bytes at all times.

    For one thread, the event loop's: nothing here awaits, blocks or locks. ``peek`` and ``insert``
    are the port's ``get`` and ``put`` without the detour over a coroutine.

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
        on_evict: told of every entry after it went: its key, itself, the ``Reason``, when it was used last (seconds
            since 1970). It must neither raise nor call back into the store. The attribute may be set later.

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
        on_evict: Callable[[str, Entry, str, float], None] | None = None,
    ) -> None:
        if not 0.125 <= low_watermark <= high_watermark <= 1.0:
            raise BadSettings(
                f"The watermarks of the memory tier are {low_watermark:g} and {high_watermark:g}; the low one must be "
                "at least 0.125, the high one not below it, and neither above 1."
            )
        self.on_evict = on_evict
        self.observer: MemoryObserver | None = None
        """Told of what happens here, where that is wanted."""
        self.peak_bytes = 0
        """The most bytes held so far."""
        self._watermarks = low_watermark, high_watermark
        self._set_budget(budget_bytes)
        self._set_idle(idle_s)
        self._max_age_s = max_age_s
        self._policy = policy
        self._clock = clock
        self._wall_clock = wall_clock
        self._records: OrderedDict[str, _Record] = OrderedDict()  # by last use, the longest ago first
        self._groups: dict[str, _Group] = {}
        self._group = _NOWHERE  # that of the entry that came in last
        # By creation, which is not the order of coming in: an entry may come up from a tier below. Those that came in
        # since the oldest was last asked for are not in the heap yet; before the first time that it is, nobody is.
        self._knows_ages = False
        self._ages: list[tuple[float, int, _Record]] = []
        self._ageless: list[_Record] = []
        self._most_ageless = _SLACK
        self._serial = count()
        self._bytes = 0
        self._refused = 0
        self._evictions = dict.fromkeys(Reason, 0)
        self._tallies: dict[Kind, _Tally] = {kind: _Tally() for kind in Kind}

    def peek(self, key: str) -> Entry | None:
        """The entry, or ``None``. A hit restarts the idle timer; what expired goes and is counted."""
        record = self._records.get(key)
        if record is None:
            return None
        now = self._clock()
        # Written out rather than called, as in ``_use``: this is what a server does most.
        if now - record.used >= self._idle_limit or self._max_age_s is not None:
            reason = self._expired(record, now)
            if reason is not None:
                self._remove(record, reason)
                return None
        record.used = now
        record.uses += 1
        record.done = False
        self._records.move_to_end(key)
        self._policy.hit(record)
        if self.observer is not None:
            self.observer.hit(key, record.entry)
        return record.entry

    def insert(self, key: str, entry: Entry, used: float | None = None, *, computed: bool = True) -> None:
        """Keep the entry, making room first; a key that is here already counts as used.

        Above an eighth of the budget it is refused and counted, and so it is where there is no room and the policy
        makes none. One past ``max_age_s`` is left out.

        Args:
            key: its key.
            entry: the entry.
            used: when it was used last, seconds since 1970, where that is not now: it comes from a tier above, which
                has no room for it.
            computed: whether it was computed, and not found in a tier below.
        """
        now = self._clock()
        record = self._records.get(key)
        if self.observer is not None:
            self.observer.arriving(key, entry, held=record is not None, computed=computed)
        if record is not None:
            reason = self._expired(record, now)
            if reason is None:
                self._use(record, now)
                return
            self._remove(record, reason)
        size = entry.size
        if size > self._largest:
            self._refused += 1
            return
        born = now - max(0.0, self._wall_clock() - entry.created)  # made in the future, by a clock that was ahead: now
        if self._max_age_s is not None and now - born >= self._max_age_s:
            return
        if self._bytes + size > self._high:
            # What has expired goes first, under its own reason.
            while (now >= self._idle_from or self._max_age_s is not None) and self._expire(now, _EXPIRED_AT_ONCE):
                if self._bytes + size <= self._high:
                    break
            if self._bytes + size > self._high:
                if not self._policy.makes_room:
                    self._refused += 1
                    return
                self._make_room(self._low - size, key, size)
        group = self._group
        if not group.alive or not key.startswith(group.name):  # mostly it is the image of the last one
            name = keys.group_of(key)
            group = self._groups.get(name) or self._groups.setdefault(name, _Group(name))
            # Keys of another form than ours share what other keys may start with, too.
            self._group = group if name.count("/") == 3 else _NOWHERE
        tally = self._tallies[entry.kind]
        record = self._records[key] = _Record(key, group, entry, size, tally, now, born)
        if used is not None:
            record.used, record.uses = min(now, used - self._since_1970()), 0
        group.records.append(record)
        group.alive += 1
        if self._knows_ages:
            self._ageless.append(record)
            if len(self._ageless) > self._most_ageless:
                self._tidy()
        self._bytes += size
        if self._bytes > self.peak_bytes:
            self.peak_bytes = self._bytes
        tally.entries += 1
        tally.bytes += size
        self._policy.insert(record)

    async def sweep(self, limit: int = 1000) -> int:
        """Remove what has expired and return how much; the work follows what goes, not what stays.

        Args:
            limit: how many may go at once, so that the event loop is not held up; call again for
            the rest.
        """
        return self.expire(limit)

    def expire(self, limit: int | None = None) -> int:
        """See ``sweep``."""
        gone = self._expire(self._clock(), limit)
        if len(self._ageless) + len(self._ages) > 2 * len(self._records) + _SLACK:
            self._tidy()
        return gone

    def reconfigure(
        self,
        *,
        budget_bytes: int | None = None,
        idle_s: float | EllipsisType | None = ...,
        max_age_s: float | EllipsisType | None = ...,
    ) -> None:
        """Change what is given and keep all entries but those that a smaller budget forces out.

        What a shorter time makes expire goes in the next sweeps; nobody is given it meanwhile.

        Args:
            budget_bytes: the new budget, or ``None`` for the present one.
            idle_s: the new idle time, ``None`` to switch it off; left out, it stays.
            max_age_s: the new greatest age, ``None`` to switch it off; left out, it stays.
        """
        if budget_bytes is not None:
            self._set_budget(budget_bytes)
        if idle_s is not ...:
            self._set_idle(idle_s)
        if max_age_s is not ...:
            self._max_age_s = max_age_s
        while self._bytes > self._budget and self._expire(self._clock(), _EXPIRED_AT_ONCE):
            pass
        self._make_room(self._budget)

    async def migrate(self, policy: Policy) -> None:
        """Go by another policy, new and empty, from now on. It is told of all entries; none goes.

        That takes a while with many of them, in which others get their turn.
        """
        groups = list(self._groups.values())  # far fewer than entries, which are looked at later, a part at a time
        items = (record for group in groups for record in group.members())
        migration = self._policy = PolicyMigration(self._policy, policy, items)
        try:
            while migration.advance(_SLICE):  # noqa: ASYNC110 -- each turn does a part of the work
                await asyncio.sleep(0)
        finally:  # where the caller left in the middle, the rest is done at once
            while migration.advance(_SLICE):
                pass
            self._policy = policy

    async def open(self) -> None:
        """There is nothing to make ready."""

    async def get(self, key: str) -> Entry | None:
        """See ``peek``."""
        return self.peek(key)

    async def put(self, key: str, entry: Entry, used: float | None = None) -> None:
        """See ``insert``."""
        self.insert(key, entry, used)

    async def touch(self, key: str) -> bool:
        """Restart the idle timer. Whether the key is here."""
        return self.peek(key) is not None

    async def has(self, key: str) -> bool:
        """Whether the key is here; asking is no use of it."""
        record = self._records.get(key)
        return record is not None and self._expired(record, self._clock()) is None

    def mark(self, group: str, done: bool) -> None:
        """Set or take back the done hint on all keys of an image.

        A hit on a key takes it back too.
        """
        if self.observer is not None:
            self.observer.marked(group, done)
        for record in self._members(group):
            if record.done is not done:
                record.done = done
                self._policy.mark(record)

    async def mark_done(self, group: str, done: bool) -> None:
        """See ``mark``."""
        self.mark(group, done)

    def uses(self, within_s: float) -> Iterator[tuple[str, float]]:
        """The keys that were used within so many seconds, and when (seconds since 1970), in any order.

        It may be gone through a part at a time, with other things in between.
        """
        since, offset = self._clock() - within_s, self._since_1970()
        return ((record.key, record.used + offset) for record in self._all() if record.used > since)

    @property
    def makes_room(self) -> bool:
        """Whether the policy evicts anything for what is new."""
        return self._policy.makes_room

    @property
    def largest(self) -> int:
        """Bytes of the largest value that is admitted."""
        return self._largest

    def __contains__(self, key: str) -> bool:
        """Whether the key is held, which is no use of it; it may have expired."""
        return key in self._records

    @property
    def entries(self) -> int:
        """Entries held."""
        return len(self._records)

    @property
    def bytes(self) -> int:
        """Bytes held."""
        return self._bytes

    @property
    def evictions(self) -> dict[str, int]:
        """Entries that went, by reason."""
        return {reason.value: count for reason, count in self._evictions.items()}

    async def delete(self, pattern: str) -> int:
        """See ``purge``; in between others get their turn."""
        gone = 0
        for part in self._purge(pattern):
            gone += part
            await asyncio.sleep(0)
        return gone

    def purge(self, pattern: str) -> int:
        """Purge all keys that match.

        One image costs what it holds, anything wider a look at all keys.
        """
        return sum(self._purge(pattern))

    def _purge(self, pattern: str) -> Iterator[int]:
        """A part at a time; how many went in each. What comes in meanwhile stays."""
        if self.observer is not None:
            self.observer.purged(pattern)
        matches = keys.matcher(pattern) if "*" in pattern else pattern.__eq__
        records = self._candidates(pattern)
        for start in range(0, len(records), _SLICE):
            gone = 0
            for record in records[start : start + _SLICE]:
                if record.entry is not _GONE and matches(record.key):
                    self._remove(record, Reason.PURGE)
                    gone += 1
            yield gone

    async def drop_damaged(self, key: str) -> None:
        """Remove an entry whose bytes turned out to be damaged, and count it so."""
        record = self._records.get(key)
        if record is not None:
            self._remove(record, Reason.DAMAGED)

    async def stats(self) -> StoreStats:
        """What is held, and what went for which reason."""
        return StoreStats(
            tier=self.name,
            entries=len(self._records),
            bytes=self._bytes,
            budget=self._budget,
            oldest_created=None if (oldest := self._oldest()) is None else oldest.entry.created,
            evictions=self.evictions,
            entries_by_kind={kind.value: tally.entries for kind, tally in self._tallies.items()},
            bytes_by_kind={kind.value: tally.bytes for kind, tally in self._tallies.items()},
            refused=self._refused,
        )

    async def aclose(self) -> None:
        """Nothing is pending and nothing is held open.

        The entries stay until the store is forgotten.
        """

    def _all(self) -> list[_Record]:
        """All records, in the order in which they came in.

        An ordered dictionary looks every key up while one goes through it, which takes fifty times as long.
        """
        return list(dict.values(self._records))

    def _set_idle(self, idle_s: float | None) -> None:
        self._idle_s = idle_s
        self._idle_limit = math.inf if idle_s is None else idle_s
        self._idle_from = -math.inf  # before this, nothing has expired that has not gone

    def _set_budget(self, budget_bytes: int) -> None:
        low, high = self._watermarks
        self._budget = budget_bytes
        self._largest = budget_bytes // PARTS
        self._low, self._high = int(budget_bytes * low), int(budget_bytes * high)

    def _expired(self, record: _Record, now: float) -> Reason | None:
        if self._max_age_s is not None and now - record.born >= self._max_age_s:
            return Reason.AGE
        if self._idle_s is not None and now - record.used >= self._idle_s:
            return Reason.IDLE
        return None

    def _use(self, record: _Record, now: float) -> None:
        record.used = now
        record.uses += 1
        record.done = False
        self._records.move_to_end(record.key)
        self._policy.hit(record)

    def _expire(self, now: float, limit: int | None = None) -> int:
        gone = 0
        if self._max_age_s is not None:
            while gone != limit:
                oldest = self._oldest()
                if oldest is None or now - oldest.born < self._max_age_s:
                    break
                self._remove(oldest, Reason.AGE)
                gone += 1
        if self._idle_s is not None:
            idle: list[_Record] = []
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
        return gone

    def _make_room(self, highest: int, key: str = "", size: int = 0) -> None:
        room_for = getattr(self._policy, "room_for", None)  # ``TenantPolicy`` has it
        if room_for is not None:
            room_for(key, size)
        evict = self._policy.evict
        while self._bytes > highest and (item := evict()) is not None:
            self._forget(item.key, Reason.BUDGET)

    def _remove(self, record: _Record, reason: Reason) -> None:
        self._policy.remove(record)
        self._forget(record.key, reason)

    def _forget(self, key: str, reason: Reason) -> None:
        """Take out what the policy knows no more."""
        record = self._records.pop(key)
        entry, group, size = record.entry, record.group, record.size
        record.entry, record.group = _GONE, _NOWHERE  # lists may still hold the record, but nothing else with it
        group.alive -= 1
        if not group.alive:
            del self._groups[group.name]
        elif len(group.records) > 2 * group.alive + 16:
            group.records = group.members()
        self._bytes -= size
        tally = record.tally
        tally.entries -= 1
        tally.bytes -= size
        self._evictions[reason] += 1
        if self.observer is not None:
            self.observer.evicted(key, reason, record.used + self._since_1970())
        if self.on_evict is not None:
            self.on_evict(key, entry, reason, record.used + self._since_1970())

    def _since_1970(self) -> float:
        """What to add to this store's times."""
        return self._wall_clock() - self._clock()

    def _tidy(self) -> None:
        """Leave out of the heap of ages, and of those on their way into it, what is gone."""
        self._ageless, self._ages = self._all(), []
        self._most_ageless = 2 * len(self._ageless) + _SLACK

    def _oldest(self) -> _Record | None:
        if not self._knows_ages:
            self._knows_ages = True
            self._tidy()
        new = [(r.born, next(self._serial), r) for r in self._ageless if r.entry is not _GONE]
        self._ageless.clear()
        if len(new) > 16:
            self._ages += new
            heapq.heapify(self._ages)
        else:
            for note in new:
                heapq.heappush(self._ages, note)
        while self._ages and self._ages[0][2].entry is _GONE:
            heapq.heappop(self._ages)
        return self._ages[0][2] if self._ages else None

    def _members(self, group: str) -> list[_Record]:
        found = self._groups.get(group)
        return [] if found is None else found.members()

    def _candidates(self, pattern: str) -> list[_Record]:
        """All records that may match, or a few more."""
        if "*" not in pattern:
            return [self._records[pattern]] if pattern in self._records else []
        literal = pattern.split("*", 1)[0]
        if literal.count("/") >= 3:  # tenant and image are given in full
            return self._members(keys.group_of(literal))
        return self._all()
