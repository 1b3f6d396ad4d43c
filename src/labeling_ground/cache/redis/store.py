"""The Redis tier: shared by all processes and machines, bounded by the server's ``maxmemory``."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from types import EllipsisType

from labeling_ground import key as keys
from labeling_ground.cache.complaint import Complaint
from labeling_ground.cache.policies.port import Ranking, Reason
from labeling_ground.cache.redis.connect import RedisConnection
from labeling_ground.cache.redis.figures import RedisUsage
from labeling_ground.cache.redis.health import probe
from labeling_ground.cache.redis.lifetime import Lifetimes
from labeling_ground.cache.redis.notices import PurgeNotices
from labeling_ground.codec import frame
from labeling_ground.errors import StoreFull
from labeling_ground.types import Entry, StoreStats

log = logging.getLogger(__name__)

_SCAN = 1000
"""Keys that Redis looks at in one step of a purge: some 0.3 ms in which it serves nobody else."""
_RECENT_S = 60.0
"""Seconds for which a key that was written here is remembered: what a purge of another process may have missed."""
_RECENT = 10_000
"""So many of them. No limit: what is forgotten was written long before, and the purge has found it."""


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

    ``entries``, ``bytes`` and ``budget`` are the servers': all primaries together, other programs' keys included,
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
        self._clock = clock
        self._servers = RedisUsage(connection, budget_bytes, clock)
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
        if not self._servers.are_known:
            await self._servers.look()
        if self.largest is not None and entry.size > self.largest:
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
        """Take back what this process wrote lately and another has purged; how many were still there.

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
                self.notices.log_s = max(self.notices.log_s, 2 * idle_s)

    @property
    def largest(self) -> int | None:
        """Bytes of the largest value that is admitted; ``None`` where Redis does not tell its memory."""
        return self._servers.largest

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
        return replace(await self._servers.stats(), refused=self._refused)

    async def aclose(self) -> None:
        """Stop listening and close the connections."""
        async with AsyncExitStack() as closing:
            closing.push_async_callback(self.connection.aclose)
            if self.notices is not None:
                closing.push_async_callback(self.notices.aclose)

    async def _unlink(self, names: list[bytes], reason: Reason = Reason.PURGE) -> int:
        gone = 0
        if names:
            gone = sum(await self.connection.together([("UNLINK", name) for name in names]))
            self._servers.evictions[reason] += gone  # not in one line with the waiting: others count meanwhile
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
