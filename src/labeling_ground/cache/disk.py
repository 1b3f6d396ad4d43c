"""The disk tier: survives a restart, shared by all processes of one machine."""

import asyncio
import errno
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import EllipsisType
from typing import TypeVar

from labeling_ground.cache.complaint import Complaint
from labeling_ground.cache.disk_files import says_full
from labeling_ground.cache.disk_index import DiskIndex, Limits, Standing
from labeling_ground.cache.policy.port import Ranking, Reason
from labeling_ground.errors import StoreFailed, StoreFull
from labeling_ground.types import Entry, Kind, StoreStats

log = logging.getLogger(__name__)

T = TypeVar("T")

_USES = 256
"""Uses that are noted in one transaction."""


class DiskStore:
    """Entries in a directory: small values in SQLite, larger ones in files.

    All work is done in three threads of the store's own, two that read and one that writes, so a
    task that is cancelled while it waits leaves nothing half done: its work is either not begun or
    carried to its end. The budget bounds the sum of the values' sizes, those being written
    included; the index comes on top.

    A use is written down only when the last one noted is a twentieth of the idle time ago (at most
    a minute): a reader then costs a writer once in a while and not every time. The idle timer may
    run out that much too early.

    ``evictions`` and ``refused`` count what this object did; entries and bytes are what all processes
    on the directory hold together.

    Args:
        directory: made with mode 0700 if it is not there; its contents are the store's.
        budget_bytes: what the values may add up to, for all processes together.
        idle_s: seconds without use after which an entry goes; ``None``: never.
        max_age_s: seconds since its creation after which an entry goes, used or not; ``None``:
        never.
        ranking: who goes when the bytes do not suffice; the same for all processes on the
        directory.
        low_watermark: share of the budget to evict down to, once something must go.
        clock: seconds since 1970.
    """

    name = "disk"
    at_once = 2
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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._watermark = low_watermark
        self._limits = Limits(budget_bytes, int(budget_bytes * low_watermark), idle_s, max_age_s)
        self._index = DiskIndex(directory, self._limits, ranking)
        self._reads = ThreadPoolExecutor(self.at_once, thread_name_prefix="disk-read")
        # One, so that this process never waits for its own lock, and its writes keep their order.
        self._writes = ThreadPoolExecutor(1, thread_name_prefix="disk-write")
        self._refused = 0
        self.trouble = ""
        """Why the last value was not kept; empty once one is again."""
        self._complaint = Complaint(log, self.name)

    async def open(self) -> None:
        """Make the directory ready, and clear away what a killed process left.

        The first use does this as well; calling it tells at start whether the directory is of use.

        Raises:
            StoreFailed: it is not.
        """
        await self._write(self._index.open)

    async def get(self, key: str) -> Entry | None:
        """The entry, or ``None``.

        What is expired, or not of its noted length, goes and is counted.
        """
        now = self._clock()
        found = await self._read(partial(self._index.find, key, now))
        if found.standing is Standing.UNSURE:
            # In line with the writes: the use that keeps it alive may be waiting there.
            await self._write(partial(self._index.settle, key, now))
            found = await self._read(partial(self._index.find, key, now))
        if found.slide:
            self._behind(partial(self._index.slide, key, now))
        return found.entry

    async def put(self, key: str, entry: Entry, used: float | None = None) -> None:
        """Keep the entry, making room first. With ``used`` it is ranked as one that was used last
        then. What is above an eighth of the budget, or finds the disk full, is refused and counted.

        Raises:
            StoreFailed: the value is not kept; nothing of it is left behind.
        """
        now = self._clock()
        if entry.size > self._limits.budget // 8:
            self._refused += 1
            return
        if self._limits.max_age_s is not None and now - entry.created >= self._limits.max_age_s:
            return
        if used is not None and self._limits.broken(entry.created, used, now):
            return
        try:
            await self._write(partial(self._index.store, key, entry, now, used))
        except StoreFull as error:
            self._refused += 1
            self.trouble = str(error)
            self._complaint.make(error)
        else:
            self.trouble = ""

    async def touch(self, key: str) -> bool:
        """Slide the idle timer without reading the value. Whether the key is here."""
        now = self._clock()
        found = await self._read(partial(self._index.find, key, now, value=False))
        if found.standing is Standing.UNSURE:
            await self._write(partial(self._index.settle, key, now))
            found = await self._read(partial(self._index.find, key, now, value=False))
        if found.slide:
            self._behind(partial(self._index.slide, key, now))
        return found.standing is Standing.HIT

    async def has(self, key: str) -> bool:
        """Whether the key is here; asking is no use of it."""
        found = await self._read(partial(self._index.find, key, self._clock(), value=False))
        return found.standing is Standing.HIT

    async def mark_done(self, group: str, done: bool) -> None:
        """Set or take back the done hint on all keys of an image.

        A hit on a key takes it back too.
        """
        await self._write(partial(self._index.mark, group, done))

    async def delete(self, pattern: str) -> int:
        """Purge all keys that match.

        One image costs what it holds, anything wider a look at all keys.
        """
        return await self._write(partial(self._index.delete, pattern))

    async def drop_damaged(self, key: str) -> None:
        """Remove an entry whose bytes turned out to be damaged, and count it so."""
        await self._write(partial(self._index.drop, key))

    async def sweep(self) -> int:
        """Remove what has expired and what killed processes left; how many entries went."""
        return await self._write(partial(self._index.sweep, self._clock()))

    async def reconfigure(
        self,
        *,
        budget_bytes: int | None = None,
        idle_s: float | EllipsisType | None = ...,
        max_age_s: float | EllipsisType | None = ...,
        ranking: Ranking | None = None,
        uses: Sequence[tuple[str, float]] = (),
    ) -> None:
        """Change what is given, for this process, and evict down to the new budget.

        Args:
            budget_bytes: the new budget, or ``None`` for the present one.
            idle_s: the new idle time, ``None`` to switch it off; left out, it stays.
            max_age_s: the new greatest age, ``None`` to switch it off; left out, it stays.
            ranking: a new formula. Other processes on the directory keep to theirs until they are
            told as well.
            uses: keys and when a tier above had them used last: those uses are noted first, so that
            a shorter idle time takes nothing that is in use.

        Raises:
            StoreFailed: it could not be done; the budget and the idle time are what they were.
        """
        for start in range(0, len(uses), _USES):
            await self._write(partial(self._index.note_uses, uses[start : start + _USES]))
        if ranking is not None:
            await self._write(partial(self._index.set_ranking, ranking))
        if budget_bytes is not None:
            await self._set_budget(budget_bytes)
        if idle_s is not ...:
            self._limits.idle_s = idle_s
        if max_age_s is not ...:
            self._limits.max_age_s = max_age_s

    async def stats(self) -> StoreStats:
        """What is held by all processes, and what this one evicted."""
        totals = await self._read(self._index.totals)
        return StoreStats(
            tier=self.name,
            entries=sum(totals.entries_by_kind.values()),
            bytes=sum(totals.bytes_by_kind.values()),
            budget=self._limits.budget,
            oldest_created=totals.oldest_created,
            evictions={reason.value: self._index.evictions[reason] for reason in Reason},
            entries_by_kind={kind.value: totals.entries_by_kind.get(kind, 0) for kind in Kind},
            bytes_by_kind={kind.value: totals.bytes_by_kind.get(kind, 0) for kind in Kind},
            refused=self._refused,
        )

    async def aclose(self) -> None:
        """Finish what was handed in and close the index. May be called twice."""
        await asyncio.to_thread(self._shut)  # noqa: TID251 -- closing, when nothing else is left to wait for it

    async def _set_budget(self, budget: int) -> None:
        before = self._limits.budget, self._limits.low
        low = int(budget * self._watermark)
        try:
            while not await self._write(partial(self._index.set_budget, budget, low, self._clock())):
                pass  # others had their turn
        except BaseException:
            self._limits.budget, self._limits.low = before
            raise

    def _shut(self) -> None:
        self._writes.shutdown()
        self._reads.shutdown()
        self._index.close()

    async def _read(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._submit(self._reads, work))

    async def _write(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._submit(self._writes, work))

    def _behind(self, work: Callable[[], None]) -> None:
        """Write without making anybody wait; a failure is logged."""
        self._submit(self._writes, work).add_done_callback(_complain)

    def _submit(self, executor: ThreadPoolExecutor, work: Callable[[], T]) -> Future[T]:
        try:
            return executor.submit(self._run, work)
        except RuntimeError as error:  # shut down
            raise StoreFailed("The disk cache is closed.") from error

    def _run(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (OSError, sqlite3.Error) as error:
            if isinstance(error, sqlite3.Error):
                self._index.suspect(error)
            # Where there is no index, nothing that is there can be served: that is worse than full.
            failed = StoreFull if says_full(error) and self._index.is_connected else StoreFailed
            raise failed(_sentence(error, self._index.folder)) from error


def _complain(future: Future[None]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        log.warning("A use was not noted: %s", error)


def _sentence(error: OSError | sqlite3.Error, folder: Path) -> str:
    """What was wrong, for an operator."""
    if says_full(error):
        return f"The disk under the cache directory {folder} is full."
    if isinstance(error, OSError):
        code = error.errno
        if code in (errno.EROFS, errno.EACCES, errno.EPERM):
            return f"The cache directory {folder} cannot be written: {error.strerror}."
        if code in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
            return f"The cache directory {folder} is gone, or is no directory."
        return f"The cache directory {folder} failed: {error}."
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return f"The index in the cache directory {folder} cannot be opened for writing: {error}."
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return f"The index in the cache directory {folder} was damaged; it starts empty."
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"The index in the cache directory {folder} was in use by others for too long."
    return f"The index in the cache directory {folder} failed: {error}."
