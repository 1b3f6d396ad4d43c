"""The Redis tier: shared by all processes and machines, bounded by the server's ``maxmemory``."""

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import EllipsisType
from typing import Any

from redis.exceptions import NoPermissionError

from labeling_ground import key as keys
from labeling_ground.cache.budgets import PARTS
from labeling_ground.cache.complaint import Complaint
from labeling_ground.cache.policies.port import Ranking, Reason
from labeling_ground.cache.redis.connect import RedisConnection
from labeling_ground.cache.redis.health import probe
from labeling_ground.cache.redis.lifetime import Lifetimes
from labeling_ground.cache.redis.notices import PurgeNotices
from labeling_ground.codec import frame
from labeling_ground.errors import StoreFailed, StoreFull
from labeling_ground.types import Entry, StoreStats

log = logging.getLogger(__name__)

_SCAN = 1000
"""Keys that Redis looks at in one step of a purge: some 0.3 ms in which it serves nobody else."""
_RECENT_S = 60.0
_RECENT = 10_000


class RedisStore:
    """Entries in Redis, each under one key, its value the sealed frame as it is.

    The read itself restarts the idle timer (``GETEX``), in the same round trip. A key that is there is not written
    again (``SET NX``), only its timer is: values never change. Redis expires and evicts; this class sends it the
    lifetimes for that (see ``Lifetimes``), and refuses what is above an eighth of the memory of the smallest server.
    The done hint is not passed on: it is one process's knowledge and Redis is everybody's, and finding an image's keys
    would cost a scan.

    Large values are read on the event loop, like small ones. The driver takes them in pieces and lets the loop go on
    in between; what blocks is making the value's ``bytes`` in the end, and a thread would hold the interpreter for as
    long. Measured: up to 4 MiB other tasks of the loop wait no longer than beside a thread that reads, and at 32 MiB,
    which only image files have, equally long (``bench/results/cache_redis.md``).

    ``entries``, ``bytes`` and ``budget`` are the servers': all primaries together, whoever else uses them included,
    the evictions ``idle`` and ``budget`` likewise, since this object was first asked for its figures. By kind Redis
    knows nothing. The other evictions and ``refused`` are what this object did.

    Args:
        connection: closed with the store.
        idle_s: seconds without use after which an entry goes.
        max_age_s: seconds since its creation after which an entry goes, used or not; ``None``: never.
        by_cost: see ``Lifetimes``.
        budget_bytes: the memory that all primaries have together, where they do not tell; ``None``: not known.
        notices: tells other processes of purges and hears of theirs; ``None``: nobody is told.
        clock: seconds since 1970.
    """

    name = "redis"

    def __init__(
        self,
        connection: RedisConnection,
        *,
        idle_s: float,
        max_age_s: float | None = None,
        by_cost: bool = False,
        budget_bytes: int | None = None,
        notices: PurgeNotices | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.connection = connection
        self.at_once = connection.connections
        self.notices = notices
        self._lifetimes = Lifetimes(idle_s, by_cost=by_cost)
        self._max_age_s = max_age_s
        self._given_budget = budget_bytes
        self._clock = clock
        self._largest: int | None = None
        self._looked: float | None = None
        self._looking = asyncio.Lock()
        self._servers: dict[str, tuple[int, int]] = {}
        self._evictions: Counter[Reason] = Counter()
        self._refused = 0
        self.trouble = ""
        self._complaint = Complaint(log, self.name, clock)
        self._recent: OrderedDict[str, float] = OrderedDict()

    async def get(self, key: str) -> Entry | None:
        """The entry, or ``None``; a hit starts its idle time anew.

        Raises:
            StoreFailed: Redis did not answer.
            DamagedEntry: what lies there is no frame, or another key's.
        """
        self._listen()
        name, lifetime = self.connection.names.redis_key(key), self._lifetimes.ms(key)
        value: bytes | None = await self.connection.execute("GETEX", name, "PX", lifetime)
        if value is None:
            return None
        entry = frame.entry_of(value, key)
        self._lifetimes.learn(key, entry)
        left = self._left_ms(entry)
        if left is not None and left <= 0:
            await self._unlink([name], Reason.AGE)
            return None
        if left is not None and left < lifetime:
            await self.connection.execute("PEXPIRE", name, left)
        return entry

    async def put(self, key: str, entry: Entry, used: float | None = None) -> None:
        """Keep the entry; it expires as if it had been written when it was ``used`` last.

        What is above an eighth of a server's memory, or finds the server full and evicting nothing, is refused and
        counted.

        Raises:
            StoreFailed: Redis did not answer; the value may be kept or not.
        """
        self._listen()
        if self._looked is None:
            await self._look()
        if self._largest is not None and entry.size > self._largest:
            self._refused += 1
            return
        self._lifetimes.learn(key, entry)
        lifetime, left = self._lifetimes.ms(key), self._left_ms(entry)
        if left is not None:
            lifetime = min(lifetime, left)
        if used is not None:
            lifetime -= max(0, int(1000 * (self._clock() - used)))
        if lifetime <= 0:
            return
        self._note_write(key)
        name = self.connection.names.redis_key(key)
        try:
            if not await self.connection.execute("SET", name, entry.value, "PX", lifetime, "NX"):
                await self.connection.execute("PEXPIRE", name, lifetime)
        except StoreFull as error:
            self._refused += 1
            self.trouble = str(error)
            self._complaint.make(error)
        else:
            self.trouble = ""

    async def touch(self, key: str) -> bool:
        """Start an entry's idle time anew without reading it. Whether the key is here."""
        self._listen()
        name = self.connection.names.redis_key(key)
        return bool(await self.connection.execute("PEXPIRE", name, self._lifetimes.ms(key)))

    async def has(self, key: str) -> bool:
        """Whether the key is here; asking is no use of it.

        Raises:
            StoreFailed: Redis did not answer.
        """
        return bool(await self.connection.execute("EXISTS", self.connection.names.redis_key(key)))

    async def probe(self) -> None:
        """See ``Probed``. A server that is full works; ``trouble`` says that it is full."""
        try:
            await probe(self.connection)
        except StoreFull as error:
            self.trouble = str(error)
        else:
            self.trouble = ""

    async def mark_done(self, group: str, done: bool) -> None:
        """Nothing: see the class."""

    async def delete(self, pattern: str) -> int:
        """Purge all keys that match, at every server, and tell all other processes. How many went.

        Looks at all keys of the servers, a thousand at a time, so that others are served in between.

        Raises:
            StoreFailed: a server did not do it, or the others were not told; trying again is safe.
        """
        gone = 0
        if "*" not in pattern:
            gone = await self._unlink([self.connection.names.redis_key(pattern)])
        else:
            match, names = keys.matcher(pattern), self.connection.names
            for node in await self.connection.primaries():
                cursor = 0
                while True:
                    cursor, found = await self.connection.execute_at(
                        node, "SCAN", cursor, "MATCH", names.glob(pattern), "COUNT", _SCAN
                    )
                    ours = [name for name in found if (key := names.key_of(name)) is not None and match(key)]
                    gone += await self._unlink(ours)
                    if cursor == 0:
                        break
        if self.notices is not None:
            await self.notices.announce(pattern)
        return gone

    async def delete_recent(self, pattern: str) -> int:
        """Take back what this process wrote of late and another has purged; how many were still there.

        A value may have been under way to Redis while the other looked through it.

        Raises:
            StoreFailed: Redis did not answer.
        """
        match, oldest = keys.matcher(pattern), self._clock() - _RECENT_S
        recent = [key for key, at in self._recent.items() if at >= oldest and match(key)]
        return await self._unlink([self.connection.names.redis_key(key) for key in recent])

    async def drop_damaged(self, key: str) -> None:
        """Remove an entry whose bytes turned out to be damaged, and count it so."""
        await self._unlink([self.connection.names.redis_key(key)], Reason.DAMAGED)

    async def sweep(self) -> int:
        """Nothing: Redis deletes what has expired by itself."""
        return 0

    async def reconfigure(
        self,
        *,
        budget_bytes: int | None = None,
        idle_s: float | EllipsisType = ...,
        ranking: Ranking | None = None,
        uses: Sequence[tuple[str, float]] = (),
    ) -> None:
        """Take another idle time; each entry gets it at its next use. All else is the servers' own affair."""
        if idle_s is not ...:
            self._lifetimes.set_idle(idle_s)
            if self.notices is not None:
                self.notices.keep_s = max(self.notices.keep_s, 2 * idle_s)

    @property
    def largest(self) -> int | None:
        """Bytes of the largest value that is admitted; ``None`` where Redis does not tell its memory."""
        return self._largest

    async def open(self) -> None:
        """Hear of the purges up to now, and listen for those to come.

        Raises:
            StoreFailed: Redis did not answer.
        """
        if self.notices is not None:
            await self.notices.begin()

    async def stats(self) -> StoreStats:
        """What the servers hold: one ``INFO`` a server.

        Raises:
            StoreFailed: a server did not answer.
        """
        self._listen()
        servers = await self._look()
        return StoreStats(
            tier=self.name,
            entries=sum(_keys(info, self.connection.address.db) for info in servers),
            bytes=sum(info.get("used_memory_dataset", info.get("used_memory", 0)) for info in servers),
            budget=self._given_budget or sum(info.get("maxmemory", 0) for info in servers),
            evictions={reason.value: self._evictions[reason] for reason in Reason},
            refused=self._refused,
        )

    async def aclose(self) -> None:
        """Stop listening and close the connections."""
        async with AsyncExitStack() as closing:
            closing.push_async_callback(self.connection.aclose)
            if self.notices is not None:
                closing.push_async_callback(self.notices.aclose)

    async def _look(self) -> list[Mapping[str, Any]]:
        """Ask the servers for their figures; take note of the largest value to admit, and of what they evicted.

        None, where the user in ``redis_url`` may not ask. One look at a time: what they counted is booked in its order.
        """
        async with self._looking:
            return await self._look_now()

    async def _look_now(self) -> list[Mapping[str, Any]]:
        servers: list[Mapping[str, Any]] = []
        try:
            servers = await self.connection.each("INFO")
        except StoreFailed as error:
            if not isinstance(error.__cause__, NoPermissionError):
                raise
        smallest = min((info.get("maxmemory", 0) for info in servers), default=0)
        if self._given_budget is not None:
            smallest = self._given_budget // max(1, len(servers))
        self._largest = smallest // PARTS if smallest else None
        now = self._clock()
        since = 0.0 if self._looked is None else now - self._looked
        for info in servers:
            run = str(info.get("run_id"))
            went = (int(info.get("expired_keys", 0)), int(info.get("evicted_keys", 0)))
            # One that started since the last look counts from 0; one that was a replica until then, from what it says.
            before = self._servers.get(run, (0, 0) if info.get("uptime_in_seconds", 0) < since else went)
            if went[0] < before[0] or went[1] < before[1]:  # somebody had it count anew
                before = (0, 0)
            self._evictions[Reason.IDLE] += went[0] - before[0]
            self._evictions[Reason.BUDGET] += went[1] - before[1]
            self._servers[run] = went
        self._looked = now
        return servers

    async def _unlink(self, names: list[bytes], reason: Reason = Reason.PURGE) -> int:
        gone = 0
        if names:
            gone = sum(await self.connection.together([("UNLINK", name) for name in names]))
            self._evictions[reason] += gone  # not in one line with the waiting: others count meanwhile
        return gone

    def _left_ms(self, entry: Entry) -> int | None:
        if self._max_age_s is None:
            return None
        return int((entry.created + self._max_age_s - self._clock()) * 1000)

    def _note_write(self, key: str) -> None:
        self._recent[key] = self._clock()
        self._recent.move_to_end(key)
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)

    def _listen(self) -> None:
        if self.notices is not None:
            self.notices.start()


def _keys(info: Mapping[str, Any], db: int) -> int:
    space = info.get(f"db{db}")
    return int(space["keys"]) if isinstance(space, Mapping) else 0
