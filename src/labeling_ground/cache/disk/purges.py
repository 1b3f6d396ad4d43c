"""Purges, as all processes on a disk tier learn of them: a log in its index.

What a process holds above the disk (in its memory, on its way to the disk) was made before it heard of a purge. So it
hears of each one, parts with what that means, and says that it has; until then, nothing that a purge means is written
by that process. No clock is asked: the log has an order.
"""

import secrets
from dataclasses import dataclass

from labeling_ground import key as keys
from labeling_ground.cache.disk.connections import Connections, Transaction

_REMEMBERED = 10_000
"""Purges that the log holds. No limit: a process that has not heard of one that is left out parts with everything."""


@dataclass(frozen=True, slots=True)
class LogPosition:
    """A position in the log of one index."""

    identity: str = ""
    sequence: int = 0


@dataclass(slots=True)
class Purge:
    """A purge that is being carried out, a batch of rows at a time."""

    sequence: int
    pattern: str
    last: int
    """The last row that there was when it began: what came in since is not meant."""
    after: int = 0
    """All rows up to here were looked at."""
    gone: int = 0
    """Entries that went at once."""
    is_done: bool = False
    """Whether it took everything at once: the index is another one now, or none."""


class PurgeLog:
    """One process's part in the log."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._origin = secrets.token_hex(8)
        self._heard: LogPosition | None = None  # None: nothing is stored above, so no purge need be heard of
        self._said: LogPosition | None = None

    def note(self, transaction: Transaction, pattern: str, last: int, now: float) -> Purge:
        """Write a purge down, before anything is deleted."""
        db = transaction.db
        sequence = (
            db.execute(
                "INSERT INTO purges (pattern, origin, last, started) VALUES (?, ?, ?, ?)",
                (pattern, self._origin, last, now),
            ).lastrowid
            or 0
        )
        oldest = sequence - _REMEMBERED
        if db.execute("DELETE FROM purges WHERE sequence <= ?", (oldest,)).rowcount:
            db.execute("UPDATE progress SET forgotten = ?", (oldest,))
        return Purge(sequence, pattern, last)

    def finish(self, transaction: Transaction, purge: Purge) -> None:
        """All that the purge means has gone from the disk."""
        transaction.db.execute("UPDATE purges SET finished = 1 WHERE sequence = ?", (purge.sequence,))

    def unfinished(self, started_before: float, now: float) -> list[Purge]:
        """Purges whose process was killed in the middle of them."""
        return [
            Purge(*row)
            for row in self._connections.get().execute(
                "SELECT sequence, pattern, last FROM purges WHERE NOT finished AND (started <= ? OR started > ?)",
                (started_before, now),
            )
        ]

    def listen_to_all(self) -> None:
        """Begin to hear of purges, of those in the log too: something may be stored that they mean."""
        self._heard = LogPosition()

    def listen(self) -> None:
        """Begin to hear of purges to come: nothing is stored yet."""
        with self._connections.transaction() as transaction:
            self._heard = self._end(transaction)
            self._say(transaction, self._heard)
        self._said = self._heard

    def hear(self) -> tuple[list[str], LogPosition]:
        """What others purged since what was heard last, as key patterns; and up to where that goes."""
        heard = self._heard or LogPosition()
        db = self._connections.get()
        identity, forgotten = db.execute("SELECT identity, forgotten FROM progress").fetchone()
        after = heard.sequence if heard.identity == identity else 0
        rows = db.execute("SELECT sequence, pattern, origin FROM purges WHERE sequence > ?", (after,)).fetchall()
        position = LogPosition(identity, max((row[0] for row in rows), default=after))
        if heard.identity not in ("", identity) or after < forgotten:
            return [keys.pattern()], position  # what was in the log, nobody knows any more
        return [pattern for _, pattern, origin in rows if origin != self._origin], position

    def carried_out(self, position: LogPosition) -> bool:
        """Note that all that ``hear`` told was carried out. Whether others are still to be told so, see ``say``."""
        self._heard = position
        return position != self._said

    def say(self, position: LogPosition) -> None:
        """Tell the others, who may be waiting, up to where this process has heard."""
        with self._connections.transaction() as transaction:
            self._say(transaction, position)
        self._said = position

    def means(self, transaction: Transaction, key: str) -> bool:
        """Whether a purge that this process has not heard of yet means a key."""
        if self._heard is None:
            return False
        identity, forgotten = transaction.db.execute("SELECT identity, forgotten FROM progress").fetchone()
        if self._heard.identity not in ("", identity) or self._heard.sequence < forgotten:
            return True
        unheard = transaction.db.execute(
            "SELECT pattern FROM purges WHERE sequence > ? AND origin <> ?", (self._heard.sequence, self._origin)
        )
        return any(keys.matcher(pattern)(key) for (pattern,) in unheard)

    def is_heard(self, purge: Purge) -> bool:
        """Whether all other processes have heard of a purge. One that took everything they come upon in their time."""
        if purge.is_done:
            return self._heard is None
        behind = "SELECT count(*) FROM listeners WHERE heard < ? AND origin <> ?"
        values = (purge.sequence, self._origin)
        return bool(self._connections.get().execute(behind, values).fetchone()[0] == 0)

    def give_up(self, purge: Purge) -> None:
        """Wait no more for those who have not heard of it: they are dead, or say that they have when they do."""
        if purge.is_done:
            return
        with self._connections.transaction() as transaction:
            transaction.db.execute(
                "DELETE FROM listeners WHERE heard < ? AND origin <> ?", (purge.sequence, self._origin)
            )

    def leave(self) -> None:
        """Leave the list of processes: no purge waits for this one any more."""
        if self._heard is not None:
            with self._connections.transaction() as transaction:
                transaction.db.execute("DELETE FROM listeners WHERE origin = ?", (self._origin,))

    def _say(self, transaction: Transaction, position: LogPosition) -> None:
        transaction.db.execute("INSERT OR REPLACE INTO listeners VALUES (?, ?)", (self._origin, position.sequence))

    @staticmethod
    def _end(transaction: Transaction) -> LogPosition:
        return LogPosition(
            *transaction.db.execute(
                "SELECT identity, (SELECT coalesce(max(sequence), 0) FROM purges) FROM progress"
            ).fetchone()
        )
