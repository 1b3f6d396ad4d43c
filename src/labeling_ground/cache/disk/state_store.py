"""Logs that outlive the process, in one SQLite file that all processes of the machine may share."""

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from labeling_ground.cache.disk.files import says_full
from labeling_ground.cache.disk.folder import SESSIONS, claim
from labeling_ground.cache.shares import payer
from labeling_ground.cache.state_store import TENANT_DIGITS
from labeling_ground.errors import StoreFailed, StoreFull
from labeling_ground.pools import carry_out

T = TypeVar("T")

_SLOW_S = 0.05
"""A write on the event loop that takes longer, in seconds, was slow: after it writes are left to the thread for ..."""
_REST = 20
"""... so many times as long."""
_CHECKPOINT = 400
"""So many such writes the write-ahead log takes, of some three pages each, before it is taken into the file."""

_TABLE = """
DROP TABLE IF EXISTS kept;
CREATE TABLE IF NOT EXISTS logs (name TEXT PRIMARY KEY, log BLOB NOT NULL, ends REAL NOT NULL);
CREATE INDEX IF NOT EXISTS logs_by_end ON logs (ends);
"""

_REPLACE = "UPDATE logs SET log = ?, ends = ? WHERE name = ? AND log = ? AND ends > ?"
_COUNTS = "SELECT substr(name, 1, ?), count(*) FROM logs GROUP BY 1"
_FORGET = (
    "DELETE FROM logs WHERE name IN (SELECT name FROM logs WHERE name <> :new"
    " AND (:tenant IS NULL OR substr(name, 1, :digits) = :tenant) ORDER BY ends LIMIT :excess)"
)


