"""Segment Anything by ONNX Runtime, on the CPU, in fp32, in this process."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labeling_ground.errors import BadSettings
from labeling_ground.inference import sam
from labeling_ground.inference.graphs import FloatArray, Precision, agree, not_here
from labeling_ground.inference.onnx_halves import OnnxDecoder, OnnxEncoder
from labeling_ground.sam.prompts import PromptTensors


class OnnxEngine:
    """Both halves in one process, or one alone.

    Args:
        encoder: the encoder's file; ``None`` for a decoder alone.
        decoder: the decoder's file, for any prompt; ``None`` for an encoder alone.
        fast_decoder: the re-associated decoder's file, for prompts of few tokens.
        precision: ``fp32``.
        encode_threads: threads of one encode.
        decode_threads: threads of one decode, while it is the only one.

    Raises:
        BadSettings: the files cannot be loaded, or do not belong together.
    """

    def __init__(
        self,
        encoder: Path | None,
        decoder: Path | None,
        fast_decoder: Path | None,
        *,
        precision: Precision,
        encode_threads: int,
        decode_threads: int,
    ) -> None:
        if precision != "fp32":
            raise BadSettings(f"ONNX Runtime computes in fp32 on a processor, not in {precision}.")
        self._encoder = OnnxEncoder(encoder, encode_threads) if encoder else None
        self._decoder = OnnxDecoder(decoder, fast_decoder, decode_threads) if decoder else None
        halves = {"encoder": self._encoder, "decoder": self._decoder}
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


create = partial(sam.create, OnnxEngine)
"""``sam.create`` over this engine."""
