"""What a session is: its image, its box, its clicks, and what can be done with them. No names, no time, no I/O."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from labeling_ground.errors import BadPrompt, TooLarge
from labeling_ground.service.asks import check_box, check_point
from labeling_ground.types import Box, Point

_FORMAT = 2
"""Number of the layout of the bytes. A state of another number is not read."""
_WRITERS = 16
"""Servers whose last change a state remembers."""


def _numbers(shape: Point | Box) -> list[float]:
    return [getattr(shape, name) for name in shape.__slots__]


_JSON = json.JSONEncoder(default=_numbers, separators=(",", ":"))


class Change(NamedTuple):
    """One change of a session: its name (that of its server, a dot, and a number that grows with each of that server's
    changes), its verb (see ``SessionState.apply``), and points, boxes, texts and numbers for that."""

    name: str
    verb: str
    what: tuple[Any, ...] = ()

    def to_bytes(self) -> bytes:
        """One line, without its end."""
        return _JSON.encode([self.name, self.verb, self.what]).encode()

    @classmethod
    def from_bytes(cls, line: bytes) -> "Change":
        """What ``to_bytes`` was called on. Raises ``ValueError`` or ``TypeError`` where the line is something else."""
        name, verb, what = json.loads(line)
        match verb:
            case "click":
                what = [Point(*point) for point in what]
            case "rect":
                what = [Box(*what[0])]
            case "restore":
                last_reset, mark, box, clicks = what
                what = [last_reset, mark, box and Box(*box), [(Point(*point), change) for point, change in clicks]]
        return cls(name, verb, tuple(what))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A session at one moment: its image, its box, and its clicks in the order in which they came.

    ``parent`` is the prediction for the clicks before the last ones, if it was answered: the mask that is refined.
    ``answers`` are that one and those before it, each with how many of the clicks it was for. ``changes`` says of each
    click which change brought it. ``model`` is the model that was named for the session, empty where none was.
    """

    image_id: str
    width: int
    height: int
    clicks: tuple[Point, ...]
    box: Box | None
    parent: str | None = None
    answers: tuple[tuple[int, str], ...] = field(default=(), compare=False, repr=False)
    changes: tuple[str, ...] = field(default=(), compare=False, repr=False)
    model: str = ""
    last_reset: str = field(default="", compare=False, repr=False)
    """As in ``SessionState``."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing was pointed at yet."""
        return not self.clicks and self.box is None

    @property
    def as_it_was(self) -> tuple[Box | None, list[tuple[Point, str]]]:
        """The box and the clicks, each with the name of the change that brought it: what restores them."""
        return self.box, list(zip(self.clicks, self.changes, strict=True))

    def answered(self, prediction_id: str) -> tuple[int, str, str]:
        """What the change ``answer`` is told of a prediction for this snapshot."""
        return len(self.clicks), self.mark, prediction_id

    @property
    def mark(self) -> str:
        """A digest of all that is pointed at and of the changes that brought it."""
        return _mark(self.image_id, self.model, *self.as_it_was)


