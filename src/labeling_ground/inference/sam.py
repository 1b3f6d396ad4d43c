"""Segment Anything behind the port, whatever engine computes: queues, threads, prompts in, masks out."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from labeling_ground.errors import BackendFailed, LabelingGroundError
from labeling_ground.inference.backend import DecodeAsk
from labeling_ground.inference.graphs import (
    NOTES,
    Engine,
    EngineClass,
    FloatArray,
    Floats,
    Precision,
    check_tensors,
    info_of,
    version_of,
)
from labeling_ground.inference.lru import Lru
from labeling_ground.inference.sketch import Sketch
from labeling_ground.sam import everything
from labeling_ground.sam.geometry import Frame
from labeling_ground.sam.masks import prediction
from labeling_ground.sam.prompts import tensors
from labeling_ground.types import Embedding, EverythingOptions, Image, ModelVersion, Prediction, Prompt

T = TypeVar("T")

_FLOATS_BYTES = 64 << 20
"""What the floats of embeddings may take that are kept between clicks: those of 16 images, of SAM 2 of 4."""


class SamBackend:
    """A ``Backend`` over an ``Engine``.

    Encodes and decodes have threads of their own, so a click never waits behind a queue of new images. Images are
    encoded one at a time, with all of the encoder's threads: two at once would take as long and twice the memory.

    The floats of the embeddings that were clicked on last are kept: out of the cache they come in half precision, and
    to convert them takes a tenth of a click's time.

    Args:
        engine: what computes.
        version: which model, which weights, which precision.
        note: a sentence for every answer; empty in full precision.
        decode_threads: prompts that are decoded at the same time.
    """

    def __init__(self, engine: Engine, version: ModelVersion, note: str, *, decode_threads: int) -> None:
        self.info = info_of(engine.family, version, note, encodes_at_once=1)
        self.engine = engine
        self._decoding = 0
        self._floats: Lru[Floats] = Lru(_FLOATS_BYTES)
        self._encoders = ThreadPoolExecutor(1, "sam-encode")
        self._decoders = ThreadPoolExecutor(decode_threads, "sam-decode")

    async def encode(self, images: Sequence[Image]) -> list[Embedding]:
        """One embedding for each image, in their order.

        Raises:
            BackendFailed: the engine failed.
        """
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(self._encoders, self._encode, image) for image in images]
        return list(await asyncio.gather(*calls))

    async def decode(self, asks: Sequence[DecodeAsk]) -> list[Prediction]:
        """One prediction for each embedding and prompt, in their order. Each is a task of its own: on CPUs batches gain
        nothing.

        Raises:
            BadPrompt: a prompt is empty.
            BackendFailed: the engine failed, or an embedding is not one of this model's.
        """
        return await self._each(asks, self._predict)

    @property
    def usual(self) -> EverythingOptions:
        """The family's own defaults."""
        return everything.USUAL[self.engine.family]

    async def sketch(self, asks: Sequence[DecodeAsk]) -> list[list[Sketch]]:
        """What the decoder says to each prompt, not painted yet; see ``Sketcher``.

        Raises:
            BackendFailed: the engine failed, or an embedding is not one of this model's.
        """
        return await self._each(asks, self._sketch)

    async def _each(
        self, asks: Sequence[DecodeAsk], work: Callable[[Mapping[str, FloatArray], Embedding, Prompt, bool], T]
    ) -> list[T]:
        floats = [self._floats_of(embedding) for embedding, _ in asks]
        loop = asyncio.get_running_loop()
        self._decoding += len(asks)
        try:
            alone = self._decoding == 1
            calls = [
                loop.run_in_executor(self._decoders, work, own, *ask, alone)
                for own, ask in zip(floats, asks, strict=True)
            ]
            return list(await asyncio.gather(*calls))
        finally:
            self._decoding -= len(asks)

    def _floats_of(self, embedding: Embedding) -> Floats:
        names = self.engine.family.embedding_names
        check_tensors(embedding, names)
        size = sum(4 * embedding.tensors[name].size for name in names)
        return self._floats.get(embedding.digest, lambda: (Floats(embedding, names), size))

    async def aclose(self) -> None:
        """Give the threads back; what still waits in a queue is dropped."""
        self._encoders.shutdown(wait=False, cancel_futures=True)
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def _encode(self, image: Image) -> Embedding:
        with _failing("encode"):
            return Embedding(self.engine.encode(image.pixels), image.height, image.width)

    def _predict(
        self, floats: Mapping[str, FloatArray], embedding: Embedding, prompt: Prompt, alone: bool
    ) -> Prediction:
        logits, scores, frame = self._decode(floats, embedding, prompt, alone)
        return prediction(logits, scores, prompt, frame, self.engine.family)

    def _sketch(
        self, floats: Mapping[str, FloatArray], embedding: Embedding, prompt: Prompt, alone: bool
    ) -> list[Sketch]:
        logits, scores, frame = self._decode(floats, embedding, prompt, alone)
        return [*everything.sketches(logits, scores, frame, self.engine.family)]

    def _decode(
        self, floats: Mapping[str, FloatArray], embedding: Embedding, prompt: Prompt, alone: bool
    ) -> tuple[FloatArray, FloatArray, Frame]:
        family = self.engine.family
        frame = family.frame(embedding.height, embedding.width)
        read = tensors(prompt, frame, family)
        with _failing("decode"):
            return *self.engine.decode(floats, read, alone=alone), frame


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


def create(
    engine: EngineClass,
    encode_threads: int,
    decode_threads: int,
    *,
    encoder_path: Path | None,
    decoder_path: Path | None,
    fast_decoder_path: Path | None = None,
    model: str = "sam",
    precision: Precision = "fp32",
    **options: Any,
) -> SamBackend:
    """Build the backend over one engine. Each engine's module has it as its own ``create``.

    Args:
        engine: the engine's class.
        encode_threads: threads of one encode, at least 1.
        decode_threads: prompts decoded at the same time, and threads of a decode that is alone, at least 1.
        encoder_path: ONNX file; one that ``models export`` made, or a ready-made one of a dialect that we know.
            ``None`` for a decoder alone, whose version then says nothing.
        decoder_path: the same for the decoder.
        fast_decoder_path: ``decoder-fast.onnx`` of ``models export``.
        model: the model's id.
        precision: in which the engine computes; part of the version.
        options: what this engine alone can be told.

    Raises:
        BadSettings: the files cannot be loaded or do not belong together, or the engine has no such precision here.
    """
    files = [path for path in (encoder_path, decoder_path, fast_decoder_path) if path is not None]
    version = version_of(model, files, precision)
    made = engine(
        encoder_path,
        decoder_path,
        fast_decoder_path,
        precision=precision,
        encode_threads=encode_threads,
        decode_threads=decode_threads,
        **options,
    )
    return SamBackend(made, version, NOTES[precision], decode_threads=decode_threads)
