"""SAM-HQ from the authors' checkpoint, image and prompt to mask, against ``transformers``."""

import asyncio
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.doubles import on
from tests.needs import needs
from tests.sam.parity import MASK, check, photo, prompts
from tests.sam.references import TOLERANCE
from tests.sam.references_hq import as_official, checkpoint, exported_hq, model, sam_hq

from labeling_ground.errors import BadInput
from labeling_ground.inference.backend import DecodeAsk
from labeling_ground.networks.layout import copies, rename_all
from labeling_ground.sam.family import Family
from labeling_ground.sam.preprocess import preprocess
from labeling_ground.types import Embedding, Image, Prediction, Prompt

HEIGHT, WIDTH = 301, 401


class Predictor:
    """What SAM's own predictor does, with ``transformers``' SAM-HQ: the first SAM's square, padding and upsampling."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        torch = needs("torch")
        with torch.inference_mode():
            square = torch.from_numpy(preprocess(pixels, Family.SAM))
            self.embedding, self.intermediate = sam_hq().get_image_embeddings(square)

    def predict(self, prompt: Prompt) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Full-size logits, scores and low-res logits, the best first."""
        torch = needs("torch")
        frame = Family.SAM.frame(HEIGHT, WIDTH)
        given: dict[str, Any] = {}
        if prompt.points:
            given["input_points"] = torch.tensor([[[frame.place(p.x, p.y) for p in prompt.points]]]).float()
            given["input_labels"] = torch.tensor([[[p.label for p in prompt.points]]])
        if prompt.box is not None:
            box = prompt.box
            given["input_boxes"] = torch.tensor([[[*frame.place(box.x0, box.y0), *frame.place(box.x1, box.y1)]]])
            given["input_boxes"] = given["input_boxes"].float()
        if prompt.mask_input is not None:
            given["input_masks"] = torch.from_numpy(prompt.mask_input[None, None])
        with torch.inference_mode():
            made = sam_hq()(
                image_embeddings=self.embedding,
                intermediate_embeddings=self.intermediate,
                multimask_output=prompt.multimask,
                **given,
            )
            low = made.pred_masks[0]
            large = torch.nn.functional.interpolate(low, (1024, 1024), mode="bilinear", align_corners=False)
            full = torch.nn.functional.interpolate(
                large[..., : frame.inner_height, : frame.inner_width],
                (HEIGHT, WIDTH),
                mode="bilinear",
                align_corners=False,
            )
        return full[0].numpy(), made.iou_scores[0, 0].numpy(), low[0].numpy()


ASKED = {**prompts(HEIGHT, WIDTH), "a mask alone": Prompt((), None, MASK)}
IMAGES = [Image(str(seed) * 64, photo(HEIGHT + seed, WIDTH)) for seed in range(2)]


@pytest.fixture(scope="module")
def by_torch() -> tuple[Sequence[Embedding], Sequence[DecodeAsk], Sequence[Prediction]]:
    """The torch engine's embeddings of two images; asks of every kind on the first, and some on the other between
    them; its answers."""
    needs("torch")
    file = checkpoint()
    from labeling_ground.inference.torch_engine import create

    async def compute() -> tuple[Sequence[Embedding], Sequence[DecodeAsk], Sequence[Prediction]]:
        backend = create(1, 2, encoder_path=file, decoder_path=file, model="sam-hq-small", device="cpu")
        first, other = await backend.encode(IMAGES)
        every = on(first, [*ASKED.values()])
        asks = [*every[:2], *on(other, [*ASKED.values()][:4]), *every[2:]]
        answers = await backend.decode(asks)
        await backend.aclose()
        return [first, other], asks, answers

    return asyncio.run(compute())


