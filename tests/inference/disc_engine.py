"""Engines whose masks are discs, at once or slowly, and in lower precision a little or much larger."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labeling_ground.inference.graphs import NOTES, FloatArray, Precision
from labeling_ground.inference.sam import SamBackend
from labeling_ground.sam.family import Family
from labeling_ground.sam.prompts import PromptTensors
from labeling_ground.types import ModelVersion

ENGINES = {"openvino": f"{__name__}:low", "onnx": f"{__name__}:full"}
ENCODES: list[str] = []
VERSION = ModelVersion("my-sam", "ab" * 32)


_Y, _X = np.mgrid[0:256, 0:256].astype(np.float32)


@dataclass
class Discs:
    """Masks are discs round the first point, or the middle of a box; adds ``shift`` to each logit."""

    name: str
    encode_s: float = 0.0
    shift: float = 0.0
    family: Family = Family.SAM

    def encode(self, pixels: NDArray[np.uint8]) -> dict[str, FloatArray]:
        ENCODES.append(self.name)
        time.sleep(self.encode_s)
        return {name: np.zeros(shape, np.float32) for name, shape in self.family.embedding_shapes.items()}

    def decode(
        self, embedding: Mapping[str, FloatArray], prompt: PromptTensors, *, alone: bool
    ) -> tuple[FloatArray, FloatArray]:
        x, y = (prompt.point_coords[0].mean(axis=0) if prompt.point_labels[0, 0] > 1 else prompt.point_coords[0, 0]) / 4
        logits = 20 - np.hypot(_X - x, _Y - y) + np.float32(self.shift)
        return np.stack([logits] * 4), np.array([0.9, 0.7, 0.8, 0.6], np.float32)


def low(*_: int, precision: Precision = "fp32", shift: float = 0.1, slow_s: float = 0.15, **given: Any) -> SamBackend:
    is_full = precision == "fp32"
    engine = Discs(f"openvino {precision}", slow_s if is_full else 0.0, 0.0 if is_full else shift)
    return SamBackend(engine, VERSION, NOTES[precision], decode_threads=1, precision=precision)


def full(*_: int, **given: Any) -> SamBackend:
    return SamBackend(Discs("onnx fp32", 0.2), VERSION, "", decode_threads=1)


def flat(*_: int, precision: Precision = "fp32", **given: Any) -> SamBackend:
    return SamBackend(Discs("flat", shift=-1e4), VERSION, "", decode_threads=1, precision=precision)


LARGEST = 4.0
"""The largest value in the embeddings of ``by_embedding``."""


class DiscsByEmbedding(Discs):
    """Their size is in the embedding: its mean, in pixels, is added to the radius."""

    def encode(self, pixels: NDArray[np.uint8]) -> dict[str, FloatArray]:
        made = {name: np.full(shape, 4.0, np.float32) for name, shape in self.family.embedding_shapes.items()}
        made["image_embeddings"][..., 0, 0] = LARGEST
        return made

    def decode(
        self, embedding: Mapping[str, FloatArray], prompt: PromptTensors, *, alone: bool
    ) -> tuple[FloatArray, FloatArray]:
        logits, scores = super().decode(embedding, prompt, alone=alone)
        return logits + np.float32(embedding["image_embeddings"][0, :, 5, 5].mean()), scores


def by_embedding(*_: int, precision: Precision = "fp32", **given: Any) -> SamBackend:
    return SamBackend(DiscsByEmbedding("by embedding"), VERSION, "", decode_threads=1, precision=precision)
