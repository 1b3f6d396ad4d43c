"""Any ranking as a policy in memory, driven by a heap that is put right only where it must be."""

import heapq
from itertools import count

from labeling_ground.cache.policy.port import Item, Ranking

_SLACK = 64
"""Dead heap notes that are not worth rebuilding a small heap for."""
_MOST_WAITING = 1024
"""So many items may wait for their place in the heap, which bounds what one eviction has to catch up on."""


class RankedPolicy:
    """A ``Policy`` by a ``Ranking``. Not safe for threads.

    A use only ever raises a rank, so a hit notes when it was and leaves the heap alone: O(1), and no rank is worked
    out. The note in the heap is corrected when it comes to the top, which each hit can cause once at most: O(log n)
    amortised. What is new, and what was marked, waits for its place in the heap until somebody must go; many are gone
    or marked again by then. The heap is rebuilt once more than half of it is dead.

    Args:
        ranking: the formula.
        makes_room: whether entries go for new ones.
    """

    def __init__(self, ranking: Ranking, *, makes_room: bool = True) -> None:
        self.ranking = ranking
        self.makes_room = makes_room
        self._heap: list[tuple[float, int, Item]] = []
        self._waiting: list[Item] = []
        self._count = 0
        self._dead = 0
        self._floor = 0.0
        self._latest = 0.0
        self._turns = count(1)

    def __len__(self) -> int:
        return self._count

    def insert(self, item: Item) -> None:
        """Take an item in."""
        if item.used > self._latest:
            self._latest = item.used
        item.floor = self._floor
        item.latest = self._latest
        item.turn = next(self._turns)
        item.queued = None
        item.waits = True
        self._count += 1
        self._waiting.append(item)
        if len(self._waiting) > _MOST_WAITING:
            self._queue()

    def hit(self, item: Item) -> None:
        """Give the item the rank of one used now."""
        # A wall clock may be set back; the order of use may not.
        if item.used > self._latest:
            self._latest = item.used
        item.floor = self._floor
        item.latest = self._latest
        item.turn = next(self._turns)

    def mark(self, item: Item) -> None:
        """Its rank may have fallen: it needs a new place."""
        if item.waits:
            return
        item.waits = True
        self._waiting.append(item)
        if len(self._waiting) > _MOST_WAITING:
            self._queue()

    def remove(self, item: Item) -> None:
        """Forget the item; the floor stays, since nothing was learnt about what room is worth."""
        if item.queued is not None:
            item.queued = None
            self._bury()
        item.waits = False
        self._count -= 1

    def victim(self) -> Item | None:
        """The item with the smallest rank, and unused for longest among those."""
        if self._waiting:
            self._queue()
        heap = self._heap
        while heap:
            top = heap[0]
            item = top[2]
            if item.queued is not top:
                heapq.heappop(heap)
                self._dead -= 1
            elif item.turn != top[1]:
                item.queued = (self._rank(item), item.turn, item)
                heapq.heapreplace(heap, item.queued)
            else:
                return item
        return None

    def evict(self) -> Item | None:
        """Take the victim out and raise the floor to its rank."""
        item = self.victim()
        if item is not None:
            rank = heapq.heappop(self._heap)[0]
            item.queued = None
            self._count -= 1
            # A done hint can lower a rank below the floor, and the floor never falls.
            if rank > self._floor:
                self._floor = rank
        return item

    def _rank(self, item: Item) -> float:
        ranking = self.ranking
        return ranking.rank(ranking.base(item.floor, item.latest), item.size, item.cost, item.done, item.uses)

    def _queue(self) -> None:
        """Give everyone who waits a place."""
        waiting, self._waiting = self._waiting, []
        heap, base, rank = self._heap, self.ranking.base, self.ranking.rank
        for item in waiting:
            if not item.waits:
                continue
            item.waits = False
            if item.queued is not None:
                self._dead += 1
            worth = rank(base(item.floor, item.latest), item.size, item.cost, item.done, item.uses)
            item.queued = (worth, item.turn, item)
            heapq.heappush(heap, item.queued)
        self._tidy()

    def _bury(self) -> None:
        self._dead += 1
        self._tidy()

    def _tidy(self) -> None:
        if self._dead <= len(self._heap) // 2 + _SLACK // 2:
            return
        self._heap = [note for note in self._heap if note[2].queued is note]
        heapq.heapify(self._heap)
        self._dead = 0
