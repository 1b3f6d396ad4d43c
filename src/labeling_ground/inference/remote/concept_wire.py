"""What is asked of an engine that finds concepts, beside what ``wire`` has: bytes ↔ values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling_ground.codec.tensors import pack, unpack
from labeling_ground.errors import BadInput
from labeling_ground.inference.concepts import Detected
from labeling_ground.inference.remote import envelope, wire
from labeling_ground.inference.remote.checks import floats, logits_of, of_image, only, take
from labeling_ground.sam.family import Family
from labeling_ground.types import Box, Exemplar, ModelVersion, Priority

MOST_EXEMPLARS = 1000
"""Boxes in one ask."""
MOST_LETTERS = 20_000
"""Of a phrase. What the model reads of it, the engine says."""


class Wanted(StrEnum):
    """What is made of a trunk."""

    EMBED = "embed"
    """The embedding that clicks are decoded with."""
    EXEMPLARS = "exemplars"
    """The tensors of exemplars."""
    DETECT = "detect"
    """All instances."""


ASKS = frozenset({"text", *Wanted})
"""Asks that wait in a queue of their own: each takes many times as long as a click."""


@dataclass(frozen=True, slots=True)
class Text:
    """«What are this phrase's tensors?»."""

    version: ModelVersion
    phrase: str


@dataclass(frozen=True, slots=True)
class OfTrunk:
    """What is asked of an image's trunk.

    Attributes:
        version: the model that the proxy expects.
        key: of the trunk; equal keys mean equal trunks of the same model.
        wanted: what is made of it.
        height: rows of the image.
        width: its columns.
        exemplars: where their tensors are wanted; boxes in pixels of the image.
        text: a phrase's tensor, ``[tokens, 256]``, where it is looked for.
        shown: that of exemplars, likewise.
        embedding: the trunk, ``float16`` or ``float32``; ``None`` where the engine is thought to have it.
    """

    version: ModelVersion
    key: str
    wanted: Wanted
    height: int
    width: int
    exemplars: tuple[Exemplar, ...] = ()
    text: NDArray[Any] | None = None
    shown: NDArray[Any] | None = None
    embedding: Mapping[str, NDArray[Any]] | None = None


Ask = wire.Ask | Text | OfTrunk


def write_ask(ask: Ask, priority: Priority = Priority.INTERACTIVE) -> bytes:
    """Any ask as bytes, of this class."""
    if not isinstance(ask, Text | OfTrunk):
        return wire.write_ask(ask, priority)
    words = {
        "protocol": wire.CONCEPT_PROTOCOL,
        "model_version": wire.version_text(ask.version),
        "priority": priority.label,
    }
    if isinstance(ask, Text):
        return pack({}, {**words, "ask": "text", "phrase": ask.phrase})
    tensors = dict(ask.embedding or {})
    if ask.exemplars:
        boxes = [(one.box.x0, one.box.y0, one.box.x1, one.box.y1) for one in ask.exemplars]
        tensors["boxes"] = np.array(boxes, np.float64)
        tensors["positive"] = np.array([one.positive for one in ask.exemplars], np.uint8)
    parts = {"text": ask.text, "exemplars": ask.shown}
    tensors |= {name: tensor for name, tensor in parts.items() if tensor is not None}
    size = {"height": str(ask.height), "width": str(ask.width)}
    return pack(tensors, {**words, **size, "ask": ask.wanted.value, "embedding": ask.key})


def read_ask(data: bytes, family: Family) -> Ask:
    """Any ask, checked; see ``wire.read_ask``.

    Raises:
        BadInput: it cannot be read, or does not suit a model of this family.
    """
    if not family.finds_concepts or envelope.read_head(data).ask not in ASKS:
        return wire.read_ask(data, family)
    tensors, words = unpack(data)
    wire.check_protocol(words, family)
    version = wire.read_version(words)
    if words["ask"] == "text":
        only(tensors, set())
        phrase = words.get("phrase", "")
        if not 0 < len(phrase) <= MOST_LETTERS:
            raise BadInput(f"A phrase has 1 to {MOST_LETTERS} letters, not {len(phrase)}.")
        return Text(version, phrase)
    wanted, key = Wanted(words["ask"]), wire.read_key(words)
    height, width = (_length(words, name) for name in ("height", "width"))
    trunk = of_image(tensors, family, family.trunk_shapes) if set(tensors) & set(family.trunk_shapes) else None
    given = {Wanted.EXEMPLARS: {"boxes", "positive"}, Wanted.DETECT: {"text", "exemplars"}}.get(wanted, set())
    only(tensors, {*family.trunk_shapes, *given})
    exemplars = _exemplars(tensors) if wanted is Wanted.EXEMPLARS else ()
    text, shown = (
        _concept(tensors, name) if name in tensors and wanted is Wanted.DETECT else None
        for name in ("text", "exemplars")
    )
    if wanted is Wanted.DETECT and text is None and shown is None:
        raise BadInput("There is neither a phrase nor an exemplar to look for.")
    return OfTrunk(version, key, wanted, height, width, exemplars, text, shown, trunk)


def detected(tensors: Mapping[str, NDArray[Any]], family: Family) -> Detected:
    """What the tensors of the answer to «detect» say, checked.

    Raises:
        BadInput: they are not such.
    """
    only(tensors, {"scores", "boxes", "logits"})
    scores = floats(tensors, "scores", (None,))
    boxes = floats(tensors, "boxes", (len(scores), 4))
    return Detected(scores, boxes, logits_of(tensors, len(scores), family))


def of_words(tensors: Mapping[str, NDArray[Any]], name: str) -> dict[str, NDArray[Any]]:
    """The tensor of a phrase, or of exemplars, checked.

    Raises:
        BadInput: it is not there, or something else.
    """
    only(tensors, {name})
    return {name: floats(tensors, name, (None, None))}


def _exemplars(tensors: Mapping[str, NDArray[Any]]) -> tuple[Exemplar, ...]:
    boxes, positive = take(tensors, "boxes"), take(tensors, "positive")
    count = len(boxes) if boxes.ndim else 0
    if boxes.dtype != np.float64 or boxes.shape != (count, 4) or not 0 < count <= MOST_EXEMPLARS:
        raise BadInput(f"boxes must be float64 [exemplars, 4], 1 to {MOST_EXEMPLARS} of them.")
    if positive.dtype != np.uint8 or positive.shape != (count,) or not np.isfinite(boxes).all():
        raise BadInput("Each exemplar has a box of finite numbers, and says whether it is positive.")
    return tuple(Exemplar(Box(*box), bool(one)) for box, one in zip(boxes.tolist(), positive.tolist(), strict=True))


def _concept(tensors: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """A phrase's tensor, or that of exemplars. What the engine computes of it grows with its rows."""
    tensor = floats(tensors, name, (None, None))
    if not 0 < len(tensor) <= MOST_EXEMPLARS + 1:
        raise BadInput(f"{name} has {len(tensor)} rows; 1 to {MOST_EXEMPLARS + 1} can be.")
    return tensor


def _length(words: Mapping[str, str], name: str) -> int:
    text = words.get(name, "")
    if not re.fullmatch("[1-9][0-9]{0,7}", text):
        raise BadInput(f"The image's {name} is {text[:50]!r}, and must be a count of pixels.")
    return int(text)
