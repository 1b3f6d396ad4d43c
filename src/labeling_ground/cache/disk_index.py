"""What the disk tier does, step by step, in SQLite and in files; blocking, for the store's own
threads.

The index is one SQLite database in write-ahead mode that all processes on the directory share.
Every change is one transaction that takes the write lock first, so what it reads is what it
changes. Room for a value is made and reserved in the index before a file is begun, and a value can
be read only after its file is complete::

    reserve (evict, then a row "reserved") → write a temporary file, rename it → the row becomes
    "ready"

A process that is killed in between leaves a reserved row, and perhaps a file, that count against
the budget until they are reclaimed. ``docs/decisions/0002-disk-tier.md`` has the reasons.
"""

import contextlib
import logging
import os
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from labeling_ground import key as keys
from labeling_ground.cache.disk_files import GRACE_S, ObjectFiles, name_for
from labeling_ground.cache.policy.port import Ranking, Reason
from labeling_ground.errors import StoreFailed
from labeling_ground.types import Entry, Kind

log = logging.getLogger(__name__)

SCHEMA = 1
"""Number of the table layout below.

An index of another number is thrown away: it is only a cache.
"""

INLINE_BYTES = 32 * 1024
"""Up to this size a value lives in SQLite: one read instead of an index look-up and a file."""

_BUSY_S = 5.0
"""How long to wait for another process's write lock. No transaction here is longer than a batch."""

_BATCH = 256
"""Entries that go in one transaction, beyond what must, so that other processes get their turn."""

_SLIDE_S = 60.0
"""Seconds within which a second use of an entry is not written down."""

_TABLES = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    grp TEXT NOT NULL,
    kind TEXT NOT NULL,
    size INTEGER NOT NULL,
    cost REAL NOT NULL,
    created REAL NOT NULL,
    used REAL NOT NULL,
    base REAL NOT NULL,
    rank REAL NOT NULL,
    use INTEGER NOT NULL,
    done INTEGER NOT NULL DEFAULT 0,
    state TEXT NOT NULL,  -- reserved: being written; ready; doomed: purged while being written
    file TEXT  -- NULL: the value is in the table inline
);
CREATE INDEX by_rank ON entries (rank, use) WHERE state = 'ready';
CREATE INDEX by_used ON entries (used) WHERE state = 'ready';
CREATE INDEX by_created ON entries (created) WHERE state = 'ready';
CREATE INDEX unfinished ON entries (used) WHERE state <> 'ready';
CREATE INDEX by_group ON entries (grp);

-- Small values, apart from their rows: sliding a timer rewrites the row, but not 32 KiB.
CREATE TABLE inline (id INTEGER PRIMARY KEY, value BLOB NOT NULL);

