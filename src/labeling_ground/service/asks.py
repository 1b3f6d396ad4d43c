"""One request, bound to what it is about; and what its answers hold."""

from dataclasses import dataclass, field
from functools import lru_cache

from labeling_ground.codec.records import CachedPrediction
from labeling_ground.key import ImageKeys
from labeling_ground.service.opened import OpenedPrediction
from labeling_ground.types import EverythingOptions, ModelVersion, Outcome


@lru_cache(maxsize=1024)
def bind(tenant: str, image_id: str, version: ModelVersion, model_note: str) -> "Ask":
    """The ask of a tenant about an image, its keys computed; the same one for requests that follow each other."""
    return Ask(ImageKeys(tenant, image_id), version, model_note)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request's tenant and image, and the model version that answers it, bound once, at its beginning.

    The backend may change its model while a request is under way. All keys of the request come from here, and so does
    the version in its answer: an answer names the version that made it.

    Attributes:
        keys: tenant and image.
        version: the model version that was served when the request began.
        model_note: what to know of that model's answers; empty where there is nothing to say.
        image: key of the image file.
        embedding: key of the image's embedding.
        masks: what the keys of masks start with; the digest of the prompt follows.
    """

    keys: ImageKeys
    version: ModelVersion
    model_note: str
    image: str = field(init=False, compare=False)
    embedding: str = field(init=False, compare=False)
    masks: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Compute the keys that every request needs."""
        object.__setattr__(self, "image", self.keys.image)
        object.__setattr__(self, "embedding", self.keys.embedding(self.version))
        object.__setattr__(self, "masks", self.keys.mask(self.version, ""))

    def mask(self, prompt_digest: str) -> str:
        """Key of the masks and scores for one prompt."""
        return self.masks + prompt_digest

    def logits(self, prompt_digest: str) -> str:
        """Key of the low-res logits for one prompt."""
        return self.keys.logits(self.version, prompt_digest)

    def everything(self, options: EverythingOptions) -> str:
        """Key of all masks that a grid of points gives under these options."""
        return self.keys.everything(self.version, options)


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one ask went, in seconds; ``None`` for what did not happen."""

    lookup: float | None = None
    encode: float | None = None
    decode: float | None = None

    @property
    def total(self) -> float:
        """From the ask to the answer."""
        return (self.lookup or 0.0) + (self.encode or 0.0) + (self.decode or 0.0)

    def within(self, total_s: float) -> "Timing":
        """The same, with the rest of ``total_s``, which was neither encoding nor decoding, as the look-up's (and the
        queue's) time."""
        spent = (self.encode or 0.0) + (self.decode or 0.0)
        return Timing(max(0.0, total_s - spent), self.encode, self.decode)


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """What an ask for an embedding came to."""

    image_id: str
    width: int
    height: int
    outcome: Outcome
    version: ModelVersion
    timing: Timing
    note: str = ""
    """What to know of how the image was read; empty where there is nothing to say."""
    use_preview: bool = False
    """Whether a browser may draw the file in another way than it was read."""
    model_note: str = ""
    """What to know of the model's answers."""


@dataclass(frozen=True, slots=True)
class PrefetchAnswer:
    """What became of a prefetch: whether the image is queued, or was encoded already."""

    queued: bool
    version: ModelVersion
    model_note: str


@dataclass(frozen=True, slots=True)
class MaskAnswer:
    """What one prompt came to. ``prediction_id`` names it as a mask input of later prompts."""

    opened: OpenedPrediction
    prediction_id: str
    outcome: Outcome
    version: ModelVersion
    timing: Timing
    model_note: str = ""

    @property
    def prediction(self) -> CachedPrediction:
        """The masks and scores."""
        return self.opened.prediction


@dataclass(frozen=True, slots=True)
class ImageState:
    """What is known of an image."""

    image_id: str
    width: int
    height: int
    encoded: bool
    version: ModelVersion
    encoding: bool = False
    """Whether it is being encoded here, or waits for its turn."""
    place: int | None = None
    """Where it waits in the encoder's queue: 1 is the next; ``None`` where it does not wait."""
    seconds_expected: float | None = None
    """After so many it is probably encoded; ``None`` where it is not under way, or nothing was measured yet."""
    note: str = ""
    use_preview: bool = False
    """As in ``ImageAnswer``; not known in full before the image is encoded."""
    model_note: str = ""