class DiskStateStore:
    """Logs in ``labeling-ground-sessions.sqlite3``, which is apart from the cache's index: a purge or a new layout of
    that does not touch it.

    A change is with the operating system when it is answered: it outlives the process, however that ends, and may be
    lost with the power. Work is done in one thread of the store's own, so what nobody waits for any more is still
    carried to its end. Only what a session adds to its log is written at once, by a connection that waits for no lock
    and does not synchronize the disk: that is a fraction of what handing it to the thread takes.

    Args:
        folder: made with mode 0700 if it is not there. One that holds something else is refused.
        most: how many there are; the one unused for longest makes room, of the tenant that is to make it.
        tenant_share: what part of them one tenant may have while others need room; ``None``: they are one.
        lock_s: seconds to wait for another process's write lock. No transaction here takes longer than a sweep.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        folder: Path,
        *,
        most: int,
        tenant_share: float | None = None,
        lock_s: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._lock_s = lock_s
        self._tenant_share = tenant_share
        self._path = folder / SESSIONS
        self._file = str(self._path)
        self._most = most
        self._clock = clock
        self._db: sqlite3.Connection | None = None
        self._quick_db: sqlite3.Connection | None = None
        self._replaced = 0
        self._rests_until = 0.0
        self._inode = 0
        self._lost = 0
        self._longest_idle_s = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sessions")

    async def load(self, name: str) -> bytes:
        """See ``StateStore``."""
        return await self._do(partial(self._load, name))

    async def write(
        self, name: str, seen: bytes, new: bytes, idle_s: float, *, anew: bool
    ) -> tuple[bool, bytes] | None:
        """See ``StateStore``: ``None`` where the disk is full."""
        try:
            return await self._do(partial(self._write, name, seen, new, idle_s, anew))
        except StoreFull:
            return None

    def replace_at_once(self, name: str, seen: bytes, log: bytes, idle_s: float) -> bool:
        """See ``ReplacesAtOnce``."""
        db, started, now = self._quick_db, time.monotonic(), self._clock()
        if db is None or started < self._rests_until or self._is_gone():
            return False
        try:
            is_done = db.execute(_REPLACE, (log, now + idle_s, name, seen, now)).rowcount == 1
        except sqlite3.Error:  # another process writes; or the thread will say what is wrong
            return False
        self._longest_idle_s = max(self._longest_idle_s, idle_s)
        took_s = time.monotonic() - started
        if took_s > _SLOW_S:
            self._rests_until = started + _REST * took_s
        self._replaced += is_done
        if is_done and self._replaced % _CHECKPOINT == 0:
            with contextlib.suppress(RuntimeError):  # it is being closed
                self._thread.submit(self._work, _checkpoint)
        return is_done

    async def meet(self, server: str, present_s: float) -> tuple[int, str]:
        """See ``StateStore``. Other processes that share the file are not seen; another file has another name."""
        # Its inode alone is no name: the file system gives the next one the number of the one that is gone.
        return 0, await self._do(lambda _: f"{self._inode}.{self._lost}")

    async def leave(self, server: str) -> None:
        """See ``StateStore``."""

    async def sweep(self) -> None:
        """See ``StateStore``."""
        await self._do(self._sweep)

    async def aclose(self) -> None:
        """Finish what is under way and close the file."""
        await asyncio.to_thread(self._thread.shutdown)  # noqa: TID251 -- closing, when nothing else is left
        self._close()

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await carry_out(self._thread, partial(self._work, work))
        except RuntimeError as error:  # the thread takes nothing any more
            raise StoreFailed("The file of sessions is closed.") from error

    def _work(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return work(self._open())
        except (sqlite3.Error, OSError) as error:
            if says_full(error):  # what is open stays open: to open it anew may take room
                raise StoreFull(f"There is no room for the file of sessions {self._path}.") from error
            self._close()
            if type(error) is sqlite3.DatabaseError:  # it is damaged, or no database: start over
                self._lost += 1
                for end in ("", "-wal", "-shm"):
                    with contextlib.suppress(OSError):
                        self._path.with_name(self._path.name + end).unlink()
            raise StoreFailed(f"The file of sessions {self._path} cannot be used: {error}.") from error

    def _open(self) -> sqlite3.Connection:
        if self._db is not None:
            if not self._is_gone():
                return self._db
            self._lost += 1
            self._close()
        claim(self._path.parent)
        self._path.touch(mode=0o600)
        db = sqlite3.connect(self._path, timeout=self._lock_s, isolation_level=None, check_same_thread=False)
        try:
            _log_ahead(db, self._lock_s)
            db.execute("PRAGMA synchronous = NORMAL")
            db.executescript(_TABLE)
        except BaseException:
            db.close()
            raise
        self._db, self._inode = db, self._path.stat().st_ino
        self._quick_db = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
        self._quick_db.execute("PRAGMA synchronous = NORMAL")
        self._quick_db.execute("PRAGMA wal_autocheckpoint = 0")  # the thread does that: it waits for the disk
        return db

    def _is_gone(self) -> bool:
        """Whether the folder was cleared."""
        try:
            return os.stat(self._file).st_ino != self._inode  # noqa: PTH116 -- twice as fast, for each click
        except OSError:
            return True

    def _close(self) -> None:
        for db in (self._db, self._quick_db):
            if db is not None:
                db.close()
        self._db = self._quick_db = None

    def _load(self, name: str, db: sqlite3.Connection) -> bytes:
        row = db.execute("SELECT log FROM logs WHERE name = ? AND ends > ?", (name, self._clock())).fetchone()
        return b"" if row is None else bytes(row[0])

    def _write(
        self, name: str, seen: bytes, new: bytes, idle_s: float, anew: bool, db: sqlite3.Connection
    ) -> tuple[bool, bytes]:
        now = self._clock()
        self._longest_idle_s = max(self._longest_idle_s, idle_s)
        with _transaction(db):
            row = db.execute("SELECT log, ends FROM logs WHERE name = ?", (name,)).fetchone()
            log = b"" if row is None or row[1] <= now else bytes(row[0])
            if log != seen if anew else not log.startswith(seen):
                return False, log
            log = new if anew else log + new
            db.execute("INSERT OR REPLACE INTO logs VALUES (?, ?, ?)", (name, log, now + idle_s))
            if row is None:
                self._make_room(db, name)
        return True, log

    def _make_room(self, db: sqlite3.Connection, name: str) -> None:
        excess = db.execute("SELECT count(*) FROM logs").fetchone()[0] - self._most
        if excess <= 0:
            return
        pays: str | None = None
        if self._tenant_share is not None:
            stored: dict[str, int] = dict(db.execute(_COUNTS, (TENANT_DIGITS,)).fetchall())
            pays = payer(stored, name[:TENANT_DIGITS], 0, self._tenant_share * self._most)
        db.execute(_FORGET, {"new": name, "tenant": pays, "digits": TENANT_DIGITS, "excess": excess})

    def _sweep(self, db: sqlite3.Connection) -> None:
        now = self._clock()
        db.execute("DELETE FROM logs WHERE ends <= ?", (now,))
        if self._longest_idle_s:  # else this process knows of none; one that ends later was written by a clock ahead
            latest = now + self._longest_idle_s
            db.execute("UPDATE logs SET ends = ? WHERE ends > ?", (latest, latest))


def _log_ahead(db: sqlite3.Connection, lock_s: float) -> None:
    """Go over to the write-ahead log. Of two that do so at once SQLite refuses one at once, busy time-out or not."""
    limit = time.monotonic() + lock_s
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL").fetchall()
            return
        except sqlite3.OperationalError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.01)


def _checkpoint(db: sqlite3.Connection) -> None:
    """Take the write-ahead log into the file, and begin a new one; both wait for the disk."""
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    [version] = db.execute("PRAGMA user_version").fetchone()
    db.execute(f"PRAGMA user_version = {(version + 1) % 1024}")


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk has ended it
            db.execute("ROLLBACK")
        raise
