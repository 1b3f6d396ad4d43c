"""The memory tier: a dict with a byte budget."""

import heapq
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from itertools import count
from types import EllipsisType

from labeling_ground import key as keys
from labeling_ground.cache.policy.port import Policy, Reason
from labeling_ground.types import Entry, Kind, StoreStats

_SLACK = 64
"""Dead items that are not worth rebuilding a small heap for."""


class _Tally:
    """What is held of one kind."""

    __slots__ = ("bytes", "entries")

    def __init__(self) -> None:
        self.entries = 0
        self.bytes = 0


class _Record:
    """An entry and what the store knows of it."""

    __slots__ = ("done", "entry", "group", "key", "serial", "size", "tally", "used")

    def __init__(
        self, key: str, group: dict[str, "_Record"], entry: Entry, size: int, tally: _Tally, used: float, serial: int
    ) -> None:
        self.key = key
        self.group = group
        self.entry = entry
        self.size = size
        self.tally = tally
        self.used = used
        self.serial = serial
        self.done = False


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
        clock: seconds since 1970.
        on_evict: told of every entry after it went, with its key and ``Reason``. It must neither
            raise nor call back into the store. The attribute may be set later.
    """

    name = "memory"

    def __init__(
        self,
        *,
        budget_bytes: int,
        idle_s: float | None,
        max_age_s: float | None,
        policy: Policy,
        clock: Callable[[], float] = time.time,
        on_evict: Callable[[str, Entry, str], None] | None = None,
    ) -> None:
        self.on_evict = on_evict
        self._budget = budget_bytes
        self._idle_s = idle_s
        self._max_age_s = max_age_s
        self._policy = policy
        self._clock = clock
        self._records: OrderedDict[str, _Record] = OrderedDict()  # by last use, the longest ago first
        self._groups: dict[str, dict[str, _Record]] = {}
        # By creation, which is not the order of coming in: an entry may come up from a tier below.
        # Keys and serial numbers, so that what is gone does not keep its value in memory. Those that came in since the
        # oldest was last asked for are not in the heap yet: without a greatest age hardly anybody asks.
        self._ages: list[tuple[float, int, str]] = []
        self._in_heap = 0
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
        if not self._usable(record, now):
            return None
        self._slide(record, now)
        return record.entry

    def insert(self, key: str, entry: Entry) -> None:
        """Keep the entry, making room first; a key that is here already counts as used.

        Above an eighth of the budget it is refused and counted. One past ``max_age_s`` is left out.
        """
        now = self._clock()
        record = self._records.get(key)
        if record is not None and self._usable(record, now):
            self._slide(record, now)
            return
        size = entry.size
        if size > self._budget // 8:
            self._refused += 1
            return
        if self._max_age_s is not None and now - entry.created >= self._max_age_s:
            return
        if self._bytes + size > self._budget:
            # What has expired goes first, under its own reason.
            self._expire(now)
            self._make_room(self._budget - size)
        name = keys.group_of(key)
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = {}
        serial = next(self._serial)
        tally = self._tallies[entry.kind]
        record = self._records[key] = group[key] = _Record(key, group, entry, size, tally, now, serial)
        self._ages.append((entry.created, serial, key))
        self._bytes += size
        tally.entries += 1
        tally.bytes += size
        self._policy.insert(key, size, entry.cost, now)

    async def sweep(self, limit: int = 1000) -> int:
        """Remove what has expired and return how much; the work follows what goes, not what stays.

        Args:
            limit: how many may go at once, so that the event loop is not held up; call again for
            the rest.
        """
        return self.expire(limit)

    def expire(self, limit: int | None = None) -> int:
        """See ``sweep``."""
        return self._expire(self._clock(), limit)

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
            self._budget = budget_bytes
        if idle_s is not ...:
            self._idle_s = idle_s
        if max_age_s is not ...:
            self._max_age_s = max_age_s
        if policy is not None:
            self._policy = policy
            for key, record in self._records.items():
                policy.insert(key, record.size, record.entry.cost, record.used)
                policy.mark(key, record.done)
        self._expire(self._clock())
        self._make_room(self._budget)

    async def get(self, key: str) -> Entry | None:
        """See ``peek``."""
        return self.peek(key)

    async def put(self, key: str, entry: Entry) -> None:
        """See ``insert``."""
        self.insert(key, entry)

    async def touch(self, key: str) -> bool:
        """Slide the idle timer. Whether the key is here."""
        return self.peek(key) is not None

    def mark(self, group: str, done: bool) -> None:
        """Set or take back the done hint on all keys of an image.

        A hit on a key takes it back too.
        """
        for key, record in self._groups.get(group, {}).items():
            record.done = done
            self._policy.mark(key, done)

    async def mark_done(self, group: str, done: bool) -> None:
        """See ``mark``."""
        self.mark(group, done)

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
        matches = keys.matcher(pattern)
        gone = [record for record in self._candidates(pattern) if matches(record.key)]
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

    def _usable(self, record: _Record, now: float) -> bool:
        if self._max_age_s is not None and now - record.entry.created >= self._max_age_s:
            self._remove(record, Reason.AGE)
            return False
        if self._idle_s is not None and now - record.used >= self._idle_s:
            self._remove(record, Reason.IDLE)
            return False
        return True

    def _slide(self, record: _Record, now: float) -> None:
        record.used = now
        record.done = False
        self._records.move_to_end(record.key)
        self._policy.hit(record.key, now)

    def _expire(self, now: float, limit: int | None = None) -> int:
        gone = 0
        if self._max_age_s is not None:
            while gone != limit:
                created = self._oldest_created()
                if created is None or now - created < self._max_age_s:
                    break
                self._remove(self._records[self._ages[0][2]], Reason.AGE)
                gone += 1
        if self._idle_s is not None:
            while self._records and gone != limit:
                record = next(iter(self._records.values()))
                if now - record.used < self._idle_s:
                    break
                self._remove(record, Reason.IDLE)
                gone += 1
        return gone

    def _make_room(self, highest: int) -> None:
        while self._bytes > highest and (key := self._policy.evict()) is not None:
            self._forget(self._records[key], Reason.BUDGET)

    def _remove(self, record: _Record, reason: Reason) -> None:
        self._policy.remove(record.key)
        self._forget(record, reason)

    def _forget(self, record: _Record, reason: Reason) -> None:
        """Take out what the policy knows no more."""
        key, entry, group, size = record.key, record.entry, record.group, record.size
        del self._records[key]
        del group[key]
        if not group:
            del self._groups[keys.group_of(key)]
        self._bytes -= size
        record.tally.entries -= 1
        record.tally.bytes -= size
        self._evictions[reason] += 1
        if len(self._ages) > 2 * len(self._records) + _SLACK:
            self._ages = [(r.entry.created, r.serial, r.key) for r in self._records.values()]
            self._in_heap = 0
        if self.on_evict is not None:
            self.on_evict(key, entry, reason)

    def _oldest_created(self) -> float | None:
        new = len(self._ages) - self._in_heap
        if new > 16:
            heapq.heapify(self._ages)
        else:  # one by one: sifting up the last of a heap is what a push does
            tail = self._ages[self._in_heap :]
            del self._ages[self._in_heap :]
            for item in tail:
                heapq.heappush(self._ages, item)
        while self._ages:
            created, serial, key = self._ages[0]
            record = self._records.get(key)
            if record is not None and record.serial == serial:
                break
            heapq.heappop(self._ages)
        self._in_heap = len(self._ages)
        return self._ages[0][0] if self._ages else None

    def _candidates(self, pattern: str) -> Iterable[_Record]:
        literal = pattern.split("*", 1)[0]
        if literal.count("/") >= 3:  # tenant and image are given in full
            return self._groups.get(keys.group_of(literal), {}).values()
        return self._records.values()
