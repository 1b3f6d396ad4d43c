"""The values that travel between the parts. They import nothing of ours but the errors."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling_ground.errors import BadInput


class Priority(IntEnum):
    """How urgent a computation is; the smaller value goes first."""

    INTERACTIVE = 0
    """Somebody waits for it at a screen."""
    PREFETCH = 1
    """Somebody will probably want it soon."""
    JOB = 2
    """Work in bulk, which takes what the others leave."""

    @property
    def label(self) -> str:
        """The name in headers, answers and metrics."""
        return self.name.lower()


class Outcome(StrEnum):
    """The four outcomes of a look-up, from the cheapest to the dearest."""

    HIT = "hit"
    """It was in the cache."""
    JOINED = "joined"
    """Another asker's computation was under way, and this ask waited for it."""
    RECOMPUTED = "recomputed"
    """It had been evicted and was computed again, from an image that was kept."""
    MISS = "miss"
    """It was computed for this ask."""

    __hash__ = str.__hash__  # an enum's own is a Python function, and every look-up is counted by its outcome


MODEL_VERSION = r"^([a-z0-9][a-z0-9.-]{0,63})@([0-9a-f]{16,128})$"
"""A model id and a whole digest. Keys have the digest's first 16 digits: of another text these would tell nothing."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """Identity of a model: part of every key, so that a prediction of another version is never served.

    Attributes:
        model: the model id, a short name of the catalogue such as ``sam-vit-h``; see ``MODEL_VERSION``.
        digest: hex digest over the weight files (or the algorithm), the preprocessing version and the precision.
    """

    model: str
    digest: str

    def __str__(self) -> str:
        """``model@digest``: what ``model_version`` is in answers and in keys."""
        return f"{self.model}@{self.digest[:16]}"


@dataclass(frozen=True, slots=True)
class Stretch:
    """Two percentiles (0 ≤ low < high ≤ 100) between which an image's values are spread over the full range.

    What lies at or below the low one becomes black, at or above the high one white, in all channels alike.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise BadInput(
                f"stretch={self.low:g},{self.high:g} names no two percentiles: give the lower one first, both from 0 "
                "to 100, as in stretch=0.5,99.5."
            )


@dataclass(frozen=True, slots=True)
class Image:
    """What an encoder is given.

    Attributes:
        id: its image id (``key.image_id``).
        pixels: ``uint8 [height, width, 3]``, RGB, upright (EXIF orientation applied).
        note: what a person should know of how the file was read; empty where there is nothing to say.
        use_preview: whether a browser may draw the file in another way than it was read.
    """

    id: str
    pixels: NDArray[np.uint8]
    note: str = ""
    use_preview: bool = False

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return int(self.pixels.shape[1])


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is remembered of an image without its pixels; the fields are those of ``Image``."""

    width: int
    height: int
    note: str = ""
    use_preview: bool = False


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


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One click.

    Attributes:
        x: column in pixels of the original image, 0 ≤ x < width.
        y: row in pixels of the original image, 0 ≤ y < height.
        label: 1 on the object (positive), 0 off it (negative).
    """

    x: float
    y: float
    label: int


@dataclass(frozen=True, slots=True)
class Box:
    """A box in pixels of the original image, ``x0 < x1`` and ``y0 < y1``."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True)
class Prompt:
    """One object's prompt, in canonical form (``key.canonical`` makes it): the order of clicks is not part of it.

    Attributes:
        points: sorted; may be empty when there is a box or a mask input.
        box: at most one.
        mask_input: low-res logits ``float32 [256, 256]`` of an earlier prediction: positive on the object,
            negative off it, 0 on its edge. They cover the model's input frame (``sam/`` says how that frame
            lies over the image), not the image.
        multimask: whether up to three nested candidates are wanted, or the single best mask.
    """

    points: tuple[Point, ...] = ()
    box: Box | None = None
    mask_input: NDArray[np.float32] | None = None
    multimask: bool = True


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A box around one object, as an example.

    Attributes:
        box: in pixels of the original image.
        positive: whether objects like this one are meant; if not, what is like it is left out.
    """

    box: Box
    positive: bool = True


@dataclass(frozen=True, slots=True)
class Concept:
    """A phrase, exemplars of the same image, or both, in canonical form (``key.canonical_concept`` makes it).

    Attributes:
        phrase: lower-case Unicode NFC with single spaces; ``None`` where exemplars alone say what is meant.
        exemplars: sorted, their boxes in steps of 1/64 pixel; with no phrase at least one of them is positive.
    """

    phrase: str | None = None
    exemplars: tuple[Exemplar, ...] = ()


