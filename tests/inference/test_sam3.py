"""SAM 3 against ``transformers`` called directly: a tiny one of random weights, every kind of ask."""

import functools
import sys
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.needs import needs
from tests.sam.parity import photo
from tests.sam.references_sam3 import SIDE, reference, tiny
from tests.sam.roi_align_reference import roi_align

from labeling_ground.errors import BackendFailed, BadPrompt, BadSettings
from labeling_ground.inference.backend import FLOOR_SCORE, ConceptBackend
from labeling_ground.inference.sam3 import create
from labeling_ground.sam.preprocess import stretch_sam3
from labeling_ground.testing.backend_contract import through_the_cache
from labeling_ground.testing.concept_contract import stored_tensors
from labeling_ground.types import Box, Detections, Embedding, Exemplar, Image, Point, Prompt

torch = needs("torch")
pytestmark = pytest.mark.anyio

TOLERANCE = 1e-4
HEIGHT, WIDTH = 211, 307
BOX, OTHER = Box(20, 30, 250, 200), Box(150.5, 8, 190, 61)
PHRASE = "screw ew"
SHOWN = (Exemplar(BOX), Exemplar(OTHER, positive=False))
CLICK = Point(100, 50, 1)
SMALL = 4 * SIDE // 14
MASK = np.random.default_rng(5).normal(0, 3, (256, 256)).astype(np.float32)


def image() -> Image:
    return Image("0" * 64, photo(HEIGHT, WIDTH))


def square() -> Any:
    return torch.from_numpy(stretch_sam3(image().pixels, SIDE))


@pytest.fixture
async def sam3() -> AsyncIterator[Any]:
    from labeling_ground.networks.sam3_files import files_of

    made = create(1, 2, files=files_of(tiny()), device="cpu")
    yield made
    await made.aclose()


def share(box: Box) -> list[float]:
    """Centre, width and height, as ``Sam3Processor`` gives boxes to the model."""
    return [
        (box.x0 + box.x1) / 2 / WIDTH,
        (box.y0 + box.y1) / 2 / HEIGHT,
        (box.x1 - box.x0) / WIDTH,
        (box.y1 - box.y0) / HEIGHT,
    ]


def ask_reference(phrase: str | None, shown: Sequence[Exemplar]) -> tuple[Any, Any, Any]:
    """Scores, boxes in pixels and masks of the queries that score enough: ``Sam3Model`` from pixels, as
    ``Sam3Processor`` asks it and reads its answer, the phrase padded to 32 tokens."""
    modeling_sam3 = sys.modules[needs("transformers").Sam3Model.__module__]

    tokenizer = reference("Tokenizer")
    given = tokenizer(phrase or "visual", padding="max_length", max_length=32, return_tensors="pt")
    if shown:
        given["input_boxes"] = torch.tensor([[share(each.box) for each in shown]])
        given["input_boxes_labels"] = torch.tensor([[int(each.positive) for each in shown]])
    by_definition = SimpleNamespace(ops=SimpleNamespace(roi_align=roi_align))
    with mock.patch.object(modeling_sam3, "torchvision", by_definition, create=True), torch.inference_mode():
        out = reference("Sam3Model")(pixel_values=square(), **given)
    scores = (out.pred_logits.sigmoid() * out.presence_logits.sigmoid())[0]
    order = [i for i in scores.argsort(descending=True).tolist() if scores[i] >= FLOOR_SCORE]
    masks = torch.nn.functional.interpolate(out.pred_masks.sigmoid(), (HEIGHT, WIDTH), mode="bilinear")[0, order]
    boxes = out.pred_boxes[0, order].clamp(0, 1) * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    return scores[order], boxes, masks


def check(found: Detections, expected: tuple[Any, Any, Any]) -> None:
    scores, boxes, masks = expected
    assert len(found.instances) == len(scores) > 3
    for one, score, box, mask in zip(found.instances, scores, boxes, masks, strict=True):
        assert one.score == pytest.approx(float(score), abs=TOLERANCE)
        assert [one.box.x0, one.box.y0, one.box.x1, one.box.y1] == pytest.approx(box.tolist(), abs=TOLERANCE * WIDTH)
        wrong = one.draw() != (mask.numpy() > 0.5)
        assert np.abs(mask.numpy()[wrong] - 0.5).max(initial=0) < TOLERANCE


# -- concepts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phrase", "shown"),
    [(PHRASE, ()), ("ew", ()), (None, SHOWN[:1]), (None, SHOWN), (PHRASE, SHOWN[:1]), (PHRASE, SHOWN)],
    ids=["text", "other text", "exemplar", "exemplars ±", "text and exemplar", "text and exemplars ±"],
)
async def test_instances_are_transformers(sam3: ConceptBackend, phrase: str | None, shown: Sequence[Exemplar]) -> None:
    [trunk] = await sam3.trunk([image()])
    [text] = await sam3.texts([phrase]) if phrase else [None]
    [exemplars] = await sam3.exemplars([(trunk, tuple(shown))]) if shown else [None]
    [found] = await sam3.detect([(trunk, text, exemplars)])
    check(found, ask_reference(phrase, shown))


