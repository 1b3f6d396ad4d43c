"""Several images and prompts in one run of an engine are what they are one by one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.doubles import encoded
from tests.inference.engines import PROMPTS, disc_files, files, pooling_encoder, ready_made
from tests.inference.remote_asks import image
from tests.needs import needs
from tests.sam.references_sam2 import exported_sam2

from labeling_ground.inference.backend import ALONE, BatchSizes, DecodeAsk
from labeling_ground.inference.sam import SamBackend
from labeling_ground.types import Image, Point, Prediction, Prompt

pytestmark = pytest.mark.anyio

TOLERANCE = 1e-3
"""Of logits and scores, in fp32: that of all engines. What differs is the order of sums."""


def counting(backend: SamBackend) -> list[int]:
    """How many asks each further run of the decoder has."""
    decoder: Any = backend.engine
    runs: list[int] = []
    inner = decoder._decoder._run

    def run(embedding: Any, prompt: Any, *, alone: bool) -> Any:
        runs.append(len(prompt.point_labels))
        return inner(embedding, prompt, alone=alone)

    decoder._decoder._run = run
    return runs


def onnx(engine: str = "onnx", *, made: dict[str, Any], **options: Any) -> SamBackend:
    needs("onnxruntime")
    from labeling_ground.inference import onnx, onnx_cuda

    create = onnx.create if engine == "onnx" else onnx_cuda.create
    return create(1, 2, **made, **options)


def check_same(made: Sequence[Prediction], expected: Sequence[Prediction]) -> None:
    for one, other in zip(made, expected, strict=True):
        for a, b in zip(one.masks, other.masks, strict=True):
            assert abs(a.score - b.score) <= TOLERANCE
            assert np.abs(a.logits - b.logits).max() <= TOLERANCE
            certain = np.abs(_upscaled(b, a.pixels.shape)) > 10 * TOLERANCE
            np.testing.assert_array_equal(a.pixels[certain], b.pixels[certain])


def _upscaled(mask: Any, shape: tuple[int, ...]) -> Any:
    """Logits about where each pixel is: a pixel whose logit is all but zero may fall on either side."""
    rows, columns = (np.arange(size) * 256 // size for size in shape)
    return mask.logits[rows][:, columns]


async def asks_on(backend: SamBackend, images: int, prompts: Sequence[Prompt]) -> list[DecodeAsk]:
    embeddings = [await encoded(backend, image(seed)) for seed in range(images)]
    return [(embedding, prompt) for prompt in prompts for embedding in embeddings]


@pytest.mark.parametrize(("together", "runs"), [(1, [1] * 16), (4, [4] * 4), (16, [16])])
async def test_clicks_on_different_images_are_one_run_and_have_the_masks_of_one_by_one(
    together: int, runs: list[int]
) -> None:
    backend = onnx(made=disc_files(), together=together)
    alone = onnx(made=disc_files())
    asks = await asks_on(backend, 4, [Prompt((Point(40.0 * x + 30, 90.0, 1),)) for x in range(4)])
    counted = counting(backend)
    made = await backend.decode(asks)
    assert counted == runs
    check_same(made, [(await alone.decode([ask]))[0] for ask in asks])
    assert backend.info.decode_batch == BatchSizes(together, together)
    await backend.aclose()
    await alone.aclose()


@pytest.mark.parametrize("engine", ["onnx", "onnx-cuda"])
async def test_prompts_of_every_shape_find_those_of_their_own(engine: str) -> None:
    """Clicks, boxes, long prompts and mask inputs in one call, on two images."""
    options: dict[str, Any] = {"device": "cpu"} if engine == "onnx-cuda" else {}
    backend, alone = onnx(engine, made=disc_files(), together=8, **options), onnx(made=disc_files())
    asks = await asks_on(backend, 2, [*PROMPTS, *PROMPTS])
    counted = counting(backend)
    check_same(await backend.decode(asks), [(await alone.decode([ask]))[0] for ask in asks])
    assert sum(counted) == len(asks)
    assert max(counted) > 1
    if engine == "onnx-cuda":  # its embeddings lie on the device one by one
        assert max(counted) <= len(asks) // 2
    await backend.aclose()
    await alone.aclose()


@pytest.mark.slow
async def test_sam_2_with_its_finer_features_likewise() -> None:
    folder, _ = exported_sam2()
    made = {f"{part}_path": folder / f"{name}.onnx" for part, name in (("encoder", "encoder"), ("decoder", "decoder"))}
    backend, alone = onnx(made=made, together=4), onnx(made=made)
    asks = await asks_on(backend, 2, [Prompt((Point(40.0 * x + 30, 90.0, 1),)) for x in range(2)])
    counted = counting(backend)
    check_same(await backend.decode(asks), [(await alone.decode([ask]))[0] for ask in asks])
    assert counted == [4]
    await backend.aclose()
    await alone.aclose()


async def test_a_graph_that_takes_one_prompt_is_given_one() -> None:
    """The reference's own export of the decoder, and an encoder for one image."""
    backend = onnx(made=ready_made(), together=4)
    assert (backend.info.encode_batch, backend.info.decode_batch) == (ALONE, ALONE)
    asks = await asks_on(backend, 2, [Prompt((Point(60.0, 90.0, 1),))])
    assert len(await backend.decode(asks)) == 2
    await backend.aclose()


async def test_an_encoder_that_takes_several_images_gets_them_in_one_run(tmp_path: Path) -> None:
    """Pooling stands for it: what matters is which image's numbers come out where."""
    pooling_encoder(tmp_path / "encoder.onnx", "images")
    backend = onnx(made=files() | {"encoder_path": tmp_path / "encoder.onnx"}, together=4)
    assert backend.info.encode_batch == BatchSizes(4, 4)
    engine: Any = backend.engine
    runs: list[int] = []
    inner = engine._encoder._run

    def run(given: Any, count: int) -> Any:
        runs.append(count)
        return inner(given, count)

    engine._encoder._run = run
    images = [image(0), Image("0" * 64, np.full((50, 90, 3), 200, np.uint8)), image(2), image(3), image(4)]
    together = await backend.encode(images)
    assert runs == [4, 1]
    for one, each in zip(together, images, strict=True):
        alone = await encoded(backend, each)
        assert (one.height, one.width) == (each.height, each.width)
        assert one.tensors["image_embeddings"].shape == (1, 256, 64, 64)
        np.testing.assert_allclose(
            one.tensors["image_embeddings"], alone.tensors["image_embeddings"], rtol=0, atol=TOLERANCE
        )
    await backend.aclose()
