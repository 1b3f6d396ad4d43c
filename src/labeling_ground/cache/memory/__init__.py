"""The memory tier: a dict with a byte budget."""

from labeling_ground.cache.memory.entries import MemoryObserver
from labeling_ground.cache.memory.store import MemoryStore

__all__ = ["MemoryObserver", "MemoryStore"]
