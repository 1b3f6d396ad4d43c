"""The port of an eviction policy: which entry is the next to go.

A policy knows sizes, costs and uses, never values, so a store and an offline simulator drive it alike. Most of the
shipped ones are *rankings*: every entry carries one number and the smallest goes. A ranking is a pure value without
state, so that a tier that keeps its order elsewhere (the disk tier keeps it in SQL) uses the very same formula.
"""

from enum import StrEnum
from typing import Optional, Protocol, runtime_checkable


class Reason(StrEnum):
    """Why an entry went: the words under which evictions are counted."""

    IDLE = "idle"
    AGE = "age"
    BUDGET = "budget"
    PURGE = "purge"
    DAMAGED = "damaged"

    __hash__ = str.__hash__  # an enum's own is a Python function, and every eviction is counted


class Item:
    """What a policy is told of an entry. The store keeps the facts up to date, and then tells the policy.

    Attributes:
        key: the entry's key.
        size: bytes.
        cost: seconds that computing it took.
        used: when it came in or was used last, in seconds of the store's clock.
        uses: how often it was used, its coming in counted; 0 if it came from a tier above and was not used here yet.
            Only then may ``used`` lie before the last use that the policy was told of.
        done: the done hint: nobody works on this key's image any more.
        floor, latest, turn, queued: the policy's own notes. They stand here so that an entry is one object.
    """

    __slots__ = ("cost", "done", "floor", "key", "latest", "queued", "size", "turn", "used", "uses")

    floor: float
    latest: float
    turn: int
    queued: Optional[tuple[float, int, "Item"]]  # noqa: UP045 -- «|» does not take a name in quotes

    def __init__(self, key: str, size: int, cost: float, used: float) -> None:
        self.key = key
        self.size = size
        self.cost = cost
        self.used = used
        self.uses = 1
        self.done = False

    def __lt__(self, other: "Item") -> bool:
        """Two notes of one item may stand in a heap: either may come first."""
        return False


@runtime_checkable
class Policy(Protocol):
    """Chooses the next entry to evict. An item that is not in is ignored, or is not told of."""

    @property
    def makes_room(self) -> bool:
        """Whether entries go for new ones. If not, a new one is refused while there is no room."""
        ...

    def insert(self, item: Item) -> None:
        """An entry came in."""
        ...

    def hit(self, item: Item) -> None:
        """It was used. ``done`` was taken back before, if it was set."""
        ...

    def mark(self, item: Item) -> None:
        """Its ``done`` has changed."""
        ...

    def remove(self, item: Item) -> None:
        """It went for a reason of its own: idle, age, purge, damaged."""
        ...

    def evict(self) -> Item | None:
        """Take out the next to go and learn from it; ``None`` when there is nothing."""
        ...


@runtime_checkable
class Ranking(Protocol):
    """A pure formula: the smallest ``rank`` goes, and the one unused for longest among equals.

    ``base`` is taken at insert and at every use and kept with the entry. ``rank`` follows from it at any time, so a
    done hint changes the weight of an entry without counting as a use of it. A use must never lower a rank: what a
    later ``base`` and one use more make of an entry is as high or higher.
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

    def rank(self, base: float, size: int, cost: float, done: bool, uses: int = 1) -> float:
        """How much an entry of ``size`` bytes that cost ``cost`` seconds and was used ``uses`` times is worth.

        The disk tier counts no uses, since it does not note all of them: there ``uses`` is always 1.
        """
        ...
