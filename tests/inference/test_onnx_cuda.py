"""ONNX Runtime on a GPU: what can be told without one. The engine's steps run here on the processor."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.doubles import encoded, on, through_the_cache
from tests.inference.engines import CHECKS, PROMPTS, Check, files, image, reference_embedding
from tests.needs import needs

from labeling_ground.errors import BadSettings
from labeling_ground.types import Embedding

pytestmark = pytest.mark.anyio


@pytest.fixture
def cuda() -> Any:
    needs("onnxruntime")
    from labeling_ground.inference import onnx_cuda

    return onnx_cuda


@pytest.mark.parametrize("check", CHECKS)
async def test_its_steps_give_the_references_numbers(cuda: Any, check: Check) -> None:
    backend = cuda.create(1, 2, **files(), device="cpu")
    await check(backend)
    assert backend.info.note == ""
    await backend.aclose()


async def test_it_may_share_a_cache_with_the_processors_engine(cuda: Any) -> None:
    from labeling_ground.inference.onnx import create

    one, other = cuda.create(1, 2, **files(), device="cpu"), create(1, 2, **files())
    assert one.info.version == other.info.version
    embedding = reference_embedding()
    for a, b in zip(await one.decode(on(embedding, PROMPTS)), await other.decode(on(embedding, PROMPTS)), strict=True):
        assert np.abs(a.masks[0].logits - b.masks[0].logits).max() < 1e-4
    await one.aclose()
    await other.aclose()


async def test_an_embedding_out_of_the_cache_is_sent_once_and_is_the_one_that_was_asked_for(cuda: Any) -> None:
    embedding_bytes = 4 * 256 * 64 * 64
    # A sixteenth is for embeddings: room for two.
    backend = cuda.create(1, 2, **files(), device="cpu", gpu_bytes=16 * 2 * embedding_bytes)
    decoder = backend.engine._decoder
    sent: list[float] = []
    send = decoder._send

    def counted(embedding: Mapping[str, Any]) -> Any:
        sent.append(float(embedding["image_embeddings"][0, 0, 0, 0]))
        return send(embedding)

    decoder._send = counted

    def embedding(value: float) -> Embedding:
        return Embedding({"image_embeddings": np.full((1, 256, 64, 64), value, np.float32)}, 211, 307)

    async def decode(asked: Embedding) -> Any:
        return (await backend.decode(on(asked, PROMPTS[:1])))[0].masks[0].logits

    a, b, c = (through_the_cache(embedding(value)) for value in (0.1, 0.5, -0.5))
    fresh = [await decode(embedding(value)) for value in (0.1, 0.5, -0.5)]
    assert (len(sent), decoder.held.bytes) == (3, 0), "an embedding without a digest is not held"
    for asked, expected in zip((a, b, c, a, a, b, c), [*fresh, fresh[0], *fresh], strict=True):
        assert np.abs(await decode(asked) - expected).max() < 1e-3
        assert decoder.held.bytes <= 2 * embedding_bytes
    assert len(sent) == 3 + 6, "the second of two asks in a row found it there"
    await backend.aclose()


async def test_fp16_is_the_encoders_is_another_version_and_is_off_by_little(cuda: Any) -> None:
    needs("onnx")
    full, low = (cuda.create(1, 2, **files(), device="cpu", precision=precision) for precision in ("fp32", "fp16"))
    assert full.info.version != low.info.version
    assert "encoder computes in fp16" in low.info.note
    exact, rounded = await encoded(full, image()), await encoded(low, image())
    difference = exact.tensors["image_embeddings"] - rounded.tensors["image_embeddings"]
    assert 0 < np.sqrt(np.mean(difference**2)) < 5e-3 * exact.tensors["image_embeddings"].std()
    [a], [b] = await full.decode(on(exact, PROMPTS[:1])), await low.decode(on(exact, PROMPTS[:1]))
    np.testing.assert_array_equal(a.masks[0].logits, b.masks[0].logits)
    await full.aclose()
    await low.aclose()


def test_without_cuda_it_says_what_to_install(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BadSettings, match="onnxruntime-gpu"):
        cuda.create(1, 1, **files())
    with pytest.raises(BadSettings, match="not in bf16"):
        cuda.create(1, 1, **files(), precision="bf16", device="cpu")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_it_does_not_fall_back_to_the_processor_in_silence(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if "CUDAExecutionProvider" in cuda.onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    monkeypatch.setattr(cuda.onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(BadSettings, match="are CUDA and cuDNN installed"):
        cuda.create(1, 1, **files())


def test_the_gpus_memory_is_divided_and_bounded(cuda: Any) -> None:
    for total in (1 << 30, (8 << 30) + 5):
        for decoders in (1, 2):
            parts = cuda.shares(total, decoders)
            assert parts.encoder + decoders * parts.decoder + parts.embeddings == total
            assert parts.encoder > total / 2
    assert cuda.providers("cpu", 0, 7) == ("CPUExecutionProvider",)
    [(name, options), rest] = cuda.providers("cuda", 3, 1 << 30)
    assert (name, rest) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options["device_id"] == 3
    assert options["gpu_mem_limit"] == 1 << 30
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert options["use_tf32"] == 0, "TF32 is not fp32, and they share a model version"


def test_a_damaged_file_is_refused_in_words(cuda: Any, tmp_path: Path) -> None:
    needs("onnx")
    damaged = tmp_path / "encoder.onnx"
    damaged.write_bytes(b"no model")
    with pytest.raises(BadSettings, match=r"encoder\.onnx cannot be read"):
        cuda.create(1, 1, **{**files(), "encoder_path": damaged}, precision="fp16", device="cpu")
