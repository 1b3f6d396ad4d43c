"""Requests, bound to what they are about; prompts, and where they may lie; what answers hold, as it was written."""

import dataclasses
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from labeling_ground.codec import mask as codec
from labeling_ground.codec import records
from labeling_ground.codec.records import CachedPrediction
from labeling_ground.errors import BadPrompt
from labeling_ground.key import INT8, STEP, ImageKeys, canonical, int8_of, prompt_digest
from labeling_ground.types import Box, Entry, EverythingOptions, Kind, ModelVersion, Outcome, Point, Prompt


@dataclass(frozen=True, slots=True)
class GivenMask:
    """A mask in the image's pixels to start from, as a client sent it: a gray PNG file, or COCO RLE.

    Attributes:
        width: of the mask, in pixels.
        height: of the mask.
        encoded: the PNG file, or the RLE's counts.
    """

    width: int
    height: int
    encoded: bytes | str

    def pixels(self) -> NDArray[np.bool_]:
        """The mask, ``bool [height, width]``.

        Raises:
            BadPrompt: it is malformed.
        """
        most = self.width * self.height
        if isinstance(self.encoded, bytes):
            return codec.from_png(self.encoded, max_pixels=most)
        return codec.from_rle([self.height, self.width], self.encoded, max_pixels=most)

    def check_size(self, width: int, height: int) -> None:
        """Refuse a mask of another size than the image.

        Raises:
            BadPrompt: it has another size.
        """
        if (self.width, self.height) != (width, height):
            raise BadPrompt(
                f"The mask_input is {self.width} × {self.height} pixels, and the image {width} × {height}. "
                "Send a mask of the image's own size."
            )


@dataclass(frozen=True, slots=True)
class PromptAsk:
    """A prompt as a client sends it, before it is canonical.

    ``mask_input`` is logits ``float32 [256, 256]``, a mask in the image's pixels, or a reference: an earlier
    prediction's id and the index of the candidate that is meant.
    """

    points: Sequence[Point] = ()
    box: Box | None = None
    mask_input: NDArray[np.float32] | GivenMask | tuple[str, int] | None = None
    multimask: bool = True
    _settled: tuple[Prompt, str] | None = field(default=None, init=False, repr=False, compare=False)

    def settled(self) -> tuple[Prompt, str] | None:
        """The prompt in canonical form and its digest, worked out once; ``None`` where these depend on an image or a
        model: its mask input is neither logits nor missing.

        Raises:
            BadPrompt: it makes no sense.
        """
        if self._settled is None and not isinstance(self.mask_input, tuple | GivenMask):
            prompt = canonical(self.points, self.box, self.mask_input, multimask=self.multimask)
            object.__setattr__(self, "_settled", (prompt, prompt_digest(prompt)))
        return self._settled


def check_point(point: Point, width: int, height: int) -> None:
    """Refuse a point outside the image.

    Raises:
        BadPrompt: it is outside.
    """
    if not (0 <= point.x < width and 0 <= point.y < height):
        raise BadPrompt(
            f"The point ({point.x:g}, {point.y:g}) is outside the image, which is {width} × {height} pixels. "
            "Coordinates are pixels of the original image, with (0, 0) at its top left."
        )


def check_box(box: Box, width: int, height: int) -> None:
    """Refuse a box that does not overlap the image. One that reaches over the edge is fine: it is cut off there.

    Raises:
        BadPrompt: no part of it is on the image.
    """
    x0, x1 = sorted((box.x0, box.x1))
    y0, y1 = sorted((box.y0, box.y1))
    if not (x0 < width and y0 < height and x1 > 0 and y1 > 0):
        raise BadPrompt(
            f"The box ({x0:g}, {y0:g})–({x1:g}, {y1:g}) is outside the image, which is {width} × {height} pixels."
        )


def fit(prompt: Prompt, width: int, height: int) -> Prompt:
    """The prompt as the decoder gets it: what snapping or a box's corners put beyond the image's edge is moved onto it.

    Raises:
        BadPrompt: a point lies outside the image, or all of the box does.
    """
    points = tuple(Point(_within(p.x, width), _within(p.y, height), p.label) for p in prompt.points)
    for point in points:
        check_point(point, width, height)
    prompt = dataclasses.replace(prompt, points=points)
    if prompt.box is None:
        return prompt
    check_box(prompt.box, width, height)
    return dataclasses.replace(prompt, box=clipped(prompt.box, width, height))


