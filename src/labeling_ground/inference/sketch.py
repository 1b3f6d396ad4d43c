"""Candidates that are judged before they are drawn: what «segment everything» asks of an engine.

A click wants its masks at once, in full. A grid of a thousand clicks makes three thousand masks, of which a hundred
are kept, and painting one in the image's full size costs more than finding out that its score is too low. So an engine
may offer ``sketch`` beside the ``Backend`` port; one that does not is asked through ``decode``, which is right, only
dearer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from labeling_ground.inference.backend import Backend, DecodeAsk
from labeling_ground.sam.everything import USUAL, stability
from labeling_ground.sam.family import Family
from labeling_ground.types import EverythingOptions, Mask


class Sketch(Protocol):
    """A candidate for one prompt that was not drawn yet."""

    @property
    def score(self) -> float:
        """The model's own guess of the mask's IoU; may lie a little above 1."""
        ...

    @property
    def likeness(self) -> bytes | None:
        """Sketches of one image with equal likeness draw the same mask; ``None`` where that is not known."""
        ...

    def draw(self, offset: float) -> tuple[NDArray[np.bool_], float]:
        """Paint the mask; blocking, and may be called in any thread.

        Args:
            offset: by how much the threshold on logits is moved to measure the stability.

        Returns:
            ``bool [height, width]``, and the stability: 0..1, the share of its area that moving the threshold leaves.
        """
        ...


@runtime_checkable
class Sketcher(Protocol):
    """What an engine offers beside the port. Like the port's calls, ``sketch`` must not block the event loop."""

    usual: EverythingOptions
    """What «segment everything» is asked with where the caller does not say: scores differ in meaning by family."""

    async def sketch(self, asks: Sequence[DecodeAsk]) -> list[list[Sketch]]:
        """Up to three candidates for each pair of an embedding and a prompt, in any order that does not change.

        Raises:
            BackendFailed: the engine failed, or the embedding is not one of this model's.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Painted:
    """A mask that came painted. Its stability is measured on its low-res logits, as others are not at hand."""

    mask: Mask
    likeness: bytes | None = None

    @property
    def score(self) -> float:
        return self.mask.score

    def draw(self, offset: float) -> tuple[NDArray[np.bool_], float]:
        return self.mask.pixels, stability(self.mask.logits, offset)


class Painter:
    """Makes a ``Sketcher`` of a backend that offers none."""

    usual = USUAL[Family.SAM]

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def sketch(self, asks: Sequence[DecodeAsk]) -> list[list[Sketch]]:
        """See ``Sketcher``."""
        predictions = await self._backend.decode(asks)
        return [[_Painted(mask) for mask in prediction.masks] for prediction in predictions]


def sketcher_of(backend: Backend) -> Sketcher:
    """What asks this backend for sketches."""
    return backend if isinstance(backend, Sketcher) else Painter(backend)
