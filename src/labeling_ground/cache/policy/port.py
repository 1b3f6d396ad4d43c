"""The port of an eviction policy: which key is the next to go.

A policy knows keys, sizes and costs, never values, so a store and an offline simulator drive it
alike. The shipped policies are *rankings*: every entry carries one number and the smallest goes. A
ranking is a pure value without state, so that a tier that keeps its order elsewhere (the disk tier
keeps it in SQL) uses the very same formula.
"""

from enum import StrEnum
from typing import Protocol, runtime_checkable


class Reason(StrEnum):
    """Why an entry went: the words under which evictions are counted."""

    IDLE = "idle"
    AGE = "age"
    BUDGET = "budget"
    PURGE = "purge"
    DAMAGED = "damaged"


class Policy(Protocol):
    """Who goes next. ``now`` is seconds since 1970; keys that are not known are ignored."""

    def insert(self, key: str, size: int, cost: float, now: float) -> None:
        """A new key came in: ``size`` in bytes, ``cost`` in seconds that computing it took."""
        ...

    def hit(self, key: str, now: float) -> None:
        """The key was used. This takes a done hint back."""
        ...

    def mark(self, key: str, done: bool) -> None:
        """The done hint: nobody works on this key's image any more (or somebody does again)."""
        ...

    def remove(self, key: str) -> None:
        """The key went for a reason of its own: idle, age, purge, damaged."""
        ...

    def victim(self) -> str | None:
        """The next to go, which stays; ``None`` when there is nothing."""
        ...

    def evict(self) -> str | None:
        """Take out the next to go and learn from it; ``None`` when there is nothing."""
        ...


@runtime_checkable
class Ranking(Protocol):
    """A pure formula: the smallest ``rank`` goes, and the one unused for longest among equals.

    ``base`` is taken at insert and at every use and kept with the entry. ``rank`` follows from it
    at any time, so a done hint changes the weight of an entry without counting as a use of it.
    """

    @property
    def name(self) -> str:
        """The formula and its parameters; ranks under two names do not compare."""
        ...

    def base(self, floor: float, now: float) -> float:
        """Where an entry used at ``now`` starts.

        ``floor`` is the highest rank that was evicted so far.
        """
        ...

    def rank(self, base: float, size: int, cost: float, done: bool) -> float:
        """How much an entry of ``size`` bytes that cost ``cost`` seconds is worth keeping."""
        ...
