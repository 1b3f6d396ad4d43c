"""S3-FIFO, by bytes: to compare with. It knows no cost, and keeps what is used often, which labeling punishes.

After Yang, Zhang, Qiu, Yue & Rashmi, "FIFO Queues are All You Need for Cache Eviction", SOSP 2023.
"""

from collections import OrderedDict

from labeling_ground.cache.policies.port import Item, Policy

_SMALL = 0.1
"""Share of the bytes for what is new."""
_MOST_USES = 3
_ENOUGH = 2
"""Uses after which what is new is moved to the main queue."""


class SmallMainGhost:
    """Three queues, first in, first out. Not safe for threads; O(1) amortised.

    What is new enters the small queue. At its end, what was used twice since goes on to the main queue, and the rest
    goes; of those that went, as many keys are remembered as the main queue has bytes, and who of them comes back
    enters the main queue at once. At the end of the main queue, each use that was counted (three at most) is a lap
    more. What the policy was told of is all there is: while somebody must go, the bytes held are the budget.
    """

    makes_room = True

    def __init__(self) -> None:
        self._small: OrderedDict[str, Item] = OrderedDict()
        self._main: OrderedDict[str, Item] = OrderedDict()
        self._ghost: OrderedDict[str, int] = OrderedDict()
        self._small_bytes = 0
        self._main_bytes = 0
        self._ghost_bytes = 0

    def __len__(self) -> int:
        return len(self._small) + len(self._main)

    def insert(self, item: Item) -> None:
        """Take an item in."""
        item.turn = 0
        known = self._ghost.pop(item.key, None)
        if known is None:
            self._small[item.key] = item
            self._small_bytes += item.size
        else:
            self._ghost_bytes -= known
            self._main[item.key] = item
            self._main_bytes += item.size

    def hit(self, item: Item) -> None:
        """Count a use."""
        item.turn = min(_MOST_USES, item.turn + 1)

    def mark(self, item: Item) -> None:
        """A done hint counts for nothing here."""

    def remove(self, item: Item) -> None:
        """Forget the item."""
        if self._small.pop(item.key, None) is not None:
            self._small_bytes -= item.size
        else:
            del self._main[item.key]
            self._main_bytes -= item.size

    def evict(self) -> Item | None:
        """Take out the next to go."""
        held = self._small_bytes + self._main_bytes
        while self._small or self._main:
            if self._small and (self._small_bytes > _SMALL * held or not self._main):
                gone = self._from_small(held)
            else:
                gone = self._from_main()
            if gone is not None:
                return gone
        return None

    def _from_small(self, held: int) -> Item | None:
        key, item = self._small.popitem(last=False)
        self._small_bytes -= item.size
        if item.turn >= _ENOUGH:
            item.turn = 0
            self._main[key] = item
            self._main_bytes += item.size
            return None
        self._ghost[key] = item.size
        self._ghost_bytes += item.size
        while self._ghost_bytes > (1 - _SMALL) * held:
            self._ghost_bytes -= self._ghost.popitem(last=False)[1]
        return item

    def _from_main(self) -> Item | None:
        key, item = self._main.popitem(last=False)
        if item.turn:
            item.turn -= 1
            self._main[key] = item
            return None
        self._main_bytes -= item.size
        return item


def make(*, done_weight: float, frequency_exponent: float) -> Policy:
    """The policy that the name ``s3fifo`` stands for."""
    return SmallMainGhost()
