"""What goes from the disk tier and in which order: room, idle time, age, ranks. Short steps."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from labeling_ground.cache.disk.connections import Connections, Transaction
from labeling_ground.cache.disk.files import GRACE_S, ObjectFiles
from labeling_ground.cache.policies.port import Ranking, Reason
from labeling_ground.cache.shares import payer
from labeling_ground.errors import StoreFailed

BATCH = 256
"""Entries that one transaction changes at most, so that other processes get their turn."""

_TOUCH_S = 60.0
"""Seconds within which a second use of an entry is not written down."""

# The first comparison finds them by the index, roughly; the second is that of EntryLimits.broken, since
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

# Made or used while the clock was ahead.
_AHEAD = (
    "UPDATE entries SET used = :now WHERE id IN"
    " (SELECT id FROM entries WHERE state = 'ready' AND used > :now LIMIT :most)",
    "UPDATE entries SET used = :now WHERE id IN"
    " (SELECT id FROM entries WHERE state <> 'ready' AND used > :now LIMIT :most)",
    "UPDATE entries SET created = :now WHERE id IN"
    " (SELECT id FROM entries WHERE state = 'ready' AND created > :now LIMIT :most)",
)

_VICTIMS = "SELECT id, file, size, rank, formula FROM entries WHERE state = 'ready' ORDER BY formula, rank, use LIMIT ?"
_VICTIMS_OF_TENANT = (
    "SELECT id, file, size, rank, formula FROM entries WHERE state = 'ready' AND tenant = ?"
    " ORDER BY formula, rank, use LIMIT ?"
)

Row = tuple[int, str | None]
"""An entry's number, and its file if it has one."""


class Turn(NamedTuple):
    """What one transaction of many did: how many entries went, and whether there is more to do."""

    gone: int
    more: bool


@dataclass(slots=True)
class EntryLimits:
    """What an entry may not exceed; see ``DiskStore``."""

    budget: int
    low: int
    idle_s: float | None
    max_age_s: float | None
    tenant_share: float | None = None

    @property
    def touch_after_s(self) -> float:
        """A use is written down once the last one noted is this many seconds ago."""
        return _TOUCH_S if self.idle_s is None else min(_TOUCH_S, self.idle_s / 20)

    def is_due(self, used: float, now: float) -> bool:
        """Whether a use now is to be written down; a use in the future, by a clock that was ahead, is not one since."""
        return not 0.0 <= now - used < self.touch_after_s

    def broken(self, created: float, used: float, now: float) -> Reason | None:
        """Why an entry is past its time, if it is."""
        if self.max_age_s is not None and now - created >= self.max_age_s:
            return Reason.AGE
        if self.idle_s is not None and now - used >= self.idle_s:
            return Reason.IDLE
        return None


