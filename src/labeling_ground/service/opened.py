"""Predictions that were opened lately: read from their bytes once, written as text once, however often asked for."""

import weakref
from collections import OrderedDict, deque
from collections.abc import Callable

from labeling_ground.codec import records
from labeling_ground.codec.records import CachedPrediction
from labeling_ground.types import Entry


class OpenedPrediction:
    """A prediction read from its entry, and the texts that were written of it, by their form."""

    __slots__ = ("_grow", "_texts", "prediction")

    def __init__(self, prediction: CachedPrediction, grow: Callable[[int], None]) -> None:
        self.prediction = prediction
        self._texts: dict[str, bytes] = {}
        self._grow = grow

    def text(self, form: str, write: Callable[[CachedPrediction], bytes]) -> bytes:
        """The prediction in a form, written by ``write`` at the first time. For forms of about an entry's size."""
        found = self._texts.get(form)
        if found is None:
            found = self._texts[form] = write(self.prediction)
            self._grow(len(found))
        return found


class _Item:
    __slots__ = ("bytes", "entry", "opened")

    def __init__(self, entry: "weakref.ref[Entry]", opened: OpenedPrediction, size: int) -> None:
        self.entry = entry
        self.opened = opened
        self.bytes = size


class OpenedPredictions:
    """Opened predictions, least recently used first, bounded in bytes.

    Each stands for one entry object and goes after it, with the next that is opened: what memory has evicted, or a
    purge has deleted, does not stay here, and a prediction that was computed again is opened again.

    Args:
        most_bytes: of entries and texts, all together; 0: each is opened and written whenever it is asked for.
    """

    def __init__(self, most_bytes: int) -> None:
        self.bytes = 0
        """Bytes of the opened entries and their texts."""
        self._most_bytes = most_bytes
        self._items: OrderedDict[str, _Item] = OrderedDict()
        self._gone: deque[tuple[str, _Item]] = deque()
        """Those whose entry has gone, which may happen in any thread."""

    def __len__(self) -> int:
        return len(self._items)

    def open(self, key: str, entry: Entry) -> OpenedPrediction:
        """The prediction in an entry.

        Raises:
            DamagedEntry: the entry is something else.
        """
        while self._gone:
            self._forget(*self._gone.popleft())
        item = self._items.get(key)
        if item is not None and item.entry() is entry:
            self._items.move_to_end(key)
            return item.opened
        if item is not None:
            self._forget(key, item)
        prediction = records.open_prediction(entry, key)
        new: _Item

        def grow(size: int) -> None:
            if self._items.get(key) is new:
                new.bytes += size
                self.bytes += size
                self._make_room()

        new = _Item(
            weakref.ref(entry, lambda _: self._gone.append((key, new))), OpenedPrediction(prediction, grow), entry.size
        )
        self._items[key] = new
        self.bytes += new.bytes
        self._make_room()
        return new.opened

    def _make_room(self) -> None:
        while self.bytes > self._most_bytes:
            self._forget(*next(iter(self._items.items())))

    def _forget(self, key: str, item: _Item) -> None:
        if self._items.get(key) is item:
            del self._items[key]
            self.bytes -= item.bytes
