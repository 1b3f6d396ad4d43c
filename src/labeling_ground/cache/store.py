"""The port behind which every tier stands."""

from typing import Protocol

from labeling_ground.types import Entry, StoreStats


class Store(Protocol):
    """Bytes in, bytes out; a miss is ``None``.

    A value is immutable and belongs to its key for ever, so writing a key that is there already is no error and may
    be skipped. Every store is bounded in bytes, forgets what was not used for its idle time, and raises
    ``StoreFailed`` when it cannot do its work: whoever calls treats that as a miss.
    """

    name: str
    """Short name in figures and logs: ``memory``, ``disk``, ``redis``."""

    async def get(self, key: str) -> Entry | None:
        """The entry, or ``None``. A hit slides the idle timer."""
        ...

    async def put(self, key: str, entry: Entry) -> None:
        """Keep the entry, making room first. An entry above an eighth of the budget is not admitted."""
        ...

    async def touch(self, key: str) -> bool:
        """Slide the idle timer without reading the value: a tier above had a hit. Whether the key is here."""
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
