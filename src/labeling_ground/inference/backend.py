"""The port behind which every engine stands."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from labeling_ground.sam.geometry import Frame, longest_side
from labeling_ground.types import Detections, Embedding, Exemplar, Image, ModelVersion, Prediction, Priority, Prompt

DecodeAsk = tuple[Embedding, Prompt]
"""One thing to decode: what is asked of which image."""

Tensors = Mapping[str, NDArray[Any]]
"""What a model makes of a phrase, or of exemplars: named tensors, which may be kept in half precision."""
ExemplarsAsk = tuple[Embedding, tuple[Exemplar, ...]]
"""Canonical exemplars, and the trunk of the image that they lie on."""
DetectAsk = tuple[Embedding, Tensors | None, Tensors | None]
"""A trunk, and what the model made of a phrase and of exemplars; one of the two may be missing."""
FLOOR_SCORE = 0.05
"""Instances of a lower score are not found: everything above is, and who answers leaves out what was not asked for."""


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """How many asks one half of a model computes together with a gain. 1 where a batch takes as long as its members.

    Attributes:
        interactive: most asks of people in one call.
        background: most prefetches, or jobs, in one call.
    """

    interactive: int = 1
    background: int = 1

    def of(self, priority: Priority) -> int:
        """Most asks of this class in one call."""
        return self.interactive if priority is Priority.INTERACTIVE else self.background

    def at_most(self, interactive: int, background: int) -> "BatchSizes":
        """The same, within these bounds."""
        return BatchSizes(min(self.interactive, interactive), min(self.background, background))


ALONE = BatchSizes()
"""Of an engine that computes each ask for itself."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a backend says of the model that it serves now.

    Attributes:
        version: which model; part of every key.
        note: a sentence for every answer where the model's quality needs one; empty for a real SAM.
        capabilities: what a prompt may hold: of ``points``, ``box``, ``mask``, ``text`` and ``exemplars``.
        embedding_bytes: what one embedding takes in the cache, at most; 0 where that is not known.
        encode_batch: how many images are encoded together.
        decode_batch: how many prompts, also of different images, are decoded together.
        detect_batch: how many concepts, also on different images, are looked for together.
        encodes_at_once: calls of ``encode`` that the engine works on side by side; ``None``: as many as it is sent.
        decodes_at_once: the same for ``decode``.
        precision: in which it computes: ``fp32``, ``bf16``, …; empty where that was not said.
        frame: how the square that low-res logits cover lies over an image of this many rows and columns.
    """

    version: ModelVersion
    note: str = ""
    capabilities: tuple[str, ...] = ("points", "box", "mask")
    embedding_bytes: int = 0
    encode_batch: BatchSizes = ALONE
    decode_batch: BatchSizes = ALONE
    detect_batch: BatchSizes = ALONE
    encodes_at_once: int | None = None
    decodes_at_once: int | None = None
    precision: str = ""
    frame: Callable[[int, int], Frame] = longest_side


class Backend(Protocol):
    """One model, served by one engine.

    Both calls may run at any time and side by side, must not block the event loop, and depend on their arguments
    only: an embedding is a value, never a state that the engine keeps. They take any number of asks, answer them in
    their order, and give each what it would get alone. They raise ``BackendFailed`` (or an ``Overloaded`` from a remote
    engine), never return half a result, and treat cancellation as «no longer wanted». Where one ask of several cannot
    be answered the whole call raises; the caller asks the others again.
    """

    @property
    def info(self) -> ModelInfo:
        """What is served now; a backend in another process may change its model."""
        ...

    async def encode(self, images: Sequence[Image]) -> list[Embedding]:
        """The costly half: one embedding for each image, in their order, which depends on the image only."""
        ...

    async def decode(self, asks: Sequence[DecodeAsk]) -> list[Prediction]:
        """The cheap half: one prediction for each pair of an embedding and a prompt, in their order.

        An embedding may come out of the cache, where its floats were kept in half precision.
        """
        ...

    async def aclose(self) -> None:
        """Give threads, devices and connections back."""
        ...


@runtime_checkable
class ConceptBackend(Backend, Protocol):
    """A model that finds all instances of a concept, too. What the port says of its calls holds for these.

    The costly half is cut in two. The *trunk* is computed from the image alone; from it come the *embedding* that
    prompts are decoded with, and, together with a phrase's or exemplars' tensors, the instances. No prompt and no
    concept changes a trunk, an embedding or tensors: all are values that are stored, and shared by all who ask.

    ``encode`` of such a model is ``trunk``, then ``embed``. Its ``info.capabilities`` name ``text`` or ``exemplars``,
    or both.
    """

    async def trunk(self, images: Sequence[Image]) -> list[Embedding]:
        """What everything else is computed from: one for each image, in their order, with a tensor ``trunk``."""
        ...

    async def embed(self, trunks: Sequence[Embedding]) -> list[Embedding]:
        """The embeddings for ``decode``, one for each trunk, in their order."""
        ...

    async def texts(self, phrases: Sequence[str]) -> list[Tensors]:
        """Tensors of canonical phrases, in their order, which depend on no image.

        Raises:
            BadPrompt: a phrase is longer than the model takes.
        """
        ...

    async def exemplars(self, asks: Sequence[ExemplarsAsk]) -> list[Tensors]:
        """Tensors of exemplars on their images, in the asks' order. Boxes lie on the image, at least in part."""
        ...

    async def detect(self, asks: Sequence[DetectAsk]) -> list[Detections]:
        """All instances that score at least ``FLOOR_SCORE``, of each ask, in their order."""
        ...


def concepts_of(backend: Backend) -> ConceptBackend | None:
    """The backend as one that finds concepts; ``None`` if it finds none."""
    return backend if isinstance(backend, ConceptBackend) else None


def takes_text(backend: Backend) -> bool:
    """Whether the backend finds what a phrase names."""
    return isinstance(backend, ConceptBackend) and "text" in backend.info.capabilities
