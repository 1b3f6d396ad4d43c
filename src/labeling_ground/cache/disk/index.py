"""What the disk tier does, step by step, in SQLite and in files; blocking, for the store's own threads.

The index is one SQLite database in write-ahead mode that all processes on the folder share. Every change is one
transaction that takes the write lock first, so what it reads is what it changes; what goes through many entries is many
transactions, each a batch. Room for a value is made and reserved in the index before a file is begun, and a value can
be read only after its file is complete::

    reserve (evict, then a row "reserved") → write a temporary file, rename it → the row becomes "ready"

A process that is killed in between leaves a reserved row, and perhaps a file, that count against the budget until they
are reclaimed. ``docs/decisions/0002-disk-tier.md`` has the reasons.
"""

import contextlib
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from pathlib import Path

from labeling_ground import key as keys
from labeling_ground.cache.disk.connections import Connections
from labeling_ground.cache.disk.eviction import BATCH, EntryLimits, Eviction, Row, Turn
from labeling_ground.cache.disk.files import GRACE_S, ObjectFiles, name_for
from labeling_ground.cache.disk.folder import VALUES
from labeling_ground.cache.disk.purges import PurgeLog
from labeling_ground.cache.disk.purging import Purging
from labeling_ground.cache.disk.reserve import Reserve, with_room
from labeling_ground.cache.policies.port import Ranking, Reason
from labeling_ground.types import Entry, Kind

INLINE_BYTES = 32 * 1024
"""Up to this size a value lives in SQLite: one read instead of an index look-up and a file."""

_PAUSE_S = 0.002
"""Seconds in which others may take the write lock, between two transactions of one task."""


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
    touch: bool = False


@dataclass(frozen=True, slots=True)
class Totals:
    """What the index holds; ``bytes_by_kind`` does not include what is being written."""

    entries_by_kind: dict[str, int]
    bytes_by_kind: dict[str, int]
    oldest_created: float | None


