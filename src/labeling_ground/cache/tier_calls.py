"""Calls to a tier: each with a deadline that measures the tier, under one circuit breaker, a few at a time.

And what they come to: counters, the breaker, and what is wrong with the tier at present.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from labeling_ground.breaker import Breaker
from labeling_ground.cache.store import Store, Troubled
from labeling_ground.errors import DamagedEntry, StoreFull
from labeling_ground.metrics import Metrics

T = TypeVar("T")

log = logging.getLogger(__name__)

_AT_ONCE = contextlib.nullcontext()
_TURNS = 8
"""Turns of the loop that an answer is given after its deadline: where the loop was held up, it is there already."""


class TierHealth:
    """Counts a tier's failures and tells its circuit breaker of them.

    Args:
        store: the tier.
        breaker: when to leave the tier alone.
        metrics: where failures are counted.
    """

    def __init__(self, store: Store, breaker: Breaker, metrics: Metrics) -> None:
        self.store = store
        self.breaker = breaker
        self.metrics = metrics
        self._has_failed = False
        self._troubled = store if isinstance(store, Troubled) else None
        self._trouble = ""

    @property
    def trouble(self) -> str:
        """What is wrong with the tier at present, in a sentence; empty where nothing is.

        It failed at the start, or at what was last asked of it; or it takes no more values.
        """
        if self._trouble:
            return self._trouble
        return "" if self._troubled is None else self._troubled.trouble

    @trouble.setter
    def trouble(self, sentence: str) -> None:
        self._trouble = sentence

    def count(self, reason: str) -> None:
        """Count an error, by one of the reasons that the metrics name."""
        self.metrics.store_errors.labels(self.store.name, reason).inc()

    def succeeded(self) -> None:
        """Note that the tier did what it was asked."""
        self._trouble = ""
        if self.breaker.failures:
            self.breaker.succeeded()

    def failed(self, what: str, error: Exception, *, is_counted: bool = False) -> None:
        """Note that a call failed; ``is_counted``: the breaker knows of it already, since its deadline had passed."""
        if not self._has_failed or self.breaker.state == "closed":
            log.warning("%s: a %s failed: %s", self.store.name, what, error)
        self._has_failed = True
        self.count("failed")
        self._trouble = str(error) or f"The {self.store.name} cache failed: {type(error).__name__}."
        if is_counted:
            return
        if isinstance(error, StoreFull):  # it still serves what it has
            self.breaker.succeeded()
        else:
            self.breaker.failed()

    def was_late(self, *, is_tier: bool) -> None:
        """Note that there was no answer within the deadline: because of the tier, or of this process's own work."""
        self.count("deadline" if is_tier else "busy")
        if is_tier:
            self.breaker.failed()


class Call:
    """One call to the tier, and how far it is."""

    __slots__ = ("_news", "has_begun", "has_ended", "last_step_at", "limit", "started")

    def __init__(self, limit: float) -> None:
        self.limit = limit
        """Seconds that the tier may take."""
        self._news: asyncio.Future[None] | None = None
        self.last_step_at = asyncio.get_running_loop().time()
        """When it was made, or the tier began with it, or was through with it: what came last, by the loop's clock."""
        self.has_begun = False
        self.has_ended = False
        self.started = 0.0
        """When the tier began, in seconds of the calls' clock."""

    async def lasts_until(self, task: asyncio.Task[Any]) -> bool:
        """Wait for the task that makes the call: each step of that may take the limit. Whether the task is done."""
        loop = asyncio.get_running_loop()
        while True:
            last_step_at = self.last_step_at
            if not task.done() and last_step_at + self.limit > loop.time():
                self._news = loop.create_future()
                timer = loop.call_at(last_step_at + self.limit, self.wake)
                try:
                    await self._news
                finally:
                    timer.cancel()
            for _ in range(_TURNS):
                if task.done():
                    return True
                if self.last_step_at != last_step_at:
                    break
                await asyncio.sleep(0)
            else:
                return False

    def wake(self) -> None:
        """Let the asker see how far the call is."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


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

    @property
    def is_busy(self) -> bool:
        """Whether a call is under way."""
        return bool(self.unfinished)

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
                self.health.metrics.lookups_skipped.labels(self.health.store.name).inc()
            return None
        call = Call(deadline_s or self.deadline_s)
        answer = self._answer(call, what, work, receive, discard)
        task = self.begin(answer)
        try:
            if await call.lasts_until(task):
                return task.result()
            # What has not begun waits in a long queue; or the tier hangs, and so the queue does not move.
            hangs = all(self.clock() - other.started > other.limit for other in self._working)
            self.health.was_late(is_tier=not call.has_ended and (call.has_begun or (hangs and bool(self._working))))
            return None
        finally:
            if not call.has_begun:  # the tier knows nothing of it
                task.cancel()

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start work in the background; ``aclose`` waits for it."""
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
        now = asyncio.get_running_loop().time
        try:
            try:
                async with self._places or _AT_ONCE:
                    call.started, call.last_step_at, call.has_begun = self.clock(), now(), True
                    self._working.add(call)
                    try:
                        answer = await work()
                    finally:
                        self._working.discard(call)
                        call.last_step_at, call.has_ended = now(), True
                self._answered(call)
                return answer if receive is None else await receive(call, answer)
            except DamagedEntry as error:
                if discard is None:
                    raise
                self._answered(call)  # it is the value that fails
                await discard(error)
        except Exception as error:  # noqa: BLE001 -- whatever a tier's driver raises, the ask goes on without it
            self.health.failed(what, error, is_counted=self.clock() - call.started > call.limit)
        finally:
            call.wake()  # sooner than the task's own callbacks
        return None

    def _answered(self, call: Call) -> None:
        if self.clock() - call.started <= call.limit:  # one that nobody waited for is no sign of health
            self.health.succeeded()