def clipped(box: Box, width: int, height: int) -> Box:
    """The part of a box that is on the image."""
    return Box(max(0.0, box.x0), max(0.0, box.y0), min(width, box.x1), min(height, box.y1))


def _within(coordinate: float, size: int) -> float:
    """A click in the last half step before the edge snaps onto the edge: it is taken back by one step."""
    return size - STEP if coordinate == size else coordinate


class OpenedPrediction:
    """A prediction read from its entry, and the texts that were written of it, by their form."""

    __slots__ = ("_grow", "_texts", "prediction")

    def __init__(self, prediction: CachedPrediction, grow: Callable[[int], None]) -> None:
        self.prediction = prediction
        self._texts: dict[str, bytes] = {}
        self._grow = grow

    def text(self, form: str, write: Callable[[CachedPrediction], bytes]) -> bytes:
        """The prediction in a form, written by ``write`` at the first time. For forms of about an entry's size."""
        found = self._texts.get(form)
        if found is None:
            found = self._texts[form] = write(self.prediction)
            self._grow(len(found))
        return found


class _Item:
    __slots__ = ("bytes", "entry", "opened")

    def __init__(self, entry: "weakref.ref[Entry]", opened: OpenedPrediction, size: int) -> None:
        self.entry = entry
        self.opened = opened
        self.bytes = size


class OpenedPredictions:
    """Opened predictions, least recently used first, bounded in bytes.

    Each stands for one entry object and goes after it, with the next that is opened: what memory has evicted, or a
    purge has deleted, does not stay here, and a prediction that was computed again is opened again.

    Args:
        most_bytes: of entries and texts, all together; 0: each is opened and written whenever it is asked for.
    """

    def __init__(self, most_bytes: int) -> None:
        self.bytes = 0
        """Bytes of the opened entries and their texts."""
        self._most_bytes = most_bytes
        self._items: OrderedDict[str, _Item] = OrderedDict()
        self._gone: deque[tuple[str, _Item]] = deque()
        """Those whose entry has gone, which may happen in any thread."""

    def __len__(self) -> int:
        return len(self._items)

    def open(self, key: str, entry: Entry) -> OpenedPrediction:
        """The prediction in an entry.

        Raises:
            DamagedEntry: the entry is something else.
        """
        while self._gone:
            self._forget(*self._gone.popleft())
        item = self._items.get(key)
        if item is not None and item.entry() is entry:
            self._items.move_to_end(key)
            return item.opened
        if item is not None:
            self._forget(key, item)
        prediction = records.open_prediction(entry, key)
        new: _Item

        def grow(size: int) -> None:
            if self._items.get(key) is new:
                new.bytes += size
                self.bytes += size
                self._make_room()

        new = _Item(
            weakref.ref(entry, lambda _: self._gone.append((key, new))), OpenedPrediction(prediction, grow), entry.size
        )
        self._items[key] = new
        self.bytes += new.bytes
        self._make_room()
        return new.opened

    def _make_room(self) -> None:
        while self.bytes > self._most_bytes:
            self._forget(*next(iter(self._items.items())))

    def _forget(self, key: str, item: _Item) -> None:
        if self._items.get(key) is item:
            del self._items[key]
            self.bytes -= item.bytes


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

    @property
    def embedding_int8(self) -> str:
        """Key of the image's embedding in int8."""
        return int8_of(self.embedding)

    def embedding_in(self, entry: Entry) -> str:
        """Key of the entry of an embedding, in full or in int8."""
        return self.embedding_int8 if entry.kind is Kind.EMBEDDING_INT8 else self.embedding

    @property
    def trunk(self) -> str:
        """Key of the image's trunk."""
        return self.keys.trunk(self.version)

    def detections(self, concept_digest: str) -> str:
        """Key of all instances of a concept."""
        return self.keys.detections(self.version, concept_digest)

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
    is_int8: bool = False
    """Whether its embedding is in memory in int8 only, so that the next clicks are answered from that."""


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

    @property
    def is_int8(self) -> bool:
        """Whether they were made of an embedding in int8."""
        return self.prediction_id.endswith(INT8)


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
    is_int8: bool = False
    """As in ``ImageAnswer``."""