@dataclass(slots=True)
class SessionState:
    """One session. The one without an image is none yet."""

    generation: int = 0
    """How often the log of the session was begun anew."""
    image_id: str = ""
    width: int = 0
    height: int = 0
    turn: tuple[str, int] = ("", 0)
    """Which server opened the image, and as its how-manieth."""
    model: str = ""
    """The model that was named; empty: none, the default one answers."""
    last_reset: str = ""
    """Name of the last change that was no click: an image, a box, a step back, or a new object."""
    box: Box | None = None
    clicks: list[tuple[Point, str]] = field(default_factory=list)
    """Each with the name of the change that brought it."""
    answers: dict[int, str] = field(default_factory=dict)
    """Prediction ids, by how many of the clicks they were for: what the next click can refine."""
    seen: dict[str, int] = field(default_factory=dict)
    """The number of the last change of each server that is in this state; the latest server stands last."""

    def check(self, change: Change, most: int) -> None:
        """See that a change makes sense now.

        Raises:
            BadPrompt: a click or box outside the image, or a first click that is not on an object.
            TooLarge: there would be more clicks than ``most``.
        """
        if change.verb == "rect":
            check_box(change.what[0], self.width, self.height)
        if change.verb != "click":
            return
        for point in change.what:
            check_point(point, self.width, self.height)
        if len(self.clicks) + len(change.what) > most:
            raise TooLarge(f"A session holds {most} clicks. Finish this object with /api/sam/finish_click.")
        if self.box is None and not any(point.label == 1 for point in (*self._points(), *change.what)):
            raise BadPrompt("The first click must be on the object (label 1), or draw a box first.")

    def apply(self, change: Change) -> bool:
        """Do a change, unless it is in already: a line that was written twice counts once. Whether it did anything."""
        if self.has(change.name):
            return False
        writer, _, number = change.name.rpartition(".")
        self.note(writer, int(number))
        match change.verb, change.what:
            case "open", (image_id, width, height, opener, turn, model):
                if self.turn[0] == opener and self.turn[1] > turn:
                    return False  # the same server has opened one that came later
                self.image_id, self.width, self.height, self.turn = image_id, width, height, (opener, turn)
                self.model = model
                self._start_over(change, None)
            case "click", points:
                self.clicks.extend((point, change.name) for point in points)
            case "undo", ():
                self._undo(change)
            case "rect", (box,):
                self._start_over(change, box)
            case "finish", ():
                self._start_over(change, None)
            case "model", (model,):
                if model == self.model:
                    return False
                self.model, self.answers = model, {}  # what another model has answered is nothing to refine
            case "drop", (image_id, gone):
                return self._drop(image_id, gone)
            case "restore", (last_reset, mark, box, clicks):
                if (self.last_reset, self._mark(len(self.clicks))) != (last_reset, mark):
                    return False  # something else has happened since
                self._start_over(change, box, clicks)
            case "answer", (count, mark, prediction_id):
                if self._mark(count) != mark or self.answers.get(count) == prediction_id:
                    return False  # it is for clicks that are no more, or no news
                self.answers[count] = prediction_id
        return True

    def snapshot(self, refined: int = -1) -> Snapshot:
        """The session as it is now, refining the answer to the first ``refined`` clicks, if there is one."""
        parent = self.answers.get(refined)
        answers = sorted(answer for answer in self.answers.items() if parent is not None and answer[0] <= refined)
        changes = tuple(change for _, change in self.clicks)
        image = self.image_id, self.width, self.height
        return Snapshot(*image, self._points(), self.box, parent, tuple(answers), changes, self.model, self.last_reset)

    def note(self, writer: str, number: int) -> None:
        """Remember that this server's changes up to this number are in."""
        self.seen.pop(writer, None)
        self.seen[writer] = number
        while len(self.seen) > _WRITERS:
            del self.seen[next(iter(self.seen))]

    def has(self, change: str) -> bool:
        """Whether the change of this name is in, or was in and has been undone."""
        writer, _, number = change.rpartition(".")
        return self.seen.get(writer, 0) >= int(number)

    def has_seen(self, change: str) -> bool:
        """The same; a change by a server long forgotten counts as seen."""
        is_forgotten = len(self.seen) >= _WRITERS and change.rpartition(".")[0] not in self.seen
        return is_forgotten or self.has(change)

    def to_bytes(self) -> bytes:
        """One line, for ``from_bytes``; without its end."""
        return _JSON.encode(
            {
                "format": _FORMAT,
                "generation": self.generation,
                "image": [self.image_id, self.width, self.height, *self.turn, self.model, self.last_reset],
                "box": self.box,
                "clicks": self.clicks,
                "answers": list(self.answers.items()),
                "seen": self.seen,
            }
        ).encode()

    @classmethod
    def from_bytes(cls, line: bytes) -> "SessionState | None":
        """What ``to_bytes`` was called on; ``None`` where the bytes are something else."""
        try:
            read = json.loads(line)
            if read["format"] != _FORMAT:
                return None
            image_id, width, height, opener, turn, model, last_reset = read["image"]
            box = None if read["box"] is None else Box(*read["box"])
            clicks = [(Point(*point), change) for point, change in read["clicks"]]
            opened = image_id, width, height, (opener, turn), model, last_reset
            return cls(read["generation"], *opened, box, clicks, dict(read["answers"]), dict(read["seen"]))
        except (ValueError, TypeError, KeyError):
            return None

    def _undo(self, change: Change) -> None:
        """Take the last click back, or the box when there is no click."""
        self.last_reset = change.name
        if self.clicks:
            self.clicks.pop()
        else:
            self.box = None
        if self.box is None and not any(point.label == 1 for point in self._points()):
            self.clicks = []  # what is left says only where the object is not
        self._forget_answers(above=len(self.clicks) if self.clicks or self.box is not None else -1)

    def _drop(self, image_id: str, gone: str) -> bool:
        """Remove just the clicks of one change, whatever came after them."""
        first = next((index for index, (_, change) in enumerate(self.clicks) if change == gone), None)
        if first is None or self.image_id != image_id:
            return False
        self._forget_answers(above=first)
        self.clicks = [(point, change) for point, change in self.clicks if change != gone]
        return True

    def _start_over(self, change: Change, box: Box | None, clicks: Sequence[tuple[Point, str]] = ()) -> None:
        self.last_reset, self.box, self.clicks, self.answers = change.name, box, list(clicks), {}

    def _points(self) -> tuple[Point, ...]:
        return tuple(point for point, _ in self.clicks)

    def _forget_answers(self, *, above: int) -> None:
        self.answers = {count: answer for count, answer in self.answers.items() if count <= above}

    def _mark(self, count: int) -> str:
        return _mark(self.image_id, self.model, self.box, self.clicks[:count])


def _mark(image_id: str, model: str, box: Box | None, clicks: list[tuple[Point, str]]) -> str:
    return hashlib.blake2b(repr((image_id, model, box, clicks)).encode(), digest_size=8).hexdigest()


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
