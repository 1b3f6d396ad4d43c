"""Any ranking as a policy in memory, driven by a heap that is put right only where it must be."""

import heapq
from itertools import count

from labeling_ground.cache.policy.port import Ranking

_SLACK = 64
"""Dead heap items that are not worth rebuilding a small heap for."""


class _Item:
    """One key's standing; ``queued`` is its one valid place in the heap, never above its rank."""

    __slots__ = ("base", "cost", "done", "queued", "rank", "size", "use")

    def __init__(self, size: int, cost: float) -> None:
        self.size = size
        self.cost = cost
        self.done = False
        self.base = 0.0
        self.rank = 0.0
        self.use = 0
        self.queued: tuple[float, int, str] | None = None


class RankedPolicy:
    """A ``Policy`` by a ``Ranking``. Not safe for threads.

    A use only ever raises a rank, so a hit notes the new rank and leaves the heap alone: O(1). The
    place in the heap is corrected when it comes to the top, which each hit can cause once at most:
    O(log n) amortised. Only a rank that falls (the done hint) is queued anew, and the heap is
    rebuilt once more than half of it is dead.
    """

    def __init__(self, ranking: Ranking) -> None:
        self.ranking = ranking
        self._items: dict[str, _Item] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._floor = 0.0
        self._latest = 0.0
        self._uses = count(1)

    def __len__(self) -> int:
        return len(self._items)

    def insert(self, key: str, size: int, cost: float, now: float) -> None:
        """Take a key in; one that is here already starts anew."""
        item = self._items[key] = _Item(size, cost)
        self._use(item, now)
        self._queue(key, item)

    def hit(self, key: str, now: float) -> None:
        """Give the key the rank of one used now, and take a done hint back."""
        item = self._items.get(key)
        if item is None:
            return
        item.done = False
        self._use(item, now)
        if item.queued is None or item.rank < item.queued[0]:
            self._queue(key, item)

    def mark(self, key: str, done: bool) -> None:
        """Set or take back the done hint."""
        item = self._items.get(key)
        if item is None or item.done == done:
            return
        item.done = done
        item.rank = self.ranking.rank(item.base, item.size, item.cost, done)
        if item.queued is None or item.rank < item.queued[0]:
            self._queue(key, item)

    def remove(self, key: str) -> None:
        """Forget the key; the floor stays, since nothing was learnt about what room is worth."""
        if self._items.pop(key, None) is not None:
            self._compact()

    def victim(self) -> str | None:
        """The key with the smallest rank, and unused for longest among those."""
        heap = self._heap
        while heap:
            top = heap[0]
            item = self._items.get(top[2])
            if item is None or item.queued is not top:
                heapq.heappop(heap)
            elif (item.rank, item.use) > (top[0], top[1]):
                item.queued = (item.rank, item.use, top[2])
                heapq.heapreplace(heap, item.queued)
            else:
                return top[2]
        return None

    def evict(self) -> str | None:
        """Take the victim out and raise the floor to its rank."""
        key = self.victim()
        if key is not None:
            # A done hint can lower a rank below the floor, and the floor never falls.
            self._floor = max(self._floor, self._items.pop(key).rank)
            heapq.heappop(self._heap)
        return key

    def _use(self, item: _Item, now: float) -> None:
        # A wall clock may be set back; the order of use may not.
        if now > self._latest:
            self._latest = now
        item.base = self.ranking.base(self._floor, self._latest)
        item.rank = self.ranking.rank(item.base, item.size, item.cost, item.done)
        item.use = next(self._uses)

    def _queue(self, key: str, item: _Item) -> None:
        item.queued = (item.rank, item.use, key)
        heapq.heappush(self._heap, item.queued)
        self._compact()

    def _compact(self) -> None:
        if len(self._heap) <= 2 * len(self._items) + _SLACK:
            return
        self._heap = []
        for key, item in self._items.items():
            item.queued = (item.rank, item.use, key)
            self._heap.append(item.queued)
        heapq.heapify(self._heap)
