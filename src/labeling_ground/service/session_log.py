"""A session as it is stored: its state at one moment, and a line for each change since."""

from dataclasses import dataclass, field

from labeling_ground.service.session_state import Change, SessionState, Snapshot

_ANEW = {"open", "rect", "finish"}
"""What forgets all clicks begins the log anew."""
_LONGEST = 1024
"""So many changes a log holds; then it is begun anew with what has come of them."""


@dataclass(slots=True)
class SessionLog:
    """A state, the state with which the log was begun, as bytes, and the changes since."""

    state: SessionState = field(default_factory=SessionState)
    head: bytes = b""
    changes: list[Change] = field(default_factory=list)

    @classmethod
    def from_bytes(cls, log: bytes) -> "SessionLog | None":
        """What ``to_bytes`` was called on, with lines that were added; ``None`` where the bytes are something else."""
        begun = begin(log)
        if begun is None:
            return None
        made, changes = begun
        for change in changes:
            made.add(change)
        return made

    def to_bytes(self) -> bytes:
        """All of it, as lines."""
        return self.head + b"\n" + lines_of(self.changes)

    def add(self, change: Change) -> bool:
        """Do a change. Whether it did anything."""
        has_done = self.state.apply(change)
        if not has_done:
            return False
        if change.verb in _ANEW or len(self.changes) >= _LONGEST:
            self.state.generation += 1
            self.head, self.changes = self.state.to_bytes(), []
        else:
            self.changes.append(change)
        return True

    def perform(self, change: Change) -> tuple[Snapshot, Snapshot, bool]:
        """Do a change. The session before and after, and whether the change did anything."""
        before = self.state.snapshot()
        has_done = self.add(change)
        refined = {"click": len(before.clicks), "undo": len(self.state.clicks) - 1}  # asked as before, an undo is a hit
        return before, self.state.snapshot(refined.get(change.verb, -1)), has_done

    def merged(self, other: "SessionLog") -> "SessionLog":
        """Both logs in one; they are used up. First comes the one of the later generation; of one generation, the other
        one, unless that was begun alike and lacks something. Then come the changes that only the second one has seen,
        where both are about one image."""
        first, second = self, other
        mine, theirs = self.state.generation, other.state.generation
        lacks = other.head == self.head and not all(other.state.has(change.name) for change in self.changes)
        if theirs > mine or (theirs == mine and not lacks):
            first, second = other, self
        if first.state.image_id == second.state.image_id:
            for change in second.changes:
                if not first.state.has_seen(change.name):
                    first.add(change)
        return first


def begin(log: bytes) -> tuple[SessionLog, list[Change]] | None:
    """What a log begins with, and the changes to be done on that; ``None`` where the bytes are something else."""
    head, *lines = log.splitlines() or [b""]
    state = SessionState.from_bytes(head)
    if state is None:
        return None
    try:
        return SessionLog(state, head), [Change.from_bytes(line) for line in lines]
    except (ValueError, TypeError):
        return None


def lines_of(changes: list[Change]) -> bytes:
    """The changes as lines, each with its end."""
    return b"".join(change.to_bytes() + b"\n" for change in changes)
