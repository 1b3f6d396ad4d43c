"""The tiers as one: memory in front, slower and larger ones behind it."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from types import EllipsisType, MappingProxyType
from typing import TypeVar

from labeling_ground.breaker import Breaker
from labeling_ground.cache.int8 import Int8Embeddings
from labeling_ground.cache.memory import MemoryStore
from labeling_ground.cache.policies.port import Reason
from labeling_ground.cache.purges import Purges
from labeling_ground.cache.rules import is_worth_demoting, weighed_in_memory
from labeling_ground.cache.shadow import ShadowCaches
from labeling_ground.cache.store import Choosy, Store
from labeling_ground.cache.tier import Tier, TierLimits
from labeling_ground.errors import StoreFailed
from labeling_ground.pools import Pool
from labeling_ground.supervisor import Supervisor
from labeling_ground.types import Entry, Kind, StoreStats

_EXPIRED_AT_ONCE = 1000
"""Entries that a sweep removes before others get their turn."""
_TOUCHES = 100_000
"""So many keys' uses are remembered, in some 20 MB. No limit: a use that is not remembered is noted below once more."""

T = TypeVar("T")


class Touches:
    """Remembers when the idle timers of keys were restarted in the lower tiers, so that few uses cost them anything.

    Args:
        idle_s: the idle time; a use is due when the last one noted is a twentieth of it ago.
        clock: monotonic seconds.
    """

    def __init__(self, idle_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._noted: OrderedDict[str, float] = OrderedDict()
        self.set_idle(idle_s)

    def set_idle(self, idle_s: float) -> None:
        """Take another idle time: each next use is due, since a timer may still run by the old one."""
        self.idle_s = idle_s
        self._noted.clear()

    def is_due(self, key: str) -> bool:
        """Whether a use now is to be noted below; if so, it counts as noted."""
        last = self._noted.get(key)
        if last is not None and self._clock() - last < self.idle_s / 20:
            return False
        self.note(key)
        return True

    def note(self, key: str) -> None:
        """The timer of a key is restarted now."""
        self._noted[key] = self._clock()
        self._noted.move_to_end(key)
        if len(self._noted) > _TOUCHES:
            self._noted.popitem(last=False)


class TieredStore:
    """Memory, then the lower tiers in order.

    What is found below is promoted to memory. What is put goes to memory at once and to the lower tiers behind the
    caller's back. So what leaves memory for want of room is in the next tier already, as a rule; where it is not any
    more, and is worth it, it is written there again, as what was used last when it was here.

    Where a kind lives: image files in the last tier only (the cheapest), logits in memory only (they are large and
    cheap to make again), the rest everywhere.

    Args:
        memory: the first tier; asked without waiting.
        lower: the others, each of which gets a deadline, a circuit breaker and a write queue.
        shadows: observe memory, to tell what larger budgets would have spared.
        idle_s: the idle time that all tiers keep; a hit above restarts it below, at most once per a twentieth of it.
        deadline_s: how long a look-up may take in each tier.
        file_deadline_s: how long one may take of an image file, which nothing can stand in for.
        limits: the other bounds of each.
        check_threads: threads that check large values which the lower tiers answer; where there are none, that round
            embeddings to int8.
        supervisor: of the tiers' write queues; what happens here is counted in its metrics.
    """

    def __init__(
        self,
        memory: MemoryStore,
        lower: Sequence[Store] = (),
        *,
        shadows: ShadowCaches | None = None,
        idle_s: float = 1800.0,
        deadline_s: float = 0.1,
        file_deadline_s: float = 5.0,
        limits: TierLimits | None = None,
        breaker_failures: int = 5,
        breaker_reset_s: float = 5.0,
        check_threads: int = 1,
        clock: Callable[[], float] = time.monotonic,
        supervisor: Supervisor | None = None,
    ) -> None:
        supervisor = supervisor or Supervisor()
        supervisor.metrics.name_tiers(memory.name, *(store.name for store in lower))
        self.memory = memory
        self.file_deadline_s = file_deadline_s
        self.limits = limits or TierLimits()
        self._checks = Pool("checks", check_threads)
        self.lower = [
            Tier(
                store,
                deadline_s=deadline_s,
                breaker=Breaker(breaker_failures, breaker_reset_s, clock),
                checks=self._checks,
                limits=self.limits,
                clock=clock,
                supervisor=supervisor,
            )
            for store in lower
        ]
        self.shadows = memory.observer = shadows
        self.purges = Purges() if shadows is None else shadows.purges
        self.int8 = Int8Embeddings(memory, self.purges, self._checks, supervisor)
        self.demotes = True
        """Whether what memory has no room for may go to the tier below."""
        memory.on_evict = self._evicted
        self.touches = Touches(idle_s, clock)

    @property
    def p99_s(self) -> float:
        """99th percentile of the lower tiers' embedding look-ups, one after the other, in seconds."""
        return sum(tier.p99_s for tier in self.lower)

    async def open(self, *, deadline_s: float | None = None) -> None:
        """Make the lower tiers ready. One that cannot be is treated as one that fails later: as if it held nothing."""
        for tier in self.lower:
            await tier.open(deadline_s)

    def peek(self, key: str) -> Entry | None:
        """The entry if it is in memory, or on its way to a lower tier."""
        entry = self.memory.peek(key)
        if entry is not None:
            if self.lower and self.touches.is_due(key):
                self._touch_lower(key)
            return entry
        for tier in self.lower:
            waiting = tier.queue.pending.get(key)
            if waiting is not None:
                self._promote(key, waiting.entry)
                return waiting.entry
        return self.int8.pending.get(key)

    async def look_up(
        self, key: str, *, deadline_s: float | None = None, unreachable: Exception | None = None
    ) -> Entry | None:
        """Ask the lower tiers in order. A tier's failure is a miss.

        Args:
            key: what to look for.
            deadline_s: how long each tier may take, where the default would not do.
            unreachable: raised where the last tier, which has all that is stored below memory, failed to answer.
        """
        unanswered: list[Exception | None] = []
        purge_count = self.purges.count

        def promote(entry: Entry) -> None:
            if not self.purges.meant_since(key, purge_count):
                self._promote(key, entry)

        note = partial(unanswered.append, unreachable)
        for tier in self.lower:
            entry = await tier.look_up(key, promote, deadline_s, note if tier is self.lower[-1] else None)
            if entry is not None:
                return entry
        if unreachable is not None and unanswered:
            raise unreachable
        return None

    def put(self, key: str, entry: Entry, purge_count: int | None = None, *, computed: bool = True) -> bool:
        """Store a result in the tiers that its kind belongs to. Returns whether that was done.

        Args:
            key: its key.
            entry: the result.
            purge_count: ``purges.count`` when the computation began. A result whose image or model was purged since
                then is not stored: the purge meant it too.
            computed: whether it is what was computed, and does not only come with that.
        """
        if (purge_count is not None and self.purges.meant_since(key, purge_count)) or self.purges.is_under_way(key):
            return False
        if entry.kind is Kind.LOGITS or not self.lower:
            self.memory.insert(key, weighed_in_memory(entry), computed=computed)
            return True
        self.touches.note(key)  # the write sets the timer
        if entry.kind is Kind.IMAGE:
            self.lower[-1].queue.write(key, entry)
            return True
        self.memory.insert(key, entry, computed=computed)
        for tier in self.lower:
            tier.queue.write(key, entry)
        return True

    def has_room_for(self, key: str, kind: Kind, size: int) -> bool:
        """Whether a value just handed to ``put`` is in memory, or not too large for one of the tiers of its kind."""
        if key in self.memory:
            return True
        lower = self.lower[-1:] if kind is Kind.IMAGE else self.lower
        sizes = [tier.store.largest if isinstance(tier.store, Choosy) else None for tier in lower]
        if self.memory.makes_room and not (lower and kind is Kind.IMAGE):
            sizes.append(self.memory.largest)
        return any(largest is None or size <= largest for largest in sizes)

    async def touch(self, key: str) -> bool:
        """Restart an entry's idle timer in whichever tier has it. Whether one has (a failing tier has not)."""
        if self.memory.peek(key) is not None:
            return True
        return any([await tier.touch(key) for tier in self.lower])

    def use(self, *keys: str) -> None:
        """Note that entries are in use that were not read (the image of a mask that was found)."""
        for key in keys:
            if self.memory.peek(key) is None and self.lower and self.touches.is_due(key):
                self._touch_lower(key)

    def mark_done(self, group: str, done: bool) -> None:
        """Pass the done hint to all tiers."""
        self.memory.mark(group, done)
        for tier in self.lower:
            tier.mark_done(group, done)

    async def delete(
        self,
        pattern: str,
        works: Mapping[str, Callable[[str], Awaitable[int]]] = MappingProxyType({}),
        *,
        deadline_s: float | EllipsisType | None = ...,
    ) -> int:
        """Purge from all tiers. How many keys went, each counted once per tier.

        That takes a while, in which nothing that the pattern means is stored.

        Args:
            pattern: what to purge.
            works: what is left to do in a tier, by its name, in turn with the writes, where another process has purged
                what it shares with this one; by default the tier purges.
            deadline_s: how long that may take, in seconds, where the limits would not do; ``None``: as long as it does.

        Raises:
            StoreFailed: a tier did not do it. The others did, and trying again is safe.
        """
        with self.purges.under_way(pattern):
            gone = await self.memory.delete(pattern)
            try:
                async with asyncio.timeout(self.limits.change_s if deadline_s is ... else deadline_s):
                    counts = await _all_of(
                        tier.queue.delete(pattern, works.get(tier.store.name)) for tier in self.lower
                    )
            except TimeoutError as error:
                raise StoreFailed("A cache tier has not finished the purge in time. Try again.") from error
        return gone + sum(counts)

    async def sweep(self) -> None:
        """Delete what was idle, or is too old, in every tier that does not do so by itself."""
        async with AsyncExitStack() as sweeping:  # each has its turn, also where another one fails; memory's is first
            for tier in reversed(self.lower):
                sweeping.push_async_callback(tier.sweep)
            if self.shadows is not None:
                sweeping.callback(self.shadows.sweep)
            sweeping.push_async_callback(sweep_memory, self.memory)

    async def probe(self) -> None:
        """Ask each lower tier whether it works; ``TierHealth.trouble`` says what came of it."""
        await asyncio.gather(*(tier.probe() for tier in self.lower))

    async def stats(self, *, deadline_s: float | None = None) -> list[StoreStats]:
        """What each tier holds. Of a tier that does not answer only the name is known, and that it does not."""
        figures = [self.memory.stats()]
        for tier in self.lower:
            try:
                async with asyncio.timeout(deadline_s or self.limits.answer_s):
                    figures.append(await tier.store.stats())
            except Exception:  # noqa: BLE001 -- whatever a tier's driver raises; figures are no error
                figures.append(StoreStats(tier.store.name, entries=0, bytes=0, budget=0, answers=False))
        return figures

    async def drain(self) -> None:
        """Wait until the lower tiers have everything that was put."""
        for tier in self.lower:
            await tier.queue.drain()

    async def aclose(self) -> None:
        """Write what is pending and close all tiers, in the time that one of them has."""
        async with AsyncExitStack() as closing:
            closing.callback(self._checks.close)
            closing.push_async_callback(self.int8.aclose)
            closing.push_async_callback(lambda: _all_of(tier.aclose() for tier in self.lower))

    def _evicted(self, key: str, entry: Entry, reason: str, used: float, done: bool) -> None:
        if reason != Reason.BUDGET or not self.demotes or self.purges.is_under_way(key):
            return
        if not self.lower:
            self.int8.evicted(key, entry, used, done)
        elif is_worth_demoting(entry, self.lower[0].typical_s):
            self.lower[0].queue.demote(key, entry, used)

    def _promote(self, key: str, entry: Entry) -> None:
        if entry.kind is not Kind.IMAGE and not self.purges.is_under_way(key):
            self.memory.insert(key, entry, computed=False)

    def _touch_lower(self, key: str) -> None:
        for tier in self.lower:
            tier.touch_later(key)


async def _all_of(works: Iterable[Awaitable[T]]) -> list[T]:
    """All results; where one fails, it is raised when the others are done."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


async def sweep_memory(memory: MemoryStore) -> None:
    """Remove all that has expired in memory, a part at a time."""
    while memory.expire(_EXPIRED_AT_ONCE):  # noqa: ASYNC110 -- each turn does a part of the work
        await asyncio.sleep(0)
