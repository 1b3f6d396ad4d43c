"""One line of a trace: 68 bytes without any image, prompt or name in them.

Keys, images, models and tenants stand as digests. Who has an image can tell whether it was asked for; nobody can read
it out of a trace.
"""

from enum import IntEnum
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling_ground.types import Kind, Outcome


class What(IntEnum):
    """What happened."""

    ASKED = 1
    """Somebody asked for this key, and there was an answer."""
    PREFETCHED = 2
    """An image was sent ahead: its embedding was asked for, and nobody waited."""
    DONE = 3
    """The done hint: no client's current image is this one any more."""
    OPENED = 4
    """The done hint was taken back."""
    PURGED = 5
    """The image was purged; with ``image`` 0 all of its tenant's were, and with ``tenant`` 0 too everything."""
    COMPUTED = 6
    """A trunk was computed, which nobody asks for by itself: what it weighs and cost."""


EVENT = np.dtype(
    [
        ("time", "<f8"),  # seconds since 1970
        ("key", "<u8"),  # digest of the cache key; 0 where the event is an image's
        ("image", "<u8"),  # digest of tenant and image id: what the done hint and a purge speak of
        ("embedding", "<u8"),  # digest of what it needs when it is missing: a mask an embedding, detections a trunk
        ("parent", "<u8"),  # digest of the prediction that a mask refines, of the trunk that an embedding needs; or 0
        ("cost", "<f8"),  # seconds that computing this entry takes, without what it needs
        ("bytes", "<u4"),  # size of the entry
        ("beside", "<u4"),  # size of what is kept beside it: a mask's logits, an embedding's image file; 0: not known
        ("model", "<u4"),  # digest of the model's version
        ("tenant", "<u4"),
        ("what", "u1"),
        ("kind", "u1"),
        ("outcome", "u1"),
        ("spare", "u1"),
    ]
)
"""One event, little-endian, as it stands in the file."""

KINDS: tuple[Kind | None, ...] = (
    None,
    Kind.IMAGE,
    Kind.EMBEDDING,
    Kind.MASK,
    Kind.LOGITS,
    Kind.EVERYTHING,
    Kind.TRUNK,
    Kind.DETECTIONS,
)
"""The numbers of ``kind``; 0 where the event is an image's. New ones go to the end: traces are read for years."""
OUTCOMES: tuple[Outcome | None, ...] = (None, Outcome.HIT, Outcome.MISS, Outcome.JOINED, Outcome.RECOMPUTED)
"""The numbers of ``outcome``; 0 where nothing was asked."""

Events = NDArray[Any]
"""A structured array of ``EVENT``, in the order of time."""


def digest(text: str, size: int = 8) -> int:
    """The first ``size`` bytes of a name's BLAKE2b, as a number; never 0, which stands for «none»."""
    return int.from_bytes(blake2b(text.encode(), digest_size=size).digest(), "little") or 1
