"""The protocol between proxy and engines (``docs/decisions/0006-remote-engines.md``): bytes ↔ values, nothing else.

Both sides check all that they read: names, types, shapes, finite numbers. What cannot be read is ``BadInput`` here; the
engine answers it with 400, and the proxy takes it for an engine that failed.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling_ground.codec.tensors import pack, unpack
from labeling_ground.errors import BadInput
from labeling_ground.inference.remote.checks import check_finite, floats, logits_of, of_image, only, seen, take
from labeling_ground.sam.family import Family
from labeling_ground.sam.geometry import LOW_RES, SIDE
from labeling_ground.sam.prompts import PromptTensors, as_tensors
from labeling_ground.types import MODEL_VERSION, ModelVersion, Priority

PROTOCOL = "1"
"""Raise it with every change that an older side would misread."""
CONCEPT_PROTOCOL = "2"
"""Of models that find concepts, and of what is asked of such alone: a side that speaks only 1 refuses, and says so."""
MEDIA_TYPE = "application/octet-stream"
"""Of asks and answers."""
PROBLEM_TYPE = "application/problem+json"
"""Of errors."""

MOST_TOKENS = 4096
"""Points and corners in one prompt. What a decoder takes in memory grows with them."""
MOST_CANDIDATES = 4
"""Masks that a decoder makes of one prompt."""
MOST_TOGETHER = 64
"""Asks in one request."""

_KEY = re.compile(r"[0-9a-f]{32,128}")
SAME_RELEASE = "Run the same release of labeling-ground on both sides."
_LABELS = (-1.0, 0.0, 1.0, 2.0, 3.0)

FloatArray = NDArray[np.float32]


class EngineRole(StrEnum):
    """Which half of the model an engine serves."""

    ENCODER = "encoder"
    """From images to embeddings."""
    DECODER = "decoder"
    """From embeddings and prompts to masks."""


@dataclass(frozen=True, slots=True)
class Description:
    """What an engine says of itself.

    Attributes:
        version: the model that it serves. Both halves of one model say the same.
        family: whose conventions the model follows.
        precision: what it computes in: ``fp32``, ``bf16``, …
        role: which half.
        note: a sentence for every answer where the model's quality needs one.
        together: how many asks it computes together with a gain, and so takes in one request; 1: each comes for itself.
    """

    version: ModelVersion
    family: Family
    precision: str
    role: EngineRole
    note: str = ""
    together: int = 1


@dataclass(frozen=True, slots=True)
class Describe:
    """«What do you serve?»."""


@dataclass(frozen=True, slots=True)
class Encode:
    """«What is this image's embedding?», or its trunk.

    Attributes:
        version: the model that the proxy expects.
        pixels: as ``sam.preprocess.resize`` makes them for the family: ``uint8 [height, width, 3]`` with the long side
            at 1024, ``uint8 [1008, 1008, 3]`` (SAM 3), or ``float32 [1024, 1024, 3]`` (others).
        is_trunk: whether the trunk is wanted.
    """

    version: ModelVersion
    pixels: NDArray[Any]
    is_trunk: bool = False


@dataclass(frozen=True, slots=True)
class Decode:
    """«Which masks does this prompt mean?».

    Attributes:
        version: the model that the proxy expects.
        key: of the embedding; equal keys mean equal embeddings of the same model.
        prompt: as the decoder takes it.
        embedding: its tensors, ``float16`` or ``float32``; ``None`` where the decoder is thought to have them.
        candidates: indices of the masks that are wanted of four; empty for all. A decoder that makes another number of
            masks gives all of them.
        best: of those wanted, only the one of the best score.
    """

    version: ModelVersion
    key: str
    prompt: PromptTensors
    embedding: Mapping[str, NDArray[Any]] | None = None
    candidates: tuple[int, ...] = ()
    best: bool = False


Ask = Describe | Encode | Decode


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tensors as an answer.

    Attributes:
        tensors: by name, ``float32`` (or ``float16``, if the engine thinks that this is enough).
        seconds: how long the engine took.
        kept: whether the embedding or the trunk that was asked about can be asked for by its key from now on.
    """

    tensors: Mapping[str, NDArray[Any]]
    seconds: float
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Decoded:
    """The answer to ``Decode``.

    Attributes:
        logits: ``float32 [candidates, 256, 256]``; of SAM 3 288.
        scores: ``float32 [candidates]``.
        seconds: how long the engine took.
        kept: whether the embedding can be asked for by its key from now on.
    """

    logits: FloatArray
    scores: FloatArray
    seconds: float
    kept: bool


