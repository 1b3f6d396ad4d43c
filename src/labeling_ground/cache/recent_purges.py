"""Purges of late: whether one of them means a key, without looking at them all."""

import math
from collections import defaultdict, deque
from collections.abc import Callable

from labeling_ground import key as keys

_ANY = ""
"""In place of an image id: the purge is not of one image."""


class RecentPurges:
    """Key patterns and when they were purged, the oldest forgotten first.

    Purges are of single images as a rule, and a key is of one image, so a question costs what that image's purges and
    the wide ones cost.

    Args:
        most: how many are remembered.
    """

    def __init__(self, most: int) -> None:
        self.forgotten = -math.inf
        """When the latest purge was that is not remembered any more."""
        self._most = most
        self._order: deque[tuple[float, str]] = deque()
        self._by_image: defaultdict[str, deque[tuple[float, Callable[[str], bool]]]] = defaultdict(deque)

    def note(self, pattern: str, when: float) -> None:
        """Remember a purge. ``when`` is a number that never falls from one to the next."""
        image = _image_of(pattern)
        self._by_image[image].append((when, keys.matcher(pattern)))
        self._order.append((when, image))
        if len(self._order) > self._most:
            self.forgotten, image = self._order.popleft()
            purges = self._by_image[image]
            purges.popleft()
            if not purges:
                del self._by_image[image]

    def mean(self, key: str, since: float) -> bool:
        """Whether one that is remembered, of then or later, means the key."""
        return self._any(_image_of(key), key, since) or self._any(_ANY, key, since)

    def _any(self, image: str, key: str, since: float) -> bool:
        for when, match in reversed(self._by_image.get(image, ())):
            if when < since:
                return False
            if match(key):
                return True
        return False


def _image_of(pattern: str) -> str:
    """The image id that a key names, or a key pattern if it names one."""
    parts = pattern.split("/", 3)
    return parts[2] if len(parts) > 3 and "*" not in parts[2] else _ANY
