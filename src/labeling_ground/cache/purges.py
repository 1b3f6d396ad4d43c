"""Purges under way and recent ones: whether one of them means a key, without looking at them all."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from labeling_ground import key as keys

_ANY = ""
"""In place of an image id: the purge is not of one image."""


class Purges:
    """Key patterns in the order in which they were purged, the oldest forgotten first.

    Purges are of single images as a rule, and a key is of one image, so a question costs what that image's purges and
    the wide ones cost.

    Args:
        most: how many are remembered; each counts twice, since it is noted when it begins and when it ends.
        clock: seconds since 1970.
    """

    def __init__(self, most: int = 2_000, clock: Callable[[], float] = time.time) -> None:
        self.count = 0
        """How often a purge began or ended: compared later, to know whether one came in between."""
        self.on_purge: list[Callable[[Callable[[str], bool]], None]] = []
        """Each is told of every purge with a test for the keys that it means: before anything is deleted, and again
        when all is, for what was begun meanwhile may know what is gone now."""
        self._most = most
        self._clock = clock
        self._under_way: list[Callable[[str], bool]] = []
        self._forgotten = -1
        self._order: deque[tuple[int, str]] = deque()
        self._by_image: defaultdict[str, deque[tuple[int, float, Callable[[str], bool]]]] = defaultdict(deque)

    @contextmanager
    def under_way(self, pattern: str) -> Iterator[None]:
        """Note a purge while its pattern is being deleted: ``is_under_way`` is true of what it means."""
        match = keys.matcher(pattern)
        self._under_way.append(match)
        self.note(pattern)
        try:
            yield
        finally:
            self._under_way.remove(match)
            self.note(pattern)  # what was looked up or begun meanwhile is meant, too

    def note(self, pattern: str) -> None:
        """Remember a purge and call the ``on_purge`` functions."""
        image, match = _image_of(pattern), keys.matcher(pattern)
        self._by_image[image].append((self.count, self._clock(), match))
        self._order.append((self.count, image))
        self.count += 1
        if len(self._order) > self._most:
            self._forgotten, image = self._order.popleft()
            purges = self._by_image[image]
            purges.popleft()
            if not purges:
                del self._by_image[image]
        for tell in self.on_purge:
            tell(match)

    def is_under_way(self, key: str) -> bool:
        """Whether a purge that is being carried out means the key."""
        return any(match(key) for match in self._under_way)

    def meant_since(self, key: str, count: int) -> bool:
        """Whether a purge meant the key, or may have, since ``Purges.count`` was this."""
        return self._forgotten >= count or self._any(key, lambda place, _: place >= count)

    def meant_after(self, key: str, seconds: float) -> bool:
        """Whether a purge that is remembered meant the key at that time (seconds since 1970) or later."""
        return self._any(key, lambda _, at: at >= seconds)

    def _any(self, key: str, is_late: Callable[[int, float], bool]) -> bool:
        """Whether one of the latest purges, as far back as they are late enough, means the key."""
        for image in (_image_of(key), _ANY):
            for place, at, match in reversed(self._by_image.get(image, ())):
                if not is_late(place, at):
                    break
                if match(key):
                    return True
        return False


def _image_of(pattern: str) -> str:
    """The image id that a key names, or a key pattern if it names one."""
    parts = pattern.split("/", 3)
    return parts[2] if len(parts) > 3 and "*" not in parts[2] else _ANY
