"""Whether masks agree with those of another engine or precision: what is asked of which pictures, and the overlap."""

import functools
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labeling_ground.inference.graphs import Engine, FloatArray
from labeling_ground.sam.masks import prediction
from labeling_ground.sam.preprocess import PREPROCESSING_VERSION
from labeling_ground.sam.prompts import tensors
from labeling_ground.types import Box, Point, Prompt

Pixels = NDArray[np.uint8]
Masks = Mapping[str, Sequence[NDArray[np.bool_]]]
"""Kind of prompt → the mask of each prompt of that kind, ``bool [height, width]``."""

_PLACES = ((0.49, 0.46), (0.25, 0.3), (0.74, 0.62))
"""Where prompts are, as shares of a picture's width and height. The first lies on what is drawn in ``sample``."""
_CHECK = 1
"""To be raised when another comparison is made, so that what was found by an earlier one does not count any more."""
_LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "openvino", "torch")


def sample(number: int = 0) -> Pixels:
    """A picture to try engines on, ``uint8 [768, 1024, 3]``: smooth, with edges, the same everywhere.

    Args:
        number: which one: 0 has a disc, 1 has a bar and other waves.
    """
    y, x = np.mgrid[0:768, 0:1024].astype(np.float32)
    waves = [
        127.5 + 80 * np.sin(x / (60 + 25 * i + 31 * number) + i) * np.cos(y / (45 + 30 * i + 17 * number))
        for i in range(3)
    ]
    picture = np.stack(waves, -1)
    inside = (x - 500) ** 2 + (y - 350) ** 2 < 150**2 if number == 0 else (abs(x - 500) < 90) & (abs(y - 350) < 210)
    picture[inside] *= 0.4
    return picture.astype(np.uint8)


def prompts(height: int, width: int) -> dict[str, tuple[Prompt, ...]]:
    """What is asked of a picture of this size: three lone clicks, three boxes, three times three clicks."""

    def point(place: tuple[float, float], label: int = 1) -> Point:
        return Point(round(place[0] * width, 1), round(place[1] * height, 1), label)

    def box(place: tuple[float, float]) -> Box:
        x, y = place[0] * width, place[1] * height
        return Box(x - 0.16 * width, y - 0.22 * height, x + 0.16 * width, y + 0.22 * height)

    def beside(place: tuple[float, float]) -> tuple[float, float]:
        return place[0] + 0.04, place[1] - 0.05

    others = (*_PLACES[1:], _PLACES[0])
    return {
        "click": tuple(Prompt((point(place),)) for place in _PLACES),
        "box": tuple(Prompt((), box(place)) for place in _PLACES),
        "3 clicks": tuple(
            Prompt((point(place), point(beside(place)), point(other, 0)), multimask=False)
            for place, other in zip(_PLACES, others, strict=True)
        ),
    }


def masks_of(engine: Engine, pixels: Pixels, embedding: Mapping[str, FloatArray]) -> Masks:
    """The mask that is answered first, for each of ``prompts``.

    Args:
        engine: what decodes.
        pixels: the picture, RGB ``uint8 [height, width, 3]``.
        embedding: its embedding.
    """
    frame = engine.family.frame(*pixels.shape[:2])

    def mask(prompt: Prompt) -> NDArray[np.bool_]:
        logits, scores = engine.decode(embedding, tensors(prompt, frame, engine.family), alone=True)
        return prediction(logits, scores, prompt, frame, engine.family).masks[0].pixels

    return {kind: [mask(prompt) for prompt in some] for kind, some in prompts(*pixels.shape[:2]).items()}


def overlaps(masks: Masks, reference: Masks) -> dict[str, list[float]]:
    """Kind of prompt → the intersection over union of each mask with that of the reference.

    Two empty masks, or two of the whole image, are left out: they are equal whatever the precision.
    """
    found: dict[str, list[float]] = {}
    for kind, expected in reference.items():
        pairs = zip(masks[kind], expected, strict=True)
        found[kind] = [float((a & b).sum() / (a | b).sum()) for a, b in pairs if (a | b).any() and not (a & b).all()]
    return found


@functools.cache
def this_machine() -> str:
    """What a comparison holds for: the processor, the GPUs, and the versions of the engines' libraries, in words."""
    processor = _processor()
    versions = []
    for name in _LIBRARIES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join([processor, *_gpus(), *versions, f"check {_CHECK}.{PREPROCESSING_VERSION}"])


def _processor() -> str:
    """Its name, and the beginning of a digest of what it can do: a virtual machine may hide some of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    features = facts.get("flags") or facts.get("Features") or ""
    name = facts.get("model name") or platform.machine()
    return f"{name} ({sha256(' '.join(sorted(features.split())).encode()).hexdigest()[:8]})"


def _gpus() -> list[str]:
    told = [path.read_text(encoding="utf-8") for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    return [line[6:].strip() for text in told for line in text.splitlines() if line.startswith("Model:")]
