"""The fastest engine of those that are installed, found by trying them on this machine."""

import gc
import importlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling_ground.errors import BadSettings, LabelingGroundError
from labeling_ground.inference.graphs import Engine, FloatArray, Precision
from labeling_ground.inference.memory import give_back_free_memory
from labeling_ground.inference.sam import SamBackend
from labeling_ground.sam.prompts import PromptTensors, tensors
from labeling_ground.types import Point, Prompt

ENGINES: Mapping[str, str] = MappingProxyType(
    {
        "onnx-cuda": "labeling_ground.inference.onnx_cuda:create",
        "openvino": "labeling_ground.inference.openvino:create",
        "onnx": "labeling_ground.inference.onnx:create",
    }
)
"""Engine → ``module:attribute`` of its factory, in the order in which they are tried."""
PRECISIONS: Mapping[str, tuple[Precision, ...]] = MappingProxyType(
    {"onnx-cuda": ("fp32", "fp16"), "openvino": ("fp32", "bf16"), "onnx": ("fp32",)}
)
"""Engine → the precisions that it can be asked for."""
ON_GPU = frozenset({"onnx-cuda"})
"""Where one of these works, the engines for processors are not tried: they would take minutes to come second."""

CLICKS_PER_IMAGE = 10
"""How many clicks weigh as much as one image, when engines are compared."""
_PATIENCE_S = 2.0
"""An encoder that takes longer is timed once and not twice."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one engine took, in seconds.

    Attributes:
        encode: one image.
        decode: one click.
    """

    encode: float
    decode: float

    @property
    def total(self) -> float:
        """One image and the clicks that it gets."""
        return self.encode + CLICKS_PER_IMAGE * self.decode


@dataclass(frozen=True, slots=True)
class Halves:
    """Which halves of a model are to be served."""

    encoder: bool = True
    decoder: bool = True


