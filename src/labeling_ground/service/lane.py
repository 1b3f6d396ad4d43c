"""A bounded queue in front of one half of the model."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, TypeVar

from labeling_ground.errors import BackendFailed, Overloaded

T = TypeVar("T")


class Place:
    """A place in a lane. It is taken until its holder has left it and the call that was made in it is through."""

    def __init__(self, lane: "Lane") -> None:
        self._lane = lane
        self._call: asyncio.Task[Any] | None = None
        self._is_free = False

    async def call(self, work: Callable[[], Coroutine[Any, Any, T]], *, also: "Place | None" = None) -> T:
        """Let the engine work, and wait for it as long as the lane's deadline says.

        Nothing stops an engine. So the work goes on if its caller is cancelled, or does not wait any longer, and has
        its place until it ends.

        Args:
            work: calls the engine, and does with the result what shall be done in any case.
            also: another place that is taken for as long.

        Raises:
            BackendFailed: the deadline is over.
            Exception: what ``work`` raised.
        """
        call = self._lane.watch(asyncio.create_task(work()))
        for place in (self, also):
            if place is not None:
                place._call = call
        await asyncio.wait({call}, timeout=self._lane.deadline_s)
        if not call.done():
            raise self._lane.late()
        return call.result()

    def free(self) -> None:
        """Give the place back now: what is left of the call needs none."""
        if not self._is_free:
            self._is_free = True
            self._lane.take_back()

    def leave(self) -> None:
        """Give the place back as soon as the call is through."""
        if self._call is None or self._call.done():
            self.free()
        else:
            self._call.add_done_callback(lambda _: self.free())


class Lane:
    """So many at a time, so many waiting, first come first served; one more is turned away at once.

    Only work that was promised a place before waits beyond that. Encodes and decodes have a lane each, so a click never
    waits behind a queue of new images.

    Args:
        name: what waits here, for the error's sentence.
        slots: how many run at the same time.
        queue: how many may wait.
        deadline_s: how long one may take, in seconds; ``None``: as long as it does.
        tenant_share: part of the queue that one tenant may wait in; ``None``: tenants are not told apart.
        clock: seconds.
    """

    def __init__(
        self,
        name: str,
        slots: int,
        queue: int,
        *,
        deadline_s: float | None = None,
        tenant_share: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._most_of_one = None if tenant_share is None else max(1, int(tenant_share * queue))
        self._waiting_of: Counter[str] = Counter()
        self.name = name
        self.deadline_s = deadline_s
        self.on_late: Callable[[str], None] | None = None
        """Told, in a sentence, of every call that takes longer than the deadline."""
        self.slots = slots
        self.queue = queue
        self._clock = clock
        self._semaphore = asyncio.Semaphore(slots)
        self.waiting = 0
        self.running = 0
        """Places that are taken, also by calls that nobody waits for any more."""
        self._calls: set[asyncio.Task[Any]] = set()
        self.turned_away = 0
        self.typical_s: float | None = None
        """Moving average of how long one takes, in seconds; ``None`` before the first."""

    def check_room(self, tenant: str = "", promised: Mapping[str, int] = MappingProxyType({})) -> None:
        """Refuse now what would be refused in the queue.

        A tenant that has no place yet is given one though the queue is full: others cannot keep it out.

        Args:
            tenant: who asks.
            promised: places that tenants were promised, who may not be in the queue yet.

        Raises:
            Overloaded: the queue is full, or the tenant's share of it.
        """
        ahead = sum(promised.values())
        own = max(self._waiting_of[tenant], promised.get(tenant, 0))
        is_busy = self._semaphore.locked() or ahead >= self.slots
        is_full = (self._semaphore.locked() and self.waiting >= self.queue) or ahead >= self.slots + self.queue
        if self._most_of_one is None:
            waiting, whose = max(self.waiting, ahead - self.slots), "requests"
        elif is_busy and own >= self._most_of_one:
            is_full, waiting, whose = True, own, "requests of this API key"
        else:
            is_full, waiting, whose = is_full and own > 0, max(self.waiting, ahead - self.slots), "requests"
        if is_full:
            self.turned_away += 1
            raise Overloaded(
                f"{waiting} {whose} already wait for the {self.name}. Try again in a moment.",
                retry_after=max(1.0, (self.typical_s or 0.0) * waiting / self.slots),
            )

    @asynccontextmanager
    async def slot(self, tenant: str = "", *, patient: bool = False) -> AsyncIterator[Place]:
        """Wait for a place and hold it; what is called in it may hold it for longer.

        Args:
            tenant: who asks.
            patient: wait though the queue is full, for work that was taken on already and asks for few places.

        Raises:
            Overloaded: the queue is full, or the tenant's share of it.
        """
        if not patient:
            self.check_room(tenant)
        self.waiting += 1
        self._waiting_of[tenant] += 1
        try:
            await self._semaphore.acquire()
        finally:
            self.waiting -= 1
            self._waiting_of[tenant] -= 1
        self.running += 1
        place = Place(self)
        try:
            yield place
        finally:
            place.leave()

    @asynccontextmanager
    async def timed(self) -> AsyncIterator[None]:
        """Measure the work inside, for the estimate that ``Retry-After`` is made from."""
        started = self._clock()
        yield
        seconds = self._clock() - started
        self.typical_s = seconds if self.typical_s is None else 0.8 * self.typical_s + 0.2 * seconds

    def watch(self, call: asyncio.Task[T]) -> asyncio.Task[T]:
        """Keep a call until it ends."""
        self._calls.add(call)
        call.add_done_callback(self._ended)
        return call

    def late(self) -> BackendFailed:
        """What to raise where a call has not ended within the deadline."""
        sentence = f"The {self.name} has not answered within {self.deadline_s:g} s."
        if self.on_late is not None:
            self.on_late(sentence)
        return BackendFailed(f"{sentence} It is not stopped; try again in a moment.")

    def take_back(self) -> None:
        """Give a place to the next who waits."""
        self.running -= 1
        self._semaphore.release()

    async def aclose(self) -> None:
        """Call off what runs; who waits for it is told so."""
        for call in self._calls:
            call.cancel()
        if self._calls:
            await asyncio.wait(set(self._calls), timeout=5)

    def _ended(self, call: asyncio.Task[Any]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # seen: an error that nobody waits for any more is nobody's surprise
