"""Calls to a tier: each with a deadline that measures the tier, under one circuit breaker, a few at a time.

And what they come to: counters, the breaker, and what is wrong with the tier at present.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from labeling_ground.breaker import Breaker
from labeling_ground.cache.store import Store, Troubled
from labeling_ground.errors import DamagedEntry, StoreFull

T = TypeVar("T")

log = logging.getLogger(__name__)

_TURNS = 8
"""Turns of the loop that an answer is given after its deadline: where the loop was held up, it is there already."""


@dataclass
class TierCounters:
    """What happened at one tier."""

    errors: Counter[str] = field(default_factory=Counter)
    """By reason: ``deadline``, ``busy`` (the answer was late because of work of this process, not of the tier),
    ``failed``, ``damaged``, ``dropped`` (a value was not written: the queue was full, or the breaker open)."""
    skipped: int = 0
    """Look-ups that were not tried while the breaker was open."""
    demoted: int = 0
    """Values written again when memory had no room for them, because the tier did not have them any more."""


class TierHealth:
    """Counts a tier's failures and tells its circuit breaker of them.

    Args:
        store: the tier.
        breaker: when to leave the tier alone.
        counters: where failures are counted; new ones unless given.
    """

    def __init__(self, store: Store, breaker: Breaker, counters: TierCounters | None = None) -> None:
        self.store = store
        self.breaker = breaker
        self.counters = counters or TierCounters()
        self._trouble = ""

    @property
    def trouble(self) -> str:
        """What is wrong with the tier at present, in a sentence; empty where nothing is.

        It failed at the start, or at what was last asked of it; or it takes no more values.
        """
        if self._trouble:
            return self._trouble
        return self.store.trouble if isinstance(self.store, Troubled) else ""

    @trouble.setter
    def trouble(self, sentence: str) -> None:
        self._trouble = sentence

    def succeeded(self) -> None:
        """Note that the tier did what it was asked."""
        self._trouble = ""
        if self.breaker.failures:
            self.breaker.succeeded()

    def failed(self, what: str, error: Exception, *, is_counted: bool = False) -> None:
        """Note that a call failed; ``is_counted``: the breaker knows of it already, since its deadline had passed."""
        if self.counters.errors["failed"] == 0 or self.breaker.state == "closed":
            log.warning("%s: a %s failed: %s", self.store.name, what, error)
        self.counters.errors["failed"] += 1
        self._trouble = str(error) or f"The {self.store.name} cache failed: {type(error).__name__}."
        if is_counted:
            return
        if isinstance(error, StoreFull):  # it still serves what it has
            self.breaker.succeeded()
        else:
            self.breaker.failed()

    def was_late(self, *, is_tier: bool) -> None:
        """Note that there was no answer within the deadline: because of the tier, or of this process's own work."""
        self.counters.errors["deadline" if is_tier else "busy"] += 1
        if is_tier:
            self.breaker.failed()


class Call:
    """One call to the tier: futures that are done when the tier began with it, and when it was through."""

    def __init__(self, limit: float) -> None:
        loop = asyncio.get_running_loop()
        self.limit = limit
        """Seconds that the tier may take."""
        self.begun: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.started = 0.0
        """When the tier began, in seconds of the calls' clock."""


class TierCalls:
    """Calls to one tier, or to what lies in the same place.

    Deadlines measure the tier: from the moment that it begins with a call until it is through. What a call waits before
    that, for one of the tier's places in this process, and what checking its answer takes, is bounded likewise, but
    it is not the tier that fails then.

    Args:
        health: told how each call ends.
        deadline_s: how long a call may take, in seconds.
        at_once: calls that the tier works on at the same time; ``None``: as many as come.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        health: TierHealth,
        *,
        deadline_s: float,
        at_once: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.health = health
        self.deadline_s = deadline_s
        self.clock = clock
        self.unfinished: set[asyncio.Task[Any]] = set()
        """Calls under way, those past their deadline among them."""
        self._places = None if at_once is None else asyncio.Semaphore(at_once)
        self._working: set[Call] = set()

    async def ask(
        self,
        what: str,
        work: Callable[[], Awaitable[T]],
        deadline_s: float | None = None,
        receive: Callable[[Call, T], Awaitable[T]] | None = None,
        discard: Callable[[DamagedEntry], Awaitable[None]] | None = None,
    ) -> T | None:
        """Return what ``work`` answers; ``None`` if it fails, is late, or the breaker is open.

        What is past its deadline, or whose asker left, is left to finish: cutting it off would cost a connection.

        Args:
            what: a name for it in logs.
            work: asks the tier.
            deadline_s: how long the tier may take, where the default would not do.
            receive: makes of the answer what is returned, when the tier is through.
            discard: sees to a value that the tier, or ``receive``, found to be damaged; the answer is ``None`` then.
        """
        breaker = self.health.breaker
        if breaker.failures and not breaker.allows():
            if receive is not None:
                self.health.counters.skipped += 1
            return None
        limit = deadline_s or self.deadline_s
        call = Call(limit)
        answer = self._answer(call, what, work, receive, discard)
        task = self.begin(answer)
        try:
            if not await _done_within(limit, call.begun, task):
                # The queue is long; or the tier hangs, and so the queue does not move.
                hangs = all(self.clock() - other.started > other.limit for other in self._working)
                self.health.was_late(is_tier=hangs and bool(self._working))
                return None
            if not await _done_within(limit, call.ended, task):
                self.health.was_late(is_tier=True)
                return None
            if not await _done_within(limit, task):
                self.health.was_late(is_tier=False)
                return None
            return task.result()
        finally:
            if not call.begun.done():  # the tier knows nothing of it
                task.cancel()

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start work that nobody need wait for; ``aclose`` does."""
        task = asyncio.create_task(work)
        self.unfinished.add(task)
        task.add_done_callback(self.unfinished.discard)
        return task

    async def aclose(self, grace_s: float) -> None:
        """Wait for what is under way, for so many seconds at most."""
        if self.unfinished:
            await asyncio.wait(self.unfinished, timeout=grace_s)

    async def _answer(
        self,
        call: Call,
        what: str,
        work: Callable[[], Awaitable[T]],
        receive: Callable[[Call, T], Awaitable[T]] | None,
        discard: Callable[[DamagedEntry], Awaitable[None]] | None,
    ) -> T | None:
        try:
            try:
                async with self._places or contextlib.nullcontext():
                    call.started = self.clock()
                    call.begun.set_result(None)
                    self._working.add(call)
                    try:
                        answer = await work()
                    finally:
                        self._working.discard(call)
                        call.ended.set_result(None)
                self._answered(call)
                return answer if receive is None else await receive(call, answer)
            except DamagedEntry as error:
                if discard is None:
                    raise
                self._answered(call)  # it is the value that fails
                await discard(error)
        except Exception as error:  # noqa: BLE001 -- whatever a tier's driver raises, the ask goes on without it
            self.health.failed(what, error, is_counted=self.clock() - call.started > call.limit)
        return None

    def _answered(self, call: Call) -> None:
        if self.clock() - call.started <= call.limit:  # one that nobody waited for is no sign of health
            self.health.succeeded()


async def _done_within(limit: float, *futures: asyncio.Future[Any]) -> bool:
    """Wait for the first of the futures, for so many seconds at most. Whether one is done."""
    if any(future.done() for future in futures):
        return True
    await asyncio.wait(futures, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    for _ in range(_TURNS):
        if any(future.done() for future in futures):
            return True
        await asyncio.sleep(0)
    return False
