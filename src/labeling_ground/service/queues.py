"""Bounded queues in front of the halves of the model, fair to people and tenants."""

import asyncio
import copy
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from labeling_ground.errors import BackendFailed, Overloaded
from labeling_ground.service.urgency import Urgency, current_urgency
from labeling_ground.types import Priority

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outlook:
    """Where a computation waits.

    Attributes:
        place: how many are taken before it, and itself: 1 is the next.
        seconds: after so many it has probably ended; ``None`` before anything was measured.
    """

    place: int
    seconds: float | None


@dataclass(slots=True)
class ClassFigures:
    """What one class of a queue did.

    Attributes:
        running: computations that have a place now.
        turned_away: asks that found no room.
        busy_s: seconds that its computations have had places, all together.
        waited_s: seconds that they waited before.
    """

    running: int = 0
    turned_away: int = 0
    busy_s: float = 0.0
    waited_s: float = 0.0


@dataclass(slots=True, eq=False)
class _Ticket:
    """One that waits."""

    tenant: str
    key: str
    priority: Priority
    since: float
    turn: "asyncio.Future[Place]"


@dataclass(slots=True)
class _Account:
    """What a tenant has used of one class, in seconds, and what it has waiting there."""

    used_s: float
    tickets: "OrderedDict[int, _Ticket]" = field(default_factory=OrderedDict)


class _Class:
    """What waits in one class: the tenant goes next that has used least (start-time fair queueing, by seconds).

    A tenant is charged the typical seconds when its turn comes, and the difference to what it used when it gives the
    place back. One that comes anew begins where the one stood that went last: it saves nothing for the time when it had
    nothing waiting, and owes nothing for it. What it has used beyond that is remembered while others wait.
    """

    def __init__(self) -> None:
        self.figures = ClassFigures()
        self.accounts: OrderedDict[str, _Account] = OrderedDict()
        """By tenant; among those that have used the same, the first goes first."""
        self.waiting = 0
        self._level_s = 0.0
        """What the tenant had used that went last, when it went."""

    def waiting_of(self, tenant: str) -> int:
        account = self.accounts.get(tenant)
        return 0 if account is None else len(account.tickets)

    def add(self, ticket: _Ticket) -> None:
        least_s = min((account.used_s for account in self.accounts.values() if account.tickets), default=self._level_s)
        account = self.accounts.setdefault(ticket.tenant, _Account(0.0))
        if not account.tickets:
            account.used_s = max(account.used_s, min(least_s, self._level_s))
        account.tickets[id(ticket)] = ticket
        self.waiting += 1

    def remove(self, ticket: _Ticket) -> None:
        account = self.accounts.get(ticket.tenant)
        if account is not None and account.tickets.pop(id(ticket), None) is not None:
            self.waiting -= 1
            self._tidy()

    def take(self, estimate_s: float) -> _Ticket:
        """The next one, which is charged so many seconds. There must be one."""
        candidates = (item for item in self.accounts.items() if item[1].tickets)
        tenant, account = min(candidates, key=lambda item: item[1].used_s)
        _, ticket = account.tickets.popitem(last=False)
        self.waiting -= 1
        self._level_s = account.used_s
        account.used_s += estimate_s
        self.accounts.move_to_end(tenant)
        return ticket

    def in_order(self, estimate_s: float) -> Iterator[_Ticket]:
        """All that wait, in the order in which they are taken if each uses so many seconds."""
        ahead = _Class()
        ahead.waiting = self.waiting
        for tenant, account in self.accounts.items():
            ahead.accounts[tenant] = _Account(account.used_s, copy.copy(account.tickets))
        while ahead.waiting:
            yield ahead.take(estimate_s)

    def settle(self, tenant: str, charged_s: float, used_s: float) -> None:
        """Correct what a tenant was charged by what it has used."""
        self.accounts[tenant].used_s += used_s - charged_s
        self._tidy()

    def _tidy(self) -> None:
        if not self.waiting and not self.figures.running:  # nobody is kept waiting by what was used
            self.accounts.clear()
            self._level_s = 0.0


