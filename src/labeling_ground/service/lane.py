"""A bounded queue in front of one half of the model."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from labeling_ground.errors import Overloaded


class Lane:
    """So many at a time, so many waiting, first come first served; one more is turned away at once.

    Only work that was promised a place before waits beyond that. Encodes and decodes have a lane each, so a click never
    waits behind a queue of new images.

    Args:
        name: what waits here, for the error's sentence.
        slots: how many run at the same time.
        queue: how many may wait.
        clock: seconds.
    """

    def __init__(self, name: str, slots: int, queue: int, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.name = name
        self.slots = slots
        self.queue = queue
        self._clock = clock
        self._semaphore = asyncio.Semaphore(slots)
        self.waiting = 0
        self.running = 0
        self.turned_away = 0
        self.typical_s: float | None = None
        """Moving average of how long one takes, in seconds; ``None`` before the first."""

    def check_room(self, promised: int = 0) -> None:
        """Refuse now what would be refused in the queue.

        Args:
            promised: places that others were promised, who may not be in the queue yet.

        Raises:
            Overloaded: the queue is full.
        """
        is_full = self._semaphore.locked() and self.waiting >= self.queue
        if is_full or promised >= self.slots + self.queue:
            self.turned_away += 1
            waiting = max(self.waiting, promised - self.slots)
            raise Overloaded(
                f"{waiting} requests already wait for the {self.name}. Try again in a moment.",
                retry_after=max(1.0, (self.typical_s or 0.0) * waiting / self.slots),
            )

    @asynccontextmanager
    async def slot(self, *, patient: bool = False) -> AsyncIterator[None]:
        """Wait for a place and hold it.

        Args:
            patient: wait though the queue is full, for work that was taken on already and asks for few places.

        Raises:
            Overloaded: the queue is full.
        """
        if not patient:
            self.check_room()
        self.waiting += 1
        try:
            await self._semaphore.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._semaphore.release()

    @asynccontextmanager
    async def timed(self) -> AsyncIterator[None]:
        """Measure the work inside, for the estimate that ``Retry-After`` is made from."""
        started = self._clock()
        yield
        seconds = self._clock() - started
        self.typical_s = seconds if self.typical_s is None else 0.8 * self.typical_s + 0.2 * seconds