class Eviction:
    """Takes entries out and keeps their ranks."""

    def __init__(self, connections: Connections, files: ObjectFiles, limits: EntryLimits, ranking: Ranking) -> None:
        self.files = files
        self.ranking = ranking
        self._connections = connections
        self._limits = limits

    # Steps of a change

    def remove(self, transaction: Transaction, rows: Iterable[Row], reason: Reason | None) -> int:
        """Take entries out, as many as there is time for, at least one; how many. Without a reason uncounted."""
        gone = 0
        for number, file in rows:
            if gone and transaction.is_long:
                break
            transaction.db.execute("DELETE FROM entries WHERE id = ?", (number,))
            # Before the commit: the room must be free before anyone can reserve it. If the commit
            # fails, the row names a file that is not there, which reads as a miss and goes.
            if file is not None:
                self.files.remove(file)
            gone += 1
        if reason is not None:
            transaction.gone[reason] += gone
        return gone

    def make_room(self, transaction: Transaction, size: int, now: float, tenant: str | None = None) -> bool:
        """Take out what is to go for ``size`` more bytes, a part of it if it is much. Whether there is room now.

        With a tenant, room is made for it, out of what the one has whose turn that is.

        Raises:
            StoreFailed: there can be none, because all of it is taken by values that are being written.
        """
        if self._excess(transaction, size)[0] <= 0:
            return True
        self.reclaim(transaction, now)
        self.expire(transaction, now)
        must, wish = self._excess(transaction, size)
        if must <= 0:
            return True
        ready = transaction.db.execute("SELECT coalesce(sum(bytes), 0) FROM totals WHERE kind <> ''").fetchone()[0]
        if ready < must:
            raise StoreFailed("The disk cache has no room: all of it is taken by values that are being written.")
        formula = transaction.db.execute("SELECT formula FROM progress").fetchone()[0]
        victims: list[Row] = []
        sizes: list[tuple[int, float]] = []
        freed = 0
        # What is not ranked by the present formula yet goes first, in its own order.
        victims_of: tuple[str, tuple[str | int, ...]] = (_VICTIMS, (BATCH,))
        if tenant is not None and self._limits.tenant_share is not None:
            stored: dict[str, int] = dict(transaction.db.execute("SELECT tenant, bytes FROM tenants").fetchall())
            pays = payer(stored, tenant, size, self._limits.tenant_share * self._limits.budget)
            if pays is not None:
                victims_of = (_VICTIMS_OF_TENANT, (pays, BATCH))
        for number, file, freeable, rank, ranked_by in transaction.db.execute(*victims_of):
            if freed >= wish:
                break
            victims.append((number, file))
            freed += freeable
            sizes.append((freeable, rank if ranked_by == formula else 0.0))
        gone = self.remove(transaction, victims, Reason.BUDGET)
        highest = max((rank for _, rank in sizes[:gone]), default=0.0)
        transaction.db.execute("UPDATE progress SET floor = max(floor, ?)", (highest,))
        return sum(freeable for freeable, _ in sizes[:gone]) >= must

    def expire(self, transaction: Transaction, now: float) -> int:
        """Take out what is idle or too old, a batch at most; how many."""
        gone = 0
        for reason, limit in ((Reason.AGE, self._limits.max_age_s), (Reason.IDLE, self._limits.idle_s)):
            if limit is not None and not (gone and transaction.is_long):
                rows = transaction.db.execute(
                    _EXPIRED[reason], (now - limit + 1.0, now, limit, BATCH - gone)
                ).fetchall()
                gone += self.remove(transaction, rows, reason)
        return gone

    def reclaim(self, transaction: Transaction, now: float) -> int:
        """Take out what killed processes were writing, a batch at most; how many."""
        rows = transaction.db.execute(
            "SELECT id, file FROM entries WHERE state <> 'ready' AND used <= ? LIMIT ?", (now - GRACE_S, BATCH)
        ).fetchall()
        return self.remove(transaction, rows, None)

    def note_use(self, transaction: Transaction, number: int | None, now: float) -> None:
        """Note a use, and rank the entry by it."""
        floor, latest, uses, formula = transaction.db.execute(
            "UPDATE progress SET uses = uses + 1, latest = max(latest, ?) RETURNING floor, latest, uses, formula",
            (now,),
        ).fetchone()
        # ``latest``, since a wall clock may be set back and the order of use may not.
        base = self.ranking.base(floor, latest)
        size, cost = transaction.db.execute("SELECT size, cost FROM entries WHERE id = ?", (number,)).fetchone()
        transaction.db.execute(
            "UPDATE entries SET used = ?, formula = ?, base = ?, rank = ?, use = ?, done = 0 WHERE id = ?",
            (now, formula, base, self.ranking.rank(base, size, cost, False), uses, number),
        )

    def date_back(self, transaction: Transaction, key: str, used: float) -> None:
        """Rank an entry that has just come in as if it had been used last at an earlier time: like its neighbour."""
        row = transaction.db.execute(
            "SELECT id, size, cost, done, formula FROM entries WHERE key = ? AND state = 'ready' AND used > ?",
            (key, used),
        ).fetchone()
        if row is None:
            return
        number, size, cost, done, formula = row
        floor, use, ranked_by = transaction.db.execute(
            "SELECT base, use, formula FROM entries WHERE state = 'ready' AND used <= ? ORDER BY used DESC LIMIT 1",
            (used,),
        ).fetchone() or (0.0, 0, formula)
        base = self.ranking.base(floor if ranked_by == formula else 0.0, used)
        transaction.db.execute(
            "UPDATE entries SET used = ?, base = ?, rank = ?, use = ? WHERE id = ?",
            (used, base, self.ranking.rank(base, size, cost, bool(done)), use, number),
        )

    def rank_by(self, db: sqlite3.Connection, ranking: Ranking) -> None:
        """Go by another formula from now on, unless the index does already; ``rank_anew`` ranks what is there."""
        db.execute(
            "UPDATE progress SET floor = 0.0, ranking = :name, formula = formula + 1 WHERE ranking <> :name",
            {"name": ranking.name},
        )

    # Transactions

    def set_ranking(self, ranking: Ranking) -> None:
        """Go by another formula from now on."""
        with self._connections.transaction() as transaction:
            self.rank_by(transaction.db, ranking)
        self.ranking = ranking

    def rank_anew(self) -> Turn:
        """Bring a batch of ranks under the present formula, those first that will be needed longest."""
        with self._connections.transaction() as transaction:
            formula = transaction.db.execute("SELECT formula FROM progress").fetchone()[0]
            rows = transaction.db.execute(
                "SELECT used, size, cost, done, id FROM entries WHERE state = 'ready' AND formula < ?"
                " ORDER BY formula DESC, rank DESC LIMIT ?",
                (formula, BATCH),
            ).fetchall()
            for used, size, cost, done, number in rows:
                base = self.ranking.base(0.0, used)
                rank = self.ranking.rank(base, size, cost, bool(done))
                transaction.db.execute(
                    "UPDATE entries SET formula = ?, base = ?, rank = ? WHERE id = ?", (formula, base, rank, number)
                )
        return Turn(0, more=len(rows) == BATCH)

    def sweep(self, now: float) -> Turn:
        """Take out a batch of what has expired, and of what killed processes left."""
        with self._connections.transaction() as transaction:
            ahead = [transaction.db.execute(heal, {"now": now, "most": BATCH}).rowcount for heal in _AHEAD]
            gone = self.expire(transaction, now)
            reclaimed = self.reclaim(transaction, now)
            more = BATCH in (*ahead, gone, reclaimed) or (transaction.is_long and gone + reclaimed > 0)
        return Turn(gone, more)

    def vacuum(self, pages: int) -> Turn:
        """Give so many unused pages of the index back to the file system."""
        db = self._connections.get()
        db.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
        return Turn(0, more=db.execute("PRAGMA freelist_count").fetchone()[0] > 0)

    def set_budget(self, budget: int, low: int, now: float) -> Turn:
        """Take a new budget and evict down to it, a batch at a time. Until then, what is stored is the budget."""
        with self._connections.transaction() as transaction:
            self._limits.budget, self._limits.low = budget, low
            try:
                is_reached = self.make_room(transaction, 0, now)
            finally:
                stored = self._stored_bytes(transaction)
                if stored > budget:
                    self._limits.budget = self._limits.low = stored
        return Turn(0, more=not is_reached)

    def mark(self, group: str, done: bool) -> Turn:
        """Set or take back the done hint on a batch of a group's entries."""
        with self._connections.transaction() as transaction:
            rows = transaction.db.execute(
                "SELECT base, size, cost, id FROM entries WHERE grp = ? AND done <> ? AND state = 'ready' LIMIT ?",
                (group, done, BATCH),
            ).fetchall()
            transaction.db.executemany(
                "UPDATE entries SET done = ?, rank = ? WHERE id = ?",
                [(done, self.ranking.rank(base, size, cost, done), number) for base, size, cost, number in rows],
            )
        return Turn(0, more=len(rows) == BATCH)

    def note_uses(self, uses: Iterable[tuple[str, float]]) -> None:
        """Note when keys were used last, where that is later than what is noted here."""
        with self._connections.transaction() as transaction:
            for key, used in uses:
                row = transaction.db.execute(
                    "SELECT id FROM entries WHERE key = ? AND state = 'ready' AND used < ?", (key, used)
                ).fetchone()
                if row is not None:
                    self.note_use(transaction, row[0], used)

    @staticmethod
    def _stored_bytes(transaction: Transaction) -> int:
        stored: int = transaction.db.execute("SELECT coalesce(sum(bytes), 0) FROM totals").fetchone()[0]
        return stored

    def _excess(self, transaction: Transaction, size: int) -> tuple[int, int]:
        """Bytes above the budget, and above the low watermark, if ``size`` more came in."""
        stored = self._stored_bytes(transaction)
        return stored + size - self._limits.budget, stored + size - self._limits.low
