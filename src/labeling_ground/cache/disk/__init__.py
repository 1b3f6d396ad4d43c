"""The disk tier: survives a restart, shared by all processes of one machine. ``docs/decisions/0002-disk-tier.md``."""

from labeling_ground.cache.disk.store import DiskStore

__all__ = ["DiskStore"]
