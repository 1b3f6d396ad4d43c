"""What every backend must do, for a test class to inherit. ``docs/extending.md`` shows how."""

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray

from labeling_ground import key as keys
from labeling_ground.codec.records import open_embedding, seal_embedding
from labeling_ground.inference.backend import Backend
from labeling_ground.testing.suite import Suite
from labeling_ground.types import Box, Embedding, Image, Point, Prediction


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


def pixels_of(prediction: Prediction) -> list[NDArray[np.bool_]]:
    """The masks of a prediction, best first: H × W booleans each."""
    return [mask.pixels for mask in prediction.masks]


class BackendContract(Suite):
    """What every backend must do, whatever computes it."""

    @pytest.fixture
    def backend(self) -> Backend:
        """The backend under test. Every suite gives its own; a click on the disc of ``picture`` must find it."""
        raise NotImplementedError("Give the suite a fixture backend, which yields your backend and closes it.")

    async def test_the_version_can_be_part_of_a_key(self, backend: Backend) -> None:
        assert keys.matcher(keys.pattern(model=backend.version.model))(
            keys.ImageKeys("t", "0" * 64).embedding(backend.version)
        )
        assert len(backend.version.digest) >= 16

    async def test_an_embedding_belongs_to_its_image_and_survives_being_stored(self, backend: Backend) -> None:
        image = picture(90, 121)
        embedding = await backend.encode(image)
        assert (embedding.height, embedding.width) == (90, 121)
        stored = through_the_cache(embedding)
        for tensor in stored.tensors.values():
            assert tensor.dtype != np.float64
            assert tensor.dtype == np.float16 or not np.issubdtype(tensor.dtype, np.floating)
        [prediction] = await backend.decode(stored, [keys.canonical([Point(60, 45, 1)])])
        assert prediction.masks[0].pixels[45, 60]

    @pytest.mark.parametrize(("height", "width"), [(90, 120), (64, 33), (1, 50), (50, 1), (1, 1)])
    async def test_masks_have_the_images_size_and_scores_fall_from_best_to_worst(
        self, backend: Backend, height: int, width: int
    ) -> None:
        embedding = through_the_cache(await backend.encode(picture(height, width)))
        prompts = [
            keys.canonical([Point(width // 2, height // 2, 1)]),
            keys.canonical(box=Box(0, 0, width, height)),
            keys.canonical([Point(width // 2, height // 2, 1)], Box(0, 0, width, height), multimask=False),
        ]
        predictions = await backend.decode(embedding, prompts)
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

    async def test_the_same_ask_has_the_same_answer_alone_batched_or_beside_others(self, backend: Backend) -> None:
        embedding = through_the_cache(await backend.encode(picture()))
        prompts = [keys.canonical([Point(x, 45, 1)]) for x in (20, 40, 60, 80)]
        batched = await backend.decode(embedding, prompts)
        beside = await asyncio.gather(*(backend.decode(embedding, [prompt]) for prompt in prompts * 3))
        for index, [prediction] in enumerate(beside):
            expected = batched[index % len(prompts)]
            assert [mask.score for mask in expected.masks] == [mask.score for mask in prediction.masks]
            for one, other in zip(pixels_of(expected), pixels_of(prediction), strict=True):
                np.testing.assert_array_equal(one, other)

    async def test_an_engine_keeps_no_current_image(self, backend: Backend) -> None:
        """Decoding on one image's embedding after another was encoded gives what it gave before."""
        first = through_the_cache(await backend.encode(picture()))
        prompt = keys.canonical([Point(60, 45, 1)])
        [before] = await backend.decode(first, [prompt])
        await backend.encode(picture(50, 50))
        [after] = await backend.decode(first, [prompt])
        np.testing.assert_array_equal(before.masks[0].pixels, after.masks[0].pixels)

    async def test_a_predictions_own_logits_can_be_the_mask_input(self, backend: Backend) -> None:
        embedding = through_the_cache(await backend.encode(picture()))
        [first] = await backend.decode(embedding, [keys.canonical([Point(60, 45, 1)])])
        again = keys.canonical([Point(60, 45, 1)], mask_input=first.masks[0].logits, multimask=False)
        [second] = await backend.decode(embedding, [again])
        both = np.count_nonzero(first.masks[0].pixels & second.masks[0].pixels)
        either = np.count_nonzero(first.masks[0].pixels | second.masks[0].pixels)
        assert both / either > 0.5
