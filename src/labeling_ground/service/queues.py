"""Bounded queues in front of the halves of the model, fair to people and tenants."""

import asyncio
import copy
import math
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from labeling_ground.errors import Overloaded
from labeling_ground.inference.backend import ALONE, BatchSizes
from labeling_ground.metrics import Metrics
from labeling_ground.service.batching import Batch, EngineCalls, Place
from labeling_ground.types import Priority
from labeling_ground.urgency import Urgency, current_urgency


@dataclass(slots=True, eq=False)
class Ticket:
    """One that waits."""

    tenant: str
    key: str
    size: int
    priority: Priority
    since: float
    turn: "asyncio.Future[Place]"


@dataclass(slots=True)
class _Account:
    """What a tenant has used of one class, in seconds, and what it has waiting there."""

    used_s: float
    tickets: "OrderedDict[int, Ticket]" = field(default_factory=OrderedDict)


class Line:
    """What waits in one class: the tenant goes next that has used least (start-time fair queueing, by seconds).

    A tenant is charged the typical seconds when its turn comes, and the difference to what it used when it gives the
    place back. One that comes anew begins where the one stood that went last: it saves nothing for the time when it had
    nothing waiting, and owes nothing for it. What it has used beyond that is remembered while others wait.
    """

    def __init__(self) -> None:
        self.running = 0
        """Places that are taken now; a batch has one."""
        self.accounts: OrderedDict[str, _Account] = OrderedDict()
        """By tenant; among those that have used the same, the first goes first."""
        self.waiting = 0
        self._level_s = 0.0
        """What the tenant had used that went last, when it went."""

    def waiting_of(self, tenant: str) -> int:
        """How many of a tenant's wait."""
        account = self.accounts.get(tenant)
        return 0 if account is None else len(account.tickets)

    def add(self, ticket: Ticket) -> None:
        """Let one wait, behind those of the same tenant."""
        least_s = min((account.used_s for account in self.accounts.values() if account.tickets), default=self._level_s)
        account = self.accounts.setdefault(ticket.tenant, _Account(0.0))
        if not account.tickets:
            account.used_s = max(account.used_s, min(least_s, self._level_s))
        account.tickets[id(ticket)] = ticket
        self.waiting += 1

    def remove(self, ticket: Ticket) -> None:
        """Let one that waits wait no more."""
        account = self.accounts.get(ticket.tenant)
        if account is not None and account.tickets.pop(id(ticket), None) is not None:
            self.waiting -= 1
            self._tidy()

    def take(self, estimate_s: float) -> Ticket:
        """The next one, which is charged so many seconds. There must be one."""
        ticket = self.first()
        account = self.accounts[ticket.tenant]
        del account.tickets[id(ticket)]
        self.waiting -= 1
        self._level_s = account.used_s
        account.used_s += estimate_s
        self.accounts.move_to_end(ticket.tenant)
        return ticket

    def take_together(self, most: int, estimate_s: float) -> list[tuple[Ticket, float]]:
        """The next ones, of ``most`` asks together, and what each is charged; none if all are just leaving."""
        members: list[tuple[Ticket, float]] = []
        charged_s = estimate_s / min(most, self.waiting)
        room = most
        while self.waiting and (not members or self.first().size <= room):
            ticket = self.take(charged_s)
            if ticket.turn.cancelled():  # its caller has not noticed yet
                self.settle(ticket.tenant, charged_s, 0.0)
                continue
            members.append((ticket, charged_s))
            room -= ticket.size
        return members

    def first(self) -> Ticket:
        """The next one, which goes on waiting. There must be one."""
        account = min((one for one in self.accounts.values() if one.tickets), key=lambda one: one.used_s)
        return next(iter(account.tickets.values()))

    def in_order(self, estimate_s: float) -> Iterator[Ticket]:
        """All that wait, in the order in which they are taken if each uses so many seconds."""
        ahead = Line()
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
        if not self.waiting and not self.running:  # nobody is kept waiting by what was used
            self.accounts.clear()
            self._level_s = 0.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """Where a computation waits.

    Attributes:
        place: how many are taken before it, and itself: 1 is the next.
        seconds: after so many it has probably ended; ``None`` before anything was measured.
    """

    place: int
    seconds: float | None


