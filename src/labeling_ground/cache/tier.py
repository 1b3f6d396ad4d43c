"""A tier below memory: a store with a circuit breaker in front, a check of what comes back, and a write queue.

To the caller a tier that is down, slow, full or damaged is a miss and a counter. It is never an error and never a
wrong value.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from labeling_ground import key as keys
from labeling_ground.breaker import Breaker
from labeling_ground.cache.store import Bounded, Probed, Store
from labeling_ground.cache.tier_calls import Call, TierCalls, TierHealth
from labeling_ground.cache.write_queue import WriteQueue
from labeling_ground.codec import records
from labeling_ground.errors import DamagedEntry, StoreFailed
from labeling_ground.pools import Pool
from labeling_ground.supervisor import Supervisor
from labeling_ground.types import Entry, Kind

log = logging.getLogger(__name__)

_LARGE = 256 * 1024
"""From this many bytes on a checksum is worth a thread: below, the hand-over costs more than the sum."""

_EMBEDDING = f"/{Kind.EMBEDDING}/"

_PROBE = keys.ImageKeys(keys.PUBLIC, "0" * 64).image
"""A key that nobody has."""


class Tier:
    """One store below memory, which may fail without anybody noticing but an operator.

    Args:
        store: the store.
        deadline_s: how long a look-up may take, in seconds, before it counts as a miss.
        breaker: when to leave the store alone.
        checks: threads that large values are checked in.
        clock: monotonic seconds.
        supervisor: of the write queue.
    """

    def __init__(
        self,
        store: Store,
        *,
        deadline_s: float,
        breaker: Breaker,
        checks: Pool | None = None,
        clock: Callable[[], float] = time.monotonic,
        supervisor: Supervisor | None = None,
    ) -> None:
        self.store = store
        self.health = TierHealth(store, breaker)
        at_once = store.at_once if isinstance(store, Bounded) else None
        self.calls = TierCalls(self.health, deadline_s=deadline_s, at_once=at_once, clock=clock)
        self.queue = WriteQueue(self.health, supervisor=supervisor or Supervisor())
        self._checks = checks or Pool("checks", 1)
        self._latencies: deque[float] = deque(maxlen=256)

    @property
    def p99_s(self) -> float:
        """99th percentile of the recent embedding look-ups that were answered within the deadline, in seconds."""
        return self._percentile(0.99)

    @property
    def typical_s(self) -> float:
        """Median of the same, in seconds."""
        return self._percentile(0.5)

    async def open(self, deadline_s: float) -> None:
        """Make the store ready. One that cannot be, or not in time, has failed like one that fails later."""
        try:
            async with asyncio.timeout(deadline_s):
                await self.store.open()
        except Exception as error:  # noqa: BLE001 -- whatever a tier's driver raises
            self.health.failed("start", error if str(error) else StoreFailed("It did not answer in time."))
        else:
            self.health.succeeded()

    async def look_up(
        self,
        key: str,
        found: Callable[[Entry], None],
        deadline_s: float | None = None,
        unanswered: Callable[[], None] | None = None,
    ) -> Entry | None:
        """Return the entry; ``None`` if the store has none, does not answer in time, or answers damaged bytes.

        A look-up past its deadline, or whose asker left, goes on. What it finds late is handed to ``found`` like
        everything that is found. ``unanswered`` is called where ``None`` does not mean that the store has none.
        """
        answered = False
        if self.health.breaker.state == "open":
            self.health.counters.skipped += 1
            if unanswered is not None:
                unanswered()
            return None

        async def discard(error: DamagedEntry) -> None:
            nonlocal answered
            answered = True  # what is damaged is gone
            await self._discard(key, error)

        async def receive(call: Call, entry: Entry | None) -> Entry | None:
            nonlocal answered
            in_time = self.calls.clock() - call.started <= call.limit  # else it is no measure for the window
            if entry is not None and entry.size >= _LARGE:
                await self._checks.run(records.check, entry, key)
            elif entry is not None:
                records.check(entry, key)
            if in_time and _EMBEDDING in key:
                self._latencies.append(self.calls.clock() - call.started)
            if entry is not None:
                found(entry)
            answered = True
            return entry

        entry = await self.calls.ask("look-up", partial(self.store.get, key), deadline_s, receive, discard)
        if not answered and unanswered is not None:
            unanswered()
        return entry

    async def touch(self, key: str) -> bool:
        """Restart the entry's idle timer and say whether the key is there; a tier that fails has nothing."""
        if self.queue.waiting(key) is not None:
            return True
        return await self.calls.ask("touch", partial(self.store.touch, key)) or False

    def touch_later(self, key: str) -> None:
        """Restart the entry's idle timer behind the caller's back."""
        if self.health.breaker.state == "closed" and not self.queue.is_closed:
            self.calls.begin(self.touch(key))

    async def probe(self, deadline_s: float = 2.0) -> None:
        """Ask the store whether it works, though nobody needs it now; ``health.trouble`` says what came of it."""
        probe = self.store.probe if isinstance(self.store, Probed) else partial(self.store.has, _PROBE)

        async def ask() -> bool:
            await probe()
            return True

        if await self.calls.ask("probe", ask, deadline_s) is None and not self.health.trouble:
            self.health.trouble = f"It did not answer within {deadline_s:g} s."

    def mark_done(self, group: str, done: bool) -> None:
        """Hand the done hint on, behind the caller's back."""
        if self.health.breaker.state == "closed":
            self.queue.order("mark", lambda: self.store.mark_done(group, done))

    async def sweep(self, *, deadline_s: float = 30.0) -> None:
        """Let the store delete what was idle for too long. One that takes its time is not waited for."""
        if self.health.breaker.state == "closed":
            await asyncio.wait({self.queue.order("sweep", self.store.sweep)}, timeout=deadline_s)

    async def aclose(self, grace_s: float = 10.0) -> None:
        """Write what is pending, as far as the grace allows, and close the store."""
        await self.queue.aclose(grace_s)
        await self.calls.aclose(grace_s)
        try:
            await self.store.aclose()
        except Exception as error:  # noqa: BLE001 -- as in open
            self.health.failed("close", error)

    async def _discard(self, key: str, error: DamagedEntry) -> None:
        """Throw away an entry whose bytes turned out to be damaged."""
        log.warning("%s: %s It was thrown away.", self.store.name, error)
        self.health.counters.errors["damaged"] += 1
        await self.store.drop_damaged(key)

    def _percentile(self, share: float) -> float:
        ordered = sorted(self._latencies)
        return ordered[int(share * len(ordered))] if ordered else 0.0
