"""Migration from one eviction policy to another under a full store, a part at a time."""

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import islice, repeat
from operator import attrgetter

from labeling_ground.cache.policies.port import Item, Policy

_used = attrgetter("used")


class PolicyMigration:
    """A policy in place of an old and a new one, until the new one has all items, in the order of their last use.

    First that order is worked out, while the old policy goes on deciding. Then the new one is told, and decides among
    those that it knows already, which are the ones unused for longest. What comes in or is used meanwhile is told last.

    Args:
        old: the policy that knows the items.
        new: an empty one.
        items: what there is, in any order. What comes in later may be among it or not.
    """

    def __init__(self, old: Policy, new: Policy, items: Iterable[Item]) -> None:
        self.new = new
        self._old: Policy | None = old
        self._unsorted = iter(items)
        # Times and items of each run side by side, and no pairs of them: so many new objects at once would have Python
        # look through all objects that there are.
        self._runs: list[Iterator[tuple[float, int, Item]]] = []
        self._earlier: Iterator[tuple[float, int, Item]] = iter(())
        self._pending: OrderedDict[Item, None] = OrderedDict()  # came in or used since, and not told yet
        self._moved: set[Item] = set()
        self._gone: set[Item] = set()

    @property
    def makes_room(self) -> bool:
        """As the policy that decides now."""
        return (self.new if self._old is None else self._old).makes_room

    def room_for(self, key: str, size: int) -> None:
        """See ``TenantPolicy``."""
        for policy in (self._old, self.new):
            room_for = getattr(policy, "room_for", None)
            if room_for is not None:
                room_for(key, size)

    def insert(self, item: Item) -> None:
        """An entry came in."""
        if self._old is not None:
            self._old.insert(item)
        self._pending[item] = None

    def hit(self, item: Item) -> None:
        """It was used: its turn to be told comes later, or once more."""
        if self._old is not None:
            self._old.hit(item)
        elif item in self._moved:
            self._moved.discard(item)
            self.new.remove(item)
        self._pending[item] = None
        self._pending.move_to_end(item)

    def mark(self, item: Item) -> None:
        """Its ``done`` has changed."""
        if self._old is not None:
            self._old.mark(item)
        elif item in self._moved:
            self.new.mark(item)

    def remove(self, item: Item) -> None:
        """It went for a reason of its own."""
        if self._old is not None:
            self._old.remove(item)
        elif item in self._moved:
            self.new.remove(item)
        self._forget(item)

    def evict(self) -> Item | None:
        """Take out the next to go."""
        if self._old is not None:
            item = self._old.evict()
        else:
            item = self.new.evict()
            while item is None and self.advance(1):
                item = self.new.evict()
        if item is not None:
            self._forget(item)
        return item

    def advance(self, limit: int) -> bool:
        """Do a part of the work, so many items of it; whether there may be more to do."""
        if run := sorted(islice(self._unsorted, limit), key=_used):
            # With the times as they are now: of what is used from now on, the turn comes later.
            self._runs.append(zip(array("d", map(_used, run)), repeat(len(self._runs)), run))
            return True
        if self._old is not None:
            self._old = None
            self._earlier = merge(*self._runs)
        told = 0
        for _, _, item in islice(self._earlier, limit):
            told += 1
            if item not in self._pending and item not in self._moved and item not in self._gone:
                self._insert(item)
        while told < limit and self._pending:
            told += 1
            self._insert(self._pending.popitem(last=False)[0])
        return told == limit

    def _insert(self, item: Item) -> None:
        self._moved.add(item)
        self.new.insert(item)
        if item.done:
            self.new.mark(item)

    def _forget(self, item: Item) -> None:
        self._pending.pop(item, None)
        self._moved.discard(item)
        self._gone.add(item)
