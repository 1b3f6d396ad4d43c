"""A backend without weights, for tests: its masks are discs round the points, computed in no time."""

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from labeling_ground.errors import BackendFailed
from labeling_ground.inference.backend import ALONE, BatchSizes, DecodeAsk, ModelInfo
from labeling_ground.sam.geometry import stretched
from labeling_ground.types import (
    Embedding,
    Image,
    Mask,
    ModelVersion,
    Prediction,
    Prompt,
)

TOY = ModelVersion("toy", "0" * 64)


class ToyBackend:
    """A model of a few numbers: discs round the points, their size taken from the embedding.

    It depends on its arguments only, as the port wants it, and counts what it is asked.

    Args:
        version: what it says it is.
        encode_s: seconds that one call of ``encode`` takes, however many images it is given.
        decode_s: the same for ``decode``.
        batch: how many asks of either kind it says that it takes together.
    """

    note = "A toy."

    def __init__(
        self,
        version: ModelVersion = TOY,
        *,
        encode_s: float = 0.0,
        decode_s: float = 0.0,
        batch: BatchSizes = ALONE,
    ) -> None:
        self.version = version
        self.batch = batch
        self.encode_s = encode_s
        self.decode_s = decode_s
        self.encodes = 0
        self.decodes = 0
        self.batches: list[int] = []
        """How many asks each call had."""
        self.called_off = 0
        self.decoded_with: list[Embedding] = []
        self.begun = asyncio.Event()
        """Set when a call reaches the model."""
        self.hold: asyncio.Event | None = None
        """Where there is one, calls wait for it."""
        self.error: Exception | None = None
        """Where there is one, calls raise it."""
        self.spoil_embedding: Callable[[Embedding], Embedding] | None = None
        self.spoil_predictions: Callable[[list[Prediction]], list[Prediction]] | None = None

    @property
    def info(self) -> ModelInfo:
        """The version and note that it has now, and how many asks it takes together."""
        return ModelInfo(self.version, self.note, encode_batch=self.batch, decode_batch=self.batch, frame=stretched)

    async def encode(self, images: Sequence[Image]) -> list[Embedding]:
        """Means of the images' colours, in numbers that half precision rounds."""
        self.encodes += 1
        self.batches.append(len(images))
        await self._work(self.encode_s)
        return [self._embed(image) for image in images]

    def _embed(self, image: Image) -> Embedding:
        return self._embedding(image.pixels)

    def _embedding(self, pixels: NDArray[np.uint8]) -> Embedding:
        means = pixels.reshape(-1, 3).mean(axis=0).astype(np.float32) / np.float32(3.0)
        grid = np.tile(means, (4, 1)) * np.linspace(0.1, 1.0, 4, dtype=np.float32)[:, None]
        embedding = Embedding({"grid": grid[None], "means": means}, *pixels.shape[:2])
        return embedding if self.spoil_embedding is None else self.spoil_embedding(embedding)

    async def decode(self, asks: Sequence[DecodeAsk]) -> list[Prediction]:
        """Discs round the points, the box, and what the mask input marks."""
        self.decodes += 1
        self.batches.append(len(asks))
        self.decoded_with += [embedding for embedding, _ in asks]
        await self._work(self.decode_s)
        predictions = [_predict(*ask) for ask in asks]
        return predictions if self.spoil_predictions is None else self.spoil_predictions(predictions)

    async def aclose(self) -> None:
        """There is nothing to give back."""

    async def _work(self, seconds: float) -> None:
        self.begun.set()
        try:
            if self.hold is not None:
                await self.hold.wait()
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.called_off += 1
            raise
        if self.error is not None:
            raise self.error


def _predict(embedding: Embedding, prompt: Prompt) -> Prediction:
    if "means" not in embedding.tensors:
        raise BackendFailed("The embedding is not one of this model's.")
    height, width = embedding.height, embedding.width
    means = embedding.tensors["means"].astype(np.float64)
    y, x = np.mgrid[:height, :width]
    masks = []
    for scale in (3.0, 2.0, 1.0) if prompt.multimask else (2.0,):
        pixels = np.zeros((height, width), np.bool_)
        if prompt.mask_input is not None:
            pixels |= prompt.mask_input[(y * 256) // height, (x * 256) // width] > 0
        if prompt.box is not None:
            box = prompt.box
            pixels |= (x >= box.x0) & (x < box.x1) & (y >= box.y0) & (y < box.y1)
        for point in sorted(prompt.points, key=lambda point: -point.label):
            radius = scale * (1.0 + float(means[0]) / 40.0)
            disc = (x - point.x) ** 2 + (y - point.y) ** 2 <= radius**2
            pixels = pixels | disc if point.label else pixels & ~disc
        rows, columns = (np.arange(256) * height) // 256, (np.arange(256) * width) // 256
        logits = np.where(pixels[rows][:, columns], 1.0, -1.0) * (1.0 + means.sum()) * scale / 7.0
        seen = 0.0 if prompt.mask_input is None else float(np.abs(prompt.mask_input).mean()) % 0.01
        masks.append(Mask(pixels, 0.5 + scale / 10.0 + seen + float(means[1]) / 1e4, logits.astype(np.float32)))
    return Prediction(tuple(masks))
