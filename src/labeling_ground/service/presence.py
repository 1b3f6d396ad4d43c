"""Which client works on which image: the source of the done hint."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Client:
    current: str | None = None
    ahead: OrderedDict[str, None] = field(default_factory=OrderedDict)
    spared: frozenset[str] = frozenset()


class Presence:
    """Knows each client's current image and the images that were fetched ahead for it.

    An image is done when it is no client's current one, no prefetch that still waits to be opened, and spared for
    nobody.

    Args:
        mark: told ``(group, done)`` when an image becomes done, or is not done any more.
        prefetches: how many images one client's prefetches can claim.
        most: how many clients are kept in mind; the one quiet for longest makes room.
    """

    def __init__(self, mark: Callable[[str, bool], None], prefetches: int, *, most: int = 10_000) -> None:
        self.on_open: Callable[[str, str, bool], None] | None = None
        """Told ``(client, group, encoded)`` when a client opens another image than its current one."""
        self._mark = mark
        self._prefetches = prefetches
        self._most = most
        self._clients: OrderedDict[str, _Client] = OrderedDict()
        self._claims: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._clients)

    def opened(self, client: str, group: str, *, encoded: bool = False) -> None:
        """The client works on this image now; its previous one is done, unless another client has a claim on it.

        ``encoded`` says that it had to be encoded for that.
        """
        state = self._state(client)
        previous = state.current
        if previous == group:
            return
        self._claim(group)
        state.current = group
        if group in state.ahead:
            del state.ahead[group]
            self._release(group)
        if self.on_open is not None:  # before the previous one is let go, which the client may come back to
            self.on_open(client, group, encoded)
        if previous is not None:
            self._release(previous)

    def current(self, client: str) -> str | None:
        """The image that the client works on."""
        found = self._clients.get(client)
        return None if found is None else found.current

    def spare(self, client: str, groups: Collection[str]) -> None:
        """These images, and no others that were named before, are not done before the client has opened them."""
        state = self._state(client)
        before, state.spared = state.spared, frozenset(groups)
        for group in state.spared - before:
            self._claim(group)
        for group in before - state.spared:
            self._release(group)

    def fetched_ahead(self, client: str, group: str) -> None:
        """An image was asked for before anybody looks at it."""
        state = self._state(client)
        if group in state.ahead or state.current == group:
            return
        state.ahead[group] = None
        self._claim(group)
        while len(state.ahead) > self._prefetches:
            self._release(state.ahead.popitem(last=False)[0])

    def forget(self, client: str) -> None:
        """The client is gone."""
        state = self._clients.pop(client, _Client())
        if state.current is not None:
            self._release(state.current)
        for group in (*state.ahead, *state.spared):
            self._release(group)

    def _state(self, client: str) -> _Client:
        state = self._clients.setdefault(client, _Client())
        self._clients.move_to_end(client)
        if len(self._clients) > self._most:
            self.forget(next(iter(self._clients)))
        return state

    def _claim(self, group: str) -> None:
        self._claims[group] += 1
        if self._claims[group] == 1:
            self._mark(group, False)

    def _release(self, group: str) -> None:
        self._claims[group] -= 1
        if self._claims[group] <= 0:
            del self._claims[group]
            self._mark(group, True)