class Place:
    """A place in a queue's engine. It is taken until its holder has left it and the call made in it is through."""

    def __init__(self, queue: "FairQueue", tenant: str, priority: Priority, charged_s: float, started: float) -> None:
        self.tenant = tenant
        self.priority = priority
        self.charged_s = charged_s
        self.started = started
        self._queue = queue
        self._call: asyncio.Task[Any] | None = None
        self._is_free = False

    async def call(self, work: Callable[[], Coroutine[Any, Any, T]], *, also: "Place | None" = None) -> T:
        """Let the engine work, and wait for it as long as the queue's deadline says.

        Nothing stops an engine. So the work goes on if its caller is cancelled, or does not wait any longer, and has
        its place until it ends.

        Args:
            work: calls the engine, and does with the result what shall be done in any case.
            also: another place that is taken for as long.

        Raises:
            BackendFailed: the deadline is over.
            Exception: what ``work`` raised.
        """
        call = self._queue.watch(asyncio.create_task(work()))
        for place in (self, also):
            if place is not None:
                place._call = call
        await asyncio.wait({call}, timeout=self._queue.deadline_s)
        if not call.done():
            raise self._queue.late()
        return call.result()

    def free(self) -> None:
        """Give the place back now: what is left of the call needs none."""
        if not self._is_free:
            self._is_free = True
            self._queue.take_back(self)

    def leave(self) -> None:
        """Give the place back as soon as the call is through."""
        if self._call is None or self._call.done():
            self.free()
        else:
            self._call.add_done_callback(lambda _: self.free())


