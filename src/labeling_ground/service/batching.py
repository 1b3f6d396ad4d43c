"""A place in a queue's engine, which several asks can have together, and what is computed in it in one call."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from labeling_ground.errors import BackendFailed, Overloaded
from labeling_ground.types import Priority

T = TypeVar("T")

Work = Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]
"""Computes one result for each item, in their order. Items whose work is equal are computed in one call."""


class EngineCalls:
    """Calls of an engine that are under way: nothing stops an engine, so each is watched until it ends.

    Args:
        name: what the engine is, for the error's sentence.
        deadline_s: how long a caller waits for one, in seconds; ``None``: as long as it takes.
        clock: monotonic seconds.
    """

    def __init__(self, name: str, deadline_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.deadline_s = deadline_s
        self._clock = clock
        self.on_late: Callable[[str], None] | None = None
        """Told, in a sentence, of every call that takes longer than the deadline."""
        self._running: dict[asyncio.Task[Any], tuple[float, object]] = {}

    def watch(self, call: asyncio.Task[T], place: object) -> asyncio.Task[T]:
        """Keep a call until it ends. Those that are computed together have the same ``place``."""
        self._running[call] = self._clock(), place
        call.add_done_callback(self._ended)
        return call

    @property
    def late_places(self) -> int:
        """Places that are held by calls past their deadline, whether or not somebody waits for these."""
        if self.deadline_s is None:
            return 0
        until = self._clock() - self.deadline_s
        return len({id(place) for began, place in self._running.values() if began < until})

    def late(self) -> BackendFailed:
        """What to raise where a call has not ended within the deadline."""
        sentence = f"The {self.name} has not answered within {self.deadline_s:g} s."
        if self.on_late is not None:
            self.on_late(sentence)
        return BackendFailed(f"{sentence} It is not stopped; try again in a moment.")

    async def aclose(self) -> None:
        """Call off what runs; who waits for it is told so."""
        for call in list(self._running):
            call.cancel()
        if self._running:
            await asyncio.wait(set(self._running), timeout=5)

    def _ended(self, call: asyncio.Task[Any]) -> None:
        del self._running[call]
        if not call.cancelled():
            call.exception()  # seen: asyncio would log an error that nobody waits for any more


@dataclass(frozen=True, slots=True)
class Computed(Generic[T]):
    """A result, and its share of the seconds that its call took."""

    value: T
    seconds: float


@dataclass(slots=True, eq=False)
class _Item:
    work: Work
    values: Sequence[Any]
    result: "asyncio.Future[Computed[list[Any]]]"


class Batch:
    """Asks that got one place of an engine together: those that are ready are computed in one call.

    Who is ready waits for the others until all are, or have left, and no longer than the window: then those who are
    ready go, and the rest after them, in the same place. One that is alone waits for nothing. Where a call with several
    fails, each is asked again for itself, so that a bad ask fails alone.

    Args:
        calls: the engine's.
        priority: the class of all of them.
        members: how many got the place.
        size: how many asks these have together.
        started: when they got the place, on the queue's clock.
        window_s: see above, in seconds.
    """

    def __init__(
        self, calls: EngineCalls, priority: Priority, members: int, size: int, started: float, window_s: float
    ) -> None:
        self.priority = priority
        self.size = size
        self.members = members
        """How many have the place still."""
        self.started = started
        self.calls = calls
        self._window_s = window_s
        self._is_shared = members > 1
        self._awaited = members
        """Members that are neither ready nor gone."""
        self._ready: list[_Item] = []
        self._timer: asyncio.TimerHandle | None = None
        self._turn = asyncio.Lock()

    async def compute(
        self, work: Callable[[Sequence[Any]], Awaitable[Sequence[T]]], values: Sequence[Any]
    ) -> Computed[list[T]]:
        """One member's results.

        Raises:
            Exception: what ``work`` raised for these values alone.
        """
        item = _Item(work, values, asyncio.get_running_loop().create_future())
        if not self._is_shared:
            await _compute(work, [item])
            return item.result.result()
        self._ready.append(item)
        self.has_one_less()
        if self._ready and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._window_s, self._go)
        return await item.result

    def has_one_less(self) -> None:
        """One member less is waited for: it is ready, or gone."""
        self._awaited -= 1
        if self._awaited <= 0 and self._ready:
            self._go()

    def _go(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ready, self._ready = self._ready, []
        self.calls.watch(asyncio.create_task(self._run(ready)), self)

    async def _run(self, ready: Sequence[_Item]) -> None:
        try:
            async with self._turn:  # they have one place, so one call at a time
                by_work: dict[Work, list[_Item]] = {}
                for item in ready:
                    if not item.result.done():  # else its asker is gone
                        by_work.setdefault(item.work, []).append(item)
                for work, items in by_work.items():
                    await _compute(work, items)
        finally:
            for item in ready:
                item.result.cancel()


async def _compute(work: Work, items: Sequence[_Item]) -> None:
    """Set each item's result, or its own error."""
    values = [value for item in items for value in item.values]
    started = time.perf_counter()
    try:
        made = list(await work(values))
        if len(made) != len(values):
            raise BackendFailed("The model did not answer each ask.")
    except (Exception, SystemExit) as raised:  # noqa: BLE001 -- it goes to those who asked
        error = raised if isinstance(raised, Exception) else BackendFailed("The engine wanted to end the process.")
        if len(items) > 1 and not isinstance(error, Overloaded):
            for item in items:
                await _compute(work, [item])
            return
        for item in items:
            if not item.result.done():
                item.result.set_exception(error)
        return
    share_s = (time.perf_counter() - started) / max(1, len(values))
    for item in items:
        own, made = made[: len(item.values)], made[len(item.values) :]
        if not item.result.done():
            item.result.set_result(Computed(own, share_s * len(own)))


