"""What became of a look-up."""

from enum import StrEnum


class Outcome(StrEnum):
    """The four outcomes of a look-up, from the cheapest to the dearest."""

    HIT = "hit"
    """It was in the cache."""
    JOINED = "joined"
    """Another asker's computation was under way, and this ask waited for it."""
    RECOMPUTED = "recomputed"
    """It had been evicted and was computed again, from an image that was kept."""
    MISS = "miss"
    """It was computed for this ask."""

    __hash__ = str.__hash__  # an enum's own is a Python function, and every look-up is counted by its outcome
