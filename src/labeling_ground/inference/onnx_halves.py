"""The two halves of Segment Anything by ONNX Runtime, each for itself, so that each can live in its own process."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from labeling_ground.errors import BadSettings
from labeling_ground.inference.dialects import (
    check_decoder_inputs,
    decoder_inputs,
    decoder_outputs,
    described,
    embedding_outputs,
)
from labeling_ground.inference.graphs import (
    FAST_TOKENS,
    BatchHalves,
    EngineAsk,
    FloatArray,
    agree,
    alike,
    encoder_input,
)
from labeling_ground.inference.onnx_arena import common_arena
from labeling_ground.sam.geometry import LOW_RES
from labeling_ground.sam.prompts import PromptTensors, stacked

PROMPTS = 16
"""Prompts of one run on a GPU. The decoder is small: alone, one leaves most of it idle."""
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

IDLE_S = 60.0
"""So long encoders keep their work memory for the next image, where nobody said otherwise."""

Provider = str | tuple[str, dict[str, Any]]
"""What ONNX Runtime may compute with: a name, or a name and its options."""


class OnnxEncoder:
    """From images to embeddings.

    Args:
        encoder: the encoder's file, or its content.
        threads: threads of one encode.
        providers: what may compute, in the order of preference; see ``providers``.
        together: how many images one run shall take, where the graph allows it.
        idle_s: seconds after an image at which the work memory is given back, if no other image came; 0: at once.

    Raises:
        BadSettings: the file cannot be loaded.
    """

    def __init__(
        self,
        encoder: Path | bytes,
        threads: int,
        providers: Sequence[Provider] = (CPU,),
        *,
        together: int = 1,
        idle_s: float = IDLE_S,
    ) -> None:
        self._arena, self._idle_s = common_arena(), idle_s
        self._session = open_session(encoder, threads, providers, in_common_arena=tuple(providers) == (CPU,))
        self.metadata = _metadata(self._session)
        self.computed_by = self._session.get_providers()[0]
        self.family = agree({"encoder": self.metadata})
        (image,) = self._session.get_inputs()
        self._image, self._rank = image.name, len(image.shape)
        self.together = together if self._rank == 4 and not isinstance(image.shape[0], int) else 1
        self._outputs = embedding_outputs(self.family, [output.name for output in self._session.get_outputs()])

    def encode(self, pixels: NDArray[np.uint8]) -> dict[str, FloatArray]:
        """The embedding's tensors of one image (RGB ``uint8 [height, width, 3]``), for TorchServe's handler."""
        return self.encode_all([pixels])[0]

    def encode_all(self, images: Sequence[NDArray[np.uint8]]) -> list[dict[str, FloatArray]]:
        """The embedding's tensors of each image (RGB ``uint8 [height, width, 3]``), ``together`` of them in one run."""
        made = []
        for start in range(0, len(images), self.together):
            given = [encoder_input(x, self.family, self._rank) for x in images[start : start + self.together]]
            made += self._run(given[0] if len(given) == 1 else np.concatenate(given), len(given))
        return made

    def _run(self, given: FloatArray, count: int) -> list[dict[str, FloatArray]]:
        """The embeddings of so many images."""
        with self._arena.in_use(self._idle_s):
            run = dict(
                zip(self.family.embedding_names, self._session.run(self._outputs, {self._image: given}), strict=True)
            )
            # Copies, each for itself. What the engine gives lies in the arena, amid the work memory: none of that could
            # be given back as long as one of the embeddings is needed.
            made = [{name: np.array_split(x, count)[index].copy() for name, x in run.items()} for index in range(count)]
            del run
        return made


