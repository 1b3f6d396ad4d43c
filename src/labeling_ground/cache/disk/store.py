"""The disk tier: survives a restart, shared by all processes of one machine."""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import EllipsisType

from labeling_ground.cache.budgets import PARTS
from labeling_ground.cache.complaint import Complaint
from labeling_ground.cache.disk.eviction import EntryLimits
from labeling_ground.cache.disk.files import GRACE_S
from labeling_ground.cache.disk.folder import INDEX, open_to_read, refusal
from labeling_ground.cache.disk.index import DiskIndex, Found, Standing, Totals, totals_of
from labeling_ground.cache.disk.purges import Purge
from labeling_ground.cache.disk.schema import LAYOUT
from labeling_ground.cache.disk.threads import READERS, DiskThreads, sentence
from labeling_ground.cache.policies.port import Ranking, Reason
from labeling_ground.cache.tasks import stop
from labeling_ground.errors import StoreFailed, StoreFull
from labeling_ground.supervisor import Supervisor
from labeling_ground.types import Entry, Kind, StoreStats

log = logging.getLogger(__name__)

_USES = 256
"""Uses that are noted in one transaction."""

_LOOK_S = 0.02
"""Seconds between two looks whether they have."""

_VACUUM = 16, 64
"""Turns of giving pages back in a sweep, and pages in each."""


