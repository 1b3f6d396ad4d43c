"""The weight-free engine: a ``Backend``, and the only file of this package that knows threads."""

import asyncio
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from labeling_ground.errors import BackendFailed
from labeling_ground.inference.backend import DecodeAsk, ModelInfo
from labeling_ground.inference.classical import (
    candidates,
    decode,
    features,
    graph,
    paint,
    regions,
    scene,
    seeds,
    tree,
)
from labeling_ground.inference.sketch import Sketch
from labeling_ground.types import Embedding, EverythingOptions, Image, ModelVersion, Prediction

ALGORITHM_VERSION = "2"
"""To be raised by every change that may alter a mask or a score and that no parameter below shows."""

MODEL = "classical"

LARGEST_EMBEDDING = 1_200_000
"""Bytes that no embedding is larger than, whatever the image's size."""

NOTE = (
    "These masks come from classical image processing without learned weights, "
    "not from Segment Anything, and are of lower quality."
)


def encode_image(pixels: NDArray[np.uint8]) -> Embedding:
    """Oversegment an image and build its merge tree.

    Args:
        pixels: ``uint8 [height, width, 3]``, RGB.

    Returns:
        Tensors as ``scene.pack`` lays them out; at most ``LARGEST_EMBEDDING``.

    Raises:
        BackendFailed: the array is not an image with at least one pixel.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise BackendFailed(f"An array of shape {pixels.shape} is not an RGB image.")
    measured = features.measure(pixels)
    borders = graph.build(measured)
    trees = [tree.build(borders, recipe) for recipe in tree.RECIPES]
    height, width = pixels.shape[:2]
    return scene.pack(measured, borders, trees, height, width)


def algorithm_digest() -> str:
    """SHA-256 over the algorithm's version and every parameter that masks or scores depend on."""
    hasher = hashlib.sha256(f"{MODEL} {ALGORITHM_VERSION}".encode())
    for module in (features, tree, scene, seeds, candidates, decode, paint, regions):
        for name, value in sorted(vars(module).items()):
            if not name.strip("_").isupper():
                continue
            if isinstance(value, np.ndarray):
                hasher.update(name.encode() + np.asarray(value, "<f4").tobytes())
            elif isinstance(value, int | float | tuple):
                hasher.update(f"{name}={value!r}".encode())
    return hasher.hexdigest()


class ClassicalBackend:
    """Promptable segmentation by superpixels, a merge tree and minimum cuts.

    Encoding and decoding have threads of their own: a click never waits behind an image. Those of OpenCV and of
    numpy's linear algebra are switched off in this process, as ours already fill the cores: threads within threads cost
    tens of milliseconds a click. A process that serves another engine keeps them.

    Attributes:
        info: the model id ``classical`` with the digest of the algorithm, and what every answer should say about the
            quality.
    """

    # A score is a guess with few figures to go by, seldom above 0.7: from 0.35 on, the photos that parameters are
    # chosen on are covered by 80 to 95 regions, of which up to four say nearly the same. Neighbouring clicks mean the
    # same region, so that a finer grid would cost four times as much and find little more.
    usual = EverythingOptions(points_per_side=16, pred_iou_thresh=0.35, stability_score_thresh=0.9)

    def __init__(self, encode_threads: int, decode_threads: int) -> None:
        cv2.setNumThreads(1)
        threadpool_limits(1, user_api="blas")
        version = ModelVersion(MODEL, algorithm_digest())
        self.info = ModelInfo(version, NOTE, embedding_bytes=LARGEST_EMBEDDING)
        self._encoders = ThreadPoolExecutor(encode_threads, "classical-encode")
        self._decoders = ThreadPoolExecutor(decode_threads, "classical-decode")

    async def encode(self, images: Sequence[Image]) -> list[Embedding]:
        """One embedding for each image, in their order; the images share the encode threads.

        Raises:
            BackendFailed: an image has no pixels.
        """
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(self._encoders, encode_image, image.pixels) for image in images]
        return list(await asyncio.gather(*calls))

    async def decode(self, asks: Sequence[DecodeAsk]) -> list[Prediction]:
        """One prediction for each embedding and prompt, in their order; they share the decode threads.

        Raises:
            BackendFailed: an embedding is not one of this engine.
        """
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(self._decoders, decode.decode_prompt, *ask) for ask in asks]
        return list(await asyncio.gather(*calls))

    async def sketch(self, asks: Sequence[DecodeAsk]) -> list[list[Sketch]]:
        """Up to three regions for each embedding and prompt, not painted yet; see ``Sketcher``.

        Raises:
            BackendFailed: an embedding is not one of this engine.
        """
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(self._decoders, decode.sketch_prompt, *ask) for ask in asks]
        return [[*found] for found in await asyncio.gather(*calls)]

    async def aclose(self) -> None:
        """Give the threads back; what still waits in a queue is dropped."""
        self._encoders.shutdown(wait=False, cancel_futures=True)
        self._decoders.shutdown(wait=False, cancel_futures=True)


def create(encode_threads: int, decode_threads: int) -> ClassicalBackend:
    """Build the engine.

    Args:
        encode_threads: images that are encoded at the same time, at least 1.
        decode_threads: prompts that are decoded at the same time, at least 1.

    Raises:
        ValueError: a number of threads is less than 1.
    """
    return ClassicalBackend(encode_threads, decode_threads)