def write_ask(ask: Ask, priority: Priority = Priority.INTERACTIVE) -> bytes:
    """An ask as bytes, of this class."""
    if isinstance(ask, Describe):
        return pack({}, {"ask": "describe", "protocol": PROTOCOL})
    words = {"protocol": PROTOCOL, "model_version": version_text(ask.version), "priority": priority.label}
    if isinstance(ask, Encode):
        asked = {"ask": "trunk", "protocol": CONCEPT_PROTOCOL} if ask.is_trunk else {"ask": "encode"}
        return pack({"pixels": ask.pixels}, {**words, **asked})
    tensors: dict[str, NDArray[Any]] = {
        **(ask.embedding or {}),
        "point_coords": ask.prompt.point_coords,
        "point_labels": ask.prompt.point_labels,
    }
    if ask.prompt.has_mask_input[0]:
        tensors["mask_input"] = ask.prompt.mask_input
    wanted = {"candidates": ",".join(map(str, ask.candidates)), "best": str(ask.best).lower()}
    return pack(tensors, {**words, "ask": "decode", "embedding": ask.key, **wanted})


def read_ask(data: bytes, family: Family) -> Ask:
    """An ask, checked.

    Args:
        data: the body. Its size was bounded before it was read.
        family: of the model that is served.

    Raises:
        BadInput: it cannot be read, or does not suit a model of this family.
    """
    tensors, words = unpack(data)
    kind = words.get("ask")
    if kind == "describe":
        return Describe()  # of whatever protocol: the answer says which one is spoken here
    check_protocol(words, family)
    if kind == "encode" or (kind == "trunk" and family.finds_concepts):
        version = read_version(words)
        only(tensors, {"pixels"})
        return Encode(version, _pixels(take(tensors, "pixels"), family), kind == "trunk")
    if kind == "decode":
        return _decode(tensors, words, family)
    raise BadInput(f"An ask is 'describe', 'encode' or 'decode', not {kind!r}.")


def check_protocol(words: Mapping[str, str], family: Family) -> None:
    """See that an ask is of a protocol that an engine of this family speaks.

    Raises:
        BadInput: it is not.
    """
    if words.get("protocol") not in {PROTOCOL, protocol_of(family)}:
        raise BadInput(
            f"The ask is of protocol {words.get('protocol')!r}; this engine speaks {protocol_of(family)}. "
            f"{SAME_RELEASE}"
        )


def protocol_of(family: Family) -> str:
    """What an engine of this family speaks."""
    return CONCEPT_PROTOCOL if family.finds_concepts else PROTOCOL


def write_description(description: Description) -> bytes:
    """The answer to ``Describe``."""
    return pack({}, description_words(description))


def read_description(data: bytes) -> Description:
    """The answer to ``Describe``, checked.

    Raises:
        BadInput: it is none, or of another protocol.
    """
    return description_from(unpack(data)[1])


def description_words(description: Description) -> dict[str, str]:
    """A description as words: the answer's metadata, and what a TorchServe archive carries as JSON."""
    return {
        "protocol": protocol_of(description.family),
        "model_version": version_text(description.version),
        "family": description.family.value,
        "precision": description.precision,
        "role": description.role.value,
        "note": description.note,
        "together": str(description.together),
    }


def description_from(words: Mapping[str, str]) -> Description:
    """The description that these words make.

    Raises:
        BadInput: none, or one of another protocol.
    """
    if words.get("protocol") not in {PROTOCOL, CONCEPT_PROTOCOL}:
        raise BadInput(
            f"The engine speaks protocol {words.get('protocol')!r}; this server speaks {PROTOCOL} and "
            f"{CONCEPT_PROTOCOL}. {SAME_RELEASE}"
        )
    together = words.get("together", "1")
    if not re.fullmatch("[1-9][0-9]{0,3}", together):
        raise BadInput(f"{together[:50]!r} is no number of asks that an engine takes together.")
    try:
        family, role = Family(words["family"]), EngineRole(words["role"])
        return Description(
            read_version(words),
            family,
            words["precision"],
            role,
            words.get("note", ""),
            min(int(together), MOST_TOGETHER),
        )
    except (KeyError, ValueError) as error:
        raise BadInput(f"The engine's description has no family, precision or role that is known: {error}.") from error


def write_encoded(version: ModelVersion, encoded: Encoded) -> bytes:
    """Tensors as the answer to an ask."""
    words = {"seconds": f"{encoded.seconds:.6f}", "kept": str(encoded.kept).lower()}
    return pack(encoded.tensors, {**words, "model_version": version_text(version)})


def read_encoded(data: bytes, version: ModelVersion, family: Family, *, is_trunk: bool = False) -> Encoded:
    """An embedding, or a trunk, as the answer to an ask, checked.

    Raises:
        BadInput: it is none, or another model's.
    """
    tensors, words = read_answer(data, version)
    shapes = family.trunk_shapes if is_trunk else family.embedding_shapes
    only(tensors, set(shapes))
    return Encoded(of_image(tensors, family, shapes), _seconds(words), words.get("kept") == "true")


