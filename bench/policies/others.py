"""The same policies as somebody else wrote them: libcachesim, where it is installed; GPL, so never a dependency."""

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

from bench.policies.public import Access

NAMES = {"lru": "LRU", "lfu": "LFU", "s3fifo": "S3FIFO", "gdsf": "GDSF"}
"""Our short name → theirs. Their GDSF knows no cost."""


def is_here() -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec("libcachesim") is not None


def hits(policy: str, trace: Sequence[Access], budget: int) -> int:
    """Look-ups that hit, with their implementation."""
    theirs: Any = importlib.import_module("libcachesim")
    cache = getattr(theirs, NAMES[policy])(cache_size=budget)
    request = theirs.Request()
    found = 0
    for time, access in enumerate(trace):
        request.clock_time = time // 1000  # within their greatest age
        request.obj_id = access.key
        request.obj_size = access.size
        found += bool(cache.get(request))
    return found
