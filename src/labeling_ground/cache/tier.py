"""A tier below memory: a store with a circuit breaker in front, a check of what comes back, and a write queue.

To the caller a tier that is down, slow, full or damaged is a miss and a counter. It is never an error and never a
wrong value.
"""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from labeling_ground import key as keys
from labeling_ground.breaker import Breaker
from labeling_ground.cache.store import Bounded, Probed, Store
from labeling_ground.cache.tasks import stop
from labeling_ground.cache.tier_calls import Call, TierCalls, TierHealth
from labeling_ground.codec import records
from labeling_ground.errors import DamagedEntry, StoreFailed
from labeling_ground.pools import Pool
from labeling_ground.supervisor import Supervisor
from labeling_ground.types import Entry, Kind


@dataclass(frozen=True, slots=True)
class TierLimits:
    """Bounds of each tier below memory.

    Attributes:
        queue_bytes: how much may wait to be written; beyond that a value is dropped and counted, but for one alone.
        answer_s: seconds to be opened, to say whether it works, and what it holds.
        change_s: seconds for a purge, or for taking other settings.
        close_s: seconds at the end for what still waits to be written, and for what is under way.
    """

    queue_bytes: int = 128 << 20
    answer_s: float = 2.0
    change_s: float = 120.0
    close_s: float = 10.0


@dataclass(eq=False, slots=True)
class Pending:
    """One order to write a value: kept again after a purge, the very same value is another order."""

    entry: Entry
    demoted: float | None = None
    """When it was used last, where the tier may have it still: seconds since 1970."""


