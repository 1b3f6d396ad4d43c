"""A second model for a server whose page has a choice."""

from labeling_ground.testing.toy_backend import ToyBackend
from labeling_ground.types import ModelVersion


def make(*, encode_threads: int, decode_threads: int) -> ToyBackend:
    """A factory as users write it."""
    return ToyBackend(ModelVersion("second", "2" * 64))