-- Kept by triggers, so that no way of changing a row can forget them.
-- Kind '' is what is being written.
CREATE TABLE totals (kind TEXT PRIMARY KEY, entries INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TRIGGER came AFTER INSERT ON entries BEGIN
    INSERT INTO totals VALUES (CASE NEW.state WHEN 'ready' THEN NEW.kind ELSE '' END, 1, NEW.size)
        ON CONFLICT (kind) DO UPDATE
        SET entries = entries + excluded.entries, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER went AFTER DELETE ON entries BEGIN
    UPDATE totals SET entries = entries - 1, bytes = bytes - OLD.size
        WHERE kind = CASE OLD.state WHEN 'ready' THEN OLD.kind ELSE '' END;
    DELETE FROM inline WHERE id = OLD.id;
END;
CREATE TRIGGER finished AFTER UPDATE OF state ON entries
    WHEN NEW.state = 'ready' AND OLD.state <> 'ready' BEGIN
    UPDATE totals SET entries = entries - 1, bytes = bytes - OLD.size WHERE kind = '';
    INSERT INTO totals VALUES (NEW.kind, 1, NEW.size)
        ON CONFLICT (kind) DO UPDATE
        SET entries = entries + excluded.entries, bytes = bytes + excluded.bytes;
END;

-- One row: the ranking's floor (L of GreedyDual-Size), the latest time of use, a count of uses.
CREATE TABLE progress (
    floor REAL NOT NULL,
    latest REAL NOT NULL,
    uses INTEGER NOT NULL,
    ranking TEXT NOT NULL
);
INSERT INTO progress VALUES (0.0, 0.0, 0, '');
"""

# The first comparison finds them by the index, roughly; the second is that of Limits.broken, since
# now - limit can round the other way.
_EXPIRED = {
    Reason.AGE: (
        "SELECT id, file FROM entries WHERE state = 'ready' AND created <= ? AND ? - created >= ?"
        " ORDER BY created LIMIT ?"
    ),
    Reason.IDLE: (
        "SELECT id, file FROM entries WHERE state = 'ready' AND used <= ? AND ? - used >= ? ORDER BY used LIMIT ?"
    ),
}


class Standing(Enum):
    """What a look-up came upon."""

    HIT = auto()
    MISS = auto()
    UNSURE = auto()
    """Expired, or its value is not as it should be: to be settled under the write lock."""


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome of a look-up: the entry, if asked for, and whether the use is to be noted."""

    standing: Standing
    entry: Entry | None = None
    slide: bool = False


@dataclass(frozen=True, slots=True)
class Totals:
    """What the index holds; ``bytes_by_kind`` does not include what is being written."""

    entries_by_kind: dict[str, int]
    bytes_by_kind: dict[str, int]
    oldest_created: float | None


@dataclass(slots=True)
class Limits:
    """What an entry may not exceed; see ``DiskStore``."""

    budget: int
    low: int
    idle_s: float | None
    max_age_s: float | None

    @property
    def slide_after_s(self) -> float:
        """A use is written down once the last one noted is this many seconds ago."""
        return _SLIDE_S if self.idle_s is None else min(_SLIDE_S, self.idle_s / 20)

    def broken(self, created: float, used: float, now: float) -> Reason | None:
        """Why an entry is past its time, if it is."""
        if self.max_age_s is not None and now - created >= self.max_age_s:
            return Reason.AGE
        if self.idle_s is not None and now - used >= self.idle_s:
            return Reason.IDLE
        return None


@dataclass(frozen=True, slots=True)
class _Held:
    """One thread's connection and the file that it is open on."""

    db: sqlite3.Connection
    identity: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Change:
    """A transaction under way, and what it will have evicted once it is committed."""

    db: sqlite3.Connection
    gone: Counter[Reason]


class DiskIndex:
    """The directory of a disk tier. Safe for threads; every thread gets a connection of its own.

    Everything raises ``sqlite3.Error`` and ``OSError`` as they come; ``DiskStore`` puts them into
    words.
    """

    def __init__(self, folder: Path, limits: Limits, ranking: Ranking) -> None:
        self.folder = folder
        self.limits = limits
        self.files = ObjectFiles(folder / "objects")
        self.evictions: Counter[Reason] = Counter()
        self._path = folder / "index.sqlite3"
        self._ranking = ranking
        self._local = threading.local()
        self._lock = threading.RLock()
        self._held: set[_Held] = set()
        self._identity: tuple[int, int] | None = None
        self._closed = False

    # Life

    def open(self) -> None:
        """Create or examine the index and clear away what a killed process left."""
        self._db()

    def close(self) -> None:
        """Close every connection. No other thread may be at work here any more."""
        with self._lock:
            self._closed = True
            for held in self._held:
                held.db.close()
            self._held.clear()

    @property
    def is_connected(self) -> bool:
        """Whether the calling thread has a connection to the index."""
        return getattr(self._local, "held", None) is not None

    def suspect(self, error: sqlite3.Error) -> None:
        """Start over with an empty index if the error says that this one is broken."""
        held: _Held | None = getattr(self._local, "held", None)
        if not _says_broken(error) or held is None:
            return
        # If this fails, the next use of the index comes upon the same damage.
        with contextlib.suppress(sqlite3.Error, OSError), self._lock, self._alone():
            if self._identify() == held.identity:  # else another process did it already
                self._set_aside(str(error))

    # Reading

    def find(self, key: str, now: float, *, value: bool = True) -> Found:
        """Look a key up, with its value or without. Changes nothing."""
        row = (
            self._db()
            .execute(
                "SELECT kind, size, cost, created, used, done, file, value FROM entries"
                " LEFT JOIN inline USING (id) WHERE key = ? AND state = 'ready'",
                (key,),
            )
            .fetchone()
        )
        if row is None:
            return Found(Standing.MISS)
        kind, size, cost, created, used, done, file, content = row
        if self.limits.broken(created, used, now):
            return Found(Standing.UNSURE)
        slide = bool(done) or now - used >= self.limits.slide_after_s
        if not value:
            return Found(Standing.HIT, None, slide)
        if file is not None:
            content = self.files.read(file, size)
        if content is None or len(content) != size:
            return Found(Standing.UNSURE)
        return Found(Standing.HIT, Entry(Kind(kind), content, cost, created), slide)

    def totals(self) -> Totals:
        """What is held, from the running totals: no scan."""
        db = self._db()
        with contextlib.closing(db.execute("SELECT kind, entries, bytes FROM totals")) as cursor:
            rows = [row for row in cursor.fetchall() if row[0]]
        oldest = db.execute("SELECT created FROM entries WHERE state = 'ready' ORDER BY created LIMIT 1").fetchone()
        return Totals(
            {kind: entries for kind, entries, _ in rows},
            {kind: size for kind, _, size in rows},
            oldest[0] if oldest else None,
        )

    # Writing

    def store(self, key: str, entry: Entry, now: float, last_used: float | None = None) -> None:
        """Keep an entry. One that is here already, or that another process is just writing, is left
        as it is. ``last_used`` is given where that is not now.

        Raises:
            StoreFailed: there is no room, because all of it is taken by values that are being
            written.
        """
        name = name_for(key) if entry.size > INLINE_BYTES else None
        if not self._reserve(key, entry, name, now):
            return
        if name is not None:
            self._fill(name, entry)
        if last_used is not None:
            self._date_back(key, last_used)

    def _fill(self, name: str, entry: Entry) -> None:
        try:
            self.files.write(name, entry.value)
        except BaseException:
            # If this fails too (the disk is full), the row is reclaimed later.
            with contextlib.suppress(sqlite3.Error), self._change() as change:
                change.db.execute("DELETE FROM entries WHERE file = ?", (name,))
            raise
        with self._change() as change:
            finished = change.db.execute(
                "UPDATE entries SET state = 'ready' WHERE file = ? AND state = 'reserved'",
                (name,),
            )
            if finished.rowcount == 0:  # purged meanwhile, or we took so long that we were taken for dead
                self.files.remove(name)
                change.db.execute("DELETE FROM entries WHERE file = ?", (name,))

    def slide(self, key: str, now: float) -> None:
        """Note a use, unless one was noted just before."""
        with self._change() as change:
            row = change.db.execute(
                "SELECT id, used, done FROM entries WHERE key = ? AND state = 'ready'", (key,)
            ).fetchone()
            if row is not None and (row[2] or now - row[1] >= self.limits.slide_after_s):
                self._note_use(change, row[0], now)

    def settle(self, key: str, now: float) -> None:
        """Look again under the write lock; remove the entry if it is expired or damaged indeed."""
        with self._change() as change:
            row = change.db.execute(
                "SELECT id, created, used, size, file, length(value) FROM entries"
                " LEFT JOIN inline USING (id) WHERE key = ? AND state = 'ready'",
                (key,),
            ).fetchone()
            if row is None:
                return
            number, created, used, size, file, length = row
            reason = self.limits.broken(created, used, now)
            if reason is None:
                if file is not None:
                    content = self.files.read(file, size)
                    length = None if content is None else len(content)
                if length != size:
                    reason = Reason.DAMAGED
            if reason is not None:
                self._remove(change, [(number, file)], reason)

    def drop(self, key: str) -> None:
        """Remove an entry whose bytes turned out to be damaged."""
        with self._change() as change:
            rows = change.db.execute(
                "SELECT id, file FROM entries WHERE key = ? AND state = 'ready'", (key,)
            ).fetchall()
            self._remove(change, rows, Reason.DAMAGED)

    def mark(self, group: str, done: bool) -> None:
        """Set or take back the done hint on all entries of a group."""
        with self._change() as change:
            rows = change.db.execute(
                "SELECT base, size, cost, id FROM entries WHERE grp = ? AND done <> ? AND state = 'ready'",
                (group, done),
            ).fetchall()
            change.db.executemany(
                "UPDATE entries SET done = ?, rank = ? WHERE id = ?",
                [(done, self._ranking.rank(base, size, cost, done), number) for base, size, cost, number in rows],
            )

    def delete(self, pattern: str) -> int:
        """Purge what matches, a batch at a time.

        What is being written is purged when it is finished.
        """
        where, values = _matching(pattern)  # one of two constants, and what to fill in
        with self._change() as change:
            change.db.execute(
                f"UPDATE entries SET state = 'doomed' WHERE state = 'reserved' AND {where}",  # noqa: S608
                values,
            )
            last = change.db.execute("SELECT max(id) FROM entries").fetchone()[0] or 0
        gone, after = 0, 0
        while True:
            with self._change() as change:
                rows = change.db.execute(
                    "SELECT id, file FROM entries WHERE state = 'ready' AND id > ? AND id <= ?"  # noqa: S608
                    f" AND {where} ORDER BY id LIMIT ?",
                    (after, last, *values, _BATCH),
                ).fetchall()
                self._remove(change, rows, Reason.PURGE)
            gone += len(rows)
            if len(rows) < _BATCH:
                return gone
            after = rows[-1][0]

    def sweep(self, now: float) -> int:
        """Remove what has expired, reclaim what a killed process left, give pages back.

        How much went.
        """
        gone = 0
        while True:
            with self._change() as change:
                batch = self._expire(change, now)
                self._reclaim(change, now)
            gone += batch
            if batch < _BATCH:
                break
        self._db().execute(f"PRAGMA incremental_vacuum({4 * _BATCH})").fetchall()
        return gone

    def set_budget(self, budget: int, low: int, now: float) -> bool:
        """Take a new budget and evict down to it; whether it is reached.

        A much smaller one is come near by about a batch of entries a call, so that others get their
        turn. Until it is reached, the budget is what is held then.
        """
        with self._change() as change:
            entries, held = change.db.execute(
                "SELECT coalesce(sum(entries), 0), coalesce(sum(bytes), 0) FROM totals"
            ).fetchone()
            step = _BATCH * held // max(1, entries)
            self.limits.budget = max(budget, held - max(1, step))
            self.limits.low = low if self.limits.budget == budget else self.limits.budget
            self._make_room(change, 0, now)
        return self.limits.budget == budget

    def set_ranking(self, ranking: Ranking) -> None:
        """Go by another formula from now on, and rank all entries anew under it."""
        with self._change() as change:
            _rank_anew(change.db, ranking)
        self._ranking = ranking

    def note_uses(self, uses: Iterable[tuple[str, float]]) -> None:
        """Note when keys were used last, where that is later than what is noted here."""
        with self._change() as change:
            for key, used in uses:
                row = change.db.execute(
                    "SELECT id FROM entries WHERE key = ? AND state = 'ready' AND used < ?", (key, used)
                ).fetchone()
                if row is not None:
                    self._note_use(change, row[0], used)

    # Steps of a change

    def _date_back(self, key: str, used: float) -> None:
        """Rank an entry that has just come in as if it had been used last at an earlier time: like its neighbour."""
        with self._change() as change:
            row = change.db.execute(
                "SELECT id, size, cost, done FROM entries WHERE key = ? AND state = 'ready' AND used > ?", (key, used)
            ).fetchone()
            if row is None:
                return
            number, size, cost, done = row
            floor, use = change.db.execute(
                "SELECT base, use FROM entries WHERE state = 'ready' AND used <= ? ORDER BY used DESC LIMIT 1", (used,)
            ).fetchone() or (0.0, 0)
            base = self._ranking.base(floor, used)
            change.db.execute(
                "UPDATE entries SET used = ?, base = ?, rank = ?, use = ? WHERE id = ?",
                (used, base, self._ranking.rank(base, size, cost, bool(done)), use, number),
            )

    def _reserve(self, key: str, entry: Entry, name: str | None, now: float) -> bool:
        with self._change() as change:
            db = change.db
            row = db.execute("SELECT id, file, state, created, used FROM entries WHERE key = ?", (key,)).fetchone()
            if row is not None:
                number, file, state, created, used = row
                if state != "ready":
                    if now - used < GRACE_S:
                        return False
                    self._forget(change, [(number, file)])
                elif (reason := self.limits.broken(created, used, now)) is not None:
                    self._remove(change, [(number, file)], reason)
                else:
                    if now - used >= self.limits.slide_after_s:
                        self._note_use(change, number, now)
                    return False
            self._make_room(change, entry.size, now)
            number = db.execute(
                "INSERT INTO entries"
                " (key, grp, kind, size, cost, created, used, base, rank, use, state, file)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, 0, ?, ?)",
                (
                    key,
                    keys.group_of(key),
                    entry.kind.value,
                    entry.size,
                    entry.cost,
                    entry.created,
                    now,
                    "ready" if name is None else "reserved",
                    name,
                ),
            ).lastrowid
            self._note_use(change, number, now)
            if name is None:
                db.execute("INSERT INTO inline VALUES (?, ?)", (number, entry.value))
        return True

    def _make_room(self, change: _Change, size: int, now: float) -> None:
        must, wish = self._excess(change, size)
        if must <= 0:
            return
        self._reclaim(change, now)
        self._expire(change, now)
        must, wish = self._excess(change, size)
        victims: list[tuple[int, str | None]] = []
        highest = 0.0
        freed = 0
        if must > 0:
            for number, file, freeable, rank in change.db.execute(
                "SELECT id, file, size, rank FROM entries WHERE state = 'ready' ORDER BY rank, use"
            ):
                if freed >= wish or (freed >= must and len(victims) >= _BATCH):
                    break
                victims.append((number, file))
                freed += freeable
                highest = rank
        if freed < must:
            raise StoreFailed("The disk cache has no room: all of it is taken by values that are being written.")
        if victims:
            change.db.execute("UPDATE progress SET floor = max(floor, ?)", (highest,))
            self._remove(change, victims, Reason.BUDGET)

    def _excess(self, change: _Change, size: int) -> tuple[int, int]:
        """Bytes above the budget, and above the low watermark, if ``size`` more came in."""
        held: int = change.db.execute("SELECT coalesce(sum(bytes), 0) FROM totals").fetchone()[0]
        return held + size - self.limits.budget, held + size - self.limits.low

    def _note_use(self, change: _Change, number: int | None, now: float) -> None:
        floor, latest, uses = change.db.execute(
            "UPDATE progress SET uses = uses + 1, latest = max(latest, ?) RETURNING floor, latest, uses",
            (now,),
        ).fetchone()
        # ``latest``, since a wall clock may be set back and the order of use may not.
        base = self._ranking.base(floor, latest)
        size, cost = change.db.execute("SELECT size, cost FROM entries WHERE id = ?", (number,)).fetchone()
        change.db.execute(
            "UPDATE entries SET used = ?, base = ?, rank = ?, use = ?, done = 0 WHERE id = ?",
            (now, base, self._ranking.rank(base, size, cost, False), uses, number),
        )

    def _expire(self, change: _Change, now: float) -> int:
        gone = 0
        for reason, limit in (
            (Reason.AGE, self.limits.max_age_s),
            (Reason.IDLE, self.limits.idle_s),
        ):
            if limit is not None:
                rows = change.db.execute(_EXPIRED[reason], (now - limit + 1.0, now, limit, _BATCH - gone)).fetchall()
                self._remove(change, rows, reason)
                gone += len(rows)
        return gone

    def _reclaim(self, change: _Change, now: float) -> None:
        rows = change.db.execute(
            "SELECT id, file FROM entries WHERE state <> 'ready' AND used <= ?", (now - GRACE_S,)
        ).fetchall()
        self._forget(change, rows)

    def _remove(self, change: _Change, rows: Iterable[tuple[int, str | None]], reason: Reason) -> None:
        rows = list(rows)
        self._forget(change, rows)
        change.gone[reason] += len(rows)

    def _forget(self, change: _Change, rows: Iterable[tuple[int, str | None]]) -> None:
        for number, file in rows:
            change.db.execute("DELETE FROM entries WHERE id = ?", (number,))
            # Before the commit: the room must be free before anyone can reserve it. If the commit
            # fails, the row names a file that is not there, which reads as a miss and goes.
            if file is not None:
                self.files.remove(file)

    @contextlib.contextmanager
    def _change(self) -> Iterator[_Change]:
        db = self._db()
        change = _Change(db, Counter())
        db.execute("BEGIN IMMEDIATE")
        try:
            yield change
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        with self._lock:
            self.evictions += change.gone

    # Connections

    def _db(self) -> sqlite3.Connection:
        """This thread's connection, on the index that lies at the path now.

        Another process may have set a damaged index aside, or a person may have emptied the
        directory. Whoever kept the old file open would fill a database that nobody else sees.
        """
        held: _Held | None = getattr(self._local, "held", None)
        if held is not None:
            if self._identify() == held.identity:
                return held.db
            with self._lock:
                self._held.discard(held)
            held.db.close()
            self._local.held = None
        with self._lock:
            if self._closed:
                raise StoreFailed("The disk cache is closed.")
            first = self._identity is None
            self.folder.mkdir(mode=0o700, parents=first, exist_ok=True)
            with self._alone():
                if first or self._identify() != self._identity:
                    self._identity = self._examine(first)
                    fresh = True
                else:
                    fresh = False
                # Under the lock too: a connection must not find one index and another's log.
                held = _Held(self._dial(), self._identity or (0, 0))
            self._held.add(held)
        self._local.held = held
        if fresh:
            self._clean()
        return held.db

    def _identify(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _dial(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # takes effect on an empty file only
            db.execute("PRAGMA journal_mode = WAL").fetchall()
            # In this mode a lost power supply may cost the last commits, but not the index.
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA journal_size_limit = {16 << 20}").fetchall()
        except BaseException:
            db.close()
            raise
        return db

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from examining or replacing the index meanwhile.

        An empty SQLite database is the lock: it works on every system and ends with the process
        that holds it.
        """
        path = self.folder / "lock.sqlite3"
        _make(path)
        with contextlib.closing(sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)) as lock:
            lock.execute("PRAGMA journal_mode = MEMORY").fetchall()  # the lock must be had on a full disk, too
            lock.execute("BEGIN EXCLUSIVE")
            yield
            lock.execute("ROLLBACK")

    def _examine(self, first: bool) -> tuple[int, int]:
        try:
            usable = self._fits(first)
        except sqlite3.DatabaseError as error:
            if not _says_broken(error):
                raise
            self._set_aside(str(error))
            usable = False
        if not usable:
            _make(self._path)
            with contextlib.closing(self._dial()) as db:
                db.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
        with contextlib.closing(self._dial()) as db:
            self._rerank(db)
        identity = self._identify()
        if identity is None:
            raise FileNotFoundError(str(self._path))
        return identity

    def _fits(self, first: bool) -> bool:
        if self._identify() is None:
            self._start_over()
            return False
        with contextlib.closing(self._dial()) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == SCHEMA:
                db.execute("SELECT * FROM totals").fetchall()
                db.execute("SELECT * FROM progress").fetchall()
                return True
            empty = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if not empty:
            if not first:
                # It was ours when we started. Two releases on one directory must not keep
                # throwing away each other's index.
                raise StoreFailed(f"The disk cache in {self.folder} was taken over by another release.")
            log.warning(
                "The disk cache in %s has layout %s, not %s; starting empty.",
                self.folder,
                version,
                SCHEMA,
            )
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
        shutil.rmtree(self.files.folder, ignore_errors=True)

    def _rerank(self, db: sqlite3.Connection) -> None:
        """Bring all ranks under the present formula, if the last one was another."""
        db.execute("BEGIN IMMEDIATE")
        try:
            _rank_anew(db, self._ranking)
            db.execute("COMMIT")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")

    def _clean(self) -> None:
        """Remove files that no row names, and rows whose file is gone."""
        # The order is what makes this safe beside others that write: a row is committed before its
        # file is begun, so a file listed now that has no row afterwards had lost it before.
        files = dict(self.files.listed())
        rows = self._db().execute("SELECT file, id, state FROM entries WHERE file IS NOT NULL").fetchall()
        named = {file for file, _, _ in rows}
        for name, age in files.items():
            if name not in named and age >= GRACE_S:
                self.files.remove(name)
        lost = [
            (number, file)
            for file, number, state in rows
            if state == "ready" and file not in files and not self.files.has(file)
        ]
        if lost:
            with self._change() as change:
                # Not counted: a kill between removing a victim's file and committing leaves these,
                # and what that process had counted went with it.
                self._forget(change, lost)


def _rank_anew(db: sqlite3.Connection, ranking: Ranking) -> None:
    """Bring all ranks under a formula, unless they are."""
    known = db.execute("SELECT ranking FROM progress").fetchone()[0]
    if known == ranking.name:
        return
    db.execute("UPDATE progress SET floor = 0.0, ranking = ?", (ranking.name,))
    rows = db.execute("SELECT used, size, cost, done, id FROM entries").fetchall()
    bases = [ranking.base(0.0, row[0]) for row in rows]
    db.executemany(
        "UPDATE entries SET base = ?, rank = ? WHERE id = ?",
        [
            (base, ranking.rank(base, size, cost, bool(done)), number)
            for base, (_, size, cost, done, number) in zip(bases, rows, strict=True)
        ],
    )


def _make(path: Path) -> None:
    """Create the file for us alone, unless it is there.

    One that is there is not opened: closing it again would end the locks that SQLite has on it in
    this process.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _says_broken(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _matching(pattern: str) -> tuple[str, tuple[str, ...]]:
    """A condition for the keys that match; ``[`` and ``?`` mean themselves in our patterns."""
    glob = pattern.replace("[", "[[]").replace("?", "[?]")
    literal = pattern.split("*", 1)[0]
    if literal.count("/") >= 3:  # tenant and image are given in full
        return "grp = ? AND key GLOB ?", (keys.group_of(literal), glob)
    return "key GLOB ?", (glob,)
