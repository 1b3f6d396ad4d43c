"""The connections to the disk tier's index: one a thread, always on the file that lies at the path now."""

import contextlib
import logging
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from labeling_ground.cache.disk import folder as folders
from labeling_ground.cache.disk.schema import LAYOUT, TABLES
from labeling_ground.cache.policies.port import Reason
from labeling_ground.errors import StoreFailed

log = logging.getLogger(__name__)

_TURN_S = 0.01
"""Seconds after which a transaction that goes through many entries takes no further one; the rest has the next turn."""

_LOG_BYTES = 16 << 20
"""Size that the write-ahead log keeps after a burst. No limit: while a burst lasts it is longer."""


@dataclass(frozen=True, slots=True)
class _ThreadConnection:
    """One thread's connection, and which file it is open on (device and inode)."""

    db: sqlite3.Connection
    identity: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction under way, and what it will have evicted once it is committed."""

    db: sqlite3.Connection
    gone: Counter[Reason]
    clock: Callable[[], float]
    ends: float

    @property
    def is_long(self) -> bool:
        """Whether it should take no further entry, since others wait for the write lock."""
        return self.clock() >= self.ends


class Connections:
    """Connections to the index in a folder. Safe for threads; every thread gets one of its own.

    Everything raises ``sqlite3.Error`` and ``OSError`` as they come; ``DiskStore`` puts them into words.

    Args:
        folder: the folder of the disk tier.
        prepare: brings an index that this process opens for the first time in line with its settings.
        clean: clears away what killed processes left there; called when the connection is there.
        lock_s: seconds to wait for another process's write lock. No transaction here is longer than a turn.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        prepare: Callable[[sqlite3.Connection], None],
        clean: Callable[[], None],
        lock_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.evictions: Counter[Reason] = Counter()
        self._prepare = prepare
        self._clean = clean
        self._lock_s = lock_s
        self._clock = clock
        self._path = folder / folders.INDEX
        self._local = threading.local()
        self._lock = threading.RLock()
        self._open: set[_ThreadConnection] = set()
        self._identity: tuple[int, int] | None = None
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether the calling thread has a connection."""
        return getattr(self._local, "own", None) is not None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A transaction that takes the write lock first, so what it reads is what it changes."""
        db = self.get()
        db.execute("BEGIN IMMEDIATE")
        transaction = Transaction(db, Counter(), self._clock, self._clock() + _TURN_S)
        try:
            yield transaction
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        with self._lock:
            self.evictions += transaction.gone

    def get(self) -> sqlite3.Connection:
        """This thread's connection.

        Another process may have set a damaged index aside, or a person may have emptied the folder. A process that kept
        the old file open would fill a database that nobody else sees.
        """
        own: _ThreadConnection | None = getattr(self._local, "own", None)
        if own is not None:
            if self._identify() == own.identity:
                return own.db
            with self._lock:
                self._open.discard(own)
            own.db.close()
            self._local.own = None
        with self._lock:
            if self._closed:
                raise StoreFailed("The disk cache is closed.")
            first = self._identity is None
            folders.claim(self.folder, parents=first)
            with self._exclusively():
                fresh = first or self._identify() != self._identity
                if fresh:
                    self._identity = self._examine(first)
                # Under the lock too: a connection must not find one index and another's log.
                own = _ThreadConnection(self._dial(), self._identity or (0, 0))
            self._open.add(own)
        self._local.own = own
        if fresh:
            self._clean()
        return own.db

    def suspect(self, error: sqlite3.Error) -> None:
        """Start over with an empty index if the error says that this one is broken."""
        own: _ThreadConnection | None = getattr(self._local, "own", None)
        if not _says_broken(error) or own is None:
            return
        # If this fails, the next use of the index comes upon the same damage.
        with contextlib.suppress(sqlite3.Error, OSError), self._lock, self._exclusively():
            if self._identify() == own.identity:  # else another process did it already
                self._set_aside(str(error))

    def start_over(self) -> None:
        """Remove the index and all values. Each process comes upon that at its next call; the first makes a new one."""
        with self._lock, self._exclusively():
            self._start_over()

    def close(self) -> None:
        """Close every connection. No other thread may be at work here any more."""
        with self._lock:
            self._closed = True
            for own in self._open:
                own.db.close()
            self._open.clear()

    def _identify(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _dial(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=self._lock_s, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # takes effect on an empty file only
            db.execute("PRAGMA journal_mode = WAL").fetchall()
            # In this mode a lost power supply may cost the last commits, but not the index.
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA secure_delete = FAST").fetchall()  # some systems write zeros over all that goes
            db.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}").fetchall()
        except BaseException:
            db.close()
            raise
        return db

    @contextlib.contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Keep other processes from examining or replacing the index meanwhile.

        An empty SQLite database is the lock: it works on every system and ends with the process that holds it.
        """
        path = self.folder / folders.LOCK
        folders.make(path)
        with contextlib.closing(sqlite3.connect(path, timeout=self._lock_s, isolation_level=None)) as lock:
            lock.execute("PRAGMA journal_mode = MEMORY").fetchall()  # the lock must be had on a full disk, too
            lock.execute("BEGIN EXCLUSIVE")
            yield
            lock.execute("ROLLBACK")

    def _examine(self, first: bool) -> tuple[int, int]:
        if first:
            folders.remove_layout_1(self.folder)
        try:
            usable = self._fits(first)
        except sqlite3.DatabaseError as error:
            if not _says_broken(error):
                raise
            self._set_aside(str(error))
            usable = False
        if not usable:
            folders.make(self._path)
            with contextlib.closing(self._dial()) as db:
                db.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {LAYOUT}; COMMIT;")
        with contextlib.closing(self._dial()) as db:
            self._prepare(db)
        identity = self._identify()
        if identity is None:
            raise FileNotFoundError(str(self._path))
        return identity

    def _fits(self, first: bool) -> bool:
        if self._identify() is None:
            self._start_over()
            return False
        with contextlib.closing(self._dial()) as db:
            layout = db.execute("PRAGMA user_version").fetchone()[0]
            if layout == LAYOUT:
                for table in ("totals", "progress", "listeners"):
                    db.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608 -- of these three
                return True
            empty = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if not empty:
            if not first:
                # It was ours when we started. Two releases on one folder must not go on throwing away each other's.
                raise StoreFailed(f"The disk cache in {self.folder} was taken over by another release.")
            log.warning("The disk cache in %s has layout %s, not %s; starting empty.", self.folder, layout, LAYOUT)
        self._start_over()
        return False

    def _set_aside(self, why: str) -> None:
        aside = self._path.with_suffix(".damaged")
        log.warning(
            "The disk cache's index in %s is damaged (%s). It is kept as %s; starting empty.",
            self.folder,
            why,
            aside.name,
        )
        with contextlib.suppress(FileNotFoundError):
            self._path.replace(aside)
        self._start_over()

    def _start_over(self) -> None:
        """Remove the index, its logs and all files of values, which nothing refers to any more."""
        for ending in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                self._path.with_name(self._path.name + ending).unlink()
        shutil.rmtree(self.folder / folders.VALUES, ignore_errors=True)


def _says_broken(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
