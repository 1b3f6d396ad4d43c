"""Segment Anything behind the port, whatever engine computes: queues, threads, prompts in, masks out."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from labeling_ground.errors import BackendFailed, LabelingGroundError
from labeling_ground.inference.backend import BatchSizes, DecodeAsk
from labeling_ground.inference.graphs import (
    NOTES,
    Engine,
    FloatArray,
    Floats,
    Precision,
    check_tensors,
    decode_all,
    encode_all,
    info_of,
    together,
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

_BATCHES = 2
"""Batches under way: one is computed while the files of another are read, or its masks painted."""
FLOATS_BYTES = 64 << 20
"""What the floats of embeddings may take that are kept between clicks, where nobody said otherwise."""


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
        precision: in which the engine computes.
        floats_bytes: what those floats may take.
    """

    def __init__(
        self,
        engine: Engine,
        version: ModelVersion,
        note: str,
        *,
        decode_threads: int,
        precision: str = "fp32",
        floats_bytes: int = FLOATS_BYTES,
    ) -> None:
        self._encodes_together, self._decodes_together = encodes, decodes = together(engine)
        self.info = info_of(
            engine.family,
            version,
            note,
            precision=precision,
            encode_batch=BatchSizes(encodes, encodes),
            decode_batch=BatchSizes(decodes, decodes),
            encodes_at_once=1 if encodes == 1 else _BATCHES,
            decodes_at_once=None if decodes == 1 else _BATCHES,
        )
        self.engine = engine
        self.family = engine.family  # known also when the engine was closed
        self._decoding = 0
        self._floats: Lru[Floats] = Lru(floats_bytes)
        self._encoders = ThreadPoolExecutor(1, "sam-encode")
        self._decoders = ThreadPoolExecutor(decode_threads, "sam-decode")

    async def encode(self, images: Sequence[Image]) -> list[Embedding]:
        """One embedding for each image, in their order.

        Raises:
            BackendFailed: the engine failed.
        """
        loop, most = asyncio.get_running_loop(), self._encodes_together
        some = [images[start : start + most] for start in range(0, len(images), most)]
        calls = [loop.run_in_executor(self._encoders, self._encode, each) for each in some]
        return [embedding for made in await asyncio.gather(*calls) for embedding in made]

    async def decode(self, asks: Sequence[DecodeAsk]) -> list[Prediction]:
        """One prediction for each embedding and prompt, in their order. Where the engine gains nothing by batches, each
        is a task of its own.

        Raises:
            BadPrompt: a prompt is empty.
            BackendFailed: the engine failed, or an embedding is not one of this model's.
        """
        family = self.family

        def paint(decoded: _Decoded, prompt: Prompt) -> Prediction:
            return prediction(decoded.logits, decoded.scores, prompt, decoded.frame, family)

        return await self._each(asks, paint)

    @property
    def usual(self) -> EverythingOptions:
        """The family's own defaults."""
        return everything.USUAL[self.family]

    async def sketch(self, asks: Sequence[DecodeAsk]) -> list[list[Sketch]]:
        """What the decoder says to each prompt, not painted yet; see ``Sketcher``.

        Raises:
            BackendFailed: the engine failed, or an embedding is not one of this model's.
        """
        family = self.family

        def note(decoded: _Decoded, _: Prompt) -> list[Sketch]:
            return [*everything.sketches(decoded.logits, decoded.scores, decoded.frame, family)]

        return await self._each(asks, note)

    async def _each(self, asks: Sequence[DecodeAsk], finish: Callable[["_Decoded", Prompt], T]) -> list[T]:
        floats = {id(embedding): self._floats_of(embedding) for embedding, _ in asks}
        loop, most = asyncio.get_running_loop(), self._decodes_together
        some = [asks[start : start + most] for start in range(0, len(asks), most)]

        def decode(asks: Sequence[DecodeAsk], alone: bool) -> list[_Decoded]:
            return self._decode([(floats[id(embedding)], embedding, prompt) for embedding, prompt in asks], alone)

        async def compute(asks: Sequence[DecodeAsk], alone: bool) -> list[T]:
            if len(asks) == 1:  # in one go: two would make each click wait for a thread twice
                only = asks[0][1]
                return [await loop.run_in_executor(self._decoders, lambda: finish(decode(asks, alone)[0], only))]
            decoded = await loop.run_in_executor(self._decoders, decode, asks, alone)
            return await asyncio.gather(
                *(
                    loop.run_in_executor(self._decoders, finish, one, prompt)
                    for one, (_, prompt) in zip(decoded, asks, strict=True)
                )
            )

        self._decoding += len(some)
        try:
            alone = self._decoding == 1
            made = await asyncio.gather(*(compute(each, alone) for each in some))
            return [one for each in made for one in each]
        finally:
            self._decoding -= len(some)

    def _floats_of(self, embedding: Embedding) -> Floats:
        names = self.family.embedding_names
        check_tensors(embedding, names)
        size = sum(4 * embedding.tensors[name].size for name in names)
        return self._floats.get(embedding.digest, lambda: (Floats(embedding, names), size))

    async def aclose(self) -> None:
        """Give threads and weights back; what still waits in a queue is dropped. Closing it again does nothing."""
        self._encoders.shutdown(wait=False, cancel_futures=True)
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self.__dict__.pop("engine", None)  # its weights are gigabytes, and whoever answered with it may live on

    def _encode(self, images: Sequence[Image]) -> list[Embedding]:
        with failing("encode"):
            made = encode_all(self.engine, [image.pixels for image in images])
        return [Embedding(one, image.height, image.width) for one, image in zip(made, images, strict=True)]

    def _decode(self, asks: Sequence[tuple[Floats, Embedding, Prompt]], alone: bool) -> list["_Decoded"]:
        family = self.family
        frames = [family.frame(embedding.height, embedding.width) for _, embedding, _ in asks]
        read = [(own, tensors(prompt, frame, family)) for (own, _, prompt), frame in zip(asks, frames, strict=True)]
        with failing("decode"):
            made = decode_all(self.engine, read, alone=alone)
        return [_Decoded(*one, frame) for one, frame in zip(made, frames, strict=True)]


