"""What waits in one class of a queue, and whose turn is next."""

import asyncio
import copy
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from labeling_ground.service.batching import Place
from labeling_ground.types import Priority


@dataclass(slots=True)
class ClassFigures:
    """What one class of a queue did.

    Attributes:
        running: places that are taken now; a batch has one.
        turned_away: asks that found no room.
        busy_s: seconds for which places were taken, all together.
        waited_s: seconds that they waited before.
    """

    running: int = 0
    turned_away: int = 0
    busy_s: float = 0.0
    waited_s: float = 0.0


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
        self.figures = ClassFigures()
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
        if not self.waiting and not self.figures.running:  # nobody is kept waiting by what was used
            self.accounts.clear()
            self._level_s = 0.0
