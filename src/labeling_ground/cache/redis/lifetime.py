"""How long an entry may lie unused in Redis: what its idle timer is set to by every read and write."""

import math
from collections import OrderedDict

from labeling_ground.types import Entry

_CHEAP = 1e-7
"""Seconds by the byte: an embedding of 2 MB that took 0.2 s, the least that anybody caches on purpose."""
_DEAR = 1e-5
"""Likewise, from which on an entry has the whole idle time."""
_LEAST = 0.5
"""The part of the idle time that the cheapest have."""
_CLASSES = 256
"""So many classes are told apart. No limit: one that is forgotten is learned anew."""
_WEIGHT = 0.1
"""Of the latest entry, in its class' mean."""


class Lifetimes:
    """The idle time of each class of entries (one kind, by one model version), in milliseconds.

    Redis knows no cost: under ``volatile-ttl`` it evicts what would expire first. So what is dear to compute by the
    byte is given the whole idle time and what is cheap half of it, in between by the logarithm; then the dear outlives
    the cheap, as under GreedyDual-Size. A read must say the new time before it knows the value, so it goes by what the
    class cost on average so far. A class that is new here is given the whole time.

    Args:
        idle_s: the whole idle time, in seconds; no entry unused for longer is kept.
        by_cost: whether to shorten the cheaper ones' time. If not, all are equal, which makes Redis evict by last use.
    """

    def __init__(self, idle_s: float, *, by_cost: bool) -> None:
        self.set_idle(idle_s)
        self._by_cost = by_cost
        self._typical: OrderedDict[str, float] = OrderedDict()

    def set_idle(self, idle_s: float) -> None:
        """Go by another idle time from now on."""
        self._idle_ms = max(1, int(idle_s * 1000))

    def ms(self, key: str) -> int:
        """Milliseconds for an entry with this key."""
        typical = self._typical.get(_class_of(key)) if self._by_cost else None
        if typical is None:
            return self._idle_ms
        span = math.log(_DEAR / _CHEAP)
        dearness = min(1.0, max(0.0, (typical - math.log(_CHEAP)) / span))
        return max(1, int(self._idle_ms * (_LEAST + (1 - _LEAST) * dearness)))

    def learn(self, key: str, entry: Entry) -> None:
        """Take note of what an entry cost."""
        if not self._by_cost:
            return
        name = _class_of(key)
        density = math.log(max(entry.cost, 1e-9) / max(entry.size, 1))
        known = self._typical.get(name)
        self._typical[name] = density if known is None else known + _WEIGHT * (density - known)
        self._typical.move_to_end(name)
        if len(self._typical) > _CLASSES:
            self._typical.popitem(last=False)


def _class_of(key: str) -> str:
    return "/".join(key.split("/")[3:5])
