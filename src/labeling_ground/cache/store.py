"""The port behind which every tier stands."""

from collections.abc import Sequence
from types import EllipsisType
from typing import Protocol, runtime_checkable

from labeling_ground.cache.policies.port import Ranking
from labeling_ground.types import Entry, StoreStats


class Store(Protocol):
    """Bytes in, bytes out; a miss is ``None``.

    A value is immutable and belongs to its key for ever, so writing a key that is there already is no error and may
    be skipped. Every store is bounded in bytes, forgets what was not used for its idle time, and raises
    ``StoreFailed`` when it cannot do its work: the caller treats that as a miss.
    """

    name: str
    """Short name in figures and logs: ``memory``, ``disk``, ``redis``."""

    async def open(self) -> None:
        """Make ready, before anything is asked for; without it the first ask does so."""
        ...

    async def get(self, key: str) -> Entry | None:
        """The entry, or ``None``. A hit restarts the idle timer."""
        ...

    async def put(self, key: str, entry: Entry, used: float | None = None) -> None:
        """Keep the entry, making room first. An entry above an eighth of the budget is not admitted.

        ``used`` is when it was used last, seconds since 1970, where that is not now: a tier above has no room for it.
        Its idle time goes on from there, and it goes before what was used since.
        """
        ...

    async def touch(self, key: str) -> bool:
        """Restart the idle timer without reading the value: a tier above had a hit. Whether the key is here."""
        ...

    async def has(self, key: str) -> bool:
        """Whether the key is here; asking is no use of it."""
        ...

    async def mark_done(self, group: str, done: bool) -> None:
        """Hint that no client works on the image of these keys any more (or that one does again).

        ``group`` is what all keys of one image start with, as ``key.group_of`` gives it.
        """
        ...

    async def delete(self, pattern: str) -> int:
        """Purge all keys that match, where ``*`` stands for any run of characters. How many went."""
        ...

    async def drop_damaged(self, key: str) -> None:
        """Throw one entry away whose bytes turned out to be damaged, and count it so."""
        ...

    async def sweep(self) -> int:
        """Delete what was idle for too long or is too old; called now and then. How many went."""
        ...

    async def stats(self) -> StoreStats:
        """What is held, and what went for which reason."""
        ...

    async def aclose(self) -> None:
        """Write what is pending and give resources back."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """A tier that works on so many calls at the same time. More of them wait in this process, before they are calls."""

    at_once: int


@runtime_checkable
class Adjustable(Protocol):
    """A tier below memory whose limits can change while it is in use. What it has no say in, it ignores."""

    async def reconfigure(
        self,
        *,
        budget_bytes: int | None = None,
        idle_s: float | EllipsisType = ...,
        ranking: Ranking | None = None,
        uses: Sequence[tuple[str, float]] = (),
    ) -> None:
        """Change what is given; nothing goes but what the new limits force out.

        Args:
            budget_bytes: the new budget.
            idle_s: the new idle time.
            ranking: the new formula by which entries go.
            uses: keys and when memory had them used last, seconds since 1970: what is in use there is in use here.

        Raises:
            StoreFailed: it could not be done; trying again is safe.
        """
        ...


@runtime_checkable
class Choosy(Protocol):
    """A tier that refuses what is too large for it."""

    @property
    def largest(self) -> int | None:
        """Bytes of the largest value that is admitted; ``None`` where that is not known."""
        ...


@runtime_checkable
class Troubled(Protocol):
    """A tier that knows of a trouble which makes no request fail, such as a full disk."""

    trouble: str
    """What keeps the tier from taking values at present, in a sentence; empty where nothing does."""


@runtime_checkable
class Probed(Protocol):
    """A tier that can be asked whether it works; of another one, a key is asked for that it does not have."""

    async def probe(self) -> None:
        """Do what every request needs: write a little, and read.

        Raises:
            StoreFailed: that is not possible.
        """
        ...