async def test_an_exemplar_that_is_not_meant_says_something_else_than_one_that_is(sam3: ConceptBackend) -> None:
    [trunk] = await sam3.trunk([image()])
    asks = [(trunk, (Exemplar(BOX, positive),)) for positive in (True, False)]
    one, other = await sam3.exemplars(asks)
    assert np.abs(one["exemplars"] - other["exemplars"]).max() > 0.01


async def test_tensors_of_a_concept_are_as_small_as_they_are_said_to_be(sam3: ConceptBackend) -> None:
    [trunk] = await sam3.trunk([image()])
    [text] = await sam3.texts([PHRASE])
    [exemplars] = await sam3.exemplars([(trunk, SHOWN)])
    assert text["text"].shape == (2 + 3, 32)  # «scr», «ew», «ew», and no padding
    assert exemplars["exemplars"].shape == (3, 32)
    assert {one.dtype.name for one in (trunk.tensors["trunk"], text["text"])} == {"float32"}


async def test_a_trunk_out_of_the_cache_finds_the_same(sam3: ConceptBackend) -> None:
    """Half precision moves scores and masks by less than anybody would see, and features at hand by nothing."""
    [trunk] = await sam3.trunk([image()])
    [text] = await sam3.texts([PHRASE])
    [exact] = await sam3.detect([(trunk, text, None)])
    [first] = await sam3.detect([(through_the_cache(trunk), stored_tensors(text), None)])
    [second] = await sam3.detect([(through_the_cache(trunk), stored_tensors(text), None)])
    for one, other, again in zip(exact.instances, first.instances, second.instances, strict=True):
        assert one.score == pytest.approx(other.score, abs=5e-3)
        assert (one.draw() == other.draw()).mean() > 0.99
        assert (other.score, other.box) == (again.score, again.box)


async def test_the_detectors_features_are_computed_once_for_an_image_while_there_is_room() -> None:
    from labeling_ground.networks.sam3_files import files_of

    one_image = 4 * 32 * (32**2 + 16**2 + 8**2)
    for room, computed in ((one_image, 1), (one_image - 1, 3)):
        backend = create(1, 1, files=files_of(tiny()), device="cpu", features_bytes=room)
        seen: list[int] = []
        layer = backend.engine._detector.vision_encoder.neck.fpn_layers[0]
        handle = layer.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        trunk = through_the_cache((await backend.trunk([image()]))[0])
        for phrase in ("s", "c", "r"):
            [text] = await backend.texts([phrase])
            await backend.detect([(trunk, text, None)])
        handle.remove()
        assert len(seen) == computed
        await backend.aclose()


async def test_a_phrase_that_is_too_long_is_refused_and_not_cut(sam3: ConceptBackend) -> None:
    await sam3.texts(["q " * 30])
    with pytest.raises(BadPrompt, match="has 31 tokens, and SAM 3 reads at most 30: shorten it"):
        await sam3.texts(["q " * 31])


async def test_tensors_of_something_else_are_refused(sam3: ConceptBackend) -> None:
    [trunk] = await sam3.trunk([image()])
    with pytest.raises(BackendFailed, match="there is no text"):
        await sam3.detect([(trunk, {"colours": np.zeros(3, np.float32)}, None)])
    with pytest.raises(BackendFailed, match=r"no tensor 'trunk' of \[1, 64, 64\]"):
        await sam3.embed([Embedding({"trunk": np.zeros((1, 63, 64), np.float32)}, 5, 5)])


# -- clicks ----------------------------------------------------------------------------------------------------------


@functools.cache
def reference_embedding() -> list[Any]:
    """As transformers' tracker for videos makes it of a first frame. The one for images adds ``no_memory_embedding`` to
    a level of the neck that it then drops, the video's to the coarsest one that is used, as SAM 2 does."""
    with torch.inference_mode():
        fine, middle, coarse = reference("Sam3TrackerVideoModel").get_image_embeddings(square())
    return [fine, middle, coarse]


async def test_the_embedding_of_clicks_is_transformers(sam3: ConceptBackend) -> None:
    [embedding] = await sam3.encode([image()])
    fine, middle, coarse = reference_embedding()
    expected = {"image_embeddings": coarse, "high_res_features_0": fine, "high_res_features_1": middle}
    assert embedding.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert np.abs(embedding.tensors[name] - tensor.numpy()).max() < TOLERANCE


