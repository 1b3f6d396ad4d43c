"""Keys: a pure function of the data, the model version and the prompt, and of nothing else.

A key reads ``v1/{tenant}/{SHA-256 of the image file}/{kind}[/{model version}[~stretch-LOW-HIGH][/{digest}]]``, the last
part being that of the prompt (and ``~int8`` where the embedding was rounded to that: ``docs/decisions/0038``), of the
options or of the concept. What is made of a phrase alone has the phrase's digest
in place of the image's: ``v1/{tenant}/{SHA-256 of the phrase}/text/{model version}``. The leading ``v1`` names this
layout and its digest (SHA-256). No part holds ``/``, ``*`` or white space, so a key pattern needs no escaping.
"""

import hashlib
import re
import struct
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from labeling_ground.errors import BadPrompt
from labeling_ground.types import Box, Concept, EverythingOptions, Exemplar, Kind, ModelVersion, Point, Prompt, Stretch

LAYOUT = "v1"
PUBLIC = "public"
"""The tenant of everyone who needs no API key."""

STEP = 1 / 64
"""Coordinates are kept in steps of this many pixels: exact in float32, and far below what a click can mean."""


INT8 = "~int8"
"""What the prediction's digest ends with where its embedding was rounded to int8: another prediction of that prompt."""
_DIGITS = 64
_PERCENTILE = r"(?:0|[1-9][0-9]?|100)(?:\.[0-9]?[1-9])?"
IMAGE_ID = rf"[0-9a-f]{{64}}(?:~stretch-{_PERCENTILE}-{_PERCENTILE})?"
"""The form of an image id, as a regular expression."""


def image_id(data: bytes | bytearray | memoryview, stretch: Stretch | None = None) -> str:
    """SHA-256 of an image file's bytes, as 64 lower-case hex digits, and how the file is read: ``…~stretch-0.5-99.5``.

    A client can compute it too. Without a stretch it is the digest alone.
    """
    return stretched(hashlib.sha256(data).hexdigest(), stretch)


def stretched(digest: str, stretch: Stretch | None) -> str:
    """The image id of a file of this digest that is read with this stretch (to hundredths of a percent)."""
    if stretch is None:
        return digest
    return f"{digest}~stretch-{round(stretch.low, 2):g}-{round(stretch.high, 2):g}"


def stretch_of(image_id: str) -> Stretch | None:
    """The stretch that an image id names.

    Raises:
        BadInput: it names none that there could be.
    """
    reading = image_id[_DIGITS:]
    if not reading:
        return None
    low, high = reading.removeprefix("~stretch-").split("-")
    return Stretch(float(low), float(high))


def is_image_id(text: str) -> bool:
    """Whether a text has the form of an image id."""
    return re.fullmatch(IMAGE_ID, text) is not None


def tenant_of(api_key: str) -> str:
    """The namespace of one API key: 16 hex digits that do not give the key away."""
    return hashlib.sha256(b"labeling-ground tenant\0" + api_key.encode()).hexdigest()[:16]


def tenant_in(key: str) -> str:
    """The tenant that a key or a group belongs to; empty for a key of another form than ours."""
    parts = key.split("/", 2)
    return parts[1] if len(parts) == 3 else ""


@dataclass(frozen=True, slots=True)
class ImageKeys:
    """All keys of one image in one tenant's namespace.

    How a file is read is part of what is computed from it, and not of the file. So one file is kept, and forgotten with
    all that was computed from it, in however many ways it was read.
    """

    tenant: str
    image_id: str

    @property
    def group(self) -> str:
        """What all keys of this image's file start with."""
        return f"{LAYOUT}/{self.tenant}/{self.image_id[:_DIGITS]}/"

    def _by(self, version: ModelVersion) -> str:
        return f"{version}{self.image_id[_DIGITS:]}"

    @property
    def image(self) -> str:
        """Key of the image file."""
        return f"{self.group}{Kind.IMAGE}"

    def embedding(self, version: ModelVersion) -> str:
        """Key of the embedding by one model version."""
        return f"{self.group}{Kind.EMBEDDING}/{self._by(version)}"

    def mask(self, version: ModelVersion, prompt_digest: str) -> str:
        """Key of the masks and scores for one prompt."""
        return f"{self.group}{Kind.MASK}/{self._by(version)}/{prompt_digest}"

    def logits(self, version: ModelVersion, prompt_digest: str) -> str:
        """Key of the low-res logits for one prompt."""
        return f"{self.group}{Kind.LOGITS}/{self._by(version)}/{prompt_digest}"

    def everything(self, version: ModelVersion, options: EverythingOptions) -> str:
        """Key of all masks that a grid of points gives under these options."""
        return f"{self.group}{Kind.EVERYTHING}/{self._by(version)}/{options_digest(options)}"

    def trunk(self, version: ModelVersion) -> str:
        """Key of what a model with concepts computes of the image before anything is asked."""
        return f"{self.group}{Kind.TRUNK}/{self._by(version)}"

    def exemplars(self, version: ModelVersion, exemplars: tuple[Exemplar, ...]) -> str:
        """Key of what a model makes of canonical exemplars on the image."""
        digest = concept_digest(Concept(None, exemplars))
        return f"{self.group}{Kind.EXEMPLARS}/{self._by(version)}/{digest}"

    def detections(self, version: ModelVersion, concept_digest: str) -> str:
        """Key of all instances of a concept."""
        return f"{self.group}{Kind.DETECTIONS}/{self._by(version)}/{concept_digest}"