class _Decoded(NamedTuple):
    """What a decoder says to one prompt, and how the model's square lies over the image."""

    logits: FloatArray
    scores: FloatArray
    frame: Frame


@contextmanager
def failing(what: str) -> Iterator[None]:
    """Whatever an engine raises is one error to the caller."""
    try:
        yield
    except LabelingGroundError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise BackendFailed(f"The engine could not {what}: {first[0]}") from error


def create(
    engine: Callable[..., Engine],
    encode_threads: int,
    decode_threads: int,
    *,
    encoder_path: Path | None,
    decoder_path: Path | None,
    fast_decoder_path: Path | None = None,
    model: str = "sam",
    precision: Precision = "fp32",
    floats_bytes: int = FLOATS_BYTES,
    **options: Any,
) -> SamBackend:
    """Build the backend over one engine. Each engine's module has it as its own ``create``.

    Args:
        engine: the engine's class, which is given the three paths and, by their names, precision, threads and options.
        encode_threads: threads of one encode, at least 1.
        decode_threads: prompts decoded at the same time, and threads of a decode that is alone, at least 1.
        encoder_path: ONNX file; one that ``models export`` made, or a ready-made one of a dialect that we know.
            ``None`` for a decoder alone, whose version then says nothing.
        decoder_path: the same for the decoder.
        fast_decoder_path: ``decoder-fast.onnx`` of ``models export``.
        model: the model's id.
        precision: in which the engine computes; part of the version.
        floats_bytes: what the floats of embeddings may take that are kept between clicks.
        options: what this engine alone can be told.

    Raises:
        BadSettings: the files cannot be loaded or do not belong together, or the engine has no such precision here.
    """
    files = [*dict.fromkeys(path for path in (encoder_path, decoder_path, fast_decoder_path) if path is not None)]
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
    facts: dict[str, Any] = {"precision": precision, "floats_bytes": floats_bytes}
    return SamBackend(made, version, NOTES[precision], decode_threads=decode_threads, **facts)
