"""The sessions that this process knows: bounded, fair to tenants, and each with an idle time."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from labeling_ground.cache.shares import payer
from labeling_ground.errors import LabelingGroundError
from labeling_ground.service.session_state import Change, SessionLog, Snapshot, begin, lines_of

SessionKey = tuple[str, str]
"""Tenant and name."""


@dataclass(slots=True, eq=False)
class PendingChange:
    """A change that was made here and is not known to be stored."""

    change: Change
    before: Snapshot
    after: Snapshot
    """The session before and after it."""
    told: asyncio.Future[None] | None = None
    """Done once the change is stored, or cannot be; ``None`` where nobody waits for that."""
    stored: bool = False
    error: LabelingGroundError | None = None

    def settle(self, *, stored: bool) -> None:
        """Let the asker go on. What is stored stays so, though its deadline passes before the asker has heard of it."""
        self.stored = self.stored or stored
        if self.told is not None and not self.told.done():
            self.told.set_result(None)


@dataclass(frozen=True, slots=True)
class UnsavedLines:
    """What is to be written of a session: ``new``, behind ``seen`` or (``anew``) in its place."""

    sent: list[PendingChange]
    seen: bytes
    new: bytes
    anew: bool

    @property
    def log(self) -> bytes:
        """What the log is then, if no other server has added to it."""
        return self.new if self.anew else self.seen + self.new


@dataclass(slots=True, eq=False)
class OpenSession:
    """A session as this process knows it."""

    name_change: Callable[[], str]
    """Names the next change that is made here."""
    most_clicks: int
    log: SessionLog = field(default_factory=SessionLog)
    """With every change that was made here."""
    known: bytes = b""
    """The log without those that are not known to be stored."""
    stored: bytes = b""
    """What lay in the store when it was last heard of: less than is known where the store has lost some."""
    pending: list[PendingChange] = field(default_factory=list)
    saver: asyncio.Task[None] | None = None
    used: float = 0.0

    @property
    def is_unsaved(self) -> bool:
        """Whether there is something to be saved."""
        return bool(self.pending) or self.known != self.stored

    def unsaved(self) -> UnsavedLines:
        """What is to be written now."""
        anew = self.known != self.stored or not self.known.startswith(self.log.head + b"\n")
        new = self.log.to_bytes() if anew else lines_of([made.change for made in self.pending])
        return UnsavedLines(list(self.pending), self.stored, new, anew)

    def note_saved(self, lines: UnsavedLines, log: bytes) -> None:
        """These lines were written, and the store's log is this by then."""
        self.known = self.stored = log
        count = len(lines.sent)
        if log == lines.log and self.pending[:count] == lines.sent:
            del self.pending[:count]
            for made in lines.sent:
                made.settle(stored=True)
        else:  # what a change has brought about depends on what others have written before it
            self.rebuild()

    def take_over(self, stored: bytes) -> None:
        """Go on from what is stored, and from what is known and is not in that."""
        self.stored = stored
        mine, theirs = SessionLog.from_bytes(self.known), SessionLog.from_bytes(stored)
        if theirs is not None:  # bytes that say nothing will be replaced by what is known here
            self.known = stored if mine is None else mine.merged(theirs).to_bytes()
        self.rebuild()

    def rebuild(self) -> None:
        """Read the session anew: what is known, and on top of it what is pending and still makes sense."""
        waiting = {made.change.name: made for made in self.pending}
        self.log, changes = begin(self.known) or (SessionLog(), [])
        pending, self.pending = self.pending, []
        for change in changes:
            if (made := waiting.get(change.name)) is None:
                self.log.add(change)
            elif self._makes_sense(made):
                made.before, made.after, _ = self.log.perform(change)
            else:
                self.log.add(change)
                self.pending.append(self.undoing(made))
        for made in pending:
            if self.log.state.has(made.change.name):
                if made.error is None:
                    made.settle(stored=True)
            elif self._makes_sense(made):
                made.before, made.after, _ = self.log.perform(made.change)
                self.pending.append(made)
            else:
                made.settle(stored=False)

    def _makes_sense(self, made: PendingChange) -> bool:
        try:
            self.log.state.check(made.change, self.most_clicks)
        except LabelingGroundError as error:
            made.error = error
        return made.error is None

    def undoing(self, made: PendingChange) -> PendingChange:
        """What undoes a change, whose asker is told of that instead."""
        change = Change(self.name_change(), "restore", (made.after.last_reset, made.after.mark, *made.before.as_it_was))
        if made.change.verb == "click":
            change = Change(change.name, "drop", (made.after.image_id, made.change.name))
        return PendingChange(change, made.after, made.before, made.told)


class SessionTable:
    """Sessions by tenant and name; see ``StoredSessions`` for the arguments."""

    def __init__(self, most: int, tenant_share: float | None, idle_s: float, clock: Callable[[], float]) -> None:
        self.idle_s = idle_s
        self._most = most
        self._share = tenant_share
        self._clock = clock
        self._sessions: OrderedDict[SessionKey, OpenSession] = OrderedDict()

    def items(self) -> list[tuple[SessionKey, OpenSession]]:
        """All sessions that have not ended, the idlest first."""
        self._expire()
        return list(self._sessions.items())

    def find(self, key: SessionKey) -> OpenSession | None:
        """The session, used by that; ``None`` where it is not known here."""
        self._expire()
        found = self._sessions.get(key)
        if found is not None:
            found.used = self._clock()
            self._sessions.move_to_end(key)
        return found

    def add(self, key: SessionKey, session: OpenSession) -> None:
        """Add one, and make room for it."""
        session.used = self._clock()
        self._sessions[key] = session
        while len(self._sessions) > self._most:
            of = list(self._sessions)
            if self._share is not None:
                counts = Counter(tenant for tenant, _ in of)
                pays = payer(counts, key[0], 0, self._share * self._most) or key[0]
                of = [other for other in of if other[0] == pays]
            # One that is being saved should not be loaded beside that.
            idle = (other for other in of if self._sessions[other].saver is None and other != key)
            self.drop(next(idle, None) or next(iter(of)))

    def drop(self, key: SessionKey) -> None:
        """Forget one."""
        del self._sessions[key]

    def _expire(self) -> None:
        limit = self._clock() - self.idle_s
        while self._sessions:
            key, session = next(iter(self._sessions.items()))
            if session.used > limit:
                break
            self.drop(key)
