"""Segment Anything by OpenVINO, on the CPU, in fp32 or bf16."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13

from labeling_ground.errors import BadSettings
from labeling_ground.inference import sam
from labeling_ground.inference.dialects import LOGITS, SCORES, Dialect, decoder_inputs, dialect_of
from labeling_ground.inference.graphs import FAST_TOKENS, FloatArray, Precision, agree, encoder_input, not_here
from labeling_ground.sam.geometry import LOW_RES
from labeling_ground.sam.prompts import PromptTensors

HINTS: Mapping[Precision, str] = {"fp32": "f32", "bf16": "bf16"}

STATIC_TOKENS = (2,)
"""A click or a box: compiled for this size, which is faster than for any size. Each compiled decoder takes
60 to 100 MB."""


class OpenVinoEngine:
    """One compiled encoder, and compiled decoders for the kinds of prompts; or one half alone.

    Args:
        encoder: the encoder's ONNX file; ``None`` for a decoder alone.
        decoder: the decoder's ONNX file, for any prompt; ``None`` for an encoder alone.
        fast_decoder: the re-associated decoder's file, for prompts of few tokens.
        precision: ``fp32``, or ``bf16`` where the processor has it.
        encode_threads: threads of one encode.
        decode_threads: threads of one decode. Several decodes take turns: to compile everything a second time, for one
            thread each, would gain a sixth in throughput and take some 300 MB.

    Raises:
        BadSettings: the files cannot be loaded or do not belong together, or this processor has no bf16.
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
        self._core = openvino.Core()
        if precision not in offered(self._core):
            raise BadSettings(
                f"This processor cannot compute in {precision}: OpenVINO would run fp32 under that name. "
                f"Choose one of {', '.join(offered(self._core))}."
            )
        self._hint = HINTS[precision]
        files = {"encoder": encoder, "decoder": decoder, "fast decoder": fast_decoder}
        models = {name: self._read(path) for name, path in files.items() if path is not None}
        for model in models.values():
            names = [entry.get_node().get_friendly_name() for entry in model.inputs]
            names += [name for entry in model.outputs for name in entry.names]
            if dialect_of(names) is not Dialect.OURS:
                raise BadSettings(
                    "These ready-made files need the engine onnx: pip install onnxruntime, or, in a checkout, make "
                    "engines."
                )
        self.family = agree({name: _metadata(model) for name, model in models.items()})
        self._plain, self._fast = models.get("decoder"), models.get("fast decoder")
        self._threads = decode_threads
        self._lock = threading.Lock()
        self._decoders: dict[_Shape, Any] = {}
        self._own = threading.local()
        if decoder is not None:
            self._decoder(_Shape(STATIC_TOKENS[0], mask=False, long=False))
        self._rank, self._encoder = 0, None
        if encoder is not None:
            self._rank = len(models["encoder"].inputs[0].get_partial_shape())
            self._encoder = self._compile(models["encoder"], encode_threads)

    def encode(self, pixels: NDArray[np.uint8]) -> dict[str, FloatArray]:
        """RGB ``uint8 [height, width, 3]`` → the embedding's tensors."""
        if self._encoder is None:
            raise not_here("encoder")
        request = self._encoder.create_infer_request()
        request.infer([encoder_input(pixels, self.family, self._rank)], share_inputs=True)
        outputs = self._encoder.outputs
        names = self.family.embedding_names
        ours = [request.get_output_tensor(i).data for i in range(len(outputs))]
        if len(outputs) > 1:
            ours = [request.get_tensor(name).data for name in names]
        return {name: np.array(x, np.float32) for name, x in zip(names, ours, strict=True)}

    def decode(
        self, embedding: Mapping[str, FloatArray], prompt: PromptTensors, *, alone: bool
    ) -> tuple[FloatArray, FloatArray]:
        """One prompt → logits ``float32 [candidates, 256, 256]`` and scores ``float32 [candidates]``."""
        if self._plain is None:
            raise not_here("decoder")
        tokens = prompt.tokens if prompt.tokens in STATIC_TOKENS else None
        shape = _Shape(tokens, mask=bool(prompt.has_mask_input[0]), long=prompt.tokens > FAST_TOKENS)
        compiled = self._decoder(shape)
        requests = self._own.__dict__.setdefault("requests", {})
        if shape not in requests:
            requests[shape] = compiled.create_infer_request()
        request = requests[shape]
        # A tensor can have several names, of which the reader's own may come first; the node bears the graph's.
        names = [entry.get_node().get_friendly_name() for entry in compiled.inputs]
        request.infer(decoder_inputs(embedding, prompt, names), share_inputs=True)
        return np.array(request.get_tensor(LOGITS).data[0]), np.array(request.get_tensor(SCORES).data[0])

    def _read(self, path: Path) -> Any:
        try:
            return self._core.read_model(path)
        except (RuntimeError, OSError) as error:
            raise BadSettings(f"The model file {path} cannot be loaded by OpenVINO: {error}") from error

    def _decoder(self, shape: "_Shape") -> Any:
        """The decoder compiled for one kind of prompt, when the first such prompt comes (0.2 to 0.5 s)."""
        with self._lock:
            if shape not in self._decoders:
                plain = self._fast is None or shape.long or (shape.tokens is None and self._hint != "f32")
                # In bf16 the plugin (2026.4) cannot compile the fast graph for prompts of any length.
                model = _specialise(self._plain if plain else self._fast, shape)
                self._decoders[shape] = self._compile(model, self._threads)
            return self._decoders[shape]

    def _compile(self, model: Any, threads: int) -> Any:
        settings = {
            "INFERENCE_PRECISION_HINT": self._hint,  # by default it is whatever the processor does fastest
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # Pinned, every process and every compiled model would take the same first core.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            return self._core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise BadSettings(f"OpenVINO cannot compile this model: {error}") from error


@dataclass(frozen=True, slots=True)
class _Shape:
    """A kind of prompt that a decoder is compiled for.

    Attributes:
        tokens: how many exactly; ``None`` for any number.
        mask: whether there is a mask input.
        long: more tokens than the fast graph is good for.
    """

    tokens: int | None
    mask: bool
    long: bool


def _specialise(model: Any, shape: _Shape) -> Any:
    """A copy of a decoder for one prompt of a certain shape.

    Whether there is a mask becomes a constant: then the graph has no branch, which the plugin would run apart, in fp32.
    """
    copy = model.clone()
    tokens = -1 if shape.tokens is None else shape.tokens
    for parameter in list(copy.get_parameters()):
        if "has_mask_input" in parameter.output(0).names:
            constant = opset13.constant(np.array([1.0 if shape.mask else 0.0], np.float32))
            parameter.output(0).replace(constant.output(0))
            copy.remove_parameter(parameter)
    shapes: dict[str, list[int]] = {
        "point_coords": [1, tokens, 2],
        "point_labels": [1, tokens],
        "mask_input": [1, 1, LOW_RES, LOW_RES],
    }
    for entry in copy.inputs:
        name, sizes = entry.get_node().get_friendly_name(), list(entry.get_partial_shape())
        if name not in shapes and sizes[0].is_dynamic:  # an embedding's tensors: of one image
            shapes[name] = [1, *(size.get_length() for size in sizes[1:])]
    copy.reshape(shapes)
    return copy


def offered(core: Any = None) -> tuple[Precision, ...]:
    """The precisions that this processor computes in, and does not merely accept."""
    capabilities = (core or openvino.Core()).get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("fp32", "bf16") if "BF16" in capabilities else ("fp32",)


create = partial(sam.create, OpenVinoEngine)
"""``sam.create`` over this engine."""


def _metadata(model: Any) -> dict[str, str]:
    """What the exporter noted in the ONNX file; the reader keeps it under ``framework``."""
    try:
        return {key: str(value.astype(str)) for key, value in model.get_rt_info(["framework"]).astype(dict).items()}
    except RuntimeError:
        return {}
