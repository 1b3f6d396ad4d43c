"""The memory tier: a dict with a byte budget."""

from labeling_ground.cache.memory.store import MemoryStore

__all__ = ["MemoryStore"]