class DiskStore:
    """Entries in a directory: small values in SQLite, larger ones in files.

    All work is done in threads of its own. The budget bounds the sum of the values' sizes, those being written
    included; the index comes on top.

    A use is written down only when the last one noted is a twentieth of the idle time ago (at most
    a minute): a reader then costs a writer once in a while and not every time. The idle timer may
    run out that much too early.

    ``evictions`` and ``refused`` count what this object did; entries and bytes are what all processes
    on the directory hold together.

    Args:
        directory: made with mode 0700 if it is not there. One that holds something else is refused.
        budget_bytes: what the values may add up to, for all processes together.
        idle_s: seconds without use after which an entry goes; ``None``: never.
        max_age_s: seconds since its creation after which an entry goes, used or not; ``None``: never.
        ranking: who goes when the bytes do not suffice; the same for all processes on the directory.
        low_watermark: share of the budget to evict down to, once something must go.
        tenant_share: part of the budget that one tenant may hold while others need room; ``None``:
        tenants are not told apart.
        clock: seconds since 1970.
        listen_s: seconds between two looks whether another process has purged something.
        heard_s: seconds that a purge waits until the other processes have heard of it. One that lives has by then.
        lock_s: seconds to wait for another process's turn at the index.
        supervisor: of these looks, and of ranking anew what was ranked by another formula.
    """

    name = "disk"
    at_once = READERS
    """Reads, each in a thread."""

    def __init__(
        self,
        directory: Path,
        *,
        budget_bytes: int,
        idle_s: float | None,
        max_age_s: float | None,
        ranking: Ranking,
        low_watermark: float = 0.9,
        tenant_share: float | None = None,
        clock: Callable[[], float] = time.time,
        listen_s: float = 0.25,
        heard_s: float = 1.0,
        lock_s: float = 5.0,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._supervisor = supervisor or Supervisor()
        self.on_purge: Callable[[str], Awaitable[object]] | None = None
        """Told each pattern that another process purged, from ``open`` on. What it raises is logged, and the pattern is
        told again. Until it has been, nothing that the pattern means is written."""
        self._listen_s, self._heard_s = listen_s, heard_s
        self._listener: asyncio.Task[None] | None = None
        self._ranking_anew: asyncio.Task[None] | None = None
        self._clock = clock
        self._watermark = low_watermark
        self._limits = EntryLimits(budget_bytes, int(budget_bytes * low_watermark), idle_s, max_age_s, tenant_share)
        self._index = DiskIndex(directory, self._limits, ranking, lock_s)
        self._threads = DiskThreads(self._index.connections)
        self._refused = 0
        self.trouble = ""
        """Why the last value was not kept; empty once one is again."""
        self._complaint = Complaint(log, self.name)

    @property
    def largest(self) -> int:
        """Bytes of the largest value that is admitted."""
        return self._limits.budget // PARTS

    async def open(self) -> None:
        """Make the directory ready, clear away what a killed process left, and listen for purges of other processes.

        The first use does the first two as well; calling it tells at start whether the directory is of use.

        Raises:
            StoreFailed: it is not.
        """
        if self.on_purge is not None and self._listener is None:
            # Where the directory cannot be used yet, there may be something in memory when it can.
            self._index.purges.listen_to_all()
            self._listener = asyncio.create_task(self._listen(self.on_purge))
            await self._threads.write(self._index.purges.listen)
        await self._threads.write(self._index.connections.get)
        if (await self._threads.write(self._index.eviction.rank_anew)).more:
            self._ranking_anew = asyncio.create_task(self._supervisor.persist("rank disk", self._rank_anew))

    async def get(self, key: str) -> Entry | None:
        """The entry, or ``None``.

        What is expired, or not of its noted length, goes and is counted.
        """
        return (await self._use(key)).entry

    async def put(self, key: str, entry: Entry, used: float | None = None) -> None:
        """Keep the entry, making room first. With ``used`` it is ranked as one that was used last
        then. What is above an eighth of the budget, or finds the disk full, is refused and counted.

        Raises:
            StoreFailed: the value is not kept; nothing of it is left behind.
        """
        now = self._clock()
        if entry.size > self.largest:
            self._refused += 1
            return
        if self._limits.max_age_s is not None and now - entry.created >= self._limits.max_age_s:
            return
        if used is not None and self._limits.broken(entry.created, used, now):
            return
        try:
            await self._threads.write(partial(self._index.store, key, entry, now, used))
        except StoreFull as error:
            self._refused += 1
            self.trouble = str(error)
            self._complaint.make(error)
        else:
            self.trouble = ""

    async def touch(self, key: str) -> bool:
        """Restart the idle timer without reading the value. Whether the key is here."""
        return (await self._use(key, value=False)).standing is Standing.HIT

    async def has(self, key: str) -> bool:
        """Whether the key is here; asking is no use of it."""
        found = await self._threads.read(partial(self._index.find, key, self._clock(), value=False))
        return found.standing is Standing.HIT

    async def mark_done(self, group: str, done: bool) -> None:
        """Set or take back the done hint on all keys of an image.

        A hit on a key takes it back too.
        """
        await self._threads.in_turns(partial(self._index.eviction.mark, group, done))

    async def delete(self, pattern: str) -> int:
        """Purge all keys that match, and wait until the other processes on the directory have heard of it.

        One image costs what it holds, anything wider a look at all keys.
        """
        purge = await self._threads.write(partial(self._index.purging.begin, pattern, self._clock()))
        gone = await self._threads.in_turns(partial(self._index.purging.go_on, purge))
        await self._wait_until_heard(purge)
        return gone

    async def delete_untold(self, pattern: str) -> int:
        """Purge what the other processes on the directory are told of in another way."""
        purge = await self._threads.write(partial(self._index.purging.begin, pattern, self._clock(), tell=False))
        return await self._threads.in_turns(partial(self._index.purging.go_on, purge))

    async def drop_damaged(self, key: str) -> None:
        """Remove an entry whose bytes turned out to be damaged, and count it so."""
        await self._threads.write(partial(self._index.drop, key))

    async def sweep(self) -> int:
        """Remove what has expired and what killed processes left; how many entries went."""
        now = self._clock()
        gone = await self._threads.in_turns(partial(self._index.sweep, now))
        for purge in await self._threads.read(partial(self._index.purges.unfinished, now - GRACE_S, now)):
            gone += await self._threads.in_turns(partial(self._index.purging.go_on, purge))
        await self._rank_anew()
        turns, pages = _VACUUM
        await self._threads.in_turns(partial(self._index.eviction.vacuum, pages), most=turns)
        return gone

    async def reconfigure(
        self,
        *,
        budget_bytes: int | None = None,
        idle_s: float | EllipsisType | None = ...,
        ranking: Ranking | None = None,
        uses: Sequence[tuple[str, float]] = (),
    ) -> None:
        """See ``Adjustable``. Other processes on the directory keep to their formula until they are told as well.

        Raises:
            StoreFailed: it could not be done; the budget and the idle time are what they were.
        """
        for start in range(0, len(uses), _USES):
            await self._threads.write(partial(self._index.eviction.note_uses, uses[start : start + _USES]))
        if ranking is not None:
            await self._threads.write(partial(self._index.eviction.set_ranking, ranking))
            await self._rank_anew()
        if budget_bytes is not None:
            await self._set_budget(budget_bytes)
        if idle_s is not ...:
            self._limits.idle_s = idle_s

    async def stats(self) -> StoreStats:
        """What all processes have stored, and what this one evicted."""
        figures = described(await self._threads.read(self._index.totals), self._limits.budget)
        evictions = {reason.value: self._index.connections.evictions[reason] for reason in Reason}
        return replace(figures, evictions=evictions, refused=self._refused)

    async def aclose(self) -> None:
        """Finish what was handed in and close the index. May be called twice."""
        for task in (self._listener, self._ranking_anew):
            if task is not None:
                await stop(task)
        self._listener = self._ranking_anew = None
        leave = self._index.purges.leave  # others would wait for it in vain
        await asyncio.to_thread(self._threads.close, leave)  # noqa: TID251 -- closing, when nothing else is left to wait for it

    async def _use(self, key: str, *, value: bool = True) -> Found:
        now = self._clock()
        find = partial(self._index.find, key, now, value=value)
        found = await self._threads.read(find)
        if found.standing is Standing.UNSURE:
            # In line with the writes: the use that keeps it alive may be waiting there.
            await self._threads.write(partial(self._index.check_again, key, now))
            found = await self._threads.read(find)
        if found.touch:
            self._threads.write_later(partial(self._index.touch, key, now))
        return found

    async def _set_budget(self, budget: int) -> None:
        before = self._limits.budget, self._limits.low
        low = int(budget * self._watermark)
        try:
            await self._threads.in_turns(partial(self._index.eviction.set_budget, budget, low, self._clock()))
        except BaseException:
            self._limits.budget, self._limits.low = before
            raise

    async def _listen(self, tell: Callable[[str], Awaitable[object]]) -> None:
        purges = self._index.purges

        async def hear() -> None:
            patterns, position = await self._threads.read(purges.hear)
            for pattern in patterns:
                await tell(pattern)
            if purges.carried_out(position):
                await self._threads.write(partial(purges.say, position))

        while True:
            await asyncio.sleep(self._listen_s)
            await self._supervisor.attempt("purges on disk", hear)

    async def _wait_until_heard(self, purge: Purge) -> None:
        """So that who purges here and goes on elsewhere finds it purged there, and is not purged there later."""
        ends = time.monotonic() + self._heard_s
        while not await self._threads.read(partial(self._index.purges.is_heard, purge)):
            if time.monotonic() > ends:
                with contextlib.suppress(StoreFull):  # then the next purge waits for them as well
                    await self._threads.write(partial(self._index.purges.give_up, purge))
                return
            await asyncio.sleep(_LOOK_S)

    async def _rank_anew(self) -> None:
        await self._threads.in_turns(self._index.eviction.rank_anew)


def described(totals: Totals, budget: int) -> StoreStats:
    """What an index holds, as a tier's figures."""
    return StoreStats(
        tier=DiskStore.name,
        entries=sum(totals.entries_by_kind.values()),
        bytes=sum(totals.bytes_by_kind.values()),
        budget=budget,
        oldest_created=totals.oldest_created,
        entries_by_kind={kind.value: totals.entries_by_kind.get(kind, 0) for kind in Kind},
        bytes_by_kind={kind.value: totals.bytes_by_kind.get(kind, 0) for kind in Kind},
    )


def look(folder: Path, budget: int) -> StoreStats:
    """The figures of a disk tier that is looked at from outside, where there is one. Makes nothing, removes nothing.

    Raises:
        StoreFailed: the folder holds something else, or its index cannot be read.
    """
    if why := refusal(folder):
        raise StoreFailed(why)
    path = folder / INDEX
    totals = Totals({}, {}, None)
    try:
        if path.is_file():
            with contextlib.closing(open_to_read(path)) as db:
                if db.execute("PRAGMA user_version").fetchone()[0] == LAYOUT:  # another one is thrown away at the start
                    totals = totals_of(db)
    except (OSError, sqlite3.Error) as error:
        raise StoreFailed(sentence(error, folder)) from error
    return described(totals, budget)
