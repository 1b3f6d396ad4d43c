"""What a session is: its image, its box, its clicks, and what can be done with them. No names, no time, no I/O.

Each change either happens as a whole or raises and changes nothing, and depends on nothing but the state: so it can be
done again on top of what another server did meanwhile.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from labeling_ground.errors import BadPrompt, TooLarge
from labeling_ground.service.prompts import check_box, check_point
from labeling_ground.types import Box, Point

_FORMAT = 1
"""Number of the layout of the bytes. A state of another number is nobody's."""
_WRITERS = 16
"""Servers whose last change a state remembers."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A session at one moment: its image, its box, and its clicks in the order in which they came.

    ``parent`` is the prediction for the clicks before the last ones, if it was answered: the mask that is refined.
    ``answers`` are that one and those before it, each with how many of the clicks it was for. ``changes`` says of each
    click which change brought it.
    """

    image_id: str
    width: int
    height: int
    clicks: tuple[Point, ...]
    box: Box | None
    parent: str | None = None
    answers: tuple[tuple[int, str], ...] = field(default=(), compare=False, repr=False)
    changes: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was pointed at yet."""
        return not self.clicks and self.box is None


@dataclass(slots=True)
class SessionState:
    """One session. The one without an image is none yet."""

    image_id: str = ""
    width: int = 0
    height: int = 0
    turn: tuple[str, int] = ("", 0)
    """Which server opened the image, and as its how-manieth."""
    box: Box | None = None
    clicks: list[tuple[Point, str]] = field(default_factory=list)
    """Each with the name of the change that brought it."""
    answers: dict[int, str] = field(default_factory=dict)
    """Prediction ids, by how many of the clicks they were for: what the next click can refine."""
    reset: str = ""
    """Name of the last change that set the box and dropped the clicks."""
    seen: dict[str, int] = field(default_factory=dict)
    """The number of the last change of each server that is in this state; the latest server stands last."""

    def open(self, image_id: str, width: int, height: int, turn: tuple[str, int]) -> None:
        """Start over with an image, unless the same server has opened one that came later."""
        if self.turn[0] == turn[0] and self.turn[1] > turn[1]:
            return
        self.image_id, self.width, self.height, self.turn = image_id, width, height, turn
        self._start_over(None)

    def click(self, points: Sequence[Point], change: str, most: int) -> Snapshot:
        """Add clicks. All of them count or, if one is bad, none.

        Raises:
            BadPrompt: a click outside the image, or a first click that is not on an object.
            TooLarge: there would be more clicks than ``most``.
        """
        for point in points:
            check_point(point, self.width, self.height)
        if len(self.clicks) + len(points) > most:
            raise TooLarge(f"A session holds {most} clicks. Finish this object with /api/sam/finish_click.")
        if self.box is None and not any(p.label == 1 for p in (*self._points(), *points)):
            raise BadPrompt("The first click must be on the object (label 1), or draw a box first.")
        refined = len(self.clicks)
        self.clicks.extend((point, change) for point in points)
        return self.snapshot(refined)

    def rect(self, box: Box, change: str = "") -> Snapshot:
        """Set the box; the clicks so far are forgotten.

        Raises:
            BadPrompt: the box lies outside the image.
        """
        check_box(box, self.width, self.height)
        self._start_over(box, change)
        return self.snapshot()

    def undo(self) -> Snapshot:
        """Take the last click back, or the box when there is no click."""
        if self.clicks:
            self.clicks.pop()
        else:
            self.box = None
        if self.box is None and not any(point.label == 1 for point in self._points()):
            self.clicks = []  # what is left says only where the object is not
        self._forget_answers(above=len(self.clicks))
        if self.box is None and not self.clicks:
            self.answers = {}
        # Ask just as it was asked before: then it is a hit.
        return self.snapshot(len(self.clicks) - 1)

    def finish(self, change: str = "") -> Snapshot:
        """Forget the clicks and the box, keep the image."""
        self._start_over(None, change)
        return self.snapshot()

    def answered(self, asked: Snapshot, prediction_id: str) -> bool:
        """Note the prediction for a snapshot, unless it is one of clicks that are no more. Whether that is news."""
        count = len(asked.clicks)
        if (self.image_id, self.box) != (asked.image_id, asked.box) or self._points()[:count] != asked.clicks:
            return False
        if self.answers.get(count) == prediction_id:
            return False
        self.answers[count] = prediction_id
        return True

    def take_back(self, asked: Snapshot) -> bool:
        """Remove just the clicks that made this snapshot, whatever came after them. Whether they were still there."""
        if self.image_id != asked.image_id or not asked.changes:
            return False
        gone = asked.changes[-1]
        first = next((index for index, (_, change) in enumerate(self.clicks) if change == gone), None)
        if first is None:
            return False
        self._forget_answers(above=first)
        self.clicks = [(point, change) for point, change in self.clicks if change != gone]
        return True

    def restore(self, before: Snapshot, after: Snapshot) -> bool:
        """Go from one snapshot back to the one before it, unless something else has happened since. Whether it did."""
        if (self.image_id, self._points(), self.box) != (after.image_id, after.clicks, after.box):
            return False
        self.clicks = list(zip(before.clicks, before.changes, strict=True))
        self.box, self.answers = before.box, {}
        return True

    def snapshot(self, refined: int = -1) -> Snapshot:
        """The session as it is now, refining the answer to the first ``refined`` clicks, if there is one."""
        parent = self.answers.get(refined)
        answers = sorted(answer for answer in self.answers.items() if parent is not None and answer[0] <= refined)
        changes = tuple(change for _, change in self.clicks)
        return Snapshot(
            self.image_id, self.width, self.height, self._points(), self.box, parent, tuple(answers), changes
        )

    def note(self, writer: str, number: int) -> None:
        """Remember that this server's changes up to this number are in."""
        self.seen.pop(writer, None)
        self.seen[writer] = number
        while len(self.seen) > _WRITERS:
            del self.seen[next(iter(self.seen))]

    def has_seen(self, change: str) -> bool:
        """Whether the change of this name was in this state once; one by a server long forgotten counts as such."""
        writer, _, number = change.rpartition(".")
        known = self.seen.get(writer)
        return len(self.seen) >= _WRITERS if known is None else known >= int(number)

    def lacks(self, other: "SessionState") -> bool:
        """Whether changes are in the other state that were never in this one."""
        if len(self.seen) >= _WRITERS:
            return any(self.seen.get(writer, number) < number for writer, number in other.seen.items())
        return any(self.seen.get(writer, 0) < number for writer, number in other.seen.items())

    def merge(self, other: "SessionState") -> None:
        """Take in what another state of the session knows and this one does not.

        A click is in the merged state if it is in both, or in one while the other has never seen it; so what was taken
        back stays so. Where both went on with different images, this one's image counts.
        """
        if not self.lacks(other):
            return
        if not other.lacks(self):
            image, clicks, box, reset = other, list(other.clicks), other.box, other.reset
        elif (self.image_id, self.turn) != (other.image_id, other.turn):
            image, clicks, box, reset = self, self.clicks, self.box, self.reset
        else:
            mine = {change for _, change in self.clicks}
            theirs = {change for _, change in other.clicks}
            clicks = [click for click in self.clicks if click[1] in theirs or not other.has_seen(click[1])]
            clicks += [click for click in other.clicks if click[1] not in mine and not self.has_seen(click[1])]
            later = other if other.reset and not self.has_seen(other.reset) else self
            image, box, reset = self, later.box, later.reset
        self.answers = {
            count: answer
            for state in (other, self)
            for count, answer in state.answers.items()
            if (state.image_id, state.box) == (image.image_id, box)
            and clicks[:count] == state.clicks[:count]
            and len(clicks) >= count
        }
        self.image_id, self.width, self.height, self.turn = image.image_id, image.width, image.height, image.turn
        self.clicks, self.box, self.reset = clicks, box, reset
        for writer, number in other.seen.items():
            if self.seen.get(writer, 0) < number:
                self.note(writer, number)

    def to_bytes(self) -> bytes:
        """All of it, for ``from_bytes``."""
        box = self.box
        return json.dumps(
            {
                "format": _FORMAT,
                "image": [self.image_id, self.width, self.height, *self.turn],
                "box": None if box is None else [box.x0, box.y0, box.x1, box.y1],
                "clicks": [[point.x, point.y, point.label, change] for point, change in self.clicks],
                "answers": list(self.answers.items()),
                "reset": self.reset,
                "seen": self.seen,
            },
            separators=(",", ":"),
        ).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> "SessionState | None":
        """What ``to_bytes`` was called on; ``None`` where the bytes are something else."""
        try:
            read = json.loads(value)
            if read["format"] != _FORMAT:
                return None
            image_id, width, height, writer, number = read["image"]
            return cls(
                image_id,
                width,
                height,
                (writer, number),
                None if read["box"] is None else Box(*read["box"]),
                [(Point(x, y, label), change) for x, y, label, change in read["clicks"]],
                dict(read["answers"]),
                read.get("reset", ""),
                dict(read["seen"]),
            )
        except (ValueError, TypeError, KeyError):
            return None

    def _start_over(self, box: Box | None, change: str = "") -> None:
        self.box, self.clicks, self.answers, self.reset = box, [], {}, change

    def _points(self) -> tuple[Point, ...]:
        return tuple(point for point, _ in self.clicks)

    def _forget_answers(self, *, above: int) -> None:
        self.answers = {count: answer for count, answer in self.answers.items() if count <= above}