class FairQueue:
    """So many at a time, so many waiting, one more is turned away at once; fair to people and tenants.

    What is interactive goes first, then prefetches, then jobs. Within a class tenants take turns, so that each gets the
    same engine time while it has something waiting; within a tenant, first come first served. Each class has places of
    its own to wait in: nothing less urgent keeps anybody out. Only work that was promised a place before waits beyond
    that. Encodes and decodes have a queue each, so a click never waits behind a queue of new images.

    Where the engine gains by computing several asks together, those of one class that wait when a place becomes free
    get it together, and are charged their share. An ask that finds a free place waits for nobody.

    Args:
        name: what waits here, for the error's sentence.
        slots: how many run at the same time; or what tells how many by now, where that changes.
        capacity: how many of a class may wait.
        deadline_s: how long one may take, in seconds; ``None``: as long as it does.
        batch: how many get a place together; or what tells it, likewise.
        window_s: how long, in seconds, those of them who are ready wait for the others.
        tenant_share: part of a class's places that one tenant may wait in; ``None``: tenants are not told apart.
        clock: seconds.
        model: whose queue it is, for the metrics; empty where it is that of several.
        metrics: where its server counts; new ones if left out.
    """

    def __init__(
        self,
        name: str,
        slots: int | Callable[[], int],
        capacity: int,
        *,
        deadline_s: float | None = None,
        batch: BatchSizes | Callable[[], BatchSizes] = ALONE,
        window_s: float = 0.005,
        tenant_share: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
        model: str = "",
        metrics: Metrics | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self.metrics = metrics or Metrics()
        self.calls = EngineCalls(name, deadline_s, clock)
        self._slots = slots
        self.capacity = capacity
        self._batch = batch
        self.window_s = window_s
        self._most_of_one = None if tenant_share is None else max(1, int(tenant_share * capacity))
        self._clock = clock
        self._classes = {priority: Line() for priority in sorted(Priority)}
        counters = self.metrics.turned_away, self.metrics.queue_busy_seconds, self.metrics.queue_waited_seconds
        self._turned_away, self._busy_s, self._waited_s = (
            {priority: counter.labels(model, name, priority.label) for priority in Priority} for counter in counters
        )
        self._is_handing_on = False
        self.typical_s: float | None = None
        """Moving average of how long one takes, in seconds; ``None`` before the first."""

    @property
    def slots(self) -> int:
        """How many run at the same time."""
        return self._slots() if callable(self._slots) else self._slots

    @property
    def batch(self) -> BatchSizes:
        """How many get a place together."""
        return self._batch() if callable(self._batch) else self._batch

    @property
    def running(self) -> int:
        """Places that are taken now, also by computations that nobody waits for any more. A batch has one."""
        return sum(line.running for line in self._classes.values())

    @property
    def hangs(self) -> str:
        """That nothing is computed any more, in a sentence; empty while one place is not held by a late call."""
        if not 0 < self.slots <= self.calls.late_places:
            return ""
        return f"It hangs: no call that it works on has ended within {self.calls.deadline_s:g} s."

    @property
    def waiting(self) -> int:
        """Those of all classes that wait."""
        return sum(line.waiting for line in self._classes.values())

    def classes(self) -> Mapping[Priority, tuple[int, int]]:
        """Of each class: how many wait, and how many places are taken."""
        return {priority: (line.waiting, line.running) for priority, line in self._classes.items()}

    def tenants(self) -> Mapping[str, int]:
        """By tenant, how many of its asks wait, in all classes; only of those that have some."""
        found: Counter[str] = Counter()
        for line in self._classes.values():
            found.update({tenant: len(account.tickets) for tenant, account in line.accounts.items() if account.tickets})
        return found

    def outlook(self, key: str) -> Outlook | None:
        """When the computation of ``key`` that waits here will be through; ``None``: none waits."""
        place, turns = 0, 0.0
        for priority, line in self._classes.items():
            for ticket in line.in_order(self._estimate_s):
                place += 1
                turns += 1 / self.batch.of(priority)
                if ticket.key == key:
                    rounds = 1 + math.ceil(turns / self.slots)  # what runs now may have just begun
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
        if not (self.running or line.waiting or promised):
            return
        ahead = sum(promised.values())
        own = max(line.waiting_of(tenant), promised.get(tenant, 0))
        slots = self.slots
        is_busy = self.running >= slots
        is_full = (is_busy and line.waiting >= self.capacity) or ahead >= slots + self.capacity
        waiting, whose = max(line.waiting, ahead - slots), "requests"
        if self._most_of_one is not None and (is_busy or ahead >= slots) and own >= self._most_of_one:
            is_full, waiting, whose = True, own, "requests of this API key"
        elif self._most_of_one is not None:
            is_full = is_full and own > 0
        if is_full:
            self._turned_away[priority].inc()
            before = sum(better.waiting for other, better in self._classes.items() if other < priority)
            turns = (before + waiting) / (slots * self.batch.of(priority))
            raise Overloaded(
                f"{waiting} {whose} already wait for the {self.name}. Try again in a moment.",
                retry_after=max(1.0, (self.typical_s or 0.0) * turns),
            )

    @asynccontextmanager
    async def slot(
        self, tenant: str = "", *, key: str = "", size: int = 1, urgency: Urgency | None = None, patient: bool = False
    ) -> AsyncIterator[Place]:
        """Wait for a place and hold it; what is called in it may hold it for longer.

        Args:
            tenant: who asks.
            key: what is computed, for ``outlook``.
            size: how many asks it is, of the ``batch`` that get a place together.
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
        ticket = Ticket(tenant, key, size, urgency.priority, self._clock(), turn)
        line = self._classes[ticket.priority]
        line.add(ticket)
        batch = self.batch
        if line.waiting >= batch.of(ticket.priority):
            self._hand_on(batch)
        elif not self._is_handing_on:  # after those that come in the same step of the loop
            self._is_handing_on = True
            asyncio.get_running_loop().call_soon(self._hand_on)
        if not turn.done():
            lift = partial(self._lift, ticket)
            urgency.subscribe(lift)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.cancelled():
                    self._classes[ticket.priority].remove(ticket)
                else:  # the turn came, and the caller was cancelled before it noticed
                    turn.result().free()
                raise
            finally:
                urgency.unsubscribe(lift)
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

    def _take_back(self, place: Place) -> None:
        """Take a member's place back; the place in the engine goes to the next when the last member has left."""
        now, batch = self._clock(), place.batch
        line = self._classes[batch.priority]
        batch.members -= 1
        if not batch.members:
            self._busy_s[batch.priority].inc(now - batch.started)
            line.running -= 1
        line.settle(place.tenant, place.charged_s, (now - batch.started) * place.size / batch.size)
        self._hand_on()

    async def aclose(self) -> None:
        """Call off what runs; who waits for it is told so."""
        await self.calls.aclose()

    def _hand_on(self, batch_sizes: BatchSizes | None = None) -> None:
        """Give free places to the next tickets."""
        self._is_handing_on = False
        slots, sizes = self.slots, batch_sizes or self.batch
        while self.running < slots:
            priority = next((priority for priority, line in self._classes.items() if line.waiting), None)
            if priority is None:
                return
            line = self._classes[priority]
            members = line.take_together(sizes.of(priority), self._estimate_s)
            if not members:
                continue
            size = sum(ticket.size for ticket, _ in members)
            batch = Batch(self.calls, priority, len(members), size, self._clock(), self.window_s)
            line.running += 1
            for ticket, charged_s in members:
                self._waited_s[priority].inc(batch.started - ticket.since)
                ticket.turn.set_result(Place(batch, ticket.tenant, ticket.size, charged_s, self._take_back))

    def _lift(self, ticket: Ticket, priority: Priority) -> None:
        if not ticket.turn.done():
            self._classes[ticket.priority].remove(ticket)
            ticket.priority = priority
            self._classes[priority].add(ticket)

    @property
    def _estimate_s(self) -> float:
        return max(self.typical_s or 1.0, 1e-6)
