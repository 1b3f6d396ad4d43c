"""What a memory store holds, whichever way it is looked for, and what is counted of it."""

import heapq
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import TYPE_CHECKING

from labeling_ground.cache.memory.records import GONE, NOWHERE, Record, RecordsByImage, Tally, all_of
from labeling_ground.cache.policies.port import Reason
from labeling_ground.types import Entry, Kind, StoreStats

if TYPE_CHECKING:
    from labeling_ground.cache.shadow import ShadowCaches

_SLACK = 64
"""Dead items that are not worth rebuilding a small heap for."""


class Ages:
    """Records by when their values were created: not the order of insertion, as entries come from lower tiers too.

    Those that came in since the oldest was last asked for are not in the heap yet; before the first time that it is,
    nobody is.

    Args:
        records: of the store, by key.
    """

    def __init__(self, records: Mapping[str, Record]) -> None:
        self._records = records
        self._is_needed = False
        self._heap: list[tuple[float, int, Record]] = []
        self._new: list[Record] = []
        self._most_new = _SLACK
        self._serial = count()

    def add(self, record: Record) -> None:
        """Note a record that came in."""
        if self._is_needed:
            self._new.append(record)
            if len(self._new) > self._most_new:
                self._rebuild()

    def tidy(self) -> None:
        """Leave out what is gone, where there is much of it."""
        if len(self._new) + len(self._heap) > 2 * len(self._records) + _SLACK:
            self._rebuild()

    def oldest(self) -> Record | None:
        """The record of the value that was created first."""
        if not self._is_needed:
            self._is_needed = True
            self._rebuild()
        new = [(record.born, next(self._serial), record) for record in self._new if record.entry is not GONE]
        self._new.clear()
        if len(new) > 16:
            self._heap += new
            heapq.heapify(self._heap)
        else:
            for note in new:
                heapq.heappush(self._heap, note)
        while self._heap and self._heap[0][2].entry is GONE:
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def _rebuild(self) -> None:
        self._new, self._heap = all_of(self._records), []
        self._most_new = 2 * len(self._new) + _SLACK


class EntriesInMemory:
    """Entries by key in the order of their last use, by image and by age; their bytes, and how many went and why.

    Args:
        clock: monotonic seconds. What is measured by it goes on while the wall clock is set.
        wall_clock: seconds since 1970: the time of all times that are handed in or out.
    """

    name = "memory"
    budget: int
    """What the values may add up to."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self.on_evict: Callable[[str, Entry, str, float, bool], None] | None = None
        """Told of every entry after it went: key, entry, ``Reason``, when it was used last (seconds since 1970), its
        done hint. It must neither raise nor call back into the store."""
        self.observer: ShadowCaches | None = None
        """Told of what happens here, where that is wanted. It must neither raise nor call back into the store."""
        self.bytes = 0
        """Bytes held."""
        self.peak_bytes = 0
        """The most bytes held so far."""
        self.evictions: dict[str, int] = dict.fromkeys(Reason, 0)
        """Entries that went, by reason."""
        self._clock = clock
        self._wall_clock = wall_clock
        self._records: OrderedDict[str, Record] = OrderedDict()  # by last use, the longest ago first
        self._by_image = RecordsByImage()
        self._ages = Ages(self._records)
        self._refused = 0
        self._tallies: dict[Kind, Tally] = {kind: Tally() for kind in Kind}

    def __contains__(self, key: str) -> bool:
        """Whether the key is held, which is no use of it; it may have expired."""
        return key in self._records

    @property
    def entries(self) -> int:
        """Entries held."""
        return len(self._records)

    def uses(self, within_s: float) -> Iterator[tuple[str, float]]:
        """The keys that were used within so many seconds, and when (seconds since 1970), in any order.

        It may be gone through a part at a time, with other things in between.
        """
        since, offset = self._clock() - within_s, self._since_1970()
        return ((record.key, record.used + offset) for record in all_of(self._records) if record.used > since)

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

    def _add(self, key: str, entry: Entry, size: int, now: float, born: float) -> Record:
        """Take in what the policy does not know yet."""
        group = self._by_image.of(key)
        tally = self._tallies[entry.kind]
        record = self._records[key] = Record(key, group, entry, size, tally, now, born)
        group.records.append(record)
        group.alive += 1
        self._ages.add(record)
        self.bytes += size
        if self.bytes > self.peak_bytes:
            self.peak_bytes = self.bytes
        tally.entries += 1
        tally.bytes += size
        return record

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
            self.on_evict(key, entry, reason, record.used + self._since_1970(), record.done)

    def _since_1970(self) -> float:
        """What to add to this store's times."""
        return self._wall_clock() - self._clock()
