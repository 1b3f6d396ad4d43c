"""A store over a dict, for tests, and stores that are slow, broken, hanging, or give wrong bytes."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from labeling_ground import key as keys
from labeling_ground.errors import StoreFailed
from labeling_ground.types import (
    Entry,
    StoreStats,
)


class DictStore:
    """A store as simple as can be, unbounded, which notes what it is asked to do."""

    def __init__(self, entries: dict[str, Entry] | None = None, *, name: str = "dict") -> None:
        self.name = name
        self.entries: dict[str, Entry] = {} if entries is None else entries
        self.calls: list[tuple[str, str]] = []
        self.damaged = 0
        self.closed = False

    def count(self, verb: str) -> int:
        """How often it was asked to do this."""
        return Counter(called for called, _ in self.calls)[verb]

    async def open(self) -> None:
        """See ``Store``."""

    async def get(self, key: str) -> Entry | None:
        """See ``Store``."""
        await self.work("get", key)
        return self.entries.get(key)

    async def put(self, key: str, entry: Entry, used: float | None = None) -> None:
        """See ``Store``."""
        await self.work("put", key)
        self.entries.setdefault(key, entry)

    async def touch(self, key: str) -> bool:
        """See ``Store``."""
        await self.work("touch", key)
        return key in self.entries

    async def has(self, key: str) -> bool:
        """See ``Store``."""
        await self.work("has", key)
        return key in self.entries

    async def mark_done(self, group: str, done: bool) -> None:
        """See ``Store``."""
        await self.work("done" if done else "not done", group)

    async def delete(self, pattern: str) -> int:
        """See ``Store``."""
        await self.work("delete", pattern)
        match = keys.matcher(pattern)
        gone = [key for key in self.entries if match(key)]
        for key in gone:
            del self.entries[key]
        return len(gone)

    async def drop_damaged(self, key: str) -> None:
        """See ``Store``."""
        await self.work("drop", key)
        self.damaged += self.entries.pop(key, None) is not None

    async def sweep(self) -> int:
        """See ``Store``."""
        await self.work("sweep", "")
        return 0

    async def stats(self) -> StoreStats:
        """See ``Store``."""
        await self.work("stats", "")
        size = sum(entry.size for entry in self.entries.values())
        return StoreStats(self.name, len(self.entries), size, 1 << 40, evictions={"damaged": self.damaged})

    async def aclose(self) -> None:
        """See ``Store``."""
        self.closed = True

    async def work(self, verb: str, about: str) -> None:
        """What every call does first: here the subclasses misbehave."""
        self.calls.append((verb, about))


class SlowStore(DictStore):
    """Takes its time: ``seconds`` for every call, or as long as a function says."""

    def __init__(
        self, seconds: float | Callable[[], float], entries: dict[str, Entry] | None = None, *, name: str = "slow"
    ) -> None:
        super().__init__(entries, name=name)
        self.seconds = seconds

    async def work(self, verb: str, about: str) -> None:
        """Sleep first."""
        await super().work(verb, about)
        await asyncio.sleep(self.seconds() if callable(self.seconds) else self.seconds)


class BrokenStore(DictStore):
    """Fails at everything while ``error`` is set."""

    def __init__(
        self, error: Exception | None = None, entries: dict[str, Entry] | None = None, *, name: str = "broken"
    ) -> None:
        super().__init__(entries, name=name)
        self.error: Exception | None = error or StoreFailed("It is down.")

    async def work(self, verb: str, about: str) -> None:
        """Fail."""
        await super().work(verb, about)
        if self.error is not None:
            raise self.error


class HangingStore(DictStore):
    """Answers nothing until ``release`` is set; ``only`` names the calls that hang."""

    def __init__(
        self, entries: dict[str, Entry] | None = None, *, only: Sequence[str] = (), name: str = "hanging"
    ) -> None:
        super().__init__(entries, name=name)
        self.release = asyncio.Event()
        self.only = only

    async def work(self, verb: str, about: str) -> None:
        """Hang."""
        await super().work(verb, about)
        if not self.only or verb in self.only:
            await self.release.wait()


class DamagingStore(DictStore):
    """Hands out bytes of which one is wrong."""

    async def get(self, key: str) -> Entry | None:
        """Flip one bit in the middle."""
        entry = await super().get(key)
        return None if entry is None else damage(entry)


def damage(entry: Entry, at: int | None = None) -> Entry:
    """The entry with one bit flipped."""
    value = bytearray(entry.value)
    value[len(value) // 2 if at is None else at] ^= 0x10
    return Entry(entry.kind, bytes(value), entry.cost, entry.created)
