"""Embeddings at hand: as floats for the processor, or on a device, between the clicks on one image."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lru(Generic[T]):
    """A few values of embeddings, by the embedding's digest; those that were used longest ago make room.

    It saves work and decides nothing: under one digest there is one embedding (``types.Embedding``), so what is held is
    what would be made again. May be used by several threads.

    Args:
        most_bytes: what all values together may take. A value that is larger alone is not held.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._values: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0
        """What the values take now."""

    def __len__(self) -> int:
        return len(self._values)

    def get(self, digest: str, make: Callable[[], tuple[T, int]]) -> T:
        """The value held, or the one that ``make`` makes; it says how many bytes it takes.

        Without a digest nothing is known of the embedding's identity, and nothing is held. Two threads that ask for
        the same at once may both make it.
        """
        with self._lock:
            found = self._values.get(digest)
            if found is not None:
                self._values.move_to_end(digest)
                return found[0]
        value, size = make()
        if digest and size <= self._most_bytes:
            with self._lock:
                self.bytes += size - self._values.pop(digest, (None, 0))[1]
                self._values[digest] = (value, size)
                while self.bytes > self._most_bytes:
                    self.bytes -= self._values.popitem(last=False)[1][1]
        return value
