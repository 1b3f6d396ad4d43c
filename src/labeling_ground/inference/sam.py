"""Segment Anything behind the port, whatever engine computes: queues, threads, prompts in, masks out."""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from labeling_ground.errors import BackendFailed, BadSettings, LabelingGroundError
from labeling_ground.sam.family import Family
from labeling_ground.sam.masks import prediction
from labeling_ground.sam.preprocess import PREPROCESSING_VERSION, preprocess, resize_sam
from labeling_ground.sam.prompts import PromptTensors, tensors
from labeling_ground.types import Embedding, Image, ModelVersion, Prediction, Prompt

FloatArray = NDArray[np.float32]

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

        ``alone`` says that no other decode is under way, so that it may take all threads that decoding has.
        """
        ...


class SamBackend:
    """A ``Backend`` over an ``Engine``.

    Encodes and decodes have threads of their own, so a click never waits behind a queue of new images. Images are
    encoded one at a time, with all of the encoder's threads: two at once would take as long and twice the memory.

    Args:
        engine: what computes.
        version: which model, which weights, which precision.
        note: a sentence for every answer; empty in full precision.
        decode_threads: prompts that are decoded at the same time.
    """

    def __init__(self, engine: Engine, version: ModelVersion, note: str, *, decode_threads: int) -> None:
        self.version = version
        self.note = note
        self.engine = engine
        self._decoding = 0
        self._encoders = ThreadPoolExecutor(1, "sam-encode")
        self._decoders = ThreadPoolExecutor(decode_threads, "sam-decode")

    async def encode(self, image: Image) -> Embedding:
        """The costly half: depends on the image only.

        Raises:
            BackendFailed: the engine failed.
        """
        made = await asyncio.get_running_loop().run_in_executor(self._encoders, self._encode, image)
        return Embedding(made, image.height, image.width)

    async def decode(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[Prediction]:
        """One prediction a prompt, in the prompts' order. Each is a task of its own: on CPUs batches gain nothing.

        Raises:
            BadPrompt: a prompt is empty.
            BackendFailed: the engine failed, or the embedding is not one of this model's.
        """
        family = self.engine.family
        missing = [name for name in family.embedding_names if name not in embedding.tensors]
        if missing:
            raise BackendFailed(f"The embedding is not one of this model's: it has no {', '.join(missing)}.")
        # Out of the cache the floats come in half precision.
        floats = {name: np.ascontiguousarray(embedding.tensors[name], np.float32) for name in family.embedding_names}
        loop = asyncio.get_running_loop()
        self._decoding += len(prompts)
        try:
            alone = self._decoding == 1
            calls = [
                loop.run_in_executor(self._decoders, self._decode, floats, embedding, prompt, alone)
                for prompt in prompts
            ]
            return list(await asyncio.gather(*calls))
        finally:
            self._decoding -= len(prompts)

    async def aclose(self) -> None:
        """Give the threads back; what still waits in a queue is dropped."""
        self._encoders.shutdown(wait=False, cancel_futures=True)
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def _encode(self, image: Image) -> dict[str, FloatArray]:
        with _failing("encode"):
            return self.engine.encode(image.pixels)

    def _decode(
        self, floats: Mapping[str, FloatArray], embedding: Embedding, prompt: Prompt, alone: bool
    ) -> Prediction:
        family = self.engine.family
        frame = family.frame(embedding.height, embedding.width)
        read = tensors(prompt, frame, family)
        with _failing("decode"):
            logits, scores = self.engine.decode(floats, read, alone=alone)
        return prediction(logits, scores, prompt, frame, family)


class _failing:  # noqa: N801 -- reads as the phrase it is: with failing("encode")
    """Whatever an engine raises is one error to the caller."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, LabelingGroundError) or not isinstance(error, Exception):
            return
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise BackendFailed(f"The engine could not {self._what}: {first[0]}") from error


def version_of(model: str, files: Sequence[Path], precision: str) -> ModelVersion:
    """The version of a model: its files' bytes, how they are fed, and in which precision they are computed.

    The engine is not part of it: in fp32 all engines agree to within 1e-3, and may share a cache.

    Raises:
        BadSettings: a file cannot be read.
    """
    hasher = hashlib.sha256(json.dumps([PREPROCESSING_VERSION, precision]).encode())
    for path in files:
        try:
            with path.open("rb") as file:
                hasher.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise BadSettings(f"The model file {path} cannot be read: {error.strerror}.") from error
    return ModelVersion(model, hasher.hexdigest())


def agree(parts: Mapping[str, Mapping[str, str]]) -> Family:
    """The family that all files of a model name in their metadata.

    Files of others name none, and are taken for SAM 1.

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


def decoder_inputs(
    embedding: Mapping[str, FloatArray], prompt: PromptTensors, names: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """What a decoder graph takes, of what there is.

    The official graph also wants the original image's size and upsamples all four masks to it. That result is not
    used, so the size given is small.
    """
    coords, labels = prompt.point_coords, prompt.point_labels
    if "orig_im_size" in names and prompt.tokens == 0:
        # The official graph was not made for prompts without any token; the padding point says the least.
        coords, labels = np.zeros((1, 1, 2), np.float32), np.full((1, 1), -1.0, np.float32)
    offered = {
        **embedding,
        "point_coords": coords,
        "point_labels": labels,
        "mask_input": prompt.mask_input,
        "has_mask_input": prompt.has_mask_input,
        "orig_im_size": np.array([8.0, 8.0], np.float32),
    }
    return {name: offered[name] for name in names}
