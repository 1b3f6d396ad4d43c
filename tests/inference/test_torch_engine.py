"""Segment Anything by torch. What is a GPU's alone is tried here with a processor's means."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.doubles import encoded, on, through_the_cache
from tests.inference.engines import CHECKS, PROMPTS, Check, checkpoint_files, files, image
from tests.needs import needs
from tests.sam import references_edge_tam, references_efficient_tam
from tests.sam.parity import photo
from tests.sam.references import TOLERANCE, checkpoint, mobile
from tests.sam.references_sam2 import loaded as loaded_sam2
from tests.sam.references_sam2 import sam2

from labeling_ground.errors import BackendFailed, BadSettings
from labeling_ground.inference.backend import BatchSizes
from labeling_ground.inference.sam import SamBackend
from labeling_ground.sam.family import Family
from labeling_ground.sam.preprocess import preprocess
from labeling_ground.types import Embedding, Image

pytestmark = pytest.mark.anyio

BF16 = 0.02
"""Largest rms difference of an embedding in bf16 from one in fp32, as a share of its standard deviation."""


@pytest.fixture
def torch() -> Any:
    needs("transformers")
    return needs("torch")


def engine(**options: Any) -> SamBackend:
    from labeling_ground.inference.torch_engine import create

    made: SamBackend = create(1, 2, **{**checkpoint_files(), "device": "cpu", **options})
    return made


def rms(made: Any, wanted: Any) -> float:
    return float(np.sqrt(np.mean((made - wanted) ** 2)) / wanted.std())


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
async def test_it_gives_the_references_numbers(torch: Any, check: Check) -> None:
    backend = engine()
    await check(backend)
    assert (backend.info.note, backend.info.decode_batch) == ("", BatchSizes(1, 1))
    await backend.aclose()


@pytest.mark.slow
async def test_it_agrees_with_onnx_runtime_on_the_same_weights(torch: Any) -> None:
    needs("onnxruntime")
    from labeling_ground.inference.onnx import create

    one, other = engine(), create(1, 2, **files())
    embedding = await encoded(other, image())
    for name, tensor in (await encoded(one, image())).tensors.items():
        assert np.abs(tensor - embedding.tensors[name]).max() < TOLERANCE
    for a, b in zip(await one.decode(on(embedding, PROMPTS)), await other.decode(on(embedding, PROMPTS)), strict=True):
        for mask, same in zip(a.masks, b.masks, strict=True):
            assert np.abs(mask.logits - same.logits).max() < TOLERANCE
            assert abs(mask.score - same.score) < TOLERANCE
    await one.aclose()
    await other.aclose()


@pytest.mark.slow
async def test_sam_2_gives_the_references_numbers(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from labeling_ground.inference import torch_engine

    monkeypatch.setattr(torch_engine, "load", lambda path: loaded_sam2())  # a size that the authors did not make
    backend = engine(together=2)
    images = [image(), Image("1" * 64, photo(90, 120))]
    with torch.inference_mode():
        squares = torch.from_numpy(np.concatenate([preprocess(each.pixels, Family.SAM2) for each in images]))
        wanted = sam2().get_image_embeddings(squares)
    made = await backend.encode(images)
    for number, embedding in enumerate(made):
        for name, tensor in zip(
            ("high_res_features_0", "high_res_features_1", "image_embeddings"), wanted, strict=True
        ):
            assert np.abs(embedding.tensors[name] - tensor[number : number + 1].numpy()).max() < TOLERANCE
    asks = [(embedding, prompt) for prompt in PROMPTS for embedding in made]
    together = await backend.decode(asks)
    for ask, one in zip(asks, together, strict=True):
        [alone] = await backend.decode([ask])
        assert max(np.abs(a.logits - b.logits).max() for a, b in zip(one.masks, alone.masks, strict=True)) < 1e-4
    await backend.aclose()


@pytest.mark.slow
def test_mobile_sam_by_kernels_gives_the_references_numbers_for_several_images(torch: Any) -> None:
    from labeling_ground.networks.attention import use_kernels
    from labeling_ground.networks.checkpoint import from_weights

    squares = torch.randn(2, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    encoder = from_weights(mobile().state_dict()).encoder
    assert use_kernels(encoder, in_head=True) == 10
    with torch.inference_mode():
        assert (encoder(squares) - mobile().image_encoder(squares)).abs().max() < TOLERANCE


@pytest.mark.slow
async def test_several_images_and_prompts_in_one_run_are_what_they_are_alone(torch: Any) -> None:
    backend = engine(together=4)
    assert (backend.info.encode_batch, backend.info.decode_batch) == (BatchSizes(4, 4), BatchSizes(4, 4))
    images = [Image(f"{seed}" * 64, photo(80 + 40 * seed, 120)) for seed in range(3)]
    made = await backend.encode(images)
    asks = [(embedding, prompt) for prompt in PROMPTS for embedding in made[:2]]
    together = await backend.decode(asks)
    for picture, embedding in zip(images, made, strict=True):
        alone = await encoded(backend, picture)
        assert np.abs(alone.tensors["image_embeddings"] - embedding.tensors["image_embeddings"]).max() < 1e-4
        assert embedding.tensors["image_embeddings"].base is None or embedding.nbytes == 4 << 20, "no view of the run"
    for ask, one in zip(asks, together, strict=True):
        [single] = await backend.decode([ask])
        assert max(np.abs(a.logits - b.logits).max() for a, b in zip(one.masks, single.masks, strict=True)) < 1e-4
    await backend.aclose()


async def test_bf16_is_another_version_and_within_its_bound_and_clicks_stay_in_fp32(torch: Any) -> None:
    full, low = engine(), engine(precision="bf16")
    assert full.info.version != low.info.version
    assert "bf16" in low.info.note
    exact, rounded = await encoded(full, image()), await encoded(low, image())
    assert rounded.tensors["image_embeddings"].dtype == np.float32
    assert 0 < rms(rounded.tensors["image_embeddings"], exact.tensors["image_embeddings"]) < BF16
    for a, b in zip(await full.decode(on(exact, PROMPTS)), await low.decode(on(exact, PROMPTS)), strict=True):
        np.testing.assert_array_equal(a.masks[0].logits, b.masks[0].logits)
    await full.aclose()
    await low.aclose()


@pytest.mark.parametrize("in_head", [True, False])
@pytest.mark.parametrize(("width", "heads", "window"), [(128, 2, 14), (160, 2, 5), (48, 3, 0)])
def test_relative_positions_reach_the_kernel_in_both_ways(
    torch: Any, in_head: bool, width: int, heads: int, window: int
) -> None:
    """Heads of 64, 80 and 16 dimensions; windows, and the whole of a smaller image."""
    from labeling_ground.networks.attention import RelativeAttention

    modeling = needs("transformers.models.sam.modeling_sam")
    config = needs("transformers").SamVisionConfig(
        hidden_size=width, num_attention_heads=heads, image_size=128, patch_size=16
    )
    torch.manual_seed(0)
    reference = modeling.SamVisionAttention(config, window).eval()
    for table in (reference.rel_pos_h, reference.rel_pos_w):
        torch.nn.init.normal_(table)
    side = window or 8
    given = torch.randn(3, side, side, width)
    ours = RelativeAttention(reference, in_head)
    with torch.inference_mode():
        assert (ours(given)[0] - reference(given)[0]).abs().max() < 1e-5
    if in_head:
        assert (width // heads + ours.codes.shape[-1]) % 8 == 0, "a length that flash kernels take as it is"


async def test_an_embedding_out_of_the_cache_is_sent_once_and_is_the_one_that_was_asked_for(torch: Any) -> None:
    backend = engine()
    decoder: Any = backend.engine
    decoder = decoder._decoder
    assert decoder.held.bytes == 0, "on a processor there is nowhere to send it"
    size = 4 * 256 * 64 * 64
    decoder.held = type(decoder.held)(2 * size)
    sent: list[float] = []
    send = decoder._device.send

    def counted(arrays: Sequence[Any]) -> Any:
        if arrays[0].ndim == 4:
            sent.append(float(arrays[0][0, 0, 0, 0]))
        return send(arrays)

    decoder._device.send = counted

    def embedding(value: float) -> Embedding:
        return Embedding({"image_embeddings": np.full((1, 256, 64, 64), value, np.float32)}, 211, 307)

    async def decode(asked: Embedding) -> Any:
        return (await backend.decode(on(asked, PROMPTS[:1])))[0].masks[0].logits

    a, b, c = (through_the_cache(embedding(value)) for value in (0.1, 0.5, -0.5))
    fresh = [await decode(embedding(value)) for value in (0.1, 0.5, -0.5)]
    assert (len(sent), decoder.held.bytes) == (3, 0), "an embedding without a digest is not held"
    for asked, expected in zip((a, b, c, a, a, b, c), [*fresh, fresh[0], *fresh], strict=True):
        assert np.abs(await decode(asked) - expected).max() < 1e-3
        assert decoder.held.bytes <= 2 * size
    assert len(sent) == 3 + 6, "the second of two asks in a row found it there"
    await backend.aclose()


def test_one_half_alone_says_the_version_of_the_whole_and_refuses_the_other(torch: Any) -> None:
    whole = engine().info.version
    encoder, decoder = engine(decoder_path=None), engine(encoder_path=None)
    assert encoder.info.version == decoder.info.version == whole
    with pytest.raises(BackendFailed, match="without its decoder"):
        encoder.engine.decode({}, None, alone=True)  # type: ignore[arg-type]
    with pytest.raises(BackendFailed, match="without its encoder"):
        decoder.engine.encode(photo(9, 9))


def test_what_cannot_be_computed_is_said_in_words(torch: Any, tmp_path: Path) -> None:
    damaged = tmp_path / "weights.pth"
    damaged.write_bytes(b"no weights")
    with pytest.raises(BadSettings, match=r"weights\.pth is not a checkpoint"):
        engine(encoder_path=damaged, decoder_path=damaged)
    with pytest.raises(BadSettings, match=r"absent\.pth cannot be read"):
        engine(encoder_path=tmp_path / "absent.pth", decoder_path=tmp_path / "absent.pth")
    with pytest.raises(BadSettings, match="from one file"):
        engine(encoder_path=damaged)
    with pytest.raises(BadSettings, match="take bf16"):
        engine(precision="fp16")
    for device in ("no-such-device", *(() if torch.cuda.is_available() else ("cuda",))):
        with pytest.raises(BadSettings, match=f"torch cannot compute on {device}"):
            engine(device=device)


def test_calls_are_recorded_by_shape_and_replayed_and_the_oldest_record_goes(torch: Any) -> None:
    from labeling_ground.inference.torch_device import Replays

    recorded: list[Any] = []

    def record(function: Any, given: Any) -> Any:
        recorded.append(tuple(None if x is None else tuple(x.shape) for x in given))
        return function

    replays = Replays(lambda x, mask: (x + 1 if mask is None else x + mask,), record, most=2)
    one, two, three = (torch.ones(rows) for rows in (1, 2, 3))
    assert replays(one, None)[0].tolist() == [2.0]
    assert replays(5 * one, None)[0].tolist() == [6.0]
    assert replays(one, 2 * one)[0].tolist() == [3.0], "with a mask it is another call"
    assert recorded == [((1,), None), ((1,), (1,))]
    replays(one, None)
    replays(two, None)  # makes the one with a mask go, which was used longest ago
    replays(one, None)
    assert len(recorded) == 3
    replays(one, one)
    assert recorded[3:] == [((1,), (1,))]
    replays(three, None)
    assert len(recorded) == 5


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, while its compiler is imported
def test_blocks_are_compiled_and_nothing_around_them(torch: Any) -> None:
    from labeling_ground.inference.torch_engine import compile_blocks
    from labeling_ground.networks.checkpoint import load

    read = {
        file: load(file).encoder
        for file in (checkpoint(), references_edge_tam.checkpoint(), references_efficient_tam.checkpoint())
    }
    for encoder, blocks in zip((*read.values(), loaded_sam2().encoder), (2, 23, 12, 5), strict=True):
        compile_blocks(encoder)
        compiled = [type(each).__name__ for each in encoder.modules() if each._compiled_call_impl is not None]
        assert len(compiled) == blocks
        assert len(set(compiled)) == 1


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(0, 8, []), (1, 8, [(0, 1)]), (8, 8, [(0, 8)]), (7, 8, [(0, 4), (4, 2), (6, 1)]), (9, 4, [(0, 4), (4, 4), (8, 1)]),
     (3, 3, [(0, 2), (2, 1)]), (2, 1, [(0, 1), (1, 1)])],
)  # fmt: skip
def test_images_go_in_runs_of_few_sizes(torch: Any, count: int, most: int, expected: list[tuple[int, int]]) -> None:
    from labeling_ground.inference.torch_engine import runs

    assert runs(count, most) == expected
