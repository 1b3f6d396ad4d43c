"""A backend without weights, for tests: its masks are discs round the points, computed in no time."""

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

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
        encode_s: seconds that one encode takes.
        decode_s: seconds that one decode takes.
    """

    note = "A toy."

    def __init__(self, version: ModelVersion = TOY, *, encode_s: float = 0.0, decode_s: float = 0.0) -> None:
        self.version = version
        self.encode_s = encode_s
        self.decode_s = decode_s
        self.encodes = 0
        self.decodes = 0
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

    async def encode(self, image: Image) -> Embedding:
        """Means of the image's colours, in numbers that half precision rounds."""
        self.encodes += 1
        await self._work(self.encode_s)
        means = image.pixels.reshape(-1, 3).mean(axis=0).astype(np.float32) / np.float32(3.0)
        grid = np.tile(means, (4, 1)) * np.linspace(0.1, 1.0, 4, dtype=np.float32)[:, None]
        embedding = Embedding({"grid": grid[None], "means": means}, image.height, image.width)
        return embedding if self.spoil_embedding is None else self.spoil_embedding(embedding)

    async def decode(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[Prediction]:
        """Discs round the points, the box, and what the mask input marks."""
        self.decodes += 1
        self.decoded_with.append(embedding)
        await self._work(self.decode_s)
        predictions = [_predict(embedding, prompt) for prompt in prompts]
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