class Place:
    """One ask's place in a queue's engine, its own or a batch's. It is taken until its holder has left it and the call
    made in it is through.

    Args:
        batch: those who have it together.
        tenant: who asks.
        size: how many asks it is for.
        charged_s: seconds that the tenant was charged for it.
        take_back: told when it is free.
    """

    def __init__(
        self, batch: Batch, tenant: str, size: int, charged_s: float, take_back: Callable[["Place"], None]
    ) -> None:
        self.batch = batch
        self.tenant = tenant
        self.size = size
        self.charged_s = charged_s
        self._take_back = take_back
        self._call: asyncio.Task[Any] | None = None
        self._is_free = False
        self._is_ready = False

    async def call(self, work: Callable[[], Coroutine[Any, Any, T]], *, also: "Place | None" = None) -> T:
        """Let the engine work, and wait for it as long as the queue's deadline says.

        Nothing stops an engine. So the work goes on if its caller is cancelled, or does not wait any longer, and has
        its place until it ends.

        Args:
            work: calls the engine by ``compute``, and does with the result what shall be done in any case.
            also: another place that is taken for as long.

        Raises:
            BackendFailed: the deadline is over.
            Exception: what ``work`` raised.
        """
        call = self.batch.calls.watch(asyncio.create_task(work()), self.batch)
        for place in (self, also):
            if place is not None:
                place._call = call
        await asyncio.wait({call}, timeout=self.batch.calls.deadline_s)
        if not call.done():
            raise self.batch.calls.late()
        return call.result()

    async def compute(
        self, work: Callable[[Sequence[Any]], Awaitable[Sequence[T]]], values: Sequence[Any]
    ) -> Computed[list[T]]:
        """The results of ``work`` for these values, computed in one call with the other asks of the batch.

        Args:
            work: computes any number of values; see ``Work``.
            values: as many as the place is for.

        Raises:
            BackendFailed: ``work`` gave another number of results than it got values.
            Exception: what ``work`` raised for these values alone.
        """
        self._is_ready = True
        return await self.batch.compute(work, values)

    def free(self) -> None:
        """Give the place back now: what is left of the call needs none."""
        if not self._is_free:
            self._is_free = True
            if not self._is_ready:
                self.batch.has_one_less()
            self._take_back(self)

    def leave(self) -> None:
        """Give the place back as soon as the call is through."""
        if self._call is None or self._call.done():
            self.free()
        else:
            self._call.add_done_callback(lambda _: self.free())
