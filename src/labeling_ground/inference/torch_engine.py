"""Segment Anything by torch, on a processor or an NVIDIA GPU, from the authors' checkpoint, in this process.

The encoder computes in the precision that was asked for, with the attention kernels of ``networks.attention``. The
decoder's sums stay in fp32: it takes milliseconds, and a click's place in the image needs more digits than bf16 has.
"""

import contextlib
import logging
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labeling_ground.errors import BadInput, BadSettings
from labeling_ground.inference import sam
from labeling_ground.inference.graphs import (
    FAST_TOKENS,
    BatchHalves,
    EngineAsk,
    FloatArray,
    Precision,
    alike,
)
from labeling_ground.inference.lru import Lru
from labeling_ground.inference.torch_device import Call, Device, Replays, cuda_graphs
from labeling_ground.networks.attention import use_kernels
from labeling_ground.networks.checkpoint import Loaded, load
from labeling_ground.networks.decoders import FastDecoder, PlainDecoder
from labeling_ground.sam.preprocess import preprocess
from labeling_ground.sam.prompts import stacked

log = logging.getLogger(__name__)

TYPES: Mapping[Precision, torch.dtype] = MappingProxyType(
    {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
)
IMAGES, PROMPTS = 8, 16
"""Images and prompts of one run on a GPU."""
_COMPILED = frozenset({"SamVisionLayer", "SamHQVisionLayer", "Sam2MultiScaleBlock", "Block", "MBConv", "RepVitBlock"})
"""Names of the classes of which an encoder is a stack. One is compiled, and what is compiled serves all alike."""
_RECORDS = 24
"""CUDA graphs held of each half: shapes of prompts are few."""


class TorchEngine(BatchHalves):
    """Both halves in one process, or one alone.

    Args:
        encoder: the authors' checkpoint; ``None`` for a decoder alone.
        decoder: the same file; ``None`` for an encoder alone.
        fast_decoder: of no use here: the checkpoint has all that both decoders need.
        precision: ``fp32``, ``bf16`` or ``fp16`` for the encoder.
        encode_threads: threads of one encode on a processor.
        decode_threads: threads of one decode there, while it is the only one.
        together: how many images, and prompts, one run takes. By default 1 on a processor, which gains nothing by
            more; on a GPU ``IMAGES`` and ``PROMPTS``.
        device: see ``Device``.
        compiled: whether the encoder's blocks are compiled, which takes up to a minute at the first image. By default
            on a GPU.
        gpu_bytes: a sixteenth of this much of the GPU's memory is for embeddings that wait for the next click.

    Raises:
        BadSettings: the file cannot be used, or there is no such device.
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
        device: str = "auto",
        compiled: bool | None = None,
        gpu_bytes: int = 8 << 30,
    ) -> None:
        del fast_decoder
        where = Device(device)
        if precision == "fp16" and not where.is_gpu:
            raise BadSettings("Processors compute fp16 many times slower than fp32: take bf16, or fp32.")
        loaded = _loaded(encoder, decoder)
        self.family = loaded.family
        images, prompts = (IMAGES, PROMPTS) if where.is_gpu else (1, 1)
        encoding = decoding = None
        if decoder is not None:  # first: the encoder's weights are changed in place
            held = gpu_bytes // 16 if where.is_gpu else 0
            decoding = TorchDecoder(loaded, where, decode_threads, together or prompts, held)
        if encoder is not None:
            compiled = where.is_gpu if compiled is None else compiled
            encoding = TorchEncoder(
                loaded, where, TYPES[precision], encode_threads, together or images, compiled=compiled
            )
        super().__init__(encoding, decoding)


create = partial(sam.create, TorchEngine)
"""``sam.create`` over this engine."""


class TorchEncoder:
    """From images to embeddings.

    Args:
        loaded: the model; its encoder's weights are converted in place.
        device: where to.
        kind: in which the encoder computes.
        threads: threads of one encode on a processor.
        together: how many images one run takes.
        compiled: whether the blocks are compiled.
        in_head: whether relative positions go into the head, which by default they do on a GPU.
    """

    def __init__(
        self,
        loaded: Loaded,
        device: Device,
        kind: torch.dtype,
        threads: int,
        together: int,
        *,
        compiled: bool,
        in_head: bool | None = None,
    ) -> None:
        self.together = together
        self._family, self._device, self._kind, self._threads = loaded.family, device, kind, threads
        self._module = loaded.encoder.requires_grad_(False)
        use_kernels(self._module, in_head=device.is_gpu if in_head is None else in_head)
        self._module.to(device.place, kind)
        if compiled:
            compile_blocks(self._module)
        self._turn = threading.Lock()
        self._stream = device.stream(urgent=False)
        self.call: Call = Replays(self.forward, cuda_graphs(), _RECORDS) if device.is_gpu else self.forward

    def encode_all(self, images: Sequence[NDArray[np.uint8]]) -> list[dict[str, FloatArray]]:
        """The embedding's tensors of each image, ``together`` or fewer of them in one run."""
        made: list[dict[str, FloatArray]] = []
        for start, size in runs(len(images), self.together):
            squares = [preprocess(pixels, self._family) for pixels in images[start : start + size]]
            with self._turn, self._device.computing(self._threads, self._stream):
                tensors = self.call(self._device.send(squares))
                # Each for itself: a view would hold the whole run's memory for as long as one of them is needed.
                rows = [x[index : index + 1] for index in range(size) for x in tensors]
                fetched = self._device.fetch(rows)
            names = self._family.embedding_names
            made += [
                dict(zip(names, fetched[index * len(names) : (index + 1) * len(names)], strict=True))
                for index in range(size)
            ]
        return made

    def forward(self, squares: Tensor | None) -> tuple[Tensor, ...]:
        """Normalised squares ``float32 [B, 3, 1024, 1024]`` on the device → the embeddings' tensors, kernel by kernel.
        ``call`` is the same as one CUDA graph on a GPU."""
        made = self._module(squares if squares is None else squares.to(self._kind))
        return made if isinstance(made, tuple) else (made,)


class TorchDecoder:
    """From embeddings and prompts to logits.

    On a GPU, the embeddings that were clicked on last stay there for the next click, by their digest. A lone prompt is
    a CUDA graph: launching its kernels one by one takes longer than they do.

    Args:
        loaded: the model.
        device: where to.
        threads: threads of a decode that is the only one, on a processor.
        together: how many prompts one run takes, also of different images.
        most_bytes: what the embeddings may take on the device.
    """

    def __init__(self, loaded: Loaded, device: Device, threads: int, together: int, most_bytes: int) -> None:
        self.together = together
        self._names, self._device, self._threads = loaded.family.embedding_names, device, threads
        plain, fast = (kind(loaded.sam).eval().requires_grad_(False) for kind in (PlainDecoder, FastDecoder))
        self._plain, self._fast = _on(plain, device), _on(fast, device)
        self.held: Lru[tuple[Tensor, ...]] = Lru(most_bytes)
        # One at a time on a GPU: side by side they would take as long together, and overwrite each other's results.
        self._turn = threading.Lock() if device.is_gpu else contextlib.nullcontext()
        self._stream = device.stream(urgent=True)
        self._lone: dict[Call, Call] = {
            decoder: Replays(decoder, cuda_graphs(), _RECORDS) if device.is_gpu else decoder
            for decoder in (self._plain, self._fast)
        }

    def decode_all(self, asks: Sequence[EngineAsk], *, alone: bool) -> list[tuple[FloatArray, FloatArray]]:
        """Logits and scores of each ask; those whose prompts have one shape go together."""
        made: dict[int, tuple[FloatArray, FloatArray]] = {}
        for numbers in alike(asks, self.together, one_image=False):
            logits, scores = self._run([asks[number] for number in numbers], self._threads if alone else 1)
            made |= zip(numbers, zip(logits, scores, strict=True), strict=True)
        return [made[number] for number in range(len(asks))]

    def _run(self, asks: Sequence[EngineAsk], threads: int) -> tuple[FloatArray, FloatArray]:
        prompt = stacked([prompt for _, prompt in asks])
        decoder = self._fast if prompt.tokens <= FAST_TOKENS else self._plain
        call = self._lone[decoder] if len(asks) == 1 else decoder
        send = self._device.send
        with self._turn, self._device.computing(threads, self._stream):
            there = [self._there(embedding) for embedding, _ in asks]
            embeddings = [torch.cat(each) if len(each) > 1 else each[0] for each in zip(*there, strict=True)]
            mask = send([prompt.mask_input]) if prompt.has_mask_input[0] else None
            read = (send([prompt.point_coords]), send([prompt.point_labels]), mask, send([prompt.has_mask_input]))
            logits, scores = self._device.fetch(call(*embeddings, *read))
        return logits, scores

    def _there(self, embedding: Mapping[str, FloatArray]) -> tuple[Tensor, ...]:
        """An embedding's tensors on the device. One that has a digest is sent once."""

        def send() -> tuple[tuple[Tensor, ...], int]:
            sent = tuple(self._device.send([embedding[name]]) for name in self._names)
            return sent, sum(x.nbytes for x in sent)

        return self.held.get(getattr(embedding, "digest", ""), send)


def compile_blocks(encoder: nn.Module) -> None:
    """Compile one block of each kind and shape when it is first needed, and use that for all of its kind."""
    # Windows and whole images, stages of several widths, runs of several sizes: each is a shape.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    for module in encoder.modules():
        if type(module).__name__ in _COMPILED:
            module.compile(dynamic=False)


def runs(count: int, most: int) -> list[tuple[int, int]]:
    """Start and size of runs over so many images, the sizes being powers of two: few sizes are few CUDA graphs."""
    made: list[tuple[int, int]] = []
    start = 0
    while start < count:
        size = 1 << (min(count - start, most).bit_length() - 1)
        made.append((start, size))
        start += size
    return made


def _loaded(encoder: Path | None, decoder: Path | None) -> Loaded:
    """The model of the one file that both halves come from."""
    files = {path for path in (encoder, decoder) if path is not None}
    if len(files) != 1:
        raise BadSettings("torch computes both halves of a model from one file, the authors' checkpoint.")
    (path,) = files
    try:
        loaded = load(path)
    except OSError as error:
        raise BadSettings(f"The model file {path} cannot be read: {error.strerror}.") from error
    except BadInput as error:
        raise BadSettings(str(error)) from error
    return loaded


def _on(module: nn.Module, device: Device) -> Any:
    return module.to(device.place)
