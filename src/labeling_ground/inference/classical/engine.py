"""The weight-free engine: one of the backends, and the only part of this package with threads."""

import asyncio
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from numpy.typing import NDArray

from labeling_ground.inference.classical import graph, scene, tree
from labeling_ground.inference.classical.decode import decode_prompt
from labeling_ground.inference.classical.features import measure
from labeling_ground.types import Embedding, Image, ModelVersion, Prediction, Prompt

ALGORITHM_VERSION = "1"

NOTE = (
    "These masks come from classical image processing without learned weights, not from Segment Anything, "
    "and are of lower quality."
)


def encode_image(pixels: NDArray[np.uint8]) -> Embedding:
    """Oversegment an image and build its merge tree.

    Args:
        pixels: ``uint8 [height, width, 3]``, RGB.
    """
    features = measure(pixels)
    borders = graph.build(features)
    return scene.pack(features, borders, tree.build(borders), pixels.shape[0], pixels.shape[1])


class ClassicalBackend:
    """Promptable segmentation by superpixels, a merge tree and minimum cuts.

    Attributes:
        encode_threads: images that are encoded at the same time.
        decode_threads: prompts that are decoded at the same time.
    """

    def __init__(self, encode_threads: int, decode_threads: int) -> None:
        self.version = ModelVersion("classical", hashlib.sha256(ALGORITHM_VERSION.encode()).hexdigest())
        self.note = NOTE
        cv2.setNumThreads(1)
        self._encoders = ThreadPoolExecutor(encode_threads, "classical-encode")
        self._decoders = ThreadPoolExecutor(decode_threads, "classical-decode")

    async def encode(self, image: Image) -> Embedding:
        """The costly half: depends on the image only."""
        return await asyncio.get_running_loop().run_in_executor(self._encoders, encode_image, image.pixels)

    async def decode(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[Prediction]:
        """One prediction a prompt, in the prompts' order."""
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(self._decoders, decode_prompt, embedding, prompt) for prompt in prompts]
        return list(await asyncio.gather(*calls))

    async def aclose(self) -> None:
        """Give the threads back; what still waits in a queue is dropped."""
        self._encoders.shutdown(wait=False, cancel_futures=True)
        self._decoders.shutdown(wait=False, cancel_futures=True)


def create(encode_threads: int, decode_threads: int) -> ClassicalBackend:
    """Build the engine.

    Args:
        encode_threads: images that are encoded at the same time, at least 1.
        decode_threads: prompts that are decoded at the same time, at least 1.
    """
    return ClassicalBackend(encode_threads, decode_threads)
