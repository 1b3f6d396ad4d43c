"""Any policy, once for each tenant, and the choice of the tenant that makes room."""

from collections.abc import Callable

from labeling_ground.cache.policies.port import Item, Policy
from labeling_ground.cache.shares import payer
from labeling_ground.key import tenant_in


class TenantPolicy:
    """A ``Policy`` that keeps to shares: each tenant's entries have a policy of their own, which says who goes first.

    Args:
        make: makes the policy of one tenant, new and empty.
        share: part of the bytes held that one tenant may have while others need room.
        makes_room: whether these policies do.
    """

    def __init__(self, make: Callable[[], Policy], share: float, *, makes_room: bool = True) -> None:
        self.makes_room = makes_room
        self._make = make
        self._share = share
        self._policies: dict[str, Policy] = {}
        self._bytes_of: dict[str, int] = {}
        self._bytes = 0
        self._asker = ""
        self._wanted = 0

    def room_for(self, key: str, size: int) -> None:
        """The evictions that follow make room for so many bytes under this key; with an empty key, for no tenant."""
        self._asker, self._wanted = tenant_in(key), size

    def insert(self, item: Item) -> None:
        """An entry came in."""
        tenant = tenant_in(item.key)
        policy = self._policies.get(tenant)
        if policy is None:
            policy = self._policies[tenant] = self._make()
            self._bytes_of[tenant] = 0
        self._bytes_of[tenant] += item.size
        self._bytes += item.size
        policy.insert(item)

    def hit(self, item: Item) -> None:
        """It was used."""
        self._policies[tenant_in(item.key)].hit(item)

    def mark(self, item: Item) -> None:
        """Its ``done`` has changed."""
        self._policies[tenant_in(item.key)].mark(item)

    def remove(self, item: Item) -> None:
        """It went for a reason of its own."""
        tenant = tenant_in(item.key)
        self._policies[tenant].remove(item)
        self._gone(tenant, item)

    def evict(self) -> Item | None:
        """Take out the next to go of the tenant that makes room."""
        tenant = payer(self._bytes_of, self._asker, self._wanted, self._share * (self._bytes + self._wanted))
        item = None if tenant is None else self._policies[tenant].evict()
        if item is not None and tenant is not None:
            self._gone(tenant, item)
        return item

    def _gone(self, tenant: str, item: Item) -> None:
        self._bytes_of[tenant] -= item.size
        self._bytes -= item.size
        if not self._bytes_of[tenant]:
            del self._bytes_of[tenant], self._policies[tenant]