class FairQueue:
    """So many at a time, so many waiting, one more is turned away at once; fair to people and tenants.

    What is interactive goes first, then prefetches, then jobs. Within a class tenants take turns, so that each gets the
    same engine time while it has something waiting; within a tenant, first come first served. Each class has places of
    its own to wait in: nothing less urgent keeps anybody out. Only work that was promised a place before waits beyond
    that. Encodes and decodes have a queue each, so a click never waits behind a queue of new images.

    Args:
        name: what waits here, for the error's sentence.
        slots: how many run at the same time; or what tells how many by now, where that changes.
        queue: how many of a class may wait.
        deadline_s: how long one may take, in seconds; ``None``: as long as it does.
        tenant_share: part of a class's places that one tenant may wait in; ``None``: tenants are not told apart.
        clock: seconds.
    """

    def __init__(
        self,
        name: str,
        slots: int | Callable[[], int],
        queue: int,
        *,
        deadline_s: float | None = None,
        tenant_share: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name = name
        self.deadline_s = deadline_s
        self.on_late: Callable[[str], None] | None = None
        """Told, in a sentence, of every call that takes longer than the deadline."""
        self._slots = slots
        self.queue = queue
        self._most_of_one = None if tenant_share is None else max(1, int(tenant_share * queue))
        self._clock = clock
        self._classes = {priority: _Class() for priority in sorted(Priority)}
        self._calls: set[asyncio.Task[Any]] = set()
        self.typical_s: float | None = None
        """Moving average of how long one takes, in seconds; ``None`` before the first."""

    @property
    def slots(self) -> int:
        """How many run at the same time."""
        return self._slots() if callable(self._slots) else self._slots

    @property
    def running(self) -> int:
        """Computations that have a place now, also those that nobody waits for any more."""
        return sum(line.figures.running for line in self._classes.values())

    @property
    def waiting(self) -> int:
        """Those of all classes that wait."""
        return sum(line.waiting for line in self._classes.values())

    @property
    def turned_away(self) -> int:
        """Asks of all classes that found no room."""
        return sum(line.figures.turned_away for line in self._classes.values())

    def classes(self) -> Mapping[Priority, tuple[int, ClassFigures]]:
        """Of each class: how many wait, and what it did."""
        return {priority: (line.waiting, replace(line.figures)) for priority, line in self._classes.items()}

    def outlook(self, key: str) -> Outlook | None:
        """When the computation of ``key`` that waits here will be through; ``None``: none waits."""
        place = 0
        for line in self._classes.values():
            for ticket in line.in_order(self._estimate_s):
                place += 1
                if ticket.key == key:
                    rounds = 1 + math.ceil(place / self.slots)  # what runs now may have just begun
                    return Outlook(place, None if self.typical_s is None else rounds * self.typical_s)
        return None

    def check_room(
        self,
        tenant: str = "",
        promised: Mapping[str, int] = MappingProxyType({}),
        priority: Priority | None = None,
    ) -> None:
        """Refuse now what would be refused in the queue.

        A tenant that has no place yet is given one though the queue is full: others cannot keep it out.

        Args:
            tenant: who asks.
            promised: places of this class that tenants were promised, who may not be in the queue yet.
            priority: the class; that of what the running task works for, if left out.

        Raises:
            Overloaded: the class's places are taken, or the tenant's share of them.
        """
        if priority is None:
            priority = current_urgency().priority
        line = self._classes[priority]
        ahead = sum(promised.values())
        own = max(line.waiting_of(tenant), promised.get(tenant, 0))
        is_busy = self.running >= self.slots
        is_full = (is_busy and line.waiting >= self.queue) or ahead >= self.slots + self.queue
        if self._most_of_one is None:
            waiting, whose = max(line.waiting, ahead - self.slots), "requests"
        elif (is_busy or ahead >= self.slots) and own >= self._most_of_one:
            is_full, waiting, whose = True, own, "requests of this API key"
        else:
            is_full, waiting, whose = is_full and own > 0, max(line.waiting, ahead - self.slots), "requests"
        if is_full:
            line.figures.turned_away += 1
            before = sum(better.waiting for other, better in self._classes.items() if other < priority)
            raise Overloaded(
                f"{waiting} {whose} already wait for the {self.name}. Try again in a moment.",
                retry_after=max(1.0, (self.typical_s or 0.0) * (before + waiting) / self.slots),
            )

    @asynccontextmanager
    async def slot(
        self, tenant: str = "", *, key: str = "", urgency: Urgency | None = None, patient: bool = False
    ) -> AsyncIterator[Place]:
        """Wait for a place and hold it; what is called in it may hold it for longer.

        Args:
            tenant: who asks.
            key: what is computed, for ``outlook``.
            urgency: its class, that of what the running task works for, if left out; raising it while this waits
                lifts this to the better class.
            patient: wait though the queue is full, for work that was taken on already and asks for few places.

        Raises:
            Overloaded: the class's places are taken, or the tenant's share of them.
        """
        urgency = urgency or current_urgency()
        if not patient:
            self.check_room(tenant, priority=urgency.priority)
        turn: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        ticket = _Ticket(tenant, key, urgency.priority, self._clock(), turn)
        self._classes[ticket.priority].add(ticket)
        self._hand_on()
        if not turn.done():
            lift = partial(self._lift, ticket)
            urgency.tell(lift)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.cancelled():
                    self._classes[ticket.priority].remove(ticket)
                else:  # the turn came, and the caller was cancelled before it noticed
                    turn.result().free()
                raise
            finally:
                urgency.forget(lift)
        place = turn.result()
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

    def take_back(self, place: Place) -> None:
        """Give a place to the next who waits."""
        used_s = self._clock() - place.started
        line = self._classes[place.priority]
        line.figures.busy_s += used_s
        line.figures.running -= 1
        line.settle(place.tenant, place.charged_s, used_s)
        self._hand_on()

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

    def _hand_on(self) -> None:
        """Give the places that are free to those whose turn it is."""
        while self.running < self.slots:
            line = next((line for line in self._classes.values() if line.waiting), None)
            if line is None:
                return
            charged_s = self._estimate_s
            ticket = line.take(charged_s)
            if ticket.turn.cancelled():  # its caller has not noticed yet
                line.settle(ticket.tenant, charged_s, 0.0)
                continue
            now = self._clock()
            line.figures.running += 1
            line.figures.waited_s += now - ticket.since
            ticket.turn.set_result(Place(self, ticket.tenant, ticket.priority, charged_s, now))

    def _lift(self, ticket: _Ticket, priority: Priority) -> None:
        if not ticket.turn.done():
            self._classes[ticket.priority].remove(ticket)
            ticket.priority = priority
            self._classes[priority].add(ticket)

    @property
    def _estimate_s(self) -> float:
        return max(self.typical_s or 1.0, 1e-6)
