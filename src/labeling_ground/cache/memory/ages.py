"""The records of the memory store by the age of their values."""

import heapq
from collections.abc import Mapping
from itertools import count

from labeling_ground.cache.memory.records import GONE, Record, all_of

_SLACK = 64
"""Dead items that are not worth rebuilding a small heap for."""


class Ages:
    """Who was created first, which is not the order of coming in: an entry may come up from a tier below.

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
