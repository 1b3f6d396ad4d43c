"""A tiny SAM 3 for the suites of the ports."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.sam.references_sam3 import tiny

from labeling_ground.inference.backend import Backend
from labeling_ground.sam.prompts import PromptTensors

_RADIUS = 0.15
"""Of the largest disc, in shares of the square."""


def sam3_of_discs() -> Backend:
    """Everything is computed; but a click finds a disc around its first point, where random weights find noise."""
    root = tiny()
    from labeling_ground.inference.sam3 import create
    from labeling_ground.networks.sam3_files import files_of

    backend = create(1, 2, files=files_of(root), device="cpu")
    plain = backend.engine.decode

    def decode(
        embedding: Mapping[str, Any], prompt: PromptTensors, *, alone: bool
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        logits, scores = plain(embedding, prompt, alone=alone)
        x, y = prompt.point_coords[0, 0] / 1008 if prompt.tokens else (0.5, 0.5)
        centres = (np.arange(logits.shape[-1], dtype=np.float32) + 0.5) / logits.shape[-1]
        away = np.hypot(centres[None, :] - x, centres[:, None] - y)
        radii = _RADIUS * np.array([1.0, 0.8, 0.9, 1.0], np.float32)[:, None, None]
        return (logits + 400 * (radii - away)).astype(np.float32), scores

    backend.engine.decode = decode
    return backend
