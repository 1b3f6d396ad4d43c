"""The weight-free engine: what any engine must do, floors of its quality, and images that make no sense."""

import asyncio
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from bench.segmentation.judge import deepest, iou, jittered_box, through_cache
from bench.segmentation.photos import Photo, Thing, load
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.doubles import on

from labeling_ground.errors import BackendFailed
from labeling_ground.inference.classical import ClassicalBackend, create
from labeling_ground.inference.classical.decode import decode_prompt
from labeling_ground.inference.classical.engine import encode_image
from labeling_ground.inference.classical.scene import frame
from labeling_ground.key import canonical
from labeling_ground.types import Box, Embedding, Image, Point, Prediction

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def photo() -> Photo:
    return load("astronaut")


@pytest.fixture(scope="module")
def embedding(photo: Photo) -> Embedding:
    return encode_image(photo.pixels)


def thing(photo: Photo, name: str) -> Thing:
    return next(t for t in photo.things if t.name == name)


def same(a: Prediction, b: Prediction) -> bool:
    return len(a.masks) == len(b.masks) and all(
        np.array_equal(x.pixels, y.pixels) and np.array_equal(x.logits, y.logits) and x.score == y.score
        for x, y in zip(a.masks, b.masks, strict=True)
    )


def well_formed(answer: Prediction, height: int, width: int) -> None:
    assert 1 <= len(answer.masks) <= 3
    scores = [mask.score for mask in answer.masks]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    for mask in answer.masks:
        assert mask.pixels.shape == (height, width)
        assert mask.pixels.dtype == np.bool_
        assert mask.logits.shape == (256, 256)
        assert mask.logits.dtype == np.float32
        assert np.isfinite(mask.logits).all()


def test_one_click_gives_distinct_candidates_that_hold_the_click(photo: Photo, embedding: Embedding) -> None:
    x, y = deepest(thing(photo, "face").mask)
    answer = decode_prompt(embedding, canonical([Point(x, y, 1)]))
    well_formed(answer, 512, 512)
    assert len(answer.masks) == 3
    assert all(mask.pixels[int(y), int(x)] for mask in answer.masks)
    sizes = [int(mask.pixels.sum()) for mask in answer.masks]
    assert len(set(sizes)) == 3


def test_without_multimask_there_is_one_candidate_and_it_is_the_best_one(photo: Photo, embedding: Embedding) -> None:
    points = [Point(*deepest(thing(photo, "patch").mask), 1)]
    many = decode_prompt(embedding, canonical(points))
    one = decode_prompt(embedding, canonical(points, multimask=False))
    assert len(one.masks) == 1
    assert np.array_equal(one.masks[0].pixels, many.masks[0].pixels)


def test_clicks_are_obeyed_to_the_pixel_wherever_they_fall(embedding: Embedding) -> None:
    rng = np.random.default_rng(5)
    for count in (5, 10) * 6:
        places = rng.integers(0, 512, (count, 2))
        labels = [1, *rng.integers(0, 2, count - 1).tolist()]
        points = [
            Point(float(x) + 0.5, float(y) + 0.5, label) for (x, y), label in zip(places.tolist(), labels, strict=True)
        ]
        best = decode_prompt(embedding, canonical(points, multimask=False)).masks[0].pixels
        assert all(best[int(p.y), int(p.x)] == (p.label == 1) for p in points)


def test_two_opposed_clicks_side_by_side_are_both_obeyed(embedding: Embedding) -> None:
    points = [Point(170.5, 385.5, 1), Point(171.5, 385.5, 0)]
    best = decode_prompt(embedding, canonical(points, multimask=False)).masks[0].pixels
    assert best[385, 170]
    assert not best[385, 171]