def text_key(tenant: str, version: ModelVersion, phrase: str) -> str:
    """Key of what a model makes of a canonical phrase, whatever the image: purging an image does not reach it."""
    digest = hashlib.sha256(b"labeling-ground phrase\0" + phrase.encode()).hexdigest()
    return f"{LAYOUT}/{tenant}/{digest}/{Kind.TEXT}/{version}"


def int8_of(embedding: str) -> str:
    """Key of an embedding in int8, from the key of the embedding that it was rounded from."""
    return embedding.replace(f"/{Kind.EMBEDDING}/", f"/{Kind.EMBEDDING_INT8}/", 1)


def model_in(embedding: str) -> str:
    """The id of the model that computed an embedding, from the embedding's key."""
    return embedding.split("/", 4)[4].split("@", 1)[0]


def group_of(key: str) -> str:
    """The group (tenant and image) that a key belongs to."""
    start = key.find("/", len(LAYOUT) + 1)
    return key[: key.find("/", start + 1) + 1]


def pattern(tenant: str | None = None, image_id: str | None = None, model: str | None = None) -> str:
    """The key pattern of a purge, where ``*`` stands for any run of characters.

    Args:
        tenant: one namespace, or all of them.
        image_id: one image, however it is read, or all of them.
        model: one model id in all its versions; images and other models' entries stay.
    """
    base = f"{LAYOUT}/{tenant or '*'}/{image_id[:_DIGITS] if image_id else '*'}/"
    return f"{base}*/{model}@*" if model else f"{base}*"


def canonical(
    points: Iterable[Point] = (),
    box: Box | None = None,
    mask_input: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None = None,
    *,
    multimask: bool = True,
    referred: bool = False,
) -> Prompt:
    """Bring a prompt into the one form that all prompts of the same meaning share.

    Points are sorted, coordinates snap to 1/64 pixel, ``-0.0`` is ``0.0``, a box drawn backwards is turned round.

    ``referred`` says that a mask input is named but not resolved yet, for a check before any work is done.

    Raises:
        BadPrompt: nothing to go by, a coordinate that is no finite number, a label other than 0 and 1, a box
            without area, or logits of another shape than 256 × 256.
    """
    settled = tuple(sorted(Point(_snap(p.x), _snap(p.y), p.label) for p in points))
    if any(p.label not in (0, 1) for p in settled):
        raise BadPrompt("A point's label is 1 (on the object) or 0 (off the object).")
    box = None if box is None else _canonical_box(box)
    if mask_input is not None:
        if mask_input.shape != (256, 256):
            raise BadPrompt("mask_input must hold 256 × 256 low-res logits.")
        with np.errstate(over="ignore"):
            mask_input = np.ascontiguousarray(mask_input, dtype=np.float32) + np.float32(0.0)  # a copy, without -0.0
        if not np.isfinite(mask_input).all():
            raise BadPrompt("mask_input holds a value that is not a finite number.")
    if box is None and mask_input is None and not referred and not any(p.label == 1 for p in settled):
        raise BadPrompt("The prompt is empty: give at least one point with label 1, a box, or a mask_input.")
    return Prompt(settled, box, mask_input, multimask)