class OnnxDecoder:
    """From embeddings and prompts to logits.

    It has sessions for a lone click (all threads) and for many at once (one thread each).

    Args:
        decoder: the decoder's file; any prompt.
        fast_decoder: the re-associated decoder's file, for prompts of few tokens.
        threads: threads of a decode that is the only one.
        many_at_once: whether decodes will come side by side; if not, the sessions for them are not loaded.
        providers: what may compute, in the order of preference; see ``providers``.
        together: how many prompts one run shall take, where the graphs allow it.

    Raises:
        BadSettings: the files cannot be loaded, or do not belong together.
    """

    def __init__(
        self,
        decoder: Path,
        fast_decoder: Path | None,
        threads: int,
        providers: Sequence[Provider] = (CPU,),
        *,
        many_at_once: bool = True,
        together: int = 1,
    ) -> None:
        widths = sorted({1, threads}) if many_at_once else [threads]
        self._plain = {width: open_session(decoder, width, providers) for width in widths}
        self._fast = (
            {width: open_session(fast_decoder, width, providers) for width in widths} if fast_decoder else self._plain
        )
        self._narrow, self._wide = widths[0], widths[-1]
        self.metadata = _metadata(self._plain[self._wide])
        self.computed_by = self._plain[self._wide].get_providers()[0]
        self.family = agree({"decoder": self.metadata, "fast decoder": _metadata(self._fast[self._wide])})
        both = (self._plain[self._wide], self._fast[self._wide])
        for session in both:
            check_decoder_inputs(self.family, [entry.name for entry in session.get_inputs()])
            self._outputs = decoder_outputs([output.name for output in session.get_outputs()])
        self.together = together if all(_is_free(session, "point_coords") for session in both) else 1
        self._takes_images = all(_is_free(session, "image_embeddings") for session in both)

    def decode(
        self, embedding: Mapping[str, FloatArray], prompt: PromptTensors, *, alone: bool
    ) -> tuple[FloatArray, FloatArray]:
        """One prompt → logits ``float32 [candidates, 256, 256]`` and scores ``float32 [candidates]``."""
        logits, scores = self._run(embedding, prompt, alone=alone)
        return logits.reshape(-1, LOW_RES, LOW_RES), scores.reshape(-1)

    def decode_all(self, asks: Sequence[EngineAsk], *, alone: bool) -> list[tuple[FloatArray, FloatArray]]:
        """The same for several asks, ``together`` of them in one run where their prompts have the same shape.

        Asks of different images go together only where the graph takes several embeddings, which our own files do from
        exporter version 2 on.
        """
        made: dict[int, tuple[FloatArray, FloatArray]] = {}
        for numbers in alike(asks, self.together, one_image=not self._takes_images):
            some = [asks[number] for number in numbers]
            if len(some) == 1:
                made[numbers[0]] = self.decode(*some[0], alone=alone)
                continue
            logits, scores = self._run(_stacked(some), stacked([prompt for _, prompt in some]), alone=alone)
            made |= zip(numbers, zip(logits, scores, strict=True), strict=True)
        return [made[number] for number in range(len(asks))]

    def _run(
        self, embedding: Mapping[str, FloatArray], prompt: PromptTensors, *, alone: bool
    ) -> tuple[FloatArray, FloatArray]:
        """Logits and scores as the graph gives them, for each of the prompts."""
        sessions = self._fast if prompt.tokens <= FAST_TOKENS else self._plain
        session = sessions[self._wide if alone else self._narrow]
        names = [entry.name for entry in session.get_inputs()]
        logits, scores = session.run(self._outputs, decoder_inputs(embedding, prompt, names))
        return np.asarray(logits), np.asarray(scores)


class OnnxHalves(BatchHalves):
    """An engine of whichever halves there are.

    Raises:
        BadSettings: the files do not belong together.
    """

    def __init__(self, encoder: OnnxEncoder | None, decoder: OnnxDecoder | None) -> None:
        super().__init__(encoder, decoder)
        halves = {"encoder": encoder, "decoder": decoder}
        self.family = agree({name: half.metadata for name, half in halves.items() if half is not None})


def providers(gpu: int | None) -> tuple[Provider, ...]:
    """What may compute: the GPU of that number where this build of ONNX Runtime can use it, and always the CPU."""
    if gpu is None or CUDA not in onnxruntime.get_available_providers():
        return (CPU,)
    # TF32 would make another result of the same weights, under the same model version.
    return ((CUDA, {"device_id": gpu, "use_tf32": 0, "arena_extend_strategy": "kSameAsRequested"}), CPU)


def open_session(
    graph: Path | bytes, threads: int, providers: Sequence[Provider] = (CPU,), *, in_common_arena: bool = False
) -> onnxruntime.InferenceSession:
    """Load a file, or what is in one. Its work memory is its own, or in the ``common_arena``.

    Raises:
        BadSettings: it cannot be loaded.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin while they wait take the cores that the other half of the model needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if in_common_arena:
        options.add_session_config_entry("session.use_env_allocators", "1")
    try:
        return onnxruntime.InferenceSession(
            graph if isinstance(graph, bytes) else str(graph),
            options,
            providers=list(providers),
            # Its fused kernel makes the decoder slower: 5 ms a call instead of 0.2.
            disabled_optimizers=["SkipLayerNormFusion"],
        )
    except Exception as error:  # the package raises classes of its own that share no base but this one
        first = str(error).strip().splitlines() or [type(error).__name__]
        name = "made of this model" if isinstance(graph, bytes) else graph
        raise BadSettings(f"The model file {name} cannot be loaded by ONNX Runtime: {first[0]}") from error


def _is_free(session: onnxruntime.InferenceSession, name: str) -> bool:
    """Whether an input of a graph may have any number of rows."""
    return any(entry.name == name and not isinstance(entry.shape[0], int) for entry in session.get_inputs())


def _stacked(asks: Sequence[EngineAsk]) -> Mapping[str, FloatArray]:
    """The embeddings of several asks as one, which is the first one where all are of one image."""
    first = asks[0][0]
    if all(embedding is first for embedding, _ in asks):
        return first
    return {name: np.concatenate([embedding[name] for embedding, _ in asks]) for name in first}


def _metadata(session: onnxruntime.InferenceSession) -> Mapping[str, str]:
    names = [entry.name for entry in (*session.get_inputs(), *session.get_outputs())]
    return described(session.get_modelmeta().custom_metadata_map, names)
