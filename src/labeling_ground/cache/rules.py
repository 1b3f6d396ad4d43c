"""What the server and the replay of its traces must agree on."""

from dataclasses import replace

from labeling_ground.types import Entry, Kind

LONGEST_CHAIN = 16
"""So many predictions, each the mask input of the next, are computed again for one ask, and no more."""
_DEMOTED = frozenset({Kind.EMBEDDING, Kind.EVERYTHING, Kind.TRUNK, Kind.DETECTIONS})
"""A mask is computed again nearly as fast as it is read."""
_WORTH_READS = 10.0
"""So many times what reading it takes must a value have cost, to be written again below."""
_SENT_BYTES_S = 12.5e6
"""What a line of 100 Mbit/s carries in a second."""


def is_worth_demoting(entry: Entry, read_s: float) -> bool:
    """Whether what memory has no room for is worth a place in a tier where reading it takes so many seconds."""
    return entry.kind in _DEMOTED and entry.cost > _WORTH_READS * read_s


def weighed_in_memory(entry: Entry) -> Entry:
    """An entry with the cost by which the memory tier weighs it where it is the only tier.

    An image file bears its embedding's cost, so that below, where files are kept for embeddings that went, it outlives
    the embedding. In memory it would push out embeddings to spare a client from sending it again, so there it counts
    for what sending it takes.
    """
    return replace(entry, cost=entry.size / _SENT_BYTES_S) if entry.kind is Kind.IMAGE else entry
