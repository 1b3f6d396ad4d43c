"""Carrying purges out, step by step, also on a disk that is full: they are what frees room there."""

import contextlib
import logging
import sqlite3
from functools import partial

from labeling_ground import key as keys
from labeling_ground.cache.disk.connections import Connections
from labeling_ground.cache.disk.eviction import BATCH, Eviction, Row, Turn
from labeling_ground.cache.disk.files import says_full
from labeling_ground.cache.disk.purges import Purge, PurgeLog
from labeling_ground.cache.disk.reserve import Reserve, with_room
from labeling_ground.cache.policies.port import Reason

log = logging.getLogger(__name__)

_SCANNED = 5_000
"""Rows that a wide purge looks at between two transactions: a few milliseconds, in which it holds no lock."""


class Purging:
    """Deletes what a purge means, a batch at a time.

    Where there is no room to write a step down, the files of the values that the purge means go first, then the
    reserve; where that is too little, everything goes: it is only a cache.
    """

    def __init__(self, connections: Connections, eviction: Eviction, purges: PurgeLog, reserve: Reserve) -> None:
        self._connections = connections
        self._eviction = eviction
        self._purges = purges
        self._reserve = reserve

    def begin(self, pattern: str, now: float, *, tell: bool = True) -> Purge:
        """Note a purge, for other processes to hear of unless that is not wanted; ``go_on`` carries it out.

        What is being written is purged when it is finished.
        """
        try:
            note = partial(self._note, pattern, now, tell)
            return with_room(note, partial(self._remove_files, pattern), self._reserve.release)
        except (OSError, sqlite3.Error) as error:
            return Purge(0, pattern, 0, gone=self._remove_all(error), is_done=True)

    def go_on(self, purge: Purge) -> Turn:
        """Delete the next batch of what a purge means. Only deleting takes the write lock, looking for it does not."""
        if purge.is_done:
            return Turn(purge.gone, more=False)
        try:
            return with_room(partial(self._go_on, purge), self._reserve.release)
        except (OSError, sqlite3.Error) as error:
            gone, purge.is_done = self._remove_all(error), True
            return Turn(gone, more=False)

    def _note(self, pattern: str, now: float, tell: bool) -> Purge:
        where, values = _matching(pattern)  # one of two constants, and what to fill in
        with self._connections.transaction() as transaction:
            transaction.db.execute(
                "UPDATE entries SET state = 'doomed' WHERE id IN"  # noqa: S608
                " (SELECT id FROM entries INDEXED BY unfinished"
                f" WHERE state <> 'ready' AND state = 'reserved' AND {where})",
                values,
            )
            last = transaction.db.execute("SELECT max(id) FROM entries").fetchone()[0] or 0
            return self._purges.note(transaction, pattern, last, now) if tell else Purge(0, pattern, last)

    def _go_on(self, purge: Purge) -> Turn:
        where, values = _matching(purge.pattern)
        db = self._connections.get()
        # All rows of a group are few; else so many rows are looked at, then others get their turn.
        end = purge.last
        if where == _EVERYWHERE:
            scanned = "SELECT max(id) FROM (SELECT id FROM entries WHERE id > ? AND id <= ? ORDER BY id LIMIT ?)"
            end = db.execute(scanned, (purge.after, purge.last, _SCANNED)).fetchone()[0] or purge.last
        found = db.execute(
            f"SELECT id FROM entries WHERE id > ? AND id <= ? AND {where} ORDER BY id LIMIT ?",  # noqa: S608
            (purge.after, end, *values, BATCH),
        ).fetchall()
        gone = 0
        more = len(found) == BATCH or end < purge.last
        if found or not more:
            with self._connections.transaction() as transaction:
                rows: list[Row] = [
                    row
                    for (number,) in found
                    for row in transaction.db.execute(
                        "SELECT id, file FROM entries WHERE id = ? AND state = 'ready'", (number,)
                    )
                ]
                gone = self._eviction.remove(transaction, rows, Reason.PURGE)
                if gone < len(rows):
                    more, end = True, rows[gone][0] - 1
                elif len(found) == BATCH:
                    end = found[-1][0]
                if not more:
                    self._purges.finish(transaction, purge)
        purge.after = end
        return Turn(gone, more)

    def _remove_files(self, pattern: str) -> None:
        where, values = _matching(pattern)
        found = self._connections.get().execute(
            f"SELECT file FROM entries WHERE file IS NOT NULL AND state = 'ready' AND {where}",  # noqa: S608
            values,
        )
        for (file,) in found.fetchall():
            self._eviction.files.remove(file)

    def _remove_all(self, error: OSError | sqlite3.Error) -> int:
        """Remove everything, where the error says that there is no room for less. How many entries went."""
        if not says_full(error):
            raise error
        log.warning("The disk cache has no room left to note a purge (%s): all of it goes.", error)
        gone = 0
        with contextlib.suppress(OSError, sqlite3.Error):
            gone = self._connections.get().execute("SELECT count(*) FROM entries WHERE state = 'ready'").fetchone()[0]
        self._connections.start_over()
        self._connections.evictions[Reason.PURGE] += gone
        return gone


_EVERYWHERE = "key GLOB ?"


def _matching(pattern: str) -> tuple[str, tuple[str, ...]]:
    """A condition for the keys that match; ``[`` and ``?`` mean themselves in our patterns."""
    glob = pattern.replace("[", "[[]").replace("?", "[?]")
    literal = pattern.split("*", 1)[0]
    if literal.count("/") >= 3:  # tenant and image are given in full
        return "grp = ? AND key GLOB ?", (keys.group_of(literal), glob)
    return _EVERYWHERE, (glob,)
