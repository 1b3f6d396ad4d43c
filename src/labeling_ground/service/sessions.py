"""Sessions: a client's named working state. A thin layer above the cache, never part of a key.

Everything here runs on the event loop without awaiting, so each change is atomic: twenty clicks at once are twenty
clicks.
"""

import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from labeling_ground.errors import BadPrompt, TooLarge, UnknownSession
from labeling_ground.types import Box, Point


@dataclass(slots=True)
class _State:
    image_id: str
    width: int
    height: int
    used: float
    turn: int
    box: Box | None = None
    clicks: list[Point] = field(default_factory=list)
    answers: dict[int, str] = field(default_factory=dict)
    """Prediction ids, by how many of the clicks they were for: what the next click can refine."""

    def forget_answers(self, above: int) -> None:
        """Drop the predictions for more clicks than that."""
        self.answers = {count: answer for count, answer in self.answers.items() if count <= above}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A session at one moment: its image, its box, and its clicks in the order in which they came.

    ``parent`` is the prediction for the clicks before the last ones, if it was answered: the mask that is refined.
    """

    image_id: str
    width: int
    height: int
    clicks: tuple[Point, ...]
    box: Box | None
    parent: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was pointed at yet."""
        return not self.clicks and self.box is None


class Sessions:
    """All sessions of all tenants, bounded and with an idle time.

    Args:
        most: how many are kept; the one idle for longest makes room.
        idle_s: seconds after the last use at which a session ends.
        most_clicks: how many clicks one session holds.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        most: int,
        idle_s: float,
        most_clicks: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._idle_s = idle_s
        self._most_clicks = most_clicks
        self._clock = clock
        self._states: OrderedDict[tuple[str, str], _State] = OrderedDict()
        self._turns = itertools.count(1)

    def __len__(self) -> int:
        self._expire()
        return len(self._states)

    def turn(self) -> int:
        """A number for an image that has just come, so that ``open`` knows which of two came later."""
        return next(self._turns)

    def open(self, tenant: str, name: str, image_id: str, width: int, height: int, turn: int) -> None:
        """Start over with an image: an earlier image and its clicks are forgotten.

        Encoding takes its time, so an image may be done after one that came later: then the later one stays.
        """
        self._expire()
        state = self._states.get((tenant, name))
        if state is not None and state.turn > turn:
            return
        self._states[tenant, name] = _State(image_id, width, height, self._clock(), turn)
        self._states.move_to_end((tenant, name))
        while len(self._states) > self._most:
            self._states.popitem(last=False)

    def click(self, tenant: str, name: str, points: Sequence[Point]) -> Snapshot:
        """Add clicks. All of them count or, if one is bad, none.

        Raises:
            UnknownSession: no such session.
            BadPrompt: a click outside the image, or a first click that is not on an object.
            TooLarge: the session is full.
        """
        state = self._state(tenant, name)
        for point in points:
            check_point(point, state.width, state.height)
        if len(state.clicks) + len(points) > self._most_clicks:
            raise TooLarge(
                f"A session holds {self._most_clicks} clicks. Finish this object with /api/sam/finish_click."
            )
        if state.box is None and not any(p.label == 1 for p in (*state.clicks, *points)):
            raise BadPrompt("The first click must be on the object (label 1), or draw a box first.")
        parent = state.answers.get(len(state.clicks))
        state.clicks.extend(points)
        return _snapshot(state, parent)

    def answered(self, tenant: str, name: str, asked: Snapshot, prediction_id: str) -> None:
        """Note the prediction for a snapshot, so that the next click can refine it."""
        state = self._states.get((tenant, name))
        count = len(asked.clicks)
        if state is None or (state.image_id, state.box) != (asked.image_id, asked.box):
            return
        if tuple(state.clicks[:count]) == asked.clicks:
            state.answers[count] = prediction_id

    def take_back(self, tenant: str, name: str, image_id: str, points: Sequence[Point]) -> None:
        """Remove just these clicks again: their prediction failed, and the annotator will click anew."""
        state = self._states.get((tenant, name))
        if state is None or state.image_id != image_id:
            return
        gone = {id(point) for point in points}
        first = next((index for index, point in enumerate(state.clicks) if id(point) in gone), len(state.clicks))
        state.forget_answers(first)
        state.clicks = [point for point in state.clicks if id(point) not in gone]

    def restore(self, tenant: str, name: str, before: Snapshot, after: Snapshot) -> None:
        """Undo a change whose prediction failed, unless something else has happened since: trying again is safe."""
        state = self._states.get((tenant, name))
        if state is not None and (tuple(state.clicks), state.box) == (after.clicks, after.box):
            state.clicks, state.box, state.answers = list(before.clicks), before.box, {}

    def look(self, tenant: str, name: str) -> Snapshot:
        """The session as it is.

        Raises:
            UnknownSession: no such session.
        """
        return _snapshot(self._state(tenant, name))

    def rect(self, tenant: str, name: str, box: Box) -> Snapshot:
        """Set the box; the clicks so far are forgotten, later ones refine it.

        Raises:
            UnknownSession: no such session.
            BadPrompt: the box lies outside the image.
        """
        state = self._state(tenant, name)
        check_box(box, state.width, state.height)
        state.box, state.clicks, state.answers = box, [], {}
        return _snapshot(state)

    def finish(self, tenant: str, name: str) -> Snapshot:
        """Forget the clicks and the box, keep the image.

        Raises:
            UnknownSession: no such session.
        """
        state = self._state(tenant, name)
        state.clicks, state.box, state.answers = [], None, {}
        return _snapshot(state)

    def undo(self, tenant: str, name: str) -> Snapshot:
        """Take the last click back, or the box when there is no click.

        Raises:
            UnknownSession: no such session.
        """
        state = self._state(tenant, name)
        if state.clicks:
            state.clicks.pop()
        else:
            state.box = None
        if state.box is None and not any(point.label == 1 for point in state.clicks):
            state.clicks = []  # what is left says only where the object is not
        state.forget_answers(len(state.clicks))
        if state.box is None and not state.clicks:
            state.answers = {}
        # Ask just as it was asked before: then it is a hit.
        return _snapshot(state, state.answers.get(len(state.clicks) - 1))

    def _state(self, tenant: str, name: str) -> _State:
        self._expire()
        state = self._states.get((tenant, name))
        if state is None:
            raise UnknownSession(
                f"There is no session {name!r}, or it was idle for too long. Send its image to /api/sam/image first."
            )
        state.used = self._clock()
        self._states.move_to_end((tenant, name))
        return state

    def _expire(self) -> None:
        limit = self._clock() - self._idle_s
        while self._states:
            key, state = next(iter(self._states.items()))
            if state.used > limit:
                break
            del self._states[key]


def check_point(point: Point, width: int, height: int) -> None:
    """Refuse a point outside the image.

    Raises:
        BadPrompt: it is outside.
    """
    if not (0 <= point.x < width and 0 <= point.y < height):
        raise BadPrompt(
            f"The point ({point.x:g}, {point.y:g}) is outside the image, which is {width} × {height} pixels. "
            "Coordinates are pixels of the original image, with (0, 0) at its top left."
        )


def check_box(box: Box, width: int, height: int) -> None:
    """Refuse a box that does not overlap the image. One that reaches over the edge is fine: it is cut off there.

    Raises:
        BadPrompt: no part of it is on the image.
    """
    x0, x1 = sorted((box.x0, box.x1))
    y0, y1 = sorted((box.y0, box.y1))
    if not (x0 < width and y0 < height and x1 > 0 and y1 > 0):
        raise BadPrompt(
            f"The box ({x0:g}, {y0:g})–({x1:g}, {y1:g}) is outside the image, which is {width} × {height} pixels."
        )


def _snapshot(state: _State, parent: str | None = None) -> Snapshot:
    return Snapshot(state.image_id, state.width, state.height, tuple(state.clicks), state.box, parent)
