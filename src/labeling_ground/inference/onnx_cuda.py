"""Segment Anything by ONNX Runtime on an NVIDIA GPU, in fp32 or with the encoder in fp16, in this process."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from labeling_ground.errors import BadSettings
from labeling_ground.inference import sam
from labeling_ground.inference.dialects import decoder_inputs
from labeling_ground.inference.graphs import FAST_TOKENS, FloatArray, Precision
from labeling_ground.inference.lru import Lru
from labeling_ground.inference.onnx_halves import CPU, CUDA, PROMPTS, OnnxDecoder, OnnxEncoder, OnnxHalves, Provider
from labeling_ground.sam.prompts import PromptTensors

KEPT_IN_FP32 = ("LayerNormalization", "Pow", "ReduceMean", "Softmax", "Sqrt")
"""Operators that sum or square many numbers, which fp16 may not hold: 65504 is its largest."""


@dataclass(frozen=True, slots=True)
class Shares:
    """How the device's memory is divided, in bytes.

    Attributes:
        encoder: the encoder's weights and work memory.
        decoder: the same for each of the decoder's graphs.
        embeddings: embeddings that wait for the next click.
    """

    encoder: int
    decoder: int
    embeddings: int


def shares(total: int, decoders: int) -> Shares:
    """Divide so many bytes: a sixteenth for each decoder graph and for embeddings, the rest for the encoder."""
    part = total // 16
    return Shares(total - (1 + decoders) * part, part, part)


def providers(device: str, number: int, most_bytes: int) -> tuple[Provider, ...]:
    """What ONNX Runtime is told to compute with.

    Args:
        device: ``cuda`` or ``cpu``.
        number: of the GPU.
        most_bytes: bound on what one session takes of the GPU's memory.
    """
    if device == "cpu":
        return (CPU,)
    options = {
        "device_id": number,
        # By default each growth doubles the arena, and nothing bounds it.
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": most_bytes,
        # TF32 would make another result of the same weights, under the same model version.
        "use_tf32": 0,
        # The exhaustive search takes seconds at the first image.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    return ((CUDA, options), CPU)


class OnnxCudaEngine(OnnxHalves):
    """Both halves on one GPU, or one alone.

    Args:
        encoder: the encoder's file; ``None`` for a decoder alone.
        decoder: the decoder's file, for any prompt; ``None`` for an encoder alone.
        fast_decoder: the re-associated decoder's file, for prompts of few tokens.
        precision: ``fp32``, or ``fp16`` for the encoder. The decoder's sums stay in fp32: it takes milliseconds anyway.
        encode_threads: of no use here.
        decode_threads: of no use here.
        together: how many images, and prompts of one image, one run takes where the files allow it. By default one
            image, for the work memory grows with them, and ``PROMPTS`` prompts.
        gpu_bytes: bound on what all sessions and embeddings take of the GPU's memory.
        device: ``cuda``. With ``cpu`` the same steps are done without a GPU, which is how they are tested.
        number: of the GPU.

    Raises:
        BadSettings: there is no GPU that can be used, the files cannot be loaded, or do not belong together.
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
        together: int | None = None,
        gpu_bytes: int = 8 << 30,
        device: str = "cuda",
        number: int = 0,
    ) -> None:
        if precision == "bf16":
            raise BadSettings("ONNX Runtime on a GPU computes in fp32 or fp16, not in bf16.")
        if device == "cuda" and CUDA not in onnxruntime.get_available_providers():
            raise BadSettings("this ONNX Runtime has no CUDA: install onnxruntime-gpu in place of onnxruntime.")
        parts = shares(gpu_bytes, 1 + (fast_decoder is not None))
        encoding = decoding = None
        if encoder is not None:
            graph = encoder if precision == "fp32" else in_fp16(encoder)
            encoding = OnnxEncoder(graph, 1, providers(device, number, parts.encoder), together=together or 1)
        if decoder is not None:
            chosen = providers(device, number, parts.decoder)
            decoding = DeviceDecoder(
                decoder, fast_decoder, chosen, f"{device}:{number}", parts.embeddings, together or PROMPTS
            )
        for name, half in (("encoder", encoding), ("decoder", decoding)):
            if half is not None and device == "cuda" and half.computed_by != CUDA:
                # ONNX Runtime only writes a warning and goes on with the processor.
                raise BadSettings(f"ONNX Runtime could not load the {name} onto the GPU: are CUDA and cuDNN installed?")
        super().__init__(encoding, decoding)