def test_a_negative_click_takes_away_more_than_its_own_pixel(photo: Photo, embedding: Embedding) -> None:
    """A click on the head and one off it, on the suit, do not end in a hole of a few pixels."""
    head, person = thing(photo, "head").mask, thing(photo, "person").mask
    click = Point(*deepest(person), 1)
    whole = decode_prompt(embedding, canonical([click])).masks
    largest = max(whole, key=lambda mask: int(mask.pixels.sum()))
    x, y = deepest(head)
    off = Point(x, y, 0)
    less = decode_prompt(embedding, canonical([click, off], mask_input=largest.logits, multimask=False))
    assert not less.masks[0].pixels[int(y), int(x)]
    if largest.pixels[int(y), int(x)]:
        gone = largest.pixels & ~less.masks[0].pixels
        assert gone.sum() > 200


def test_a_box_bounds_the_mask(photo: Photo, embedding: Embedding) -> None:
    box = jittered_box(thing(photo, "helmet").mask, "seed")
    mask = decode_prompt(embedding, canonical(box=box, multimask=False)).masks[0].pixels
    rows, columns = np.nonzero(mask)
    slack = 16  # about one superpixel
    assert columns.min() >= box.x0 - slack
    assert columns.max() <= box.x1 + slack
    assert rows.min() >= box.y0 - slack
    assert rows.max() <= box.y1 + slack


def test_a_box_together_with_clicks_obeys_the_clicks(photo: Photo, embedding: Embedding) -> None:
    helmet = thing(photo, "helmet").mask
    box = jittered_box(helmet, "seed")
    points = [Point(300.5, 480.5, 0), Point(*deepest(helmet), 1)]
    best = decode_prompt(embedding, canonical(points, box, multimask=False)).masks[0].pixels
    assert all(best[int(p.y), int(p.x)] == (p.label == 1) for p in points)


def test_negative_clicks_alone_with_a_box_are_obeyed(photo: Photo, embedding: Embedding) -> None:
    box = jittered_box(thing(photo, "patch").mask, "seed")
    best = decode_prompt(embedding, canonical([Point(170.5, 385.5, 0)], box)).masks[0].pixels
    assert not best[385, 170]


def test_a_mask_input_alone_comes_back_much_as_it_was(photo: Photo, embedding: Embedding) -> None:
    first = decode_prompt(
        embedding, canonical([Point(*deepest(thing(photo, "patch").mask), 1)], multimask=False)
    ).masks[0]
    again = decode_prompt(embedding, canonical(mask_input=first.logits)).masks[0]
    assert iou(first.pixels, again.pixels) > 0.9


def test_a_mask_input_that_covers_nothing_still_gets_an_answer(embedding: Embedding) -> None:
    nothing = np.full((256, 256), -8, np.float32)
    well_formed(decode_prompt(embedding, canonical(mask_input=nothing)), 512, 512)
    best = decode_prompt(embedding, canonical([Point(170.5, 385.5, 1)], mask_input=nothing))
    assert best.masks[0].pixels[385, 170]


def test_logits_lie_in_the_frame_that_sam_uses(photo: Photo) -> None:
    """An image of 2 : 1 takes the upper half of the frame, and the rest is as negative as can be."""
    wide = np.ascontiguousarray(photo.pixels[128:384])
    embedding = encode_image(wide)
    mask = decode_prompt(embedding, canonical([Point(230.5, 100.5, 1)], multimask=False)).masks[0]
    assert frame(256, 512) == (128, 256)
    assert (mask.logits[128:] < 0).all()
    inside = mask.logits[:128] > 0
    assert iou(inside, mask.pixels[1::2, 1::2]) > 0.9


def test_the_cache_does_not_change_a_mask(photo: Photo, embedding: Embedding) -> None:
    stored = through_cache(embedding)
    halves = Embedding(
        {
            name: t.astype(np.float16) if np.issubdtype(t.dtype, np.floating) else t
            for name, t in embedding.tensors.items()
        },
        512,
        512,
    )
    for name in ("patch", "person"):
        prompt = canonical([Point(*deepest(thing(photo, name).mask), 1)])
        direct = decode_prompt(embedding, prompt)
        assert same(direct, decode_prompt(stored, prompt))
        assert same(direct, decode_prompt(halves, prompt))