class DiskIndex:
    """The entries in the folder of a disk tier. Safe for threads; every thread gets a connection of its own.

    Everything raises ``sqlite3.Error`` and ``OSError`` as they come; ``DiskStore`` puts them into words.

    Args:
        folder: the folder.
        limits: what an entry may not exceed.
        ranking: who goes first.
        lock_s: see ``Connections``.
        clock: monotonic seconds, by which transactions are kept short.
    """

    def __init__(
        self,
        folder: Path,
        limits: EntryLimits,
        ranking: Ranking,
        lock_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.connections = Connections(folder, prepare=self._prepare, clean=self._clean, lock_s=lock_s, clock=clock)
        self.files = ObjectFiles(folder / VALUES)
        self.reserve = Reserve(folder, limits.budget)
        self.eviction = Eviction(self.connections, self.files, limits, ranking)
        self.purges = PurgeLog(self.connections)
        self.purging = Purging(self.connections, self.eviction, self.purges, self.reserve)

    # Reading

    def find(self, key: str, now: float, *, value: bool = True) -> Found:
        """Look a key up, with its value or without. Changes nothing."""
        row = (
            self.connections.get()
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
        touch = bool(done) or self.limits.is_due(used, now)
        if not value:
            return Found(Standing.HIT, None, touch)
        if file is not None:
            content = self.files.read(file, size)
        if content is None or len(content) != size:
            return Found(Standing.UNSURE)
        return Found(Standing.HIT, Entry(Kind(kind), content, cost, created), touch)

    def totals(self) -> Totals:
        """What is stored, from the running totals: no scan."""
        return totals_of(self.connections.get())

    # Writing

    def store(self, key: str, entry: Entry, now: float, last_used: float | None = None) -> None:
        """Keep an entry. One that is here already, or that another process is just writing, is left as it is, and so is
        one that a purge means which this process has not heard of. ``last_used`` is given where that is not now.

        Raises:
            StoreFailed: there is no room, because all of it is taken by values that are being written.
        """
        name = name_for(key) if entry.size > INLINE_BYTES else None
        while (number := self._reserve(key, entry, name, now)) is None:
            time.sleep(_PAUSE_S)  # a part of the room was made; others may write
        if not number:
            return
        if name is not None:
            self._fill(number, name, entry)
        if last_used is not None:
            with self.connections.transaction() as transaction:
                self.eviction.date_back(transaction, key, last_used)

    def _reserve(self, key: str, entry: Entry, name: str | None, now: float) -> int | None:
        """The new row; 0 where there is none to be, ``None`` where room must go on being made."""
        with self.connections.transaction() as transaction:
            db = transaction.db
            if self.purges.means(transaction, key):
                return 0
            row = db.execute("SELECT id, file, state, created, used FROM entries WHERE key = ?", (key,)).fetchone()
            if row is not None:
                number, file, state, created, used = row
                if state != "ready":
                    if now - used < GRACE_S:
                        return 0
                    self.eviction.remove(transaction, [(number, file)], None)
                elif (reason := self.limits.broken(created, used, now)) is not None:
                    self.eviction.remove(transaction, [(number, file)], reason)
                else:
                    if self.limits.is_due(used, now):
                        self.eviction.note_use(transaction, number, now)
                    return 0
            if not self.eviction.make_room(transaction, entry.size, now, keys.tenant_in(key)):
                return None
            new = db.execute(
                "INSERT INTO entries"
                " (key, tenant, grp, kind, size, cost, created, used, formula, base, rank, use, state, file)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, ?, ?)",
                (
                    key,
                    keys.tenant_in(key),
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
            self.eviction.note_use(transaction, new, now)
            if name is None:
                db.execute("INSERT INTO inline VALUES (?, ?)", (new, entry.value))
        return new

    def _fill(self, number: int, name: str, entry: Entry) -> None:
        try:
            self.files.write(name, entry.value)
        except BaseException:
            # If this fails too (the disk is full), the row is reclaimed later.
            with contextlib.suppress(sqlite3.Error), self.connections.transaction() as transaction:
                transaction.db.execute("DELETE FROM entries WHERE id = ?", (number,))
            raise
        with self.connections.transaction() as transaction:
            finished = transaction.db.execute(
                "UPDATE entries SET state = 'ready' WHERE id = ? AND state = 'reserved'",
                (number,),
            )
            if finished.rowcount == 0:  # purged meanwhile, or we took so long that we were taken for dead
                self.files.remove(name)
                transaction.db.execute("DELETE FROM entries WHERE id = ?", (number,))

    def touch(self, key: str, now: float) -> None:
        """Note a use, unless one was noted just before."""
        with self.connections.transaction() as transaction:
            row = transaction.db.execute(
                "SELECT id, used, done FROM entries WHERE key = ? AND state = 'ready'", (key,)
            ).fetchone()
            if row is not None and (row[2] or self.limits.is_due(row[1], now)):
                self.eviction.note_use(transaction, row[0], now)

    def check_again(self, key: str, now: float) -> None:
        """Look again under the write lock; remove the entry if it is expired or damaged indeed."""
        with self.connections.transaction() as transaction:
            row = transaction.db.execute(
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
                self.eviction.remove(transaction, [(number, file)], reason)

    def drop(self, key: str) -> None:
        """Remove an entry whose bytes turned out to be damaged."""
        with self.connections.transaction() as transaction:
            rows = transaction.db.execute(
                "SELECT id, file FROM entries WHERE key = ? AND state = 'ready'", (key,)
            ).fetchall()
            self.eviction.remove(transaction, rows, Reason.DAMAGED)

    # Life

    def sweep(self, now: float) -> Turn:
        """See ``Eviction.sweep``: possible on a full disk, too."""
        turn = with_room(partial(self.eviction.sweep, now), self.reserve.release)
        if not turn.more:
            self.reserve.make()
        return turn

    def _prepare(self, db: sqlite3.Connection) -> None:
        self.eviction.rank_by(db, self.eviction.ranking)

    def _clean(self) -> None:
        """Remove files that no row names, and rows whose file is gone."""
        # The order is what makes this safe beside others that write: a row is committed before its
        # file is begun, so a file listed now that has no row afterwards had lost it before.
        files = dict(self.files.listed())
        rows = self.connections.get().execute("SELECT file, id, state FROM entries WHERE file IS NOT NULL").fetchall()
        named = {file for file, _, _ in rows}
        for name, age in files.items():
            if name not in named and age >= GRACE_S:
                self.files.remove(name)
        lost: list[Row] = [
            (number, file)
            for file, number, state in rows
            if state == "ready" and file not in files and not self.files.has(file)
        ]
        self.reserve.make()
        while lost:
            with self.connections.transaction() as transaction:
                # Not counted: a kill between removing a victim's file and committing leaves these,
                # and what that process had counted went with it.
                lost = lost[self.eviction.remove(transaction, lost[:BATCH], None) :]
            time.sleep(_PAUSE_S)


def totals_of(db: sqlite3.Connection) -> Totals:
    """What an index holds, from its running totals: no scan."""
    with contextlib.closing(db.execute("SELECT kind, entries, bytes FROM totals")) as cursor:
        rows = [row for row in cursor.fetchall() if row[0]]
    oldest = db.execute("SELECT created FROM entries WHERE state = 'ready' ORDER BY created LIMIT 1").fetchone()
    return Totals(
        {kind: entries for kind, entries, _ in rows},
        {kind: size for kind, _, size in rows},
        oldest[0] if oldest else None,
    )
