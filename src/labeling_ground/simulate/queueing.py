"""Engines behind one queue, simulated: waiting times, and how busy the engines are."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from labeling_ground.types import Priority


@dataclass(frozen=True, slots=True)
class Need:
    """A request for a computation.

    Attributes:
        time: when, in seconds.
        key: of what; a need for what waits or is computed already joins it.
        priority: its class; a better one lifts what waits.
        is_missing: whether the cache lacks it; otherwise it is waited for only while it is on its way.
    """

    time: float
    key: int
    priority: Priority
    is_missing: bool = True


@dataclass(slots=True)
class _Waiting:
    """One computation that has no engine yet."""

    since: float
    priority: Priority
    askers: list[tuple[float, Priority]] = field(default_factory=list)


class Engines:
    """So many engines, one computation at a time each; people first, then prefetches, then jobs.

    Within a class first come first served. Nothing that runs is stopped.

    Args:
        count: engines.
        seconds: that one computation takes.
    """

    def __init__(self, count: int, seconds: float) -> None:
        self.seconds = seconds
        self.busy_s = 0.0
        self.waited: dict[Priority, list[float]] = {priority: [] for priority in Priority}
        """Of each class: the seconds from each need to its answer, of those that were not answered at once."""
        self._free_at = [0.0] * count
        self._queue: list[tuple[Priority, int, int]] = []
        self._waiting: dict[int, _Waiting] = {}
        self._done_at: dict[int, float] = {}
        self._serial = 0

    @property
    def count(self) -> int:
        """Engines that there are now."""
        return len(self._free_at)

    @property
    def waiting(self) -> int:
        """Computations that wait."""
        return len(self._waiting)

    def add(self, time: float) -> None:
        """One engine more, from ``time`` on."""
        heapq.heappush(self._free_at, time)

    def remove(self) -> None:
        """One engine less; it ends what it computes."""
        heapq.heappop(self._free_at)

    def need(self, need: Need) -> None:
        """Take a need in. They must come in the order of time."""
        self.advance(need.time)
        waiting = self._waiting.get(need.key)
        if waiting is None and self._done_at.get(need.key, -1.0) > need.time:
            self.waited[need.priority].append(self._done_at[need.key] - need.time)
            return
        if waiting is None:
            if not need.is_missing:
                return
            waiting = self._waiting[need.key] = _Waiting(need.time, need.priority)
            self._push(need.key, need.priority)
        elif need.priority < waiting.priority:
            waiting.priority = need.priority
            self._push(need.key, need.priority)
        waiting.askers.append((need.time, need.priority))
        self.advance(need.time)

    def advance(self, time: float) -> None:
        """Begin what can begin until ``time``."""
        while self._queue and self._free_at and self._free_at[0] <= time:
            priority, _, key = heapq.heappop(self._queue)
            waiting = self._waiting.get(key)
            if waiting is None or waiting.priority != priority:  # begun, or lifted to a better class
                continue
            del self._waiting[key]
            end = max(heapq.heappop(self._free_at), waiting.since) + self.seconds
            heapq.heappush(self._free_at, end)
            self._done_at[key] = end
            self.busy_s += self.seconds
            for asked, of_class in waiting.askers:
                self.waited[of_class].append(end - asked)

    def run(self, needs: Iterable[Need]) -> "Engines":
        """Take all needs in, and work until nothing waits. Returns itself."""
        for need in needs:
            self.need(need)
        self.advance(float("inf"))
        return self

    def _push(self, key: int, priority: Priority) -> None:
        self._serial += 1
        heapq.heappush(self._queue, (priority, self._serial, key))
