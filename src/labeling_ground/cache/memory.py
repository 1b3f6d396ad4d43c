"""The memory tier: a dict with a byte budget."""

import heapq
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from itertools import count, takewhile
from types import EllipsisType

from labeling_ground import key as keys
from labeling_ground.cache.policy.port import Item, Policy, Reason
from labeling_ground.errors import BadSettings
from labeling_ground.types import Entry, Kind, StoreStats

_SLACK = 64
"""Dead items that are not worth rebuilding a small heap for."""
_GONE = Entry(Kind.IMAGE, b"", 0.0, 0.0)
"""In place of what was evicted, where a record of it is still noted somewhere."""


class _Tally:
    """What is held of one kind."""

    __slots__ = ("bytes", "entries")

    def __init__(self) -> None:
        self.entries = 0
        self.bytes = 0


class _Record(Item):
    """An entry, and what the store and its policy know of it: one object, for the sake of speed."""

    __slots__ = ("entry", "group", "tally")

    def __init__(
        self, key: str, group: dict[str, "_Record"], entry: Entry, size: int, tally: _Tally, used: float
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
        clock: seconds since 1970.
        on_evict: told of every entry after it went, with its key and ``Reason``. It must neither
            raise nor call back into the store. The attribute may be set later.

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
        clock: Callable[[], float] = time.time,
        on_evict: Callable[[str, Entry, str], None] | None = None,
    ) -> None:
        if not 0.125 <= low_watermark <= high_watermark <= 1.0:
            raise BadSettings(
                f"The watermarks of the memory tier are {low_watermark:g} and {high_watermark:g}; the low one must be "
                "at least 0.125, the high one not below it, and neither above 1."
            )
        self.on_evict = on_evict
        self.peak_bytes = 0
        """The most bytes held so far."""
        self._watermarks = low_watermark, high_watermark
        self._set_budget(budget_bytes)
        self._idle_s = idle_s
        self._max_age_s = max_age_s
        self._policy = policy
        self._clock = clock
        self._records: OrderedDict[str, _Record] = OrderedDict()  # by last use, the longest ago first
        self._groups: dict[str, dict[str, _Record]] = {}
        # By creation, which is not the order of coming in: an entry may come up from a tier below. Those that came in
        # since the oldest was last asked for are not in the heap yet: without a greatest age hardly anybody asks.
        self._ages: list[tuple[float, int, _Record]] = []
        self._ageless: list[_Record] = []
        self._most_ageless = _SLACK
        self._idle_from = -math.inf  # before this, nothing has expired that has not gone
        self._serial = count()
        self._bytes = 0
        self._refused = 0
        self._evictions: Counter[Reason] = Counter()
        self._tallies: dict[Kind, _Tally] = {kind: _Tally() for kind in Kind}

    def peek(self, key: str) -> Entry | None:
        """The entry, or ``None``. A hit slides the idle timer; what expired goes and is counted."""
        record = self._records.get(key)
        if record is None:
            return None
        now = self._clock()
        # Written out rather than called, as in ``_use``: this is what a server does most.
        if self._max_age_s is not None or (self._idle_s is not None and now - record.used >= self._idle_s):
            reason = self._expired(record, now)
            if reason is not None:
                self._remove(record, reason)
                return None
        record.used = now
        record.uses += 1
        record.done = False
        self._records.move_to_end(key)
        self._policy.hit(record)
        return record.entry

    def insert(self, key: str, entry: Entry) -> None:
        """Keep the entry, making room first; a key that is here already counts as used.

        Above an eighth of the budget it is refused and counted, and so it is where there is no room and the policy
        makes none. One past ``max_age_s`` is left out.
        """
        now = self._clock()
        record = self._records.get(key)
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
        if self._max_age_s is not None and now - entry.created >= self._max_age_s:
            return
        if self._bytes + size > self._high:
            # What has expired goes first, under its own reason.
            if now >= self._idle_from or self._max_age_s is not None:
                self._expire(now)
            if self._bytes + size > self._high:
                if not self._policy.makes_room:
                    self._refused += 1
                    return
                self._make_room(self._low - size)
        name = keys.group_of(key)
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = {}
        tally = self._tallies[entry.kind]
        record = self._records[key] = group[key] = _Record(key, group, entry, size, tally, now)
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
        policy: Policy | None = None,
    ) -> None:
        """Change what is given and keep all entries but those that the new limits force out.

        Args:
            budget_bytes: the new budget, or ``None`` for the present one.
            idle_s: the new idle time, ``None`` to switch it off; left out, it stays.
            max_age_s: the new greatest age, ``None`` to switch it off; left out, it stays.
            policy: a new, empty policy; it is told all entries in the order of their last use.
        """
        if budget_bytes is not None:
            self._set_budget(budget_bytes)
        if idle_s is not ...:
            self._idle_s = idle_s
            self._idle_from = -math.inf
        if max_age_s is not ...:
            self._max_age_s = max_age_s
        if policy is not None:
            self._policy = policy
            for record in self._records.values():
                policy.insert(record)
                if record.done:
                    policy.mark(record)
        self._expire(self._clock())
        self._make_room(self._budget)

    async def open(self) -> None:
        """There is nothing to make ready."""

    async def get(self, key: str) -> Entry | None:
        """See ``peek``."""
        return self.peek(key)

    async def put(self, key: str, entry: Entry) -> None:
        """See ``insert``."""
        self.insert(key, entry)

    async def touch(self, key: str) -> bool:
        """Slide the idle timer. Whether the key is here."""
        return self.peek(key) is not None

    async def has(self, key: str) -> bool:
        """Whether the key is here; asking is no use of it."""
        record = self._records.get(key)
        return record is not None and self._expired(record, self._clock()) is None

    def mark(self, group: str, done: bool) -> None:
        """Set or take back the done hint on all keys of an image.

        A hit on a key takes it back too.
        """
        for record in self._groups.get(group, {}).values():
            if record.done is not done:
                record.done = done
                self._policy.mark(record)

    async def mark_done(self, group: str, done: bool) -> None:
        """See ``mark``."""
        self.mark(group, done)

    def uses(self, within_s: float) -> list[tuple[str, float]]:
        """The keys that were used within so many seconds, and when, in the order of their last use."""
        since = self._clock() - within_s
        found = [
            (key, record.used)
            for key, record in takewhile(lambda item: item[1].used > since, reversed(self._records.items()))
        ]
        return found[::-1]

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
        return {reason.value: self._evictions[reason] for reason in Reason}

    async def delete(self, pattern: str) -> int:
        """See ``purge``."""
        return self.purge(pattern)

    def purge(self, pattern: str) -> int:
        """Purge all keys that match.

        One image costs what it holds, anything wider a look at all keys.
        """
        if "*" in pattern:
            matches = keys.matcher(pattern)
            gone = [record for record in self._candidates(pattern) if matches(record.key)]
        else:
            gone = [self._records[pattern]] if pattern in self._records else []
        for record in gone:
            self._remove(record, Reason.PURGE)
        return len(gone)

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
            oldest_created=self._oldest_created(),
            evictions=self.evictions,
            entries_by_kind={kind.value: tally.entries for kind, tally in self._tallies.items()},
            bytes_by_kind={kind.value: tally.bytes for kind, tally in self._tallies.items()},
            refused=self._refused,
        )

    async def aclose(self) -> None:
        """Nothing is pending and nothing is held open.

        The entries stay until the store is forgotten.
        """

    def _set_budget(self, budget_bytes: int) -> None:
        low, high = self._watermarks
        self._budget = budget_bytes
        self._largest = budget_bytes // 8
        self._low, self._high = int(budget_bytes * low), int(budget_bytes * high)

    def _expired(self, record: _Record, now: float) -> Reason | None:
        if self._max_age_s is not None and now - record.entry.created >= self._max_age_s:
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
                created = self._oldest_created()
                if created is None or now - created < self._max_age_s:
                    break
                self._remove(self._ages[0][2], Reason.AGE)
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

    def _make_room(self, highest: int) -> None:
        while self._bytes > highest and (item := self._policy.evict()) is not None:
            self._forget(item.key, Reason.BUDGET)

    def _remove(self, record: _Record, reason: Reason) -> None:
        self._policy.remove(record)
        self._forget(record.key, reason)

    def _forget(self, key: str, reason: Reason) -> None:
        """Take out what the policy knows no more."""
        record = self._records.pop(key)
        entry, group, size = record.entry, record.group, record.size
        del group[key]
        if not group:
            del self._groups[keys.group_of(key)]
        self._bytes -= size
        tally = record.tally
        tally.entries -= 1
        tally.bytes -= size
        record.entry = _GONE  # heaps may still hold the record, but no value
        self._evictions[reason] += 1
        if self.on_evict is not None:
            self.on_evict(key, entry, reason)

    def _tidy(self) -> None:
        """Leave out of the heap of ages, and of those on their way into it, what is gone."""
        self._ageless, self._ages = list(self._records.values()), []
        self._most_ageless = 2 * len(self._ageless) + _SLACK

    def _oldest_created(self) -> float | None:
        new = [(r.entry.created, next(self._serial), r) for r in self._ageless if r.entry is not _GONE]
        self._ageless.clear()
        if len(new) > 16:
            self._ages += new
            heapq.heapify(self._ages)
        else:
            for note in new:
                heapq.heappush(self._ages, note)
        while self._ages and self._ages[0][2].entry is _GONE:
            heapq.heappop(self._ages)
        return self._ages[0][0] if self._ages else None

    def _candidates(self, pattern: str) -> Iterable[_Record]:
        literal = pattern.split("*", 1)[0]
        if literal.count("/") >= 3:  # tenant and image are given in full
            return self._groups.get(keys.group_of(literal), {}).values()
        return self._records.values()