def prompt_digest(prompt: Prompt) -> str:
    """Digest of a canonical prompt: 32 hex digits of SHA-256 over an unambiguous binary form."""
    hasher = hashlib.sha256(b"prompt 1\0")
    hasher.update(struct.pack("<?I", prompt.multimask, len(prompt.points)))
    for point in prompt.points:
        hasher.update(struct.pack("<ddB", point.x, point.y, point.label))
    if prompt.box is not None:
        hasher.update(b"box" + struct.pack("<4d", prompt.box.x0, prompt.box.y0, prompt.box.x1, prompt.box.y1))
    if prompt.mask_input is not None:
        hasher.update(b"mask" + prompt.mask_input.astype("<f4", copy=False).tobytes())
    return hasher.hexdigest()[:32]


def canonical_phrase(phrase: str) -> str:
    """The form that phrases of the same meaning to a model share: what CLIP's tokenizer makes of them itself.

    Lower case, Unicode NFC, runs of white space as one space, none at either end. Nothing else is taken for equal:
    not «screws» and «screw», not «café» and «cafe».

    Raises:
        BadPrompt: nothing is left, or it holds a character that is no text.
    """
    settled = " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", phrase).lower()).split())
    if not settled:
        raise BadPrompt('The phrase is empty: say in a word or two what to find, as in "screw".')
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in settled):
        raise BadPrompt("The phrase holds a control character, or one that is no Unicode text: leave it out.")
    return settled


def canonical_concept(phrase: str | None = None, exemplars: Iterable[Exemplar] = ()) -> Concept:
    """Bring a concept into the one form that all concepts of the same meaning share.

    The phrase as ``canonical_phrase`` says; exemplars are sorted, each counts once, their boxes snap to 1/64 pixel.

    Raises:
        BadPrompt: nothing to go by, a phrase that is none, or a box without area or that is both positive and negative.
    """
    each = {(_canonical_box(one.box), one.positive) for one in exemplars}
    settled = sorted((box.x0, box.y0, box.x1, box.y1, positive) for box, positive in each)
    if len({box for box, _ in each}) < len(each):
        raise BadPrompt("One exemplar's box is given as positive and as negative: leave one of the two out.")
    if phrase is None and not any(positive for _, positive in each):
        raise BadPrompt("The concept is empty: give a phrase in text, or at least one exemplar with positive true.")
    sorted_exemplars = tuple(Exemplar(Box(*corners), positive) for *corners, positive in settled)
    return Concept(None if phrase is None else canonical_phrase(phrase), sorted_exemplars)


def concept_digest(concept: Concept) -> str:
    """Digest of a canonical concept: 32 hex digits of SHA-256 over an unambiguous binary form."""
    text = b"" if concept.phrase is None else concept.phrase.encode()
    hasher = hashlib.sha256(b"concept 1\0" + struct.pack("<?Q", concept.phrase is not None, len(text)) + text)
    for one in concept.exemplars:
        hasher.update(struct.pack("<4d?", one.box.x0, one.box.y0, one.box.x1, one.box.y1, one.positive))
    return hasher.hexdigest()[:32]


def options_digest(options: EverythingOptions) -> str:
    """Digest of the options of «segment everything»: 32 hex digits of SHA-256 over an unambiguous binary form."""
    packed = struct.pack(
        "<QddddQ",
        options.points_per_side,
        options.pred_iou_thresh + 0.0,  # without -0.0
        options.stability_score_thresh + 0.0,
        options.stability_score_offset + 0.0,
        options.box_nms_thresh + 0.0,
        options.min_mask_region_area,
    )
    return hashlib.sha256(b"everything 1\0" + packed).hexdigest()[:32]


def _canonical_box(box: Box) -> Box:
    x0, x1 = sorted((_snap(box.x0), _snap(box.x1)))
    y0, y1 = sorted((_snap(box.y0), _snap(box.y1)))
    if x0 == x1 or y0 == y1:
        raise BadPrompt("The box has no area: give two opposite corners as [x0, y0, x1, y1].")
    return Box(x0, y0, x1, y1)


def _snap(value: float) -> float:
    if not -1e9 <= value <= 1e9:  # also true of a value that is not a number
        raise BadPrompt("A coordinate is not a finite number of pixels, or lies far outside any image.")
    return round(value / STEP) * STEP  # a whole number in between: -0.0 becomes 0.0


def matcher(pattern: str) -> Callable[[str], bool]:
    """A test for the keys that a pattern means."""
    if pattern.endswith("*") and "*" not in pattern[:-1]:
        prefix = pattern[:-1]
        return lambda key: key.startswith(prefix)
    expression = re.compile(".*".join(re.escape(part) for part in pattern.split("*")), re.DOTALL)
    return lambda key: expression.fullmatch(key) is not None
