"""What stands in front of every tier but memory: a deadline, a breaker, a check of what comes back, and a write queue.

To the caller a tier that is down, slow, full or damaged is a miss and a counter. It is never an error and never a
wrong value.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from labeling_ground import key as keys
from labeling_ground.breaker import Breaker
from labeling_ground.cache.store import Probed, Store, Troubled
from labeling_ground.cache.tasks import stop
from labeling_ground.codec import records
from labeling_ground.errors import DamagedEntry, StoreFailed, StoreFull
from labeling_ground.pools import Pool
from labeling_ground.supervisor import Supervisor
from labeling_ground.types import Entry, Kind

T = TypeVar("T")

log = logging.getLogger(__name__)

_LARGE = 256 * 1024
"""From this many bytes on a checksum is worth a thread: below, the hand-over costs more than the sum."""

_EMBEDDING = f"/{Kind.EMBEDDING}/"

_PROBE = keys.ImageKeys(keys.PUBLIC, "0" * 64).image
"""A key that nobody has."""

_TURNS = 8
"""Turns of the loop that an answer is given after its deadline: where the loop was held up, it is there already."""


@dataclass(eq=False, slots=True)
class _Pending:
    """One order to write a value: kept again after a purge, the very same value is another order."""

    entry: Entry
    demoted: float | None = None
    """When it was used last, where the tier may have it still: seconds since 1970."""


@dataclass
class GuardFigures:
    """What happened at one tier."""

    errors: Counter[str] = field(default_factory=Counter)
    """By reason: ``deadline``, ``busy`` (the answer was late because of work of this process, not of the tier),
    ``failed``, ``damaged``, ``dropped`` (a value was not written: the queue was full, or the breaker open)."""
    skipped: int = 0
    """Look-ups that were not tried while the breaker was open."""
    demoted: int = 0
    """Values written again when memory had no room for them, because the tier did not have them any more."""


class _Call:
    """One call to the tier: futures that are done when the tier began with it, and when it was through."""

    def __init__(self, limit: float) -> None:
        loop = asyncio.get_running_loop()
        self.limit = limit
        """Seconds that the tier may take."""
        self.begun: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.started = 0.0
        """When the tier began, by the guard's clock."""


