"""The threads of the disk tier: who works on its index and its files, and its failures in sentences."""

import asyncio
import contextlib
import errno
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from labeling_ground.cache.disk.connections import Connections
from labeling_ground.cache.disk.eviction import Turn
from labeling_ground.cache.disk.files import says_full
from labeling_ground.errors import StoreFailed, StoreFull

log = logging.getLogger(__name__)

T = TypeVar("T")

READERS = 2
"""Threads that read: so many look-ups at a time; the others wait, and their deadlines do not run meanwhile."""

_PAUSE_S = 0.005, 0.05
"""Seconds, at least and at most, in which other processes may take the write lock between two transactions of one task;
in between as long as the last transaction took."""


class DiskThreads:
    """Threads that read, and one that writes. What fails in them is ``StoreFailed``, in a sentence for an operator.

    A task that is cancelled while it waits leaves nothing half done: its work is not begun, or is carried to its end.

    Args:
        connections: to the index.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._reads = ThreadPoolExecutor(READERS, thread_name_prefix="disk-read")
        # One, so that this process never waits for its own lock, and its writes keep their order.
        self._writes = ThreadPoolExecutor(1, thread_name_prefix="disk-write")

    async def read(self, work: Callable[[], T]) -> T:
        """Do a piece of work that reads; what it returns."""
        return await asyncio.wrap_future(self._submit(self._reads, work))

    async def write(self, work: Callable[[], T]) -> T:
        """Do a piece of work that writes, after those that were handed in before; what it returns."""
        return await asyncio.wrap_future(self._submit(self._writes, work))

    def write_later(self, work: Callable[[], None]) -> None:
        """Write without making anybody wait; a failure is logged."""
        self._submit(self._writes, work).add_done_callback(_complain)

    async def in_turns(self, work: Callable[[], Turn], most: int | None = None) -> int:
        """Do a piece of work that is many transactions; in between others get their turn. How many entries went."""
        gone = turns = 0
        while True:
            started = time.monotonic()
            turn = await self.write(work)
            gone, turns = gone + turn.gone, turns + 1
            if not turn.more or turns == most:
                return gone
            shortest, longest = _PAUSE_S
            await asyncio.sleep(min(longest, max(shortest, time.monotonic() - started)))

    def close(self, last: Callable[[], object]) -> None:
        """Finish what was handed in, and ``last``, then close the index. Blocks; may be called twice."""
        with contextlib.suppress(StoreFailed):
            self._submit(self._writes, last).exception()
        self._writes.shutdown()
        self._reads.shutdown()
        self._connections.close()

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
                self._connections.suspect(error)
            # Where there is no index, nothing that is there can be served: that is worse than full.
            failed = StoreFull if says_full(error) and self._connections.is_open else StoreFailed
            raise failed(sentence(error, self._connections.folder)) from error


def _complain(future: Future[None]) -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        log.warning("A use was not noted: %s", error)


def sentence(error: OSError | sqlite3.Error, folder: Path) -> str:
    """What was wrong, for an operator."""
    if says_full(error):
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_FULL) != sqlite3.SQLITE_FULL:
            return f"The cache directory {folder} takes no more: its disk is full, a quota used up, or the disk fails."
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
