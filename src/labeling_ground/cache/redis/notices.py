"""Purge notices: what one process purges, all others that share the Redis forget too.

A log in Redis, a stream, holds every recent purge. Each process waits at its end (``XREAD BLOCK``), so that a notice
arrives within a round trip; one that was away for a while reads on where it left off. Nothing is lost by a missed
message, as with plain publishing.
"""

import asyncio
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from labeling_ground import key as keys
from labeling_ground.cache.redis.connect import RedisConnection
from labeling_ground.cache.redis.script import Script
from labeling_ground.cache.tasks import stop
from labeling_ground.errors import StoreFailed
from labeling_ground.supervisor import Supervisor

log = logging.getLogger(__name__)

# A script that has written something is not stopped for want of memory: after the first trimming, which takes nothing
# away, a server that is full takes the notice, too. Too old is what is so by Redis' clock, which gives the places.
_ADD = Script("""
redis.call('xtrim', KEYS[1], 'MINID', 0)
local place = redis.call('xadd', KEYS[1], '*', 'notice', ARGV[2], 'pattern', ARGV[3])
local oldest = math.max(0, string.match(place, '^%d+') - ARGV[1])
redis.call('xtrim', KEYS[1], 'MINID', '~', string.format('%d', oldest))
return place
""")

_START = "-"
_MOST = 1000
"""Notices that one command reads; the next reads on."""
_LONGEST_PAUSE_S = 30.0
"""Longest pause, in seconds, between trials to read the log: a pace of this process's own, and no limit."""