class WriteQueue:
    """Writes values to one tier, one after the other; orders such as a purge go before what waits to be written.

    Args:
        health: of the tier; told how each write ends.
        most_bytes: how much may wait to be written; see ``TierLimits``.
        supervisor: of the task that writes.
    """

    def __init__(self, health: TierHealth, *, most_bytes: int, supervisor: Supervisor) -> None:
        self.store = health.store
        self.most_bytes = most_bytes
        self.is_closed = False
        self._health = health
        self._supervisor = supervisor
        self.pending: OrderedDict[str, Pending] = OrderedDict()
        """By key: what waits to be written, which is as good as being there."""
        self._pending_bytes = 0
        self._writing: Pending | None = None
        self._orders: deque[tuple[str, Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = deque()
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Values that wait to be written."""
        return len(self.pending)

    def write(self, key: str, entry: Entry) -> None:
        """Queue a value to be written behind the caller's back."""
        if key in self.pending or self.is_closed:
            return
        if self._pending_bytes and self._pending_bytes + entry.size > self.most_bytes:
            self._health.count("dropped")
            return
        self._queue(key, Pending(entry))

    def demote(self, key: str, entry: Entry, used: float) -> None:
        """Queue a value that memory has no room for, to be written if the tier does not have it any more.

        ``used`` is when it was used last, seconds since 1970.

        It can take up half of the queue; beyond that it is let go: what is new is dearer.
        """
        if key in self.pending or self.is_closed or self._health.breaker.state != "closed":
            return
        if self._pending_bytes + entry.size <= self.most_bytes // 2:
            self._queue(key, Pending(entry, used))

    async def flush(self, key: str) -> None:
        """Write a value ahead of all others; wait until it is there, or was given up."""
        with contextlib.suppress(StoreFailed):
            while key in self.pending:
                self.pending.move_to_end(key, last=False)
                await self.order("pass", _nothing)

    async def delete(self, pattern: str, work: Callable[[str], Awaitable[int]] | None = None) -> int:
        """Purge, in turn with the writes, so that nothing written before comes back after.

        Args:
            pattern: what to purge.
            work: what to do in place of the tier's own ``delete``.

        Raises:
            StoreFailed: the tier did not do it; what should be gone may still be there.
        """
        match = keys.matcher(pattern)
        gone = [self.pending.pop(key) for key in [key for key in self.pending if match(key)]]
        self._pending_bytes -= sum(pending.entry.size for pending in gone)
        # A value that was only to be written again is there as a rule, and counted there.
        never_written = sum(pending is not self._writing and pending.demoted is None for pending in gone)
        purge = work or self.store.delete
        deleted: int = await self.order("purge", lambda: purge(pattern))
        return deleted + never_written

    def order(self, verb: str, work: Callable[[], Awaitable[Any]]) -> asyncio.Future[Any]:
        """Have something done in turn with the writes; the future fails with ``StoreFailed`` where it was not."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # An order that nobody waits for must not complain when it fails: the counter and the log already have.
        future.add_done_callback(lambda f: f.cancelled() or f.exception())
        if self.is_closed:
            future.set_exception(StoreFailed(f"The {self.store.name} cache is closed."))
            return future
        self._orders.append((verb, work, future))
        self._start()
        return future

    async def drain(self) -> None:
        """Wait until everything queued is written."""
        while self.pending or self._orders:
            await self.order("pass", _nothing)

    async def aclose(self, grace_s: float) -> None:
        """Write what is pending, as far as the grace allows, and take no more."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.drain(), grace_s)
        self.is_closed = True
        if self._writer is not None:
            await stop(self._writer)

    def _queue(self, key: str, pending: Pending) -> None:
        self.pending[key] = pending
        self._pending_bytes += pending.entry.size
        self._start()

    def _start(self) -> None:
        self._wake.set()
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._supervisor.persist(f"write {self.store.name}", self._work))

    async def _work(self) -> None:
        while True:
            if not self.pending and not self._orders:
                await self._wake.wait()
            self._wake.clear()
            while self.pending or self._orders:
                while self._orders:  # first: what they are about was written before, or must not be written
                    await self._carry_out(*self._orders.popleft())
                if self.pending:
                    await self._write(*next(iter(self.pending.items())))

    async def _write(self, key: str, pending: Pending) -> None:
        entry, used = pending.entry, pending.demoted
        try:
            if self._health.breaker.state == "open":
                self._health.count("dropped")
                return
            self._writing = pending
            if used is None:
                await self.store.put(key, entry)
            elif not await self.store.has(key):
                await self.store.put(key, entry, used)
                self._health.metrics.demoted.labels(self.store.name).inc()
            self._health.succeeded()
        except Exception as error:  # noqa: BLE001 -- whatever a tier's driver raises; it is counted
            self._health.failed("write", error)
        finally:
            self._writing = None
            if self.pending.get(key) is pending:  # not where a purge came in between
                del self.pending[key]
                self._pending_bytes -= entry.size

    async def _carry_out(self, verb: str, work: Callable[[], Awaitable[Any]], future: asyncio.Future[Any]) -> None:
        try:
            result = await work()
        except Exception as error:  # noqa: BLE001 -- as in _write
            self._health.failed(verb, error)
            if not future.done():
                why = f" {error}" if isinstance(error, StoreFailed) else ""  # in a sentence, such as: the disk is full
                future.set_exception(StoreFailed(f"The {self.store.name} cache failed to {verb}.{why} Try again."))
        else:
            if work is not _nothing:
                self._health.trouble = ""
            if not future.done():
                future.set_result(result)
        finally:
            if not future.done():  # the store cancelled itself, or this queue is being ended
                future.set_exception(StoreFailed(f"The {self.store.name} cache did not {verb}. Try again."))


async def _nothing() -> None:
    """An order that does nothing: it is done when the writer has reached it."""


log = logging.getLogger(__name__)

_LARGE = 256 * 1024
"""From this many bytes on a checksum is worth a thread: below, the hand-over costs more than the sum."""

_ENCODED = (f"/{Kind.EMBEDDING}/", f"/{Kind.TRUNK}/")

_PROBE = keys.ImageKeys(keys.PUBLIC, "0" * 64).image
"""A key under which nothing is stored."""


class Tier:
    """One store below memory, which may fail without anybody noticing but an operator.

    Args:
        store: the store.
        deadline_s: how long a look-up may take, in seconds, before it counts as a miss.
        breaker: when to leave the store alone.
        checks: threads that large values are checked in.
        limits: its other bounds.
        clock: monotonic seconds.
        supervisor: of the write queue; what happens here is counted in its metrics.
    """

    def __init__(
        self,
        store: Store,
        *,
        deadline_s: float,
        breaker: Breaker,
        checks: Pool | None = None,
        limits: TierLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        supervisor: Supervisor | None = None,
    ) -> None:
        supervisor = supervisor or Supervisor()
        self.store = store
        self.limits = limits or TierLimits()
        self.health = TierHealth(store, breaker, supervisor.metrics)
        at_once = store.at_once if isinstance(store, Bounded) else None
        self.calls = TierCalls(self.health, deadline_s=deadline_s, at_once=at_once, clock=clock)
        self.queue = WriteQueue(self.health, most_bytes=self.limits.queue_bytes, supervisor=supervisor)
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

    async def open(self, deadline_s: float | None = None) -> None:
        """Make the store ready. One that cannot be, or not in time, has failed like one that fails later."""
        try:
            async with asyncio.timeout(deadline_s or self.limits.answer_s):
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
            if in_time and any(kind in key for kind in _ENCODED):
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
        if key in self.queue.pending:
            return True
        return await self.calls.ask("touch", partial(self.store.touch, key)) or False

    def touch_later(self, key: str) -> None:
        """Restart the entry's idle timer behind the caller's back."""
        if self.health.breaker.state == "closed" and not self.queue.is_closed:
            self.calls.begin(self.touch(key))

    async def probe(self) -> None:
        """Ask the store whether it works, though no request needs it now; ``health.trouble`` says what came of it."""
        probe = self.store.probe if isinstance(self.store, Probed) else partial(self.store.has, _PROBE)

        async def ask() -> bool:
            await probe()
            return True

        answer_s = self.limits.answer_s
        if await self.calls.ask("probe", ask, answer_s) is None and not self.health.trouble:
            self.health.trouble = f"It did not answer within {answer_s:g} s."

    def mark_done(self, group: str, done: bool) -> None:
        """Hand the done hint on, behind the caller's back."""
        if self.health.breaker.state == "closed":
            self.queue.order("mark", lambda: self.store.mark_done(group, done))

    async def sweep(self, *, deadline_s: float = 30.0) -> None:
        """Let the store delete what was idle for too long. One that takes its time goes on, and is not waited for."""
        if self.health.breaker.state == "closed":
            await asyncio.wait({self.queue.order("sweep", self.store.sweep)}, timeout=deadline_s)

    async def aclose(self, grace_s: float | None = None) -> None:
        """Write what is pending, as far as the grace allows, and close the store."""
        ends = time.monotonic() + (self.limits.close_s if grace_s is None else grace_s)
        await self.queue.aclose(ends - time.monotonic())
        await self.calls.aclose(max(0.0, ends - time.monotonic()))
        try:
            await self.store.aclose()
        except Exception as error:  # noqa: BLE001 -- as in open
            self.health.failed("close", error)

    async def _discard(self, key: str, error: DamagedEntry) -> None:
        """Throw away an entry whose bytes turned out to be damaged."""
        log.warning("%s: %s It was thrown away.", self.store.name, error)
        self.health.count("damaged")
        await self.store.drop_damaged(key)

    def _percentile(self, share: float) -> float:
        ordered = sorted(self._latencies)
        return ordered[int(share * len(ordered))] if ordered else 0.0