@pytest.mark.slow
def test_the_torch_engine_gives_the_references_numbers_for_every_kind_of_prompt(by_torch: Any) -> None:
    embeddings, asks, answers = by_torch
    predictor = Predictor(IMAGES[0].pixels)
    assert {name: x.shape for name, x in embeddings[0].tensors.items()} == Family.SAM_HQ.embedding_shapes
    assert np.abs(embeddings[0].tensors["image_embeddings"] - predictor.embedding.numpy()).max() < TOLERANCE
    compared = 0
    for (embedding, prompt), made in zip(asks, answers, strict=True):
        if embedding is embeddings[0]:
            full, scores, low = predictor.predict(prompt)
            assert len(made.masks) == len(scores) == (3 if prompt.multimask else 1), prompt
            for mask, theirs in zip(made.masks, zip(full, scores, low, strict=True), strict=True):
                check(mask, theirs[0], float(theirs[1]), theirs[2])
            compared += 1
    assert compared == len(ASKED)


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
async def test_exported_it_computes_what_torch_does_for_every_kind_of_prompt_and_in_batches(
    engine: str, by_torch: Any
) -> None:
    folder, report = exported_hq()
    needs({"onnx": "onnxruntime"}.get(engine, engine))

    assert (report.family, report.architecture) == (Family.SAM_HQ, "vit-768x3")
    assert report.max_abs_error < 1e-4
    files = (folder / name for name in ("encoder.onnx", "decoder.onnx", "decoder-fast.onnx"))
    make = importlib.import_module(f"labeling_ground.inference.{engine}").create
    paths = dict(zip(("encoder_path", "decoder_path", "fast_decoder_path"), files, strict=True))
    ours = make(1, 2, **paths, model="sam-hq-small", **({"together": 16} if engine == "onnx" else {}))
    there, asks, answers = by_torch
    for one, other in zip(await ours.encode(IMAGES), there, strict=True):
        assert {name: x.shape for name, x in one.tensors.items()} == Family.SAM_HQ.embedding_shapes
        assert max(np.abs(one.tensors[name] - other.tensors[name]).max() for name in one.tensors) < TOLERANCE
    for made, wanted in zip(await ours.decode(asks), answers, strict=True):
        assert len(made.masks) == len(wanted.masks)
        for mask, expected in zip(made.masks, wanted.masks, strict=True):
            assert np.abs(mask.logits - expected.logits).max() < TOLERANCE
            assert mask.score == pytest.approx(expected.score, abs=TOLERANCE)
    await ours.aclose()


def test_the_decoder_for_short_prompts_computes_what_the_other_does_and_the_finer_features_count() -> None:
    torch = needs("torch")
    needs("transformers")
    from labeling_ground.networks.checkpoint import from_weights
    from labeling_ground.networks.decoders import FastDecoder, PlainDecoder

    loaded = from_weights(as_official(sam_hq().state_dict()))
    plain, fast = (kind(loaded.sam).eval() for kind in (PlainDecoder, FastDecoder))
    generator = torch.Generator().manual_seed(0)
    embedding, finer = (torch.randn(shape, generator=generator) for shape in Family.SAM_HQ.embedding_shapes.values())
    for has_mask in ([0.0, 0.0], [1.0, 0.0]):
        prompt = (
            torch.rand(2, 3, 2, generator=generator) * 1024,
            torch.tensor([[1.0, 0, -1], [2, 3, 1]]),
            torch.randn(2, 1, 256, 256, generator=generator) * 5,
            torch.tensor(has_mask),
        )
        with torch.inference_mode():
            logits, scores = plain(embedding, finer, *prompt)
            for a, b in zip((logits, scores), fast(embedding, finer, *prompt), strict=True):
                assert (a - b).abs().max() < 1e-4
            others, same = plain(embedding, 2 * finer, *prompt)
        assert torch.equal(scores, same)
        added = others - logits
        assert added.abs().max() > 0.1
        assert (added - added[:, :1]).abs().max() < 1e-4, "the same map is added to each of the four masks"


@pytest.mark.parametrize(
    ("architecture", "width", "heads", "blocks", "whole"),
    [
        ("vit_b", 768, 12, 12, (2, 5, 8, 11)),
        ("vit_l", 1024, 16, 24, (5, 11, 17, 23)),
        ("vit_h", 1280, 16, 32, (7, 15, 23, 31)),
    ],
)
def test_the_names_of_all_three_sizes_are_all_that_transformers_needs(
    architecture: str, width: int, heads: int, blocks: int, whole: tuple[int, ...]
) -> None:
    torch = needs("torch")
    needs("transformers")
    with torch.device("meta"):
        wanted: Mapping[str, Any] = model(width, heads, blocks, whole).state_dict()
    official = as_official(wanted)
    assert not [name for name in official if "hq_" in name or "vision_encoder" in name]
    table = rename_all(official)
    assert {*table.values(), *copies(table.values())} == set(wanted)
    assert all(official[name].shape == wanted[there].shape for name, there in table.items())


def test_what_cannot_be_served_or_exported_is_refused_with_its_reason() -> None:
    torch = needs("torch")
    needs("transformers")
    from labeling_ground.networks.checkpoint import from_weights

    weights = as_official(sam_hq().state_dict())
    made = from_weights(weights)
    assert (made.family, made.architecture) == (Family.SAM_HQ, "vit-768x3")
    del weights["mask_decoder.embedding_maskfeature.3.bias"]
    with pytest.raises(BadInput, match=r"(?s)does not fit its architecture.*mask_conv2\.bias"):
        from_weights(weights)
    tiny = ("image_encoder.patch_embed.seq.0.c.weight", "mask_decoder.hf_token.weight")
    with pytest.raises(BadInput, match="take its ViT-B, L or H"):
        from_weights(dict.fromkeys(tiny, torch.zeros(1)))
