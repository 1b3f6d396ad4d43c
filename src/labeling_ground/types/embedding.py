"""The encoder's output for one image and one model version."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Embedding:
    """Named tensors, and the size of the image that they stand for.

    Attributes:
        tensors: by name; SAM 1 has one, ``image_embeddings`` of ``float32 [1, 256, 64, 64]``.
        height: rows of the original image, in pixels.
        width: columns of the original image, in pixels.
        digest: hex; embeddings of equal digest are equal to the bit, so an engine may keep one at hand under it. Empty
            for one that did not come out of the cache.
    """

    tensors: Mapping[str, NDArray[Any]]
    height: int
    width: int
    digest: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes that the tensors take in memory."""
        return sum(int(np.asarray(t).nbytes) for t in self.tensors.values())
