"""Segment Anything by OpenVINO."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from tests.doubles import on
from tests.inference.engines import (
    CHECKS,
    PROMPTS,
    Check,
    check_against_the_reference,
    files,
    ready_made,
    reference_embedding,
)
from tests.needs import needs

from labeling_ground.errors import BadSettings
from labeling_ground.inference.sam import SamBackend

pytestmark = pytest.mark.anyio


@pytest.fixture
async def backend() -> AsyncIterator[SamBackend]:
    needs("openvino")
    from labeling_ground.inference.openvino import create

    made = create(1, 2, **files())
    yield made
    await made.aclose()


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
async def test_openvino(backend: SamBackend, check: Check) -> None:
    await check(backend)
    assert backend.info.note == ""


@pytest.mark.slow
async def test_ready_made_files_are_served_too() -> None:
    needs("openvino")
    from labeling_ground.inference.openvino import create

    made = create(1, 2, **ready_made())
    await check_against_the_reference(made)
    await made.aclose()


async def test_both_engines_may_share_a_cache(backend: SamBackend) -> None:
    needs("onnxruntime")
    from labeling_ground.inference.onnx import create

    other = create(1, 1, **files())
    assert backend.info.version == other.info.version
    embedding = reference_embedding()
    for a, b in zip(
        await backend.decode(on(embedding, PROMPTS)), await other.decode(on(embedding, PROMPTS)), strict=True
    ):
        for mine, theirs in zip(a.masks, b.masks, strict=True):
            assert np.abs(mine.logits - theirs.logits).max() < 1e-4
    await other.aclose()


async def test_bf16_is_computed_in_bf16_or_refused() -> None:
    openvino = needs("openvino")
    from labeling_ground.inference.openvino import create, offered

    core: Any = openvino.Core()
    if "bf16" not in offered(core):
        with pytest.raises(BadSettings, match="cannot compute in bf16"):
            create(1, 1, **files(), precision="bf16")
        return
    full, low = create(1, 2, **files()), create(1, 2, **files(), precision="bf16")
    assert full.info.version != low.info.version
    assert "bf16" in low.info.note
    embedding = reference_embedding()
    for prompt in PROMPTS:
        [a], [b] = await full.decode(on(embedding, [prompt])), await low.decode(on(embedding, [prompt]))
        difference = a.masks[0].logits - b.masks[0].logits
        assert 0 < np.abs(difference).max() < 0.2 * np.abs(a.masks[0].logits).max()
    await full.aclose()
    await low.aclose()
