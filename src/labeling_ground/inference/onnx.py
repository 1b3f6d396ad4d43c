"""Segment Anything by ONNX Runtime, on the CPU, in fp32."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from labeling_ground.errors import BadSettings
from labeling_ground.inference.sam import (
    FAST_TOKENS,
    FloatArray,
    SamBackend,
    agree,
    decoder_inputs,
    encoder_input,
    version_of,
)
from labeling_ground.sam.prompts import PromptTensors

LOGITS, SCORES = "low_res_masks", "iou_predictions"


class OnnxEngine:
    """One encoder session, and decoder sessions for a lone click (all threads) and for many at once (one each).

    Args:
        encoder: the encoder's file.
        decoder: the decoder's file; any prompt.
        fast_decoder: the re-associated decoder's file, for prompts of few tokens.
        encode_threads: threads of one encode.
        decode_threads: threads of one decode, while it is the only one.

    Raises:
        BadSettings: the files cannot be loaded, or do not belong together.
    """

    def __init__(
        self, encoder: Path, decoder: Path, fast_decoder: Path | None, *, encode_threads: int, decode_threads: int
    ) -> None:
        self._encoder = _open(encoder, encode_threads)
        # The arena would keep the encoder's peak (7 GB for ViT-B) for ever; without one ViT-B takes half as long again.
        self._shrinking = onnxruntime.RunOptions()
        self._shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        widths = sorted({1, decode_threads})
        self._plain = {width: _open(decoder, width) for width in widths}
        self._fast = {width: _open(fast_decoder, width) for width in widths} if fast_decoder else self._plain
        self._narrow, self._wide = widths[0], widths[-1]
        metadata = {"encoder": _metadata(self._encoder), "decoder": _metadata(self._plain[1])}
        if fast_decoder:
            metadata["fast decoder"] = _metadata(self._fast[1])
        self.family = agree(metadata)
        (image,) = self._encoder.get_inputs()
        self._image, self._rank = image.name, len(image.shape)
        outputs = [output.name for output in self._encoder.get_outputs()]
        # Files of others call SAM's one output as they like; ours use the names that embeddings have.
        self._outputs = list(self.family.embedding_names) if len(outputs) > 1 else outputs
        for session in (*self._plain.values(), *self._fast.values()):
            absent = {LOGITS, SCORES} - {output.name for output in session.get_outputs()}
            if absent:
                raise BadSettings(f"The decoder gives no {', '.join(sorted(absent))}: it is not one that can be used.")

    def encode(self, pixels: NDArray[np.uint8]) -> dict[str, FloatArray]:
        """RGB ``uint8 [height, width, 3]`` → the embedding's tensors."""
        given = {self._image: encoder_input(pixels, self.family, self._rank)}
        made = self._encoder.run(self._outputs, given, self._shrinking)
        return {name: np.asarray(x) for name, x in zip(self.family.embedding_names, made, strict=True)}

    def decode(
        self, embedding: Mapping[str, FloatArray], prompt: PromptTensors, *, alone: bool
    ) -> tuple[FloatArray, FloatArray]:
        """One prompt → logits ``float32 [candidates, 256, 256]`` and scores ``float32 [candidates]``."""
        sessions = self._fast if prompt.tokens <= FAST_TOKENS else self._plain
        session = sessions[self._wide if alone else self._narrow]
        names = [entry.name for entry in session.get_inputs()]
        logits, scores = session.run([LOGITS, SCORES], decoder_inputs(embedding, prompt, names))
        return np.asarray(logits)[0], np.asarray(scores)[0]


def create(
    encode_threads: int,
    decode_threads: int,
    *,
    encoder_path: Path,
    decoder_path: Path,
    fast_decoder_path: Path | None = None,
    model: str = "sam",
) -> SamBackend:
    """Build the backend.

    Args:
        encode_threads: threads of one encode, at least 1.
        decode_threads: prompts decoded at the same time, and threads of a decode that is alone, at least 1.
        encoder_path: ONNX file; one that ``models export`` made, or a ready-made one of SAM or MobileSAM.
        decoder_path: the same for the decoder.
        fast_decoder_path: ``decoder-fast.onnx`` of ``models export``.
        model: the model's id.

    Raises:
        BadSettings: the files cannot be loaded, or do not belong together.
    """
    files = [path for path in (encoder_path, decoder_path, fast_decoder_path) if path is not None]
    version = version_of(model, files, "fp32")
    engine = OnnxEngine(
        encoder_path, decoder_path, fast_decoder_path, encode_threads=encode_threads, decode_threads=decode_threads
    )
    return SamBackend(engine, version, "", decode_threads=decode_threads)


def _open(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin while they wait take the cores that the other half of the model needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(
            str(path),
            options,
            providers=["CPUExecutionProvider"],
            # Its fused kernel makes the decoder slower: 5 ms a call instead of 0.2.
            disabled_optimizers=["SkipLayerNormFusion"],
        )
    except Exception as error:  # the package raises classes of its own that share no base but this one
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise BadSettings(f"The model file {path} cannot be loaded by ONNX Runtime: {first[0]}") from error


def _metadata(session: onnxruntime.InferenceSession) -> Mapping[str, str]:
    return dict(session.get_modelmeta().custom_metadata_map)
