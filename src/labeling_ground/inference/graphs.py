"""What all engines for Segment Anything share: which graphs there are, what they get, which files belong together.

Light on purpose: an engine's worker process imports this and not the rest.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from labeling_ground.errors import BackendFailed, BadSettings
from labeling_ground.inference.backend import ModelInfo
from labeling_ground.sam.family import Family
from labeling_ground.sam.preprocess import PREPROCESSING_VERSION, preprocess, resize_sam
from labeling_ground.sam.prompts import PromptTensors
from labeling_ground.types import Embedding, ModelVersion

FloatArray = NDArray[np.float32]
Precision = Literal["fp32", "fp16", "bf16"]

NOTES: Mapping[Precision, str] = MappingProxyType(
    {
        "fp32": "",
        "fp16": "This model's encoder computes in fp16, not in fp32: masks can differ by a few pixels at their edges.",
        "bf16": "This model computes in bf16, not in fp32: masks can differ by a few pixels at their edges.",
    }
)
"""Precision → what every answer says of it."""

FAST_TOKENS = 11
"""Prompts of up to this many tokens (points, corners, padding) go to the fast decoder graph, whose cost grows with
them. With the decoder's own five it is at 16 tokens that both graphs take about as long."""


class Engine(Protocol):
    """What computes: two blocking calls that may come from several threads at once."""

    family: Family

    def encode(self, pixels: NDArray[np.uint8]) -> dict[str, FloatArray]:
        """RGB ``uint8 [height, width, 3]`` → the embedding's tensors."""
        ...

    def decode(
        self, embedding: Mapping[str, FloatArray], prompt: PromptTensors, *, alone: bool
    ) -> tuple[FloatArray, FloatArray]:
        """One prompt → logits ``float32 [candidates, 256, 256]`` and scores ``float32 [candidates]``.

        The tensors may come as ``Floats``. ``alone`` says that no other decode is under way, so that it may take all
        threads that decoding has.
        """
        ...


EngineAsk = tuple[Mapping[str, FloatArray], PromptTensors]
"""One prompt, and the tensors of the embedding that it is asked of."""


@runtime_checkable
class BatchEngine(Engine, Protocol):
    """An engine that also computes several asks in one run. It offers this beside ``Engine``'s two calls."""

    encodes_together: int
    """How many images one run takes with a gain; 1: none."""
    decodes_together: int
    """The same for prompts."""

    def encode_all(self, images: Sequence[NDArray[np.uint8]]) -> list[dict[str, FloatArray]]:
        """``encode`` for each of up to ``encodes_together`` images, in their order."""
        ...

    def decode_all(self, asks: Sequence[EngineAsk], *, alone: bool) -> list[tuple[FloatArray, FloatArray]]:
        """``decode`` for each of up to ``decodes_together`` asks, also of different images, in their order."""
        ...


class BatchHalves:
    """A ``BatchEngine`` of whichever halves of a model there are.

    Args:
        encoder: has ``encode_all``, and how many images it computes ``together``; ``None`` for a decoder alone.
        decoder: the same with ``decode_all``.
    """

    def __init__(self, encoder: Any, decoder: Any) -> None:
        self._encoder, self._decoder = encoder, decoder
        self.encodes_together: int = 1 if encoder is None else encoder.together
        self.decodes_together: int = 1 if decoder is None else decoder.together

    def encode(self, pixels: NDArray[np.uint8]) -> dict[str, FloatArray]:
        """See ``Engine``."""
        return self.encode_all([pixels])[0]

    def decode(
        self, embedding: Mapping[str, FloatArray], prompt: PromptTensors, *, alone: bool
    ) -> tuple[FloatArray, FloatArray]:
        """See ``Engine``."""
        return self.decode_all([(embedding, prompt)], alone=alone)[0]

    def encode_all(self, images: Sequence[NDArray[np.uint8]]) -> list[dict[str, FloatArray]]:
        """See ``BatchEngine``."""
        if self._encoder is None:
            raise not_here("encoder")
        made: list[dict[str, FloatArray]] = self._encoder.encode_all(images)
        return made

    def decode_all(self, asks: Sequence[EngineAsk], *, alone: bool) -> list[tuple[FloatArray, FloatArray]]:
        """See ``BatchEngine``."""
        if self._decoder is None:
            raise not_here("decoder")
        made: list[tuple[FloatArray, FloatArray]] = self._decoder.decode_all(asks, alone=alone)
        return made


def together(engine: Engine) -> tuple[int, int]:
    """How many images, and how many prompts, an engine computes in one run with a gain."""
    return (engine.encodes_together, engine.decodes_together) if isinstance(engine, BatchEngine) else (1, 1)


def encode_all(engine: Engine, images: Sequence[NDArray[np.uint8]]) -> list[dict[str, FloatArray]]:
    """``encode`` for each image, in one run where the engine has that."""
    if len(images) > 1 and isinstance(engine, BatchEngine):
        return engine.encode_all(images)
    return [engine.encode(pixels) for pixels in images]


