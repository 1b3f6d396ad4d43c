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
from labeling_ground.inference.graphs import FAST_TOKENS, FloatArray, agree, encoder_input, not_here
from labeling_ground.sam.geometry import LOW_RES
from labeling_ground.sam.prompts import PromptTensors

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

Provider = str | tuple[str, dict[str, Any]]
"""What ONNX Runtime may compute with: a name, or a name and its options."""


class OnnxEncoder:
    """From images to embeddings.

    Args:
        encoder: the encoder's file, or its content.
        threads: threads of one encode.
        providers: what may compute, in the order of preference; see ``providers``.

    Raises:
        BadSettings: the file cannot be loaded.
    """

    def __init__(self, encoder: Path | bytes, threads: int, providers: Sequence[Provider] = (CPU,)) -> None:
        self._session = open_session(encoder, threads, providers)
        self.metadata = _metadata(self._session)
        self.computed_by = self._session.get_providers()[0]
        self.family = agree({"encoder": self.metadata})
        # The arena would keep the encoder's peak (7 GB for ViT-B) for ever; without one ViT-B takes half as long again.
        self._shrinking = onnxruntime.RunOptions()
        self._shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        (image,) = self._session.get_inputs()
        self._image, self._rank = image.name, len(image.shape)
        self._outputs = embedding_outputs(self.family, [output.name for output in self._session.get_outputs()])

    def encode(self, pixels: NDArray[np.uint8]) -> dict[str, FloatArray]:
        """RGB ``uint8 [height, width, 3]`` → the embedding's tensors."""
        given = {self._image: encoder_input(pixels, self.family, self._rank)}
        made = self._session.run(self._outputs, given, self._shrinking)
        return {name: np.asarray(x) for name, x in zip(self.family.embedding_names, made, strict=True)}


class OnnxDecoder:
    """From embeddings and prompts to logits.

    It has sessions for a lone click (all threads) and for many at once (one thread each).

    Args:
        decoder: the decoder's file; any prompt.
        fast_decoder: the re-associated decoder's file, for prompts of few tokens.
        threads: threads of a decode that is the only one.
        many_at_once: whether decodes will come side by side; if not, the sessions for them are not loaded.
        providers: what may compute, in the order of preference; see ``providers``.

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
        for session in (self._plain[self._wide], self._fast[self._wide]):
            check_decoder_inputs(self.family, [entry.name for entry in session.get_inputs()])
            self._outputs = decoder_outputs([output.name for output in session.get_outputs()])

    def decode(
        self, embedding: Mapping[str, FloatArray], prompt: PromptTensors, *, alone: bool
    ) -> tuple[FloatArray, FloatArray]:
        """One prompt → logits ``float32 [candidates, 256, 256]`` and scores ``float32 [candidates]``."""
        sessions = self._fast if prompt.tokens <= FAST_TOKENS else self._plain
        session = sessions[self._wide if alone else self._narrow]
        names = [entry.name for entry in session.get_inputs()]
        logits, scores = session.run(self._outputs, decoder_inputs(embedding, prompt, names))
        return np.asarray(logits).reshape(-1, LOW_RES, LOW_RES), np.asarray(scores).reshape(-1)


class OnnxHalves:
    """An engine of whichever halves there are.

    Raises:
        BadSettings: the files do not belong together.
    """

    def __init__(self, encoder: OnnxEncoder | None, decoder: OnnxDecoder | None) -> None:
        self._encoder, self._decoder = encoder, decoder
        halves = {"encoder": encoder, "decoder": decoder}
        self.family = agree({name: half.metadata for name, half in halves.items() if half is not None})

    def encode(self, pixels: NDArray[np.uint8]) -> dict[str, FloatArray]:
        """RGB ``uint8 [height, width, 3]`` → the embedding's tensors."""
        if self._encoder is None:
            raise not_here("encoder")
        return self._encoder.encode(pixels)

    def decode(
        self, embedding: Mapping[str, FloatArray], prompt: PromptTensors, *, alone: bool
    ) -> tuple[FloatArray, FloatArray]:
        """One prompt → logits ``float32 [candidates, 256, 256]`` and scores ``float32 [candidates]``."""
        if self._decoder is None:
            raise not_here("decoder")
        return self._decoder.decode(embedding, prompt, alone=alone)


def providers(gpu: int | None) -> tuple[Provider, ...]:
    """What may compute: the GPU of that number where this build of ONNX Runtime can use it, and always the CPU."""
    if gpu is None or CUDA not in onnxruntime.get_available_providers():
        return (CPU,)
    # TF32 would make another result of the same weights, under the same model version.
    return ((CUDA, {"device_id": gpu, "use_tf32": 0, "arena_extend_strategy": "kSameAsRequested"}), CPU)


def open_session(
    graph: Path | bytes, threads: int, providers: Sequence[Provider] = (CPU,)
) -> onnxruntime.InferenceSession:
    """Load a file, or what is in one.

    Raises:
        BadSettings: it cannot be loaded.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin while they wait take the cores that the other half of the model needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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


def _metadata(session: onnxruntime.InferenceSession) -> Mapping[str, str]:
    names = [entry.name for entry in (*session.get_inputs(), *session.get_outputs())]
    return described(session.get_modelmeta().custom_metadata_map, names)
