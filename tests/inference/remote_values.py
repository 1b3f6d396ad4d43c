"""Values that travel between a server and its engines."""

from typing import Any

import numpy as np

from labeling_ground.sam.prompts import PromptTensors, as_tensors
from labeling_ground.types import ModelVersion

VERSION = ModelVersion("sam-vit-h", "0123456789abcdef" * 4)


KEY = "f" * 64


SHAPE = (1, 256, 64, 64)


def prompt(tokens: int = 2, *, mask: bool = False) -> PromptTensors:
    rng = np.random.default_rng(0)
    coords = rng.uniform(0, 1024, (1, tokens, 2)).astype(np.float32)
    return as_tensors(
        coords,
        np.ones((1, tokens), np.float32),
        rng.normal(size=(1, 1, 256, 256)).astype(np.float32) if mask else None,
    )


def embedding(dtype: Any = np.float16) -> dict[str, Any]:
    return {"image_embeddings": np.random.default_rng(1).normal(size=SHAPE).astype(dtype)}