def read_answer(data: bytes, version: ModelVersion) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Tensors and words of an answer, not checked themselves.

    Raises:
        BadInput: it is none, or another model's.
    """
    tensors, words = unpack(data)
    found = read_version(words)
    if found != version:
        raise BadInput(f"The answer is of {found}, and {version} was asked.")
    return tensors, words


def write_decoded(version: ModelVersion, decoded: Decoded) -> bytes:
    """The answer to ``Decode``."""
    words = {
        "model_version": version_text(version),
        "seconds": f"{decoded.seconds:.6f}",
        "kept": str(decoded.kept).lower(),
    }
    return pack({"logits": decoded.logits, "scores": decoded.scores}, words)


def read_decoded(data: bytes, version: ModelVersion, family: Family = Family.SAM) -> Decoded:
    """The answer to ``Decode``, checked.

    Raises:
        BadInput: it is none, or another model's.
    """
    tensors, words = read_answer(data, version)
    only(tensors, {"logits", "scores"})
    scores = floats(tensors, "scores", (None,))
    if not 1 <= len(scores) <= MOST_CANDIDATES:
        raise BadInput(f"The answer holds {len(scores)} masks.")
    return Decoded(
        logits=logits_of(tensors, len(scores), family),
        scores=scores,
        seconds=_seconds(words),
        kept=words.get("kept") == "true",
    )


def write_problem(status: int, title: str, detail: str, **more: str) -> bytes:
    """An error as a problem body (RFC 9457). Programs read ``missing``, ``unreadable`` and ``model_version`` of it."""
    return json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail, **more}).encode()


def read_problem(body: bytes) -> dict[str, str]:
    """The words of an error's body: ours, or TorchServe's, whose ``message`` becomes the ``detail``."""
    try:
        read = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(read, dict):
        return {}
    words = {name: value for name, value in read.items() if isinstance(name, str) and isinstance(value, str)}
    if "message" in words:
        words.setdefault("detail", words["message"])
    return words


def version_text(version: ModelVersion) -> str:
    """A version with its whole digest: the short form that people see could be met by chance."""
    return f"{version.model}@{version.digest}"


def read_version(words: Mapping[str, str]) -> ModelVersion:
    """The ``model_version`` among metadata or a problem's words.

    Raises:
        BadInput: there is none.
    """
    text = words.get("model_version", "")
    match = re.fullmatch(MODEL_VERSION, text)
    if match is None:
        raise BadInput(f"{text[:200]!r} is no model version.")
    return ModelVersion(match[1], match[2])


def read_key(words: Mapping[str, str]) -> str:
    """The key of the embedding, or of the trunk, that an ask is about.

    Raises:
        BadInput: there is none.
    """
    key = words.get("embedding", "")
    if not _KEY.fullmatch(key):
        raise BadInput(f"{key[:200]!r} is no embedding's key.")
    return key


def _decode(tensors: Mapping[str, NDArray[Any]], words: Mapping[str, str], family: Family) -> Decode:
    version, key = read_version(words), read_key(words)
    names = set(family.embedding_names)
    only(tensors, names | {"point_coords", "point_labels", "mask_input"})
    labels = floats(tensors, "point_labels", (1, None))
    tokens = labels.shape[1]
    if tokens > MOST_TOKENS:
        raise BadInput(f"The prompt has {tokens} tokens; {MOST_TOKENS} is the limit.")
    if not np.isin(labels, _LABELS).all():
        raise BadInput("A point's label is none of -1, 0, 1, 2, 3.")
    coords = floats(tensors, "point_coords", (1, tokens, 2))
    mask = floats(tensors, "mask_input", (1, 1, LOW_RES, LOW_RES)) if "mask_input" in tensors else None
    if tokens == 0 and mask is None:
        raise BadInput("The prompt is empty.")
    embedding = of_image(tensors, family, family.embedding_shapes) if names & set(tensors) else None
    prompt = as_tensors(coords, labels, mask)
    return Decode(version, key, prompt, embedding, _candidates(words), words.get("best") == "true")


def _candidates(words: Mapping[str, str]) -> tuple[int, ...]:
    text = words.get("candidates", "")
    if not text:
        return ()
    parts = text.split(",")
    if len(parts) > MOST_CANDIDATES or not all(part in ("0", "1", "2", "3") for part in parts):
        raise BadInput(f"{text[:50]!r} are no candidates: 0 to {MOST_CANDIDATES - 1}, separated by commas.")
    return tuple(map(int, parts))


def _pixels(pixels: NDArray[Any], family: Family) -> NDArray[Any]:
    if family.finds_concepts:
        if pixels.dtype != np.uint8 or pixels.shape != (family.side, family.side, 3):
            raise BadInput(f"pixels must be uint8 [{family.side}, {family.side}, 3], not {seen(pixels)}.")
    elif not family.reads_as_sam:
        if pixels.dtype != np.float32 or pixels.shape != (SIDE, SIDE, 3):
            raise BadInput(f"pixels must be float32 [{SIDE}, {SIDE}, 3], not {seen(pixels)}.")
        check_finite("pixels", pixels)
    elif pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or max(pixels.shape) != SIDE:
        raise BadInput(f"pixels must be uint8 [height, width, 3], the long side {SIDE}, not {seen(pixels)}.")
    elif min(pixels.shape) == 0:
        raise BadInput("pixels must not be empty.")
    return pixels


def _seconds(words: Mapping[str, str]) -> float:
    try:
        seconds = float(words.get("seconds", ""))
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise BadInput("The answer does not say how many seconds it took.")
    return seconds
