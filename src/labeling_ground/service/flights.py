"""Flights: fifty askers of the same thing, one computation."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from labeling_ground.errors import BackendFailed, Overloaded
from labeling_ground.types import Priority
from labeling_ground.urgency import Urgency, current_urgency, work_for

T = TypeVar("T")


@dataclass(slots=True)
class _Flight:
    task: asyncio.Task[Any] = field(init=False)
    urgency: Urgency = field(default_factory=lambda: Urgency(max(Priority)))
    """That of the most urgent asker."""
    askers: int = 0
    begun: bool = False
    """Whether the work has reached what cannot be stopped, and so is worth finishing though all askers left."""

    def begin(self) -> None:
        self.begun = True


class Flights(Generic[T]):
    """Computations under way, by key.

    The first asker leaving does not cancel the others; the last one leaving cancels the work, unless that has begun
    with what cannot be stopped: then it goes on, and who comes until it ends joins it. A failure reaches everyone who
    waited and is remembered by nobody. A flight is as urgent as the most urgent of its askers.

    Args:
        on_land: told the key of each flight that has ended.
    """

    def __init__(self, on_land: Callable[[str], None] | None = None) -> None:
        self.on_land = on_land
        self._flights: dict[str, _Flight] = {}
        self._parted: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: str) -> bool:
        return self._find(key) is not None

    async def join(self, key: str, work: Callable[[Callable[[], None]], Awaitable[T]]) -> tuple[T, bool]:
        """Wait for the computation of ``key``, starting it with ``work`` if there is none.

        Args:
            key: what is computed.
            work: computes it. It is handed a function to call when it begins with what cannot be stopped.

        Returns:
            The result, and whether somebody else's computation was joined.

        Raises:
            Exception: whatever ``work`` raised.
        """
        urgency = current_urgency()
        flight = self._find(key)
        joined = flight is not None
        if flight is None:
            flight = _Flight()
            flight.urgency.follow(urgency)
            flight.task = asyncio.create_task(self._fly(work, flight))
            self._flights[key] = flight
            flight.task.add_done_callback(lambda task: self._land(key, task))
        is_more_urgent = urgency.priority < flight.urgency.priority
        if joined:
            flight.urgency.follow(urgency)
        flight.askers += 1
        try:
            return await asyncio.shield(flight.task), joined
        except Overloaded:
            if not is_more_urgent:  # else others were turned away, who have less room
                raise
        except asyncio.CancelledError:
            if flight.task.cancelled() and not _is_cancelling():
                # The work was cancelled under us (the server is stopping), not this asker.
                raise BackendFailed("The computation was called off. Try again.") from None
            raise
        finally:
            flight.askers -= 1
            if flight.askers == 0 and not flight.begun and not flight.task.done():
                # Out of the table first: whoever asks from now on must not join a flight that is going down.
                self._land(key, flight.task)
                flight.task.cancel()
        return await self.join(key, work)

    def lift(self, key: str) -> None:
        """Make the computation of ``key``, if there is one, as urgent as what the running task works for."""
        flight = self._find(key)
        if flight is not None:
            flight.urgency.raise_to(current_urgency().priority)

    def part_with(self, match: Callable[[str], bool]) -> None:
        """Let flights that match end for those who wait already, and take nobody else on: a purge came in between."""
        for key in [key for key in self._flights if match(key)]:
            task = self._flights.pop(key).task
            self._parted.add(task)
            task.add_done_callback(self._parted.discard)

    async def aclose(self) -> None:
        """Call all work off; who waits for it is told so."""
        tasks = {flight.task for flight in self._flights.values()} | self._parted
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    def _find(self, key: str) -> _Flight | None:
        flight = self._flights.get(key)
        # One that has ended and is not off the table yet must not hand its failure to whoever comes now.
        return None if flight is None or flight.task.done() else flight

    @staticmethod
    async def _fly(work: Callable[[Callable[[], None]], Awaitable[T]], flight: _Flight) -> T:
        work_for(flight.urgency)
        return await work(flight.begin)

    def _land(self, key: str, task: asyncio.Task[Any]) -> None:
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]
        if task.done() and not task.cancelled():
            task.exception()  # seen: an error whose askers have all left is nobody's surprise
        if task.done() and self.on_land is not None:
            self.on_land(key)


def _is_cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