@dataclass(frozen=True, slots=True)
class Instance:
    """One object that a concept stands for. It is painted when its mask is asked for: hundreds in full size are GBs.

    Attributes:
        score: the model's own guess that this is such an object, 0..1.
        box: around it, in pixels of the original image, within it.
        draw: paints the mask, ``bool [height, width]`` in the original image's size. Blocking; may be called in any
            thread, and depends on nothing that changes.
    """

    score: float
    box: Box
    draw: Callable[[], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True)
class Detections:
    """All instances of one concept in one image, the best one first (scores never rise along the tuple)."""

    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class EverythingOptions:
    """The grid, and which of the masks found on it are kept. Names are the reference implementation's.

    Attributes:
        points_per_side: the grid has so many points along each side of the image.
        pred_iou_thresh: least score of a mask, 0..1; it must be above this. 0 lets all pass.
        stability_score_thresh: least stability of a mask, 0..1. 0 lets all pass.
        stability_score_offset: by so much the threshold on logits is moved up and down to measure the stability.
        box_nms_thresh: of two masks whose boxes have a larger IoU than this, the better-scored one is kept.
        min_mask_region_area: holes and islands of fewer pixels are filled and removed; 0 leaves masks as they are.
    """

    points_per_side: int = 32
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    min_mask_region_area: int = 0


@dataclass(frozen=True, slots=True)
class Mask:
    """One candidate.

    Attributes:
        pixels: ``bool [height, width]`` in the original image's size.
        score: the model's own guess of the mask's IoU, in 0..1.
        logits: low-res logits ``float32 [256, 256]``, positive inside; what ``Prompt.mask_input`` takes.
        within: a box (x, y, width, height, in pixels) outside of which no pixel belongs to the object, where its maker
            knows one: then nobody need look at the rest of a large image.
    """

    pixels: NDArray[np.bool_]
    score: float
    logits: NDArray[np.float32]
    within: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """One to three candidates for one prompt, the best one first (scores never rise along the tuple)."""

    masks: tuple[Mask, ...]


class Kind(StrEnum):
    """What a cached value is."""

    IMAGE = "image"
    EMBEDDING = "embedding"
    EMBEDDING_INT8 = "embedding-int8"
    MASK = "mask"
    LOGITS = "logits"
    EVERYTHING = "everything"
    TRUNK = "trunk"
    TEXT = "text"
    EXEMPLARS = "exemplars"
    DETECTIONS = "detections"

    __hash__ = str.__hash__  # an enum's own is a Python function, and every entry is counted by its kind


COMPUTED = (
    Kind.EMBEDDING,
    Kind.MASK,
    Kind.EVERYTHING,
    Kind.TRUNK,
    Kind.TEXT,
    Kind.EXEMPLARS,
    Kind.DETECTIONS,
)
"""What is computed, each counted for itself. Logits come with a mask, and an image file from a client."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Entry:
    """A cached value. It never changes after it was written.

    Attributes:
        kind: what the value is.
        value: a sealed frame (``codec.frame``); it carries its own key and checksum.
        cost: seconds that computing the value took; what a hit saves.
        created: when it was computed, seconds since 1970 (wall clock: it must mean the same in every process).
    """

    kind: Kind
    value: bytes
    cost: float
    created: float

    @property
    def size(self) -> int:
        """Bytes that count against a tier's budget."""
        return len(self.value)


@dataclass(frozen=True, slots=True)
class Weight(Entry):
    """An entry without its bytes, for shadow caches and simulations: all that they ask is how many bytes they are."""

    size: int = 0


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What one tier holds and did.

    ``evictions`` counts by reason: ``idle``, ``age``, ``budget``, ``purge``, ``damaged``.
    """

    tier: str
    entries: int
    bytes: int
    budget: int
    oldest_created: float | None = None
    evictions: Mapping[str, int] = field(default_factory=dict)
    entries_by_kind: Mapping[str, int] = field(default_factory=dict)
    bytes_by_kind: Mapping[str, int] = field(default_factory=dict)
    answers: bool = True
    """Whether the tier told all this; if not, the numbers are unknown and stand at 0."""
    refused: int = 0
    """Values that were not admitted: larger than an eighth of the budget, or the server was full."""