class Guard:
    """One guarded tier.

    Deadlines measure the tier: from the moment that it begins with a call until it is through. What a call waits before
    that, for one of the tier's places in this process, and what checking its answer takes, is bounded likewise, but
    it is not the tier that fails then.

    Args:
        store: the tier.
        deadline_s: how long a look-up may take before it counts as a miss.
        breaker: when to leave the tier alone.
        at_once: calls that the tier works on at the same time; ``None``: as many as come.
        checks: threads that large values are checked in.
        pending_bytes: how much may wait to be written; beyond that a value is dropped and counted.
        clock: monotonic seconds.
        supervisor: of the write queue.
    """

    def __init__(
        self,
        store: Store,
        *,
        deadline_s: float,
        breaker: Breaker,
        at_once: int | None = None,
        checks: Pool | None = None,
        pending_bytes: int = 128 << 20,
        clock: Callable[[], float] = time.monotonic,
        supervisor: Supervisor | None = None,
    ) -> None:
        self.store = store
        self._supervisor = supervisor or Supervisor()
        self.breaker = breaker
        self.figures = GuardFigures()
        self._clock = clock
        self._deadline_s = deadline_s
        self._checks = checks or Pool("checks", 1)
        self._places = None if at_once is None else asyncio.Semaphore(at_once)
        self._calls: set[_Call] = set()
        self._latencies: deque[float] = deque(maxlen=256)
        self._pending: OrderedDict[str, _Pending] = OrderedDict()
        self._pending_bytes = 0
        self._pending_limit = pending_bytes
        self._writing: _Pending | None = None
        self._trouble = ""
        self._orders: deque[tuple[str, Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = deque()
        self._closed = False
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._loose: set[asyncio.Task[Any]] = set()

    @property
    def p99_s(self) -> float:
        """99th percentile of the recent embedding look-ups that were answered within the deadline, in seconds."""
        ordered = sorted(self._latencies)
        return ordered[int(0.99 * len(ordered))] if ordered else 0.0

    @property
    def typical_s(self) -> float:
        """Median of the same."""
        ordered = sorted(self._latencies)
        return ordered[len(ordered) // 2] if ordered else 0.0

    @property
    def pending(self) -> int:
        """Values that wait to be written."""
        return len(self._pending)

    @property
    def trouble(self) -> str:
        """What is wrong with the tier at present, in a sentence; empty where nothing is.

        It failed at the start, or at what was last asked of it; or it takes no more values.
        """
        if self._trouble:
            return self._trouble
        return self.store.trouble if isinstance(self.store, Troubled) else ""

    def beside(self, breaker: Breaker, at_once: int | None = None) -> "Guard":
        """A guard for what lies in the same place and fails by itself: same deadline and figures, a breaker of its own.

        It is for ``ask``; the tier's writes, and its closing, stay with this one.
        """
        other = Guard(self.store, deadline_s=self._deadline_s, breaker=breaker, at_once=at_once, clock=self._clock)
        other.figures = self.figures
        return other

    def waiting(self, key: str) -> Entry | None:
        """A value that is on its way into this tier: as good as being there."""
        pending = self._pending.get(key)
        return None if pending is None else pending.entry

    async def open(self, deadline_s: float) -> None:
        """Make the tier ready. One that cannot be, or not in time, has failed like one that fails later."""
        try:
            async with asyncio.timeout(deadline_s):
                await self.store.open()
        except Exception as error:  # noqa: BLE001 -- see _fetch
            self._failed("start", error if str(error) else StoreFailed("It did not answer in time."))
        else:
            self._succeeded()

    async def look_up(self, key: str, found: Callable[[Entry], None], deadline_s: float | None = None) -> Entry | None:
        """Ask the tier; ``None`` if it does not know, does not answer in time, or answers damaged bytes.

        A look-up past its deadline, or whose asker left, is not cancelled: cutting it off would cost a connection.
        What it finds late is handed to ``found`` like everything that is found.
        """
        if not self.breaker.allows():
            self.figures.skipped += 1
            return None
        limit = deadline_s or self._deadline_s
        return await self._within(limit, lambda call: self._fetch(call, key, found, limit))

    def write(self, key: str, entry: Entry) -> None:
        """Queue a value to be written behind the caller's back."""
        if key in self._pending or self._closed:
            return
        if self._pending_bytes + entry.size > self._pending_limit:
            self.figures.errors["dropped"] += 1
            return
        self._queue(key, _Pending(entry))

    def demote(self, key: str, entry: Entry, used: float) -> None:
        """Queue a value that memory has no room for, to be written if the tier does not have it any more.

        ``used`` is when it was used last, seconds since 1970.

        It can take up half of the queue; beyond that it is let go: what is new is dearer.
        """
        if key in self._pending or self._closed or self.breaker.state != "closed":
            return
        if self._pending_bytes + entry.size <= self._pending_limit // 2:
            self._queue(key, _Pending(entry, used))

    def touch(self, key: str) -> None:
        """Slide the tier's idle timer behind the caller's back."""
        if self.breaker.state == "closed" and not self._closed:
            self._keep(asyncio.create_task(self.touched(key)))

    async def touched(self, key: str) -> bool:
        """Slide the tier's idle timer and say whether the key is there; a tier that fails has nothing."""
        if key in self._pending:
            return True
        return await self.ask("touch", lambda: self.store.touch(key)) or False

    async def ask(self, what: str, work: Callable[[], Awaitable[T]], deadline_s: float | None = None) -> T | None:
        """Ask for something else that this tier does: same deadline unless told, same breaker, counted alike.

        ``None`` if it does not answer in time. What is past its deadline, or whose asker left, is left to finish.
        """
        if not self.breaker.allows():
            return None
        limit = deadline_s or self._deadline_s
        return await self._within(limit, lambda call: self._asked(call, what, work, limit))

    async def probe(self, deadline_s: float = 2.0) -> None:
        """Ask the tier whether it works, though nobody needs it now; ``trouble`` says what came of it."""
        probe = self.store.probe if isinstance(self.store, Probed) else partial(self.store.has, _PROBE)

        async def ask() -> bool:
            await probe()
            return True

        if await self.ask("probe", ask, deadline_s) is None and not self._trouble:
            self._trouble = f"It did not answer within {deadline_s:g} s."

    async def written(self, key: str) -> None:
        """Write a value ahead of all others; wait until it is there, or was given up."""
        with contextlib.suppress(StoreFailed):
            while key in self._pending:
                self._pending.move_to_end(key, last=False)
                await self._order("pass", _nothing)

    def mark_done(self, group: str, done: bool) -> None:
        """Hand the done hint on, behind the caller's back."""
        if self.breaker.state == "closed":
            self._order("mark", lambda: self.store.mark_done(group, done))

    async def delete(self, pattern: str, work: Callable[[str], Awaitable[int]] | None = None) -> int:
        """Purge, in turn with the writes, so that nothing written before comes back after.

        Args:
            pattern: what to purge.
            work: what to do in place of the tier's own ``delete``.

        Raises:
            StoreFailed: the tier did not do it; what should be gone may still be there.
        """
        match = keys.matcher(pattern)
        gone = [self._pending.pop(key) for key in [key for key in self._pending if match(key)]]
        self._pending_bytes -= sum(pending.entry.size for pending in gone)
        # A value that was only to be written again is there as a rule, and counted there.
        never_written = sum(pending is not self._writing and pending.demoted is None for pending in gone)
        purge = work or self.store.delete
        deleted: int = await self._order("purge", lambda: purge(pattern))
        return deleted + never_written

    async def sweep(self, *, deadline_s: float = 30.0) -> None:
        """Let the tier delete what was idle for too long. One that takes its time is not waited for."""
        if self.breaker.state == "closed":
            await asyncio.wait({self._order("sweep", self.store.sweep)}, timeout=deadline_s)

    async def drain(self) -> None:
        """Wait until everything queued is written."""
        while self._pending or self._orders:
            await self._order("pass", _nothing)

    async def aclose(self, grace_s: float = 10.0) -> None:
        """Write what is pending, as far as the grace allows, and close the tier."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.drain(), grace_s)
        self._closed = True
        if self._writer is not None:
            await stop(self._writer)
        if self._loose:
            await asyncio.wait(self._loose, timeout=grace_s)
        await self._quietly(self.store.aclose(), "close")

    async def _fetch(self, call: _Call, key: str, found: Callable[[Entry], None], limit: float) -> Entry | None:
        try:
            async with self._place(call):
                entry = await self.store.get(key)
                seconds = self._clock() - call.started
            if entry is not None:
                await self._check(key, entry)
        except DamagedEntry as error:
            log.warning("%s: %s It was thrown away.", self.store.name, error)
            self.figures.errors["damaged"] += 1
            await self._quietly(self.store.drop_damaged(key), "drop")
            return None
        except Exception as error:  # noqa: BLE001 -- whatever a tier's driver raises, the ask goes on without it
            self._failed("look-up", error, late=self._clock() - call.started > limit)
            return None
        if seconds <= limit:  # an answer that nobody waited for is no sign of health, nor a measure for the window
            self._succeeded()
            if _EMBEDDING in key:
                self._latencies.append(self._clock() - call.started)
        if entry is not None:
            found(entry)
        return entry

    async def _check(self, key: str, entry: Entry) -> None:
        if entry.size >= _LARGE:
            await self._checks.run(records.check, entry, key)
        else:
            records.check(entry, key)

    async def _asked(self, call: _Call, what: str, work: Callable[[], Awaitable[T]], limit: float) -> T | None:
        try:
            async with self._place(call):
                answer = await work()
        except Exception as error:  # noqa: BLE001 -- see _fetch
            self._failed(what, error, late=self._clock() - call.started > limit)
            return None
        if self._clock() - call.started <= limit:
            self._succeeded()
        return answer

    @contextlib.asynccontextmanager
    async def _place(self, call: _Call) -> AsyncIterator[None]:
        """Wait for one of the tier's places and hold it; note when the tier begins and when it is through."""
        async with self._places or contextlib.nullcontext():
            call.started = self._clock()
            call.begun.set_result(None)
            self._calls.add(call)
            try:
                yield
            finally:
                self._calls.discard(call)
                call.ended.set_result(None)

    async def _within(self, limit: float, work: Callable[[_Call], Coroutine[Any, Any, T]]) -> T | None:
        """The answer, or ``None`` if the tier, or this process's own work on it, takes longer than the limit."""
        call = _Call(limit)
        task = asyncio.create_task(work(call))
        self._keep(task)
        try:
            if not await _done_within(limit, call.begun, task):
                # The queue is long; or the tier hangs, and so the queue does not move.
                hangs = all(self._clock() - other.started > other.limit for other in self._calls)
                self._late(is_tier=hangs and bool(self._calls))
                return None
            if not await _done_within(limit, call.ended, task):
                self._late(is_tier=True)
                return None
            if not await _done_within(limit, task):
                self._late(is_tier=False)
                return None
            return task.result()
        finally:
            if not call.begun.done():  # the tier knows nothing of it
                task.cancel()

    def _late(self, *, is_tier: bool) -> None:
        self.figures.errors["deadline" if is_tier else "busy"] += 1
        if is_tier:
            self.breaker.failed()

    def _order(self, verb: str, work: Callable[[], Awaitable[Any]]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # An order that nobody waits for must not complain when it fails: the counter and the log already have.
        future.add_done_callback(lambda f: f.cancelled() or f.exception())
        if self._closed:
            future.set_exception(StoreFailed(f"The {self.store.name} cache is closed."))
            return future
        self._orders.append((verb, work, future))
        self._run()
        return future

    def _run(self) -> None:
        self._wake.set()
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._supervisor.persist(f"write {self.store.name}", self._write_behind))

    async def _write_behind(self) -> None:
        while True:
            if not self._pending and not self._orders:
                await self._wake.wait()
            self._wake.clear()
            while self._pending or self._orders:
                while self._orders:  # first: what they are about was written before, or must not be written
                    await self._carry_out(*self._orders.popleft())
                if self._pending:
                    await self._write(*next(iter(self._pending.items())))

    def _queue(self, key: str, pending: _Pending) -> None:
        self._pending[key] = pending
        self._pending_bytes += pending.entry.size
        self._run()

    async def _write(self, key: str, pending: _Pending) -> None:
        entry, used = pending.entry, pending.demoted
        try:
            if self.breaker.state == "open":
                self.figures.errors["dropped"] += 1
                return
            self._writing = pending
            work = self.store.put(key, entry) if used is None else self._write_again(key, entry, used)
            if await self._quietly(work, "write"):
                self._succeeded()
        finally:
            self._writing = None
            if self._pending.get(key) is pending:  # not where a purge came in between
                del self._pending[key]
                self._pending_bytes -= entry.size

    async def _write_again(self, key: str, entry: Entry, used: float) -> None:
        if not await self.store.has(key):
            await self.store.put(key, entry, used)
            self.figures.demoted += 1

    async def _carry_out(self, verb: str, work: Callable[[], Awaitable[Any]], future: asyncio.Future[Any]) -> None:
        try:
            result = await work()
        except Exception as error:  # noqa: BLE001 -- see _fetch
            self._failed(verb, error)
            if not future.done():
                future.set_exception(StoreFailed(f"The {self.store.name} cache failed to {verb}. Try again."))
        else:
            if work is not _nothing:
                self._trouble = ""
            if not future.done():
                future.set_result(result)
        finally:
            if not future.done():  # the store cancelled itself, or this queue is being ended
                future.set_exception(StoreFailed(f"The {self.store.name} cache did not {verb}. Try again."))

    async def _quietly(self, work: Awaitable[object], what: str) -> bool:
        """Whether it was done; what goes wrong is counted."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 -- see _fetch
            self._failed(what, error)
            return False
        return True

    def _failed(self, what: str, error: Exception, *, late: bool = False) -> None:
        if self.figures.errors["failed"] == 0 or self.breaker.state == "closed":
            log.warning("%s: a %s failed: %s", self.store.name, what, error)
        self.figures.errors["failed"] += 1
        self._trouble = str(error) or f"The {self.store.name} cache failed: {type(error).__name__}."
        if late:
            return  # the deadline has counted it already
        if isinstance(error, StoreFull):  # it still serves what it has
            self.breaker.succeeded()
        else:
            self.breaker.failed()

    def _succeeded(self) -> None:
        self._trouble = ""
        self.breaker.succeeded()

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._loose.add(task)
        task.add_done_callback(self._loose.discard)


async def _done_within(limit: float, *futures: asyncio.Future[Any]) -> bool:
    """Wait for the first of the futures, for so many seconds at most. Whether one is done."""
    await asyncio.wait(futures, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    for _ in range(_TURNS):
        if any(future.done() for future in futures):
            return True
        await asyncio.sleep(0)
    return False


async def _nothing() -> None:
    """What is asked of the writer by one who only wants to know that it came by."""