def decode_all(engine: Engine, asks: Sequence[EngineAsk], *, alone: bool) -> list[tuple[FloatArray, FloatArray]]:
    """``decode`` for each ask, in one run where the engine has that."""
    if len(asks) > 1 and isinstance(engine, BatchEngine):
        return engine.decode_all(asks, alone=alone)
    return [engine.decode(*ask, alone=alone) for ask in asks]


def alike(asks: Sequence[EngineAsk], most: int, *, one_image: bool) -> Iterator[list[int]]:
    """Which asks one run can take: the numbers of up to ``most`` whose prompts have as many tokens, and all have a mask
    input or none has; with ``one_image`` also of the same embedding."""
    groups: dict[object, list[int]] = {}
    for number, (embedding, prompt) in enumerate(asks):
        image = id(embedding) if one_image else None
        groups.setdefault((prompt.tokens, bool(prompt.has_mask_input[0]), image), []).append(number)
    for group in groups.values():
        for start in range(0, len(group), most):
            yield group[start : start + most]


class Floats(Mapping[str, FloatArray]):
    """An embedding's tensors in fp32. Out of the cache they come in half precision, and are converted when read.

    Args:
        embedding: whose.
        names: of which tensors.
    """

    def __init__(self, embedding: Embedding, names: Sequence[str]) -> None:
        self.digest = embedding.digest
        """That of the embedding: an engine that holds it under this need not read the tensors at all."""
        self._given = {name: embedding.tensors[name] for name in names}
        self._made: dict[str, FloatArray] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> FloatArray:
        with self._lock:
            if name not in self._made:
                self._made[name] = np.ascontiguousarray(self._given[name], np.float32)
                self._given[name] = self._made[name]  # lets go of what the cache had
            return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)


def info_of(family: Family, version: ModelVersion, note: str, **more: Any) -> ModelInfo:
    """What a backend says of a model of this family; ``more`` are further attributes of ``ModelInfo``."""
    return ModelInfo(version, note, family.capabilities, frame=family.frame, **more)


def check_tensors(embedding: Embedding, names: Sequence[str]) -> None:
    """See that an embedding has the tensors that a model's decoder takes.

    Raises:
        BackendFailed: it has not.
    """
    missing = [name for name in names if name not in embedding.tensors]
    if missing:
        raise BackendFailed(f"The embedding is not one of this model's: it has no {', '.join(missing)}.")


def version_of(model: str, files: Sequence[Path], precision: str) -> ModelVersion:
    """The version of a model: its files' bytes, how they are fed, and in which precision they are computed.

    The engine is not part of it: in fp32 all engines agree to within 1e-3, and may share a cache.

    Raises:
        BadSettings: a file cannot be read.
    """
    digests = []
    for path in files:
        try:
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise BadSettings(f"The model file {path} cannot be read: {error.strerror}.") from error
    return version_from(model, digests, precision)


def version_from(model: str, digests: Sequence[str], precision: str) -> ModelVersion:
    """``version_of`` files whose SHA-256 is known already: hex, in the order encoder, decoder, fast decoder."""
    hasher = hashlib.sha256(json.dumps([PREPROCESSING_VERSION, precision]).encode())
    for digest in digests:
        hasher.update(bytes.fromhex(digest))
    return ModelVersion(model, hasher.hexdigest())


def not_here(half: str) -> BackendFailed:
    """The error of an engine that was made without this half."""
    return BackendFailed(f"This engine was loaded without its {half}.")


def agree(parts: Mapping[str, Mapping[str, str]]) -> Family:
    """The family that all files of a model name in their metadata.

    Files of others name none, and are taken for SAM 1 (but see ``dialects.described``).

    Args:
        parts: what the file is → its metadata.

    Raises:
        BadSettings: the files do not belong together, or were exported for another way of preprocessing.
    """
    for key in ("family", "source_sha256"):
        values = {metadata.get(key, "") for metadata in parts.values()}
        if len(values) > 1:
            raise BadSettings(
                f"The files of this model do not belong together: {', '.join(parts)} differ in {key}. "
                "Encoder and decoder must come from one checkpoint; export or pull the model again."
            )
    for name, metadata in parts.items():
        version = metadata.get("preprocessing_version", PREPROCESSING_VERSION)
        if version != PREPROCESSING_VERSION:
            raise BadSettings(
                f"The {name} was exported for version {version} of the preprocessing, this is version "
                f"{PREPROCESSING_VERSION}: export or pull the model again."
            )
    family = next(iter(parts.values())).get("family", Family.SAM.value)
    try:
        return Family(family)
    except ValueError as error:
        raise BadSettings(f"The files are of the family {family!r}, which this version does not know.") from error


def encoder_input(pixels: NDArray[np.uint8], family: Family, rank: int) -> FloatArray:
    """What an encoder graph takes: four dimensions are the normalised square, three the resized image as it is.

    The latter graphs (``mobile_sam_image_encoder.onnx``) normalise and pad inside.
    """
    if rank == 3:
        return resize_sam(pixels).astype(np.float32)
    return preprocess(pixels, family)
