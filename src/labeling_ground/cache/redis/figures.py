"""What the servers of the Redis tier say of themselves: how full they are, and what they expired and evicted."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from redis.exceptions import NoPermissionError

from labeling_ground.cache.budgets import PARTS
from labeling_ground.cache.policies.port import Reason
from labeling_ground.cache.redis.connect import RedisConnection
from labeling_ground.errors import StoreFailed
from labeling_ground.types import StoreStats


class RedisUsage:
    """The figures of all primaries together, other programs' keys included.

    Args:
        connection: to the servers.
        budget_bytes: the memory that they have together, where they do not tell; ``None``: not known.
        clock: seconds since 1970.
    """

    def __init__(self, connection: RedisConnection, budget_bytes: int | None, clock: Callable[[], float]) -> None:
        self.largest: int | None = None
        """Bytes of the largest value to admit: an eighth of the smallest server; ``None``: not known."""
        self.evictions: Counter[Reason] = Counter()
        """What went, by reason: what the servers say since they were first asked, and what the store adds."""
        self._connection = connection
        self._budget = budget_bytes
        self._clock = clock
        self._looked: float | None = None
        self._looking = asyncio.Lock()
        self._servers: dict[str, tuple[int, int]] = {}

    @property
    def are_known(self) -> bool:
        """Whether the servers were asked before."""
        return self._looked is not None

    async def stats(self) -> StoreStats:
        """Ask the servers, and sum up: one ``INFO`` a server.

        Raises:
            StoreFailed: a server did not answer.
        """
        servers = await self.look()
        return StoreStats(
            tier="redis",
            entries=sum(_keys(info, self._connection.address.db) for info in servers),
            bytes=sum(info.get("used_memory_dataset", info.get("used_memory", 0)) for info in servers),
            budget=self._budget or sum(info.get("maxmemory", 0) for info in servers),
            evictions={reason.value: self.evictions[reason] for reason in Reason},
        )

    async def look(self) -> list[Mapping[str, Any]]:
        """Ask the servers for their figures; take note of the largest value to admit, and of what they evicted.

        None, where the user in ``redis_url`` may not ask. One look at a time: what they counted is booked in its order.
        """
        async with self._looking:
            servers: list[Mapping[str, Any]] = []
            try:
                servers = await self._connection.each("INFO")
            except StoreFailed as error:
                if not isinstance(error.__cause__, NoPermissionError):
                    raise
            smallest = min((info.get("maxmemory", 0) for info in servers), default=0)
            if self._budget is not None:
                smallest = self._budget // max(1, len(servers))
            self.largest = smallest // PARTS if smallest else None
            now = self._clock()
            since = 0.0 if self._looked is None else now - self._looked
            for info in servers:
                run = str(info.get("run_id"))
                went = (int(info.get("expired_keys", 0)), int(info.get("evicted_keys", 0)))
                # One that started since the last look counts from 0; one that was a replica, from what it says.
                before = self._servers.get(run, (0, 0) if info.get("uptime_in_seconds", 0) < since else went)
                if went[0] < before[0] or went[1] < before[1]:  # somebody had it count anew
                    before = (0, 0)
                self.evictions[Reason.IDLE] += went[0] - before[0]
                self.evictions[Reason.BUDGET] += went[1] - before[1]
                self._servers[run] = went
            self._looked = now
            return servers


def _keys(info: Mapping[str, Any], db: int) -> int:
    space = info.get(f"db{db}")
    return int(space["keys"]) if isinstance(space, Mapping) else 0
