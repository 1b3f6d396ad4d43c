"""The class of a computation under way, which rises when a more urgent ask joins it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from labeling_ground.types import Priority


class Urgency:
    """A priority that can be raised, and tells those that follow it.

    A request has one; so has a flight, which follows those of its askers and hands its own on to what it waits for. So
    an image that was queued as a prefetch is lifted as soon as somebody opens it or clicks on it, however deep the
    wait. A priority is not lowered again when that asker leaves.

    Args:
        priority: what it is at first.
    """

    __slots__ = ("_followers", "priority")

    def __init__(self, priority: Priority = Priority.INTERACTIVE) -> None:
        self.priority = priority
        self._followers: list[Callable[[Priority], None]] = []

    def raise_to(self, priority: Priority) -> None:
        """Make it at least this urgent."""
        if priority < self.priority:
            self.priority = priority
            for follower in list(self._followers):
                follower(priority)

    def follow(self, other: "Urgency") -> None:
        """Be at least as urgent as another one, now and when that is raised later."""
        self.raise_to(other.priority)
        other.subscribe(self.raise_to)

    def subscribe(self, follower: Callable[[Priority], None]) -> None:
        """Call a function with the new priority each time that this is raised."""
        self._followers.append(follower)

    def unsubscribe(self, follower: Callable[[Priority], None]) -> None:
        """Call that function no more."""
        self._followers.remove(follower)


current: ContextVar[Urgency | None] = ContextVar("urgency", default=None)
"""The urgency of what the running task works for; ``None`` where nobody has said."""


def current_urgency() -> Urgency:
    """The urgency of what the running task works for; interactive where nobody has said."""
    urgency = current.get()
    return Urgency() if urgency is None else urgency


@contextmanager
def asked_as(priority: Priority) -> Iterator[None]:
    """Let what is begun within, and the tasks that are started, be of this class.

    It goes with the task rather than from hand to hand, like a trace's id: what asks, and what waits in a queue for it,
    are many calls apart.
    """
    token = current.set(Urgency(priority))
    try:
        yield
    finally:
        current.reset(token)


@contextmanager
def asked_at_best(priority: Priority) -> Iterator[None]:
    """Let what is begun within be of this class, or of the asker's own where that is less urgent."""
    with asked_as(max(priority, current_urgency().priority)):
        yield


def work_for(urgency: Urgency) -> None:
    """Let the running task, and those that it starts, work for this urgency from now on."""
    current.set(urgency)