class PurgeNotices:
    """One process's end of the log.

    Three things can go wrong, and none leaves a process with what should be gone:

    * It was cut off for longer than the log reaches back: everything is purged locally.
    * Redis lost the log (it restarted empty, or a fail-over lost its end): their makers write the lost entries
      again, and everybody reads the new log from its beginning. Only what a process announced and died, while another
      was cut off, is beyond help.
    * Applying a notice fails: it is tried again until it is done, more and more rarely; the later ones go on meanwhile.

    Args:
        connection: for announcing; a second one, to the same place, waits at the log's end.
        log_s: how far the log reaches back, in seconds; at least the idle time, so that what a process finds on its
            disk after a longer absence has expired.
        wait_s: how long to wait at the log's end before looking whether the log is still the same.
        retry_s: pause after a failure; after further ones it grows, up to half a minute.
        clock: monotonic seconds.
        supervisor: counts what goes wrong while listening.
    """

    def __init__(
        self,
        connection: RedisConnection,
        *,
        log_s: float = 7200.0,
        wait_s: float = 5.0,
        retry_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
        supervisor: Supervisor | None = None,
    ) -> None:
        self.on_purge: Callable[[str], Awaitable[object]] | None = None
        """Told each pattern that another process purged. What it raises is logged, and the notice is tried again."""
        self.heard = 0
        """Purges of others that were applied here."""
        self._connection = connection
        self._waiting = connection.patient(wait_s + 1.0)
        self._stream = connection.names.ours("purges")
        self.log_s = log_s
        self._wait_ms = int(wait_s * 1000)
        self._supervisor = supervisor or Supervisor()
        self._retry_s = retry_s
        self._clock = clock
        self._last = _START
        self._checked = clock()
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._own: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._watcher: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Read the log as far as it goes, then listen.

        What lies on this machine's disk may have been purged while no process ran here; what is kept from now on was
        not, so the old notices must be through before that.

        Raises:
            StoreFailed: the log cannot be read. It is tried again behind the caller's back.
        """
        try:
            if self._watcher is None:
                await self.catch_up()
        finally:
            self.start()

    def start(self) -> None:
        """Begin to listen, where that has not begun."""
        if self._watcher is None and self.on_purge is not None:
            self._watcher = asyncio.create_task(self._watch())

    async def announce(self, pattern: str) -> None:
        """Tell all others of a purge.

        Raises:
            StoreFailed: they were not told.
        """
        notice = uuid.uuid4().hex
        self._own[notice] = (self._clock(), pattern)
        self._seen[notice] = self._clock()
        try:
            await self._write(notice, pattern)
        except StoreFailed:
            del self._own[notice]  # the caller is told that the purge failed, and tries again
            raise

    async def aclose(self) -> None:
        """Stop listening."""
        try:
            if self._watcher is not None:
                await stop(self._watcher)
        finally:
            await self._waiting.aclose()

    async def catch_up(self) -> None:
        """Apply what came into the log since the last time.

        Raises:
            StoreFailed: the log cannot be read.
        """
        started = self._clock()
        entries = await self._read(self._last)
        if self._last != _START and (not entries or entries[0][0] != self._last):
            entries = await self._reread()
        if started - self._checked > self.log_s:
            log.warning("redis: cut off for longer than the log of purges reaches back; what is kept here is purged")
            await self._apply(keys.pattern())
            for _, notice, _ in entries:
                self._seen[notice] = started
        self._checked = started
        self._forget()
        await self._take(entries)

    async def _watch(self) -> None:
        failures = 0

        async def hear() -> None:
            nonlocal failures
            await self.catch_up()
            failures = 0
            await self._take(await self._next())

        while True:
            if not await self._supervisor.attempt("purge notices", hear):
                await asyncio.sleep(min(self._retry_s * 2.0**failures, _LONGEST_PAUSE_S))
                failures = min(failures + 1, 16)

    async def _next(self) -> list[tuple[str, str, str]]:
        """Wait at the end of the log; nothing if nothing came for a while."""
        after = "0" if self._last == _START else self._last
        answer = await self._waiting.execute(
            "XREAD", "COUNT", _MOST, "BLOCK", self._wait_ms, "STREAMS", self._stream, after
        )
        return [_read(entry) for _, entries in answer or () for entry in entries]

    async def _reread(self) -> list[tuple[str, str, str]]:
        """The whole log, after what this process announced and what is not in it any more was written anew.

        The last entry that was read here is gone: it became too old and was trimmed, or the log was lost.
        """
        there = {notice for _, notice, _ in await self._read(_START)}
        youngest_trimmed = self._clock() - 0.9 * self.log_s
        for notice, (at, pattern) in list(self._own.items()):
            if notice not in there and at > youngest_trimmed:
                await self._write(notice, pattern)
        return await self._read(_START)

    async def _take(self, entries: list[tuple[str, str, str]]) -> None:
        failed: Exception | None = None
        for place, notice, pattern in entries:
            if notice not in self._seen:
                try:
                    await self._apply(pattern)
                except Exception as error:  # noqa: BLE001 -- the others' turn must come; this one's comes again
                    failed = failed or error
                    continue
                self._seen[notice] = self._clock()
                self.heard += 1
            if failed is None:
                self._last = place
        if failed is not None:
            raise failed

    async def _apply(self, pattern: str) -> None:
        if self.on_purge is not None:
            await self.on_purge(pattern)

    async def _read(self, start: str) -> list[tuple[str, str, str]]:
        found: list[tuple[str, str, str]] = []
        while True:
            entries = await self._connection.execute("XRANGE", self._stream, start, "+", "COUNT", _MOST)
            found += [_read(entry) for entry in entries]
            if len(entries) < _MOST:
                return found
            start = f"({found[-1][0]}"

    async def _write(self, notice: str, pattern: str) -> None:
        await _ADD.run(self._connection, [self._stream], int(self.log_s * 1000), notice, pattern)

    def _forget(self) -> None:
        oldest = self._clock() - 2 * self.log_s
        while self._seen and next(iter(self._seen.values())) < oldest:
            self._seen.popitem(last=False)
        while self._own and next(iter(self._own.values()))[0] < oldest:
            self._own.popitem(last=False)


def _read(entry: Any) -> tuple[str, str, str]:
    """Place in the log, id of the notice, pattern."""
    place, fields = entry
    return place.decode(), fields[b"notice"].decode(), fields[b"pattern"].decode()
