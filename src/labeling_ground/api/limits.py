"""Bounds on requests and bytes in flight; beyond them, tenants that use more than an equal part are refused."""

import ipaddress
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from starlette.types import Scope

from labeling_ground.errors import Overloaded
from labeling_ground.types import Priority

ALWAYS = frozenset({"/health/live", "/health/ready", "/metrics"})
"""Answered however busy we are: this is where one looks when we are."""


@lru_cache(maxsize=4096)
def network_of(host: str) -> str:
    """An IPv4 address itself; of an IPv6 address its network of 64 bits, in which one machine may have any address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    return str(address.ipv4_mapped or ipaddress.ip_network((int(address) >> 64 << 64, 64)))


@dataclass(frozen=True, slots=True)
class Limits:
    """What is too much.

    A request has a place while the server works for it, and none while it waits for its client to send the body or to
    take the answer: clients that do nothing take nobody's place.

    Where places or bytes run short, those who have some at the moment have equal parts of them. Who has less than that
    is still answered, beyond the limit; who has more is refused until the limit is kept again.

    Attributes:
        most_requests: how many may be worked on.
        most_bytes: the largest body of a request.
        most_held: bytes of bodies that all requests in flight may hold together.
        beyond: what part of ``most_requests`` and ``most_held`` those who have less than an equal part may take above
            the limit.
        tenant_of: tells to whom a request counts; empty, as without this: to the network of its client.
        silence_s: longest wait for the next piece of a body. A body that trickles gets so long, plus a second for
            every ``least_bytes_s`` of it: one byte now and then does not hold a connection for hours.
        least_bytes_s: bytes a second, in the long run, below which a client is not sending but holding a place.
        bodies: by path, the largest body where that is another one.
        held_beside: tells the bytes of bodies of earlier requests that are still held, and count likewise.
        takes_no_place: whether ``GET`` of a path is answered however busy the server is: what takes no work.
    """

    most_requests: int
    most_bytes: int
    most_held: int
    silence_s: float
    least_bytes_s: int = 1024
    beyond: float = 0.5
    tenant_of: Callable[[Scope], str] | None = None
    bodies: Mapping[str, int] = field(default_factory=dict)
    held_beside: Callable[[], int] = int
    takes_no_place: Callable[[str], bool] = ALWAYS.__contains__


@dataclass(slots=True, eq=False)
class Usage:
    """What a tenant's requests have at the moment: how many there are, how many have a place, bytes of their bodies."""

    tenant: str = ""
    requests: int = 0
    in_work: int = 0
    held: int = 0


class InFlight:
    """The places and the bytes of bodies that requests in flight have, all together and by tenant.

    A request gives its place back for as long as it waits for its client: it counts ``in_work`` of ``total`` and of its
    tenant down and up itself, and ``held`` up, as a cache hit does little besides.
    """

    def __init__(self, limits: Limits) -> None:
        self.total = Usage()
        self._limits = limits
        self._tenants: dict[str, Usage] = {}
        """Of those that have requests in flight."""
        self.half = max(1, limits.most_requests // 2)
        """So many of the places are anybody's."""

    def enter(self, scope: Scope) -> Usage:
        """Give a request a place. What its tenant has by then."""
        client, tenant_of = scope.get("client"), self._limits.tenant_of
        tenant = (tenant_of(scope) if tenant_of else "") or (network_of(client[0]) if client else "")
        usage = self._tenants.get(tenant)
        if usage is None:
            usage = self._tenants[tenant] = Usage(tenant)
        usage.requests += 1
        usage.in_work += 1
        self.total.in_work += 1
        return usage

    def leave(self, usage: Usage, size: int) -> None:
        """Give back all that a request has: its place, and so many bytes."""
        for each in (usage, self.total):
            each.in_work -= 1
            each.held -= size
        usage.requests -= 1
        if not usage.requests:
            del self._tenants[usage.tenant]

    def check_places(self, usage: Usage, priority: Priority) -> None:
        """See that no more requests are worked on than may be.

        Raises:
            Overloaded: there are more, and the tenant has its part of the places.
        """
        # What is not urgent has half of the places, so that it keeps out nobody who waits.
        most = self._limits.most_requests if priority is Priority.INTERACTIVE else self.half
        bound = self._limits.most_requests * (1 + self._limits.beyond)
        if self._is_too_much(self.total.in_work, usage.in_work, most, bound):
            part = self._part(f"{usage.in_work} of them are")
            raise Overloaded(f"{most} requests are in flight, which is this server's limit{part}. Try again.")

    def check_bytes(self, usage: Usage, size: int) -> None:
        """See that bodies hold no more bytes than they may. One that is alone may be as large as its own limit.

        Args:
            usage: of the tenant.
            size: bytes of one of its bodies.

        Raises:
            Overloaded: they hold more, and the tenant's hold its part of them.
        """
        most, beside = self._limits.most_held, self._limits.held_beside()
        is_alone = self.total.held + beside <= size
        bound = most * (1 + self._limits.beyond) - beside
        if not is_alone and self._is_too_much(self.total.held, usage.held, most - beside, bound):
            part = self._part(f"{usage.held} bytes of them are")
            raise Overloaded(f"Too many large requests are in flight{part}. Try again in a moment.")

    def _is_too_much(self, taken: int, own: int, room: int, bound: float) -> bool:
        """Whether a tenant that has ``own`` is refused: the room is exceeded, and so is its equal part of it or the
        bound."""
        return taken > room and (own * len(self._tenants) > room or taken > math.ceil(bound))

    def _part(self, own: str) -> str:
        """What to say of the tenant's part where there are others."""
        count = len(self._tenants)
        return f", and {own} of this API key or address, while {count} have equal parts" if count > 1 else ""
