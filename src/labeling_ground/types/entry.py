"""What a store keeps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What a cached value is."""

    IMAGE = "image"
    EMBEDDING = "embedding"
    EMBEDDING_INT8 = "embedding-int8"
    MASK = "mask"
    LOGITS = "logits"
    EVERYTHING = "everything"
    TRUNK = "trunk"
    TEXT = "text"
    EXEMPLARS = "exemplars"
    DETECTIONS = "detections"

    __hash__ = str.__hash__  # an enum's own is a Python function, and every entry is counted by its kind


COMPUTED = (
    Kind.EMBEDDING,
    Kind.MASK,
    Kind.EVERYTHING,
    Kind.TRUNK,
    Kind.TEXT,
    Kind.EXEMPLARS,
    Kind.DETECTIONS,
)
"""What is computed, each counted for itself. Logits come with a mask, and an image file from a client."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Entry:
    """A cached value. It never changes after it was written.

    Attributes:
        kind: what the value is.
        value: a sealed frame (``codec.frame``); it carries its own key and checksum.
        cost: seconds that computing the value took; what a hit saves.
        created: when it was computed, seconds since 1970 (wall clock: it must mean the same in every process).
    """

    kind: Kind
    value: bytes
    cost: float
    created: float

    @property
    def size(self) -> int:
        """Bytes that count against a tier's budget."""
        return len(self.value)


@dataclass(frozen=True, slots=True)
class Weight(Entry):
    """An entry without its bytes, for shadow caches and simulations: all that they ask is how many bytes they are."""

    size: int = 0


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What one tier holds and did.

    ``evictions`` counts by reason: ``idle``, ``age``, ``budget``, ``purge``, ``damaged``.
    """

    tier: str
    entries: int
    bytes: int
    budget: int
    oldest_created: float | None = None
    evictions: Mapping[str, int] = field(default_factory=dict)
    entries_by_kind: Mapping[str, int] = field(default_factory=dict)
    bytes_by_kind: Mapping[str, int] = field(default_factory=dict)
    answers: bool = True
    """Whether the tier told all this; if not, the numbers are unknown and stand at 0."""
    refused: int = 0
    """Values that were not admitted: larger than an eighth of the budget, or the server was full."""
