"""Segment Anything by ONNX Runtime, on the CPU, in fp32, in this process."""

from functools import partial
from pathlib import Path

from labeling_ground.errors import BadSettings
from labeling_ground.inference import sam
from labeling_ground.inference.graphs import Precision
from labeling_ground.inference.onnx_halves import IDLE_S, OnnxDecoder, OnnxEncoder, OnnxHalves


class OnnxEngine(OnnxHalves):
    """Both halves in one process, or one alone.

    Args:
        encoder: the encoder's file; ``None`` for a decoder alone.
        decoder: the decoder's file, for any prompt; ``None`` for an encoder alone.
        fast_decoder: the re-associated decoder's file, for prompts of few tokens.
        precision: ``fp32``.
        encode_threads: threads of one encode.
        decode_threads: threads of one decode, while it is the only one.
        together: how many images, and prompts, one run takes where the files allow it. More than one after the other
            gain nothing on a processor.
        idle_s: seconds after an image at which the encoder's work memory is given back, if no other image came.

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
        together: int = 1,
        idle_s: float = IDLE_S,
    ) -> None:
        if precision != "fp32":
            raise BadSettings(f"ONNX Runtime computes in fp32 on a processor, not in {precision}.")
        super().__init__(
            OnnxEncoder(encoder, encode_threads, together=together, idle_s=idle_s) if encoder else None,
            OnnxDecoder(decoder, fast_decoder, decode_threads, together=together) if decoder else None,
        )


create = partial(sam.create, OnnxEngine)
"""``sam.create`` over this engine."""