def ask_tracker(prompt: Prompt) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits of all of the square and scores, best first."""
    scale = np.array([SIDE / WIDTH, SIDE / HEIGHT])
    points = [[(np.array([p.x, p.y]) * scale).tolist() for p in prompt.points]]
    given: dict[str, Any] = {}
    if prompt.points:
        given["input_points"] = torch.tensor([points], dtype=torch.float32)
        given["input_labels"] = torch.tensor([[[p.label for p in prompt.points]]], dtype=torch.int32)
    if prompt.box is not None:
        corners = np.array([prompt.box.x0, prompt.box.y0, prompt.box.x1, prompt.box.y1]) * np.tile(scale, 2)
        given["input_boxes"] = torch.tensor([[corners.tolist()]], dtype=torch.float32)
    if prompt.mask_input is not None:
        given["input_masks"] = torch.from_numpy(prompt.mask_input)[None, None]
    with torch.inference_mode():
        out = reference("Sam3TrackerModel")(
            image_embeddings=reference_embedding(), multimask_output=prompt.multimask, **given
        )
    scores, logits = out.iou_scores[0, 0].numpy(), out.pred_masks[0, 0].numpy()
    order = np.argsort(-scores, kind="stable")
    return logits[order], scores[order]


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt((CLICK,)),
        Prompt((CLICK,), multimask=False),
        Prompt((CLICK, Point(3, 200, 0))),
        Prompt((), BOX),
        Prompt((CLICK, Point(3, 200, 0)), BOX, multimask=False),
        Prompt((CLICK,), None, MASK),
        Prompt((CLICK,), BOX, MASK),
        Prompt(tuple(Point(7 * i, 5 * i, i % 2) for i in range(30))),
    ],
    ids=["click", "one mask", "clicks ±", "box", "box and clicks", "mask and click", "all", "many clicks"],
)
async def test_a_click_is_transformers(sam3: Any, prompt: Prompt) -> None:
    [embedding] = await sam3.encode([image()])
    [made] = await sam3.decode([(embedding, prompt)])
    logits, scores = ask_tracker(prompt)
    assert len(made.masks) == len(scores)
    full = torch.nn.functional.interpolate(torch.from_numpy(logits)[None], (HEIGHT, WIDTH), mode="bilinear")[0].numpy()
    for mask, expected, score in zip(made.masks, full, scores, strict=True):
        assert mask.score == pytest.approx(float(score), abs=TOLERANCE)
        wrong = mask.pixels != (expected > 0)
        assert np.abs(expected[wrong]).max(initial=0) < TOLERANCE


async def test_a_click_has_logits_to_the_last_digit_before_they_are_painted(sam3: Any) -> None:
    from labeling_ground.sam.family import Family
    from labeling_ground.sam.prompts import tensors

    [embedding] = await sam3.encode([image()])
    prompt = Prompt((CLICK, Point(3, 200, 0)), BOX)
    read = tensors(prompt, Family.SAM3.frame(HEIGHT, WIDTH), Family.SAM3)
    logits, scores = sam3.engine.decode(embedding.tensors, read, alone=True)
    assert logits.shape == (4, SMALL, SMALL)
    expected, best = ask_tracker(prompt)
    order = 1 + np.argsort(-scores[1:], kind="stable")
    assert np.abs(logits[order] - expected).max() < TOLERANCE
    assert scores[order] == pytest.approx(best, abs=TOLERANCE)


# -- precision and versions ------------------------------------------------------------------------------------------


async def test_bf16_is_another_version_says_so_and_finds_the_same_places(sam3: Any) -> None:
    from labeling_ground.networks.sam3_files import files_of

    half = create(1, 2, files=files_of(tiny()), precision="bf16", device="cpu")
    assert half.info.version != sam3.info.version
    assert "bf16" in half.info.note
    assert sam3.info.note == ""
    found = []
    for backend in (sam3, half):
        [trunk] = await backend.trunk([image()])
        [text] = await backend.texts([PHRASE])
        found.append((trunk, (await backend.detect([(trunk, text, None)]))[0]))
    (one, exact), (other, near) = found
    assert one.tensors["trunk"].dtype == other.tensors["trunk"].dtype == np.float32
    assert 0 < np.abs(one.tensors["trunk"] - other.tensors["trunk"]).max() < 0.2
    best, same = exact.instances[0], min(near.instances, key=lambda each: abs(each.box.x0 - exact.instances[0].box.x0))
    assert same.score == pytest.approx(best.score, abs=0.05)
    assert (best.draw() == same.draw()).mean() > 0.9
    await half.aclose()


def test_only_precisions_that_it_computes_in_are_taken() -> None:
    from labeling_ground.networks.sam3_files import files_of

    with pytest.raises(BadSettings, match="fp32 or bf16, not in fp16"):
        create(1, 1, files=files_of(tiny()), precision="fp16")
