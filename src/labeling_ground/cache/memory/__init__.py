"""The memory tier: a dict with a byte budget."""

from labeling_ground.cache.memory.store import MemoryObserver, MemoryStore

__all__ = ["MemoryObserver", "MemoryStore"]
