"""Named tensors as safetensors, the form in which they travel to clients and between servers."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from labeling_ground.errors import BadInput
from labeling_ground.types import Embedding


def pack(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """Write tensors, and words along with them. Numbers keep their type."""
    ours = {
        name: np.ascontiguousarray(tensor, dtype=tensor.dtype.newbyteorder("=")) for name, tensor in tensors.items()
    }
    return safetensors.numpy.save(ours, metadata=dict(metadata))


def unpack(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read what ``pack`` wrote.

    Raises:
        BadInput: no safetensors, truncated or inconsistent.
    """
    try:
        return safetensors.numpy.load(data), _metadata(data)
    except MemoryError:
        raise
    except Exception as error:  # the package has no list of what hostile bytes make it raise
        raise BadInput(f"This is not a whole safetensors file: {error}.") from error


def to_safetensors(embedding: Embedding, *, metadata: Mapping[str, str]) -> bytes:
    """Pack an embedding; the image's size goes into the metadata.

    Args:
        embedding: what to pack.
        metadata: more to send along, such as the model version. ``height`` and ``width`` are ours.
    """
    size = {"height": str(embedding.height), "width": str(embedding.width)}
    return pack(embedding.tensors, {**metadata, **size})


def _metadata(data: bytes) -> dict[str, str]:
    """The free part of the header, which the package reads from files on disk only."""
    length = int.from_bytes(data[:8], "little")
    return dict(json.loads(data[8 : 8 + length]).get("__metadata__") or {})