BOTH = Halves()


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen.

    Attributes:
        backend: ready to serve.
        engine: its name.
        why: a sentence for the log and for ``/v1/models``.
        figures: engine → what it took; only those that were tried.
    """

    backend: SamBackend
    engine: str
    why: str
    figures: Mapping[str, Figures]


def choose(
    encode_threads: int,
    decode_threads: int,
    *,
    encoder_path: Path | None,
    decoder_path: Path | None,
    fast_decoder_path: Path | None = None,
    model: str = "sam",
    precision: Precision = "fp32",
    engines: Mapping[str, str] = ENGINES,
    options: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Choice:
    """Try every engine that is installed and can compute in the precision; keep the fastest.

    Takes a few encodes of time. In lower precision than fp32 the difference from fp32 is measured too and is part of
    the backend's note. Where an engine on a GPU works, those on the processor are not tried. Without the encoder's or
    the decoder's file the other half is tried alone, and only the backend's engine is of use. ``options`` says, by an
    engine's name, what that engine alone is told.

    An engine whose library cannot be imported, for whatever reason, is one that is not installed.

    Raises:
        BadSettings: no engine is installed that could.
    """
    halves = Halves(encoder_path is not None, decoder_path is not None)
    files: dict[str, Any] = {
        "encoder_path": encoder_path,
        "decoder_path": decoder_path,
        "fast_decoder_path": fast_decoder_path,
        "model": model,
    }
    best: tuple[str, SamBackend] | None = None
    figures: dict[str, Figures] = {}
    refused: list[str] = []
    for name, target in engines.items():
        if precision not in PRECISIONS.get(name, (precision,)):
            refused.append(f"{name} has no {precision}")
            continue
        given = {**files, **options.get(name, {})}
        wanted = given if precision == "fp32" else {**given, "precision": precision}
        try:
            backend = _build(target, encode_threads, decode_threads, wanted)
            figures[name] = measure(backend, halves)
        except (ImportError, LabelingGroundError) as error:
            refused.append(f"{name}: {error}")
            continue
        if best is None or figures[name].total < figures[best[0]].total:
            best = (name, backend)
        if name in ON_GPU:
            break
    if best is None:
        raise BadSettings(f"No engine can serve {model} in {precision}: {'; '.join(refused)}")
    name, backend = best
    given = {**files, **options.get(name, {})}
    if precision != "fp32":
        difference = _difference(backend, halves, engines[name], encode_threads, decode_threads, given)
        backend.info = replace(backend.info, note=f"{backend.info.note} {difference}")
    gc.collect()  # what the engines that lost have held
    give_back_free_memory()
    return Choice(backend, name, _why(name, figures, refused, precision), figures)


def measure(backend: SamBackend, halves: Halves = BOTH, *, clicks: int = 5) -> Figures:
    """Time an engine: the best of two encodes (of one, if it is slow) and of some clicks, each after a warm-up.

    What it does not have takes no time.
    """
    engine = backend.engine
    pixels = sample()
    encode = 0.0
    if halves.encoder:
        started = time.perf_counter()
        engine.encode(pixels)
        encode = time.perf_counter() - started
        if encode < _PATIENCE_S:
            started = time.perf_counter()
            engine.encode(pixels)
            encode = min(encode, time.perf_counter() - started)
    if not halves.decoder:
        return Figures(encode, 0.0)
    embedding = _flat_embedding(engine)
    click = _click(backend, pixels)
    engine.decode(embedding, click, alone=True)
    taken = []
    for _ in range(clicks):
        started = time.perf_counter()
        engine.decode(embedding, click, alone=True)
        taken.append(time.perf_counter() - started)
    return Figures(encode, min(taken))


def sample() -> NDArray[np.uint8]:
    """A picture to try engines on, ``uint8 [768, 1024, 3]``: smooth, with edges, always the same."""
    y, x = np.mgrid[0:768, 0:1024].astype(np.float32)
    waves = [127.5 + 80 * np.sin(x / (60 + 25 * i) + i) * np.cos(y / (45 + 30 * i)) for i in range(3)]
    picture = np.stack(waves, -1)
    picture[(x - 500) ** 2 + (y - 350) ** 2 < 150**2] *= 0.4
    return picture.astype(np.uint8)


def _flat_embedding(engine: Engine) -> dict[str, FloatArray]:
    """Of no image: how long a decoder takes does not depend on what is in it."""
    return {name: np.full(shape, 0.1, np.float32) for name, shape in engine.family.embedding_shapes.items()}


def _click(backend: SamBackend, pixels: NDArray[np.uint8]) -> PromptTensors:
    family = backend.engine.family
    frame = family.frame(pixels.shape[0], pixels.shape[1])
    return tensors(Prompt((Point(500.0, 350.0, 1),)), frame, family)


def _build(target: str, encode_threads: int, decode_threads: int, files: Mapping[str, Any]) -> SamBackend:
    module, _, attribute = target.partition(":")
    try:
        create = getattr(importlib.import_module(module), attribute)
    except ImportError:
        raise
    except Exception as error:  # whatever a library does when it is imported: without it, it is not there
        raise ImportError(f"its library cannot be imported: {error!r}") from error
    backend: SamBackend = create(encode_threads, decode_threads, **files)
    return backend


def _difference(
    backend: SamBackend,
    halves: Halves,
    target: str,
    encode_threads: int,
    decode_threads: int,
    files: Mapping[str, Any],
) -> str:
    """How far a lower precision is off, on the sample, as a sentence."""
    pixels = sample()
    click = _click(backend, pixels)

    def result(engine: Engine) -> FloatArray:
        embedding = engine.encode(pixels) if halves.encoder else _flat_embedding(engine)
        return engine.decode(embedding, click, alone=True)[0] if halves.decoder else embedding["image_embeddings"]

    lower, full = (result(each.engine) for each in (backend, _build(target, encode_threads, decode_threads, files)))
    rms = float(np.sqrt(np.mean((lower - full) ** 2)) / max(float(full.std()), 1e-12))
    if not halves.decoder:
        return f"Measured at start: embeddings differ by {rms:.1%} rms."
    flipped = float(np.mean((lower > 0) != (full > 0)))
    return f"Measured at start: logits differ by {rms:.1%} rms, and {flipped:.2%} of a mask's pixels."


def _why(name: str, figures: Mapping[str, Figures], refused: Sequence[str], precision: str) -> str:
    won = figures[name]
    others = [
        f"{other} took {f.encode:.2f} s and {f.decode * 1e3:.0f} ms" for other, f in figures.items() if other != name
    ]
    sentence = f"{name} in {precision}: an image took {won.encode:.2f} s and a click {won.decode * 1e3:.0f} ms here"
    rest = "; ".join([*others, *(f"not tried, {reason}" for reason in refused)])
    return f"{sentence}; {rest}." if rest else f"{sentence}; no other engine was tried."
