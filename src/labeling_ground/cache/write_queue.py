"""What is written to a tier behind the callers' backs, and in turn with it what must not overtake a write."""

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from labeling_ground import key as keys
from labeling_ground.cache.tasks import stop
from labeling_ground.cache.tier_calls import TierHealth
from labeling_ground.errors import StoreFailed
from labeling_ground.supervisor import Supervisor
from labeling_ground.types import Entry


@dataclass(eq=False, slots=True)
class _Pending:
    """One order to write a value: kept again after a purge, the very same value is another order."""

    entry: Entry
    demoted: float | None = None
    """When it was used last, where the tier may have it still: seconds since 1970."""


class WriteQueue:
    """Writes values to one tier, one after the other; orders such as a purge go before what waits to be written.

    Args:
        health: of the tier; told how each write ends.
        most_bytes: how much may wait to be written; beyond that a value is dropped and counted.
        supervisor: of the task that writes.
    """

    def __init__(self, health: TierHealth, *, most_bytes: int = 128 << 20, supervisor: Supervisor) -> None:
        self.store = health.store
        self.most_bytes = most_bytes
        self.is_closed = False
        self._health = health
        self._supervisor = supervisor
        self._pending: OrderedDict[str, _Pending] = OrderedDict()
        self._pending_bytes = 0
        self._writing: _Pending | None = None
        self._orders: deque[tuple[str, Callable[[], Awaitable[Any]], asyncio.Future[Any]]] = deque()
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Values that wait to be written."""
        return len(self._pending)

    def waiting(self, key: str) -> Entry | None:
        """A value that waits to be written: as good as being there."""
        pending = self._pending.get(key)
        return None if pending is None else pending.entry

    def write(self, key: str, entry: Entry) -> None:
        """Queue a value to be written behind the caller's back."""
        if key in self._pending or self.is_closed:
            return
        if self._pending_bytes + entry.size > self.most_bytes:
            self._health.counters.errors["dropped"] += 1
            return
        self._queue(key, _Pending(entry))

    def demote(self, key: str, entry: Entry, used: float) -> None:
        """Queue a value that memory has no room for, to be written if the tier does not have it any more.

        ``used`` is when it was used last, seconds since 1970.

        It can take up half of the queue; beyond that it is let go: what is new is dearer.
        """
        if key in self._pending or self.is_closed or self._health.breaker.state != "closed":
            return
        if self._pending_bytes + entry.size <= self.most_bytes // 2:
            self._queue(key, _Pending(entry, used))

    async def flush(self, key: str) -> None:
        """Write a value ahead of all others; wait until it is there, or was given up."""
        with contextlib.suppress(StoreFailed):
            while key in self._pending:
                self._pending.move_to_end(key, last=False)
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
        gone = [self._pending.pop(key) for key in [key for key in self._pending if match(key)]]
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
        while self._pending or self._orders:
            await self.order("pass", _nothing)

    async def aclose(self, grace_s: float) -> None:
        """Write what is pending, as far as the grace allows, and take no more."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.drain(), grace_s)
        self.is_closed = True
        if self._writer is not None:
            await stop(self._writer)

    def _queue(self, key: str, pending: _Pending) -> None:
        self._pending[key] = pending
        self._pending_bytes += pending.entry.size
        self._start()

    def _start(self) -> None:
        self._wake.set()
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._supervisor.persist(f"write {self.store.name}", self._work))

    async def _work(self) -> None:
        while True:
            if not self._pending and not self._orders:
                await self._wake.wait()
            self._wake.clear()
            while self._pending or self._orders:
                while self._orders:  # first: what they are about was written before, or must not be written
                    await self._carry_out(*self._orders.popleft())
                if self._pending:
                    await self._write(*next(iter(self._pending.items())))

    async def _write(self, key: str, pending: _Pending) -> None:
        entry, used = pending.entry, pending.demoted
        try:
            if self._health.breaker.state == "open":
                self._health.counters.errors["dropped"] += 1
                return
            self._writing = pending
            if used is None:
                await self.store.put(key, entry)
            elif not await self.store.has(key):
                await self.store.put(key, entry, used)
                self._health.counters.demoted += 1
            self._health.succeeded()
        except Exception as error:  # noqa: BLE001 -- whatever a tier's driver raises; it is counted
            self._health.failed("write", error)
        finally:
            self._writing = None
            if self._pending.get(key) is pending:  # not where a purge came in between
                del self._pending[key]
                self._pending_bytes -= entry.size

    async def _carry_out(self, verb: str, work: Callable[[], Awaitable[Any]], future: asyncio.Future[Any]) -> None:
        try:
            result = await work()
        except Exception as error:  # noqa: BLE001 -- as in _write
            self._health.failed(verb, error)
            if not future.done():
                future.set_exception(StoreFailed(f"The {self.store.name} cache failed to {verb}. Try again."))
        else:
            if work is not _nothing:
                self._health.trouble = ""
            if not future.done():
                future.set_result(result)
        finally:
            if not future.done():  # the store cancelled itself, or this queue is being ended
                future.set_exception(StoreFailed(f"The {self.store.name} cache did not {verb}. Try again."))


async def _nothing() -> None:
    """What is asked of the writer by one who only wants to know that it came by."""
