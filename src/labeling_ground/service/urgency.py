"""The class of a computation under way, which rises when somebody more urgent asks for the same."""

from collections.abc import Callable

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
        other.tell(self.raise_to)

    def tell(self, follower: Callable[[Priority], None]) -> None:
        """Call a function with the new priority each time that this is raised."""
        self._followers.append(follower)

    def forget(self, follower: Callable[[Priority], None]) -> None:
        """Call that function no more."""
        self._followers.remove(follower)