create = partial(sam.create, OnnxCudaEngine)
"""``sam.create`` over this engine."""


class DeviceDecoder(OnnxDecoder):
    """A decoder on a device, where the embeddings that were clicked on last stay for the next click.

    Prompts of one image go together. Those of different images do not: their embeddings lie on the device one by one.

    Args:
        decoder: the decoder's file; any prompt.
        fast_decoder: the re-associated decoder's file, for prompts of few tokens.
        providers: what computes.
        device: where embeddings are put, as ``kind:number``.
        most_bytes: what the embeddings may take there.
        together: how many prompts one run takes, where the graphs allow it.
    """

    def __init__(
        self,
        decoder: Path,
        fast_decoder: Path | None,
        providers: tuple[Provider, ...],
        device: str,
        most_bytes: int,
        together: int,
    ) -> None:
        super().__init__(decoder, fast_decoder, 1, providers, together=together)
        self._takes_images = False
        self._kind, _, number = device.partition(":")
        self._number = int(number)
        self.held: Lru[dict[str, Any]] = Lru(most_bytes)
        # One at a time: side by side they would take as long together, and the work memory of all.
        self._turn = threading.Lock()

    def _run(
        self, embedding: Mapping[str, FloatArray], prompt: PromptTensors, *, alone: bool
    ) -> tuple[FloatArray, FloatArray]:
        """Logits and scores. An embedding that has a digest is sent to the device once."""
        del alone  # the device has one width
        (session,) = (self._fast if prompt.tokens <= FAST_TOKENS else self._plain).values()
        there = self.held.get(getattr(embedding, "digest", ""), lambda: self._send(embedding))
        binding = session.io_binding()
        for name, value in decoder_inputs(there, prompt, [entry.name for entry in session.get_inputs()]).items():
            if isinstance(value, onnxruntime.OrtValue):
                binding.bind_ortvalue_input(name, value)
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for name in self._outputs:
            binding.bind_output(name, "cpu")
        with self._turn:
            session.run_with_iobinding(binding)
        logits, scores = binding.copy_outputs_to_cpu()
        return np.asarray(logits), np.asarray(scores)

    def _send(self, embedding: Mapping[str, FloatArray]) -> tuple[dict[str, Any], int]:
        """The embedding's tensors on the device, and their bytes."""
        sent = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(tensor, self._kind, self._number)
            for name, tensor in embedding.items()
        }
        return sent, sum(tensor.nbytes for tensor in embedding.values())


def in_fp16(path: Path) -> bytes:
    """A graph with its weights and most of its work in fp16; what goes in and comes out stays in fp32.

    It is made when the server starts: it takes seconds, and the model store keeps one file for all precisions.

    Raises:
        BadSettings: the file cannot be read, or the package ``onnx`` is not installed.
    """
    try:
        import onnx
        from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    except ImportError as error:
        raise BadSettings(
            f"fp16 needs the package onnx: pip install onnx, or, in a checkout, make engines ({error})."
        ) from error
    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf has no list of what damaged files make it raise
        raise BadSettings(f"The model file {path} cannot be read: {error}") from error
    blocked = [*DEFAULT_OP_BLOCK_LIST, *KEPT_IN_FP32]
    # The exporter wrote all shapes into the graph; inferring them again would need a copy of it within 2 GiB.
    made = convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True, op_block_list=blocked)
    return bytes(made.SerializeToString())
