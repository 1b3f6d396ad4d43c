"""What every backend must do, for a test class to inherit. ``docs/extending.md`` shows how."""

import asyncio
import re

import numpy as np
import pytest

from labeling_ground import key as keys
from labeling_ground.codec.records import open_embedding, seal_embedding
from labeling_ground.errors import BackendFailed
from labeling_ground.inference.backend import Backend
from labeling_ground.testing.suite import Suite
from labeling_ground.types import MODEL_VERSION, Box, Embedding, Image, Point, Prediction, Prompt


def picture(height: int = 90, width: int = 120) -> Image:
    """A bright disc on a dark ground, with a little of everything else."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.full((height, width, 3), (40, 60, 50), dtype=np.uint8)
    pixels[(rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (height / 4) ** 2] = (220, 180, 60)
    noise = np.random.default_rng(1).integers(0, 12, pixels.shape, dtype=np.uint8)
    return Image("0" * 64, pixels + noise)


def through_the_cache(embedding: Embedding) -> Embedding:
    """The embedding as it comes back after it was stored."""
    return open_embedding(seal_embedding("k", embedding, cost=1.0, created=0.0, precision="fp16"), "k")


async def embed(backend: Backend, image: Image) -> Embedding:
    """The image's embedding, as it comes back after it was stored."""
    [embedding] = await backend.encode([image])
    return through_the_cache(embedding)


def click(x: float, y: float) -> Prompt:
    """A click that marks an object, in pixels."""
    return keys.canonical([Point(x, y, 1)])


class BackendContract(Suite):
    """What every backend must do, whatever computes it."""

    tolerance = 0.0
    """How far scores may differ between an ask alone and the same among others, and the share of pixels that may.
    Engines that compute in batches add up in another order."""

    def same(self, one: Prediction, other: Prediction) -> None:
        """Assert that two predictions for one ask agree, within the tolerance."""
        for first, second in zip(one.masks, other.masks, strict=True):
            assert abs(first.score - second.score) <= self.tolerance
            assert np.count_nonzero(first.pixels != second.pixels) <= self.tolerance * first.pixels.size

    @pytest.fixture
    def backend(self) -> Backend:
        """The backend under test. Every suite gives its own; a click on the disc of ``picture`` must find it."""
        raise NotImplementedError("Give the suite a fixture backend, which yields your backend and closes it.")

    async def test_the_version_can_be_part_of_a_key(self, backend: Backend) -> None:
        assert keys.matcher(keys.pattern(model=backend.info.version.model))(
            keys.ImageKeys("t", "0" * 64).embedding(backend.info.version)
        )
        version = backend.info.version
        assert re.fullmatch(MODEL_VERSION, f"{version.model}@{version.digest}"), "a digest that is none tells nothing"

    async def test_an_embedding_belongs_to_its_image_and_survives_being_stored(self, backend: Backend) -> None:
        embedding = await embed(backend, picture(90, 121))
        assert (embedding.height, embedding.width) == (90, 121)
        for tensor in embedding.tensors.values():
            assert tensor.dtype != np.float64
            assert tensor.dtype == np.float16 or not np.issubdtype(tensor.dtype, np.floating)
        [prediction] = await backend.decode([(embedding, click(60, 45))])
        assert prediction.masks[0].pixels[45, 60]

    @pytest.mark.parametrize(("height", "width"), [(90, 120), (64, 33), (1, 50), (50, 1), (1, 1)])
    async def test_masks_have_the_images_size_and_scores_fall_from_best_to_worst(
        self, backend: Backend, height: int, width: int
    ) -> None:
        embedding = await embed(backend, picture(height, width))
        prompts = [
            click(width // 2, height // 2),
            keys.canonical(box=Box(0, 0, width, height)),
            keys.canonical([Point(width // 2, height // 2, 1)], Box(0, 0, width, height), multimask=False),
        ]
        predictions = await backend.decode([(embedding, prompt) for prompt in prompts])
        assert len(predictions) == len(prompts)
        for prediction in predictions:
            assert 1 <= len(prediction.masks) <= 3
            scores = [mask.score for mask in prediction.masks]
            assert scores == sorted(scores, reverse=True)
            for mask in prediction.masks:
                assert 0.0 <= mask.score <= 1.0
                assert mask.pixels.shape == (height, width)
                assert mask.pixels.dtype == np.bool_
                assert mask.logits.shape == (256, 256)
                assert np.isfinite(mask.logits).all()
        assert len(predictions[2].masks) == 1

    async def test_the_same_ask_has_the_same_answer_alone_together_or_beside_others(self, backend: Backend) -> None:
        """Prompts of different images, in one call, in many, and in many side by side."""
        embeddings = [await embed(backend, picture(*size)) for size in ((90, 120), (64, 80))]
        asks = [(embedding, click(x, 30)) for x in (20, 40, 60) for embedding in embeddings]
        asks.append((embeddings[0], keys.canonical(box=Box(30, 20, 80, 60))))
        together = await backend.decode(asks)
        beside = await asyncio.gather(*(backend.decode([ask]) for ask in asks * 2))
        assert len(together) == len(asks)
        for index, [prediction] in enumerate(beside):
            self.same(together[index % len(asks)], prediction)

    async def test_images_are_encoded_together_as_they_are_alone_and_in_their_order(self, backend: Backend) -> None:
        images = [picture(90, 120), picture(64, 80), picture(90, 121)]
        alone = [(await backend.encode([image]))[0] for image in images]
        together = await backend.encode(images)
        assert [(one.height, one.width) for one in together] == [(90, 120), (64, 80), (90, 121)]
        for one, other in zip(together, alone, strict=True):
            [first], [second] = [await backend.decode([(each, click(40, 30))]) for each in (one, other)]
            self.same(first, second)

    async def test_an_ask_that_cannot_be_answered_spoils_no_other(self, backend: Backend) -> None:
        """The call that it is part of fails, and the others can be asked again at once."""
        embedding = await embed(backend, picture())
        asks = [(embedding, click(x, 45)) for x in (40, 60)]
        expected = await backend.decode(asks)
        damaged = Embedding({"nothing": np.zeros(1, np.float32)}, embedding.height, embedding.width)
        with pytest.raises(BackendFailed):
            await backend.decode([asks[0], (damaged, click(60, 45)), asks[1]])
        for one, other in zip(await backend.decode(asks), expected, strict=True):
            self.same(one, other)

    async def test_an_engine_keeps_no_current_image(self, backend: Backend) -> None:
        """Decoding on one image's embedding after another was encoded gives what it gave before."""
        first = await embed(backend, picture())
        [before] = await backend.decode([(first, click(60, 45))])
        await backend.encode([picture(50, 50)])
        [after] = await backend.decode([(first, click(60, 45))])
        np.testing.assert_array_equal(before.masks[0].pixels, after.masks[0].pixels)

    async def test_a_predictions_own_logits_can_be_the_mask_input(self, backend: Backend) -> None:
        embedding = await embed(backend, picture())
        [first] = await backend.decode([(embedding, click(60, 45))])
        again = keys.canonical([Point(60, 45, 1)], mask_input=first.masks[0].logits, multimask=False)
        [second] = await backend.decode([(embedding, again)])
        both = np.count_nonzero(first.masks[0].pixels & second.masks[0].pixels)
        either = np.count_nonzero(first.masks[0].pixels | second.masks[0].pixels)
        assert both / either > 0.5
