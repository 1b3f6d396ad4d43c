"""Who works on which image: where the done hint comes from."""

from collections import Counter, OrderedDict
from collections.abc import Callable

_MOST_CLIENTS = 10_000


class Clients:
    """Knows each client's current image and the images that were fetched ahead for it.

    An image is done when it is no client's current one and no prefetch that still waits to be opened.

    Args:
        mark: told ``(group, done)`` when an image becomes done, or is not done any more.
        prefetches: how many images one client's prefetches can hold.
    """

    def __init__(self, mark: Callable[[str, bool], None], prefetches: int) -> None:
        self._mark = mark
        self._prefetches = prefetches
        self._current: OrderedDict[str, str] = OrderedDict()
        self._ahead: dict[str, OrderedDict[str, None]] = {}
        self._holders: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._current)

    def opened(self, client: str, group: str) -> None:
        """The client works on this image now; its previous one is done, unless somebody else holds it."""
        previous = self._current.get(client)
        if previous == group:
            self._current.move_to_end(client)
            return
        self._hold(group)
        self._current[client] = group
        self._current.move_to_end(client)
        ahead = self._ahead.get(client)
        if ahead is not None and group in ahead:
            del ahead[group]
            self._release(group)
        if previous is not None:
            self._release(previous)
        if len(self._current) > _MOST_CLIENTS:
            self.forget(next(iter(self._current)))

    def fetched_ahead(self, client: str, group: str) -> None:
        """An image was asked for before anybody looks at it."""
        ahead = self._ahead.setdefault(client, OrderedDict())
        if group in ahead or self._current.get(client) == group:
            return
        ahead[group] = None
        self._hold(group)
        while len(ahead) > self._prefetches:
            self._release(ahead.popitem(last=False)[0])
        if len(self._ahead) > _MOST_CLIENTS:
            self.forget(next(iter(self._ahead)))

    def forget(self, client: str) -> None:
        """The client is gone."""
        current = self._current.pop(client, None)
        if current is not None:
            self._release(current)
        for group in self._ahead.pop(client, ()):
            self._release(group)

    def _hold(self, group: str) -> None:
        self._holders[group] += 1
        if self._holders[group] == 1:
            self._mark(group, False)

    def _release(self, group: str) -> None:
        self._holders[group] -= 1
        if self._holders[group] <= 0:
            del self._holders[group]
            self._mark(group, True)