def test_decoding_is_a_pure_function_and_leaves_read_only_arrays_alone(photo: Photo, embedding: Embedding) -> None:
    tensors = {name: np.array(t) for name, t in embedding.tensors.items()}
    for t in tensors.values():
        t.setflags(write=False)
    locked = Embedding(tensors, 512, 512)
    logits = np.zeros((256, 256), np.float32)
    logits[40:90, 60:120] = 4
    logits.setflags(write=False)
    for prompt in (
        canonical([Point(230.5, 100.5, 1), Point(60.5, 60.5, 0)]),
        canonical(box=Box(60, 300, 260, 500)),
        canonical([Point(230.5, 100.5, 1)], mask_input=logits),
    ):
        assert same(decode_prompt(embedding, prompt), decode_prompt(locked, prompt))


def test_encoding_is_deterministic(photo: Photo, embedding: Embedding) -> None:
    again = encode_image(photo.pixels)
    assert again.tensors.keys() == embedding.tensors.keys()
    assert all(np.array_equal(again.tensors[k], embedding.tensors[k]) for k in embedding.tensors)


def test_concurrent_decodes_equal_sequential_ones(photo: Photo, embedding: Embedding) -> None:
    prompts = [canonical([Point(*deepest(t.mask), 1)]) for t in photo.things] * 2
    expected = [decode_prompt(embedding, prompt) for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda prompt: decode_prompt(embedding, prompt), prompts))
    assert all(same(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("shape", [(512, 512), (768, 1024), (1024, 768), (600, 3000)])
def test_an_embedding_is_small_and_holds_nothing_that_half_precision_cannot(
    photo: Photo, shape: tuple[int, int]
) -> None:
    tiled = np.tile(photo.pixels, (2, 6, 1))[: shape[0], : shape[1]]
    embedding = encode_image(np.ascontiguousarray(tiled))
    assert embedding.nbytes <= 1_200_000
    for t in embedding.tensors.values():
        if np.issubdtype(t.dtype, np.floating):
            assert np.abs(t).max() < 2048


@pytest.mark.parametrize(
    ("name", "title", "click", "box"),
    [
        ("coins", "coin 1", 0.85, 0.85),
        ("coins", "coin 4", 0.85, 0.85),
        ("flower", "flower", 0.85, 0.85),
        ("astronaut", "patch", 0.85, 0.85),
        ("astronaut", "head", 0.8, 0.8),
        ("chelsea", "left pupil", 0.75, 0.75),
    ],
)
def test_compact_things_come_out_well(name: str, title: str, click: float, box: float) -> None:
    """Floors with a margin under the measured figures of bench/results/segmentation.md."""
    photo = load(name)
    wanted = thing(photo, title).mask
    embedding = through_cache(encode_image(photo.pixels))
    clicked = decode_prompt(embedding, canonical([Point(*deepest(wanted), 1)]))
    assert max(iou(mask.pixels, wanted) for mask in clicked.masks) >= click
    boxed = decode_prompt(embedding, canonical(box=jittered_box(wanted, name + title), multimask=False))
    assert iou(boxed.masks[0].pixels, wanted) >= box


def test_clicks_bring_the_mask_nearer_to_what_is_meant(photo: Photo, embedding: Embedding) -> None:
    helmet = thing(photo, "helmet").mask
    points = [Point(*deepest(helmet), 1)]
    for _ in range(4):
        mask = decode_prompt(embedding, canonical(points, multimask=False)).masks[0].pixels
        missed, extra = helmet & ~mask, mask & ~helmet
        label = int(missed.sum() >= extra.sum())
        error = missed if label else extra
        if not error.any():
            break
        points.append(Point(*deepest(error), label))
    mask = decode_prompt(embedding, canonical(points, multimask=False)).masks[0].pixels
    assert iou(mask, helmet) >= 0.8


STRANGE = [(1, 1), (1, 2), (2, 2), (3, 1), (1, 5000), (5000, 1), (20000, 10), (7, 400), (33, 31)]


@pytest.mark.parametrize("shape", STRANGE)
@pytest.mark.parametrize("content", ["noise", "flat", "grey"])
def test_images_of_strange_shape_and_content(shape: tuple[int, int], content: str) -> None:
    height, width = shape
    rng = np.random.default_rng(1)
    pixels: Pixels
    if content == "noise":
        pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    elif content == "flat":
        pixels = np.full((height, width, 3), 128, np.uint8)
    else:
        pixels = np.repeat(rng.integers(0, 256, (height, width, 1)).astype(np.uint8), 3, axis=2)
    _every_kind_of_prompt(pixels)


def _every_kind_of_prompt(pixels: Pixels) -> None:
    height, width = pixels.shape[:2]
    embedding = through_cache(encode_image(pixels))
    x, y = width / 3, height / 2
    logits = np.full((256, 256), 2, np.float32)
    last = Point(width - 0.5, height - 0.5, 0)
    prompts = [
        canonical([Point(x, y, 1)]),
        canonical([Point(x, y, 1), last]),
        canonical(box=Box(0, 0, width, height)),
        canonical([last], Box(0, 0, width / 2, height / 2)),
        canonical([Point(x, y, 1)], mask_input=logits, multimask=False),
        canonical([Point(x, y, 1)], Box(0, 0, width / 2, height), mask_input=-logits),
    ]
    for prompt in prompts:
        answer = decode_prompt(embedding, prompt)
        well_formed(answer, height, width)
        best = answer.masks[0].pixels
        clash = (int(last.y), int(last.x)) == (int(y), int(x))
        for point in prompt.points:
            if not clash:
                assert best[int(point.y), int(point.x)] == (point.label == 1)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    height=st.integers(1, 48),
    width=st.integers(1, 48),
    colours=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_small_image_breaks_it(height: int, width: int, colours: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, 256, (colours, 3)).astype(np.uint8)
    _every_kind_of_prompt(chosen[rng.integers(0, colours, (height, width))])


def test_an_embedding_of_another_engine_is_refused() -> None:
    foreign = Embedding({"image_embeddings": np.zeros((1, 256, 64, 64), np.float32)}, 10, 10)
    with pytest.raises(BackendFailed, match="another engine"):
        decode_prompt(foreign, canonical([Point(1, 1, 1)]))


def test_the_engine_serves_as_a_backend(photo: Photo) -> None:
    async def serve() -> tuple[ClassicalBackend, list[Prediction]]:
        backend = create(encode_threads=1, decode_threads=2)
        try:
            [embedding] = await backend.encode([Image("0" * 64, photo.pixels)])
            prompts = [canonical([Point(*deepest(t.mask), 1)]) for t in photo.things[:3]]
            return backend, await backend.decode(on(embedding, prompts))
        finally:
            await backend.aclose()

    backend, answers = asyncio.run(serve())
    assert backend.info.version.model == "classical"
    assert "not Segment Anything" in backend.info.note or "not from Segment Anything" in backend.info.note
    assert backend.info.version == create(2, 1).info.version
    for answer, wanted in zip(answers, photo.things, strict=False):
        x, y = deepest(wanted.mask)
        assert answer.masks[0].pixels[int(y), int(x)]


def test_an_image_that_cannot_be_encoded_is_a_failure_of_the_backend() -> None:
    async def serve() -> None:
        backend = create(1, 1)
        try:
            await backend.encode([Image("0" * 64, np.zeros((0, 4, 3), np.uint8))])
        finally:
            await backend.aclose()

    with pytest.raises(BackendFailed):
        asyncio.run(serve())


def test_the_engine_takes_one_thread_a_call_wherever_it_is_made() -> None:
    """Also in a server that did not start by our command: its own threads fill the cores."""
    code = (
        "from threadpoolctl import threadpool_info as pools\n"
        "from labeling_ground.inference.classical import create\n"
        "create(encode_threads=1, decode_threads=1)\n"
        "print([pool['num_threads'] for pool in pools() if pool['user_api'] == 'blas'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found
    assert set(found) == {1}
