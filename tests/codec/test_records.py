"""What each kind of entry holds comes back, and what is something else is damaged."""

from typing import Any

import numpy as np
import pytest
from tests.doubles import TOY, bits_of, damage

from labeling_ground.codec import frame, records
from labeling_ground.codec.mask import bbox, from_rle, to_rle
from labeling_ground.errors import DamagedEntry
from labeling_ground.key import ImageKeys, canonical, canonical_concept, int8_of, text_key
from labeling_ground.types import (
    Box,
    Embedding,
    Entry,
    EverythingOptions,
    Exemplar,
    Kind,
    Mask,
    Point,
    Prediction,
    Prompt,
)

KEYS = ImageKeys("public", "a" * 64)
MASK, LOGITS = KEYS.mask(TOY, "d" * 32), KEYS.logits(TOY, "d" * 32)
EVERYTHING = KEYS.everything(TOY, EverythingOptions())
CONCEPT = canonical_concept("Hex nut", [Exemplar(Box(0.5, 1, 2, 3)), Exemplar(Box(4, 4, 9, 9), positive=False)])
DETECTIONS = KEYS.detections(TOY, "c" * 32)


def some_prediction() -> Prediction:
    rng = np.random.default_rng(3)
    return Prediction(
        tuple(
            Mask(rng.random((20, 30)) > 0.5, 0.9 - i / 10, rng.normal(0, 9, (256, 256)).astype(np.float32))
            for i in range(3)
        )
    )


def seal(
    prediction: Prediction, prompt: Prompt | None = None, parent: tuple[str, int] | None = None
) -> tuple[Entry, Entry]:
    prompt = prompt or canonical([Point(1.5, 2, 1)])
    masks = records.seal_prediction(MASK, prediction, prompt, parent, cost=0.25, created=9.0)
    return masks, records.seal_logits(LOGITS, [one.logits for one in prediction.masks], cost=0.25, created=9.0)


def test_a_prediction_comes_back_as_it_was() -> None:
    prediction = some_prediction()
    entry, _ = seal(prediction)
    found = records.open_prediction(entry, MASK)
    assert (found.height, found.width, entry.kind, entry.cost) == (20, 30, Kind.MASK, 0.25)
    for cached, mask in zip(found.masks, prediction.masks, strict=True):
        np.testing.assert_array_equal(from_rle((20, 30), cached.counts), mask.pixels)
        assert cached.score == mask.score
        assert cached.area == mask.pixels.sum()
    np.testing.assert_array_equal(bits_of(found.png), prediction.masks[0].pixels)


def test_what_a_prediction_was_asked_with_comes_back() -> None:
    for prompt, parent, repeatable in (
        (canonical([Point(1.5, 2, 1), Point(0, 0, 0)], Box(1, 2, 3, 4), multimask=False), None, True),
        (canonical(mask_input=np.zeros((256, 256), np.float32)), None, False),
        (canonical(mask_input=np.zeros((256, 256), np.float32)), ("e" * 32, 2), True),
    ):
        entry, _ = seal(some_prediction(), prompt, parent)
        origin = records.open_prediction(entry, MASK).origin
        assert origin == records.Origin(prompt.points, prompt.box, prompt.multimask, parent, repeatable)


def test_logits_come_back_in_half_precision_with_every_sign_kept() -> None:
    prediction = some_prediction()
    prediction.masks[0].logits[0, 0] = 1e30
    _, entry = seal(prediction)
    layers = records.open_logits(entry, LOGITS)
    assert entry.size < 3 * 256 * 256 * 2 + 1000
    for layer, mask in zip(layers, prediction.masks, strict=True):
        assert layer.dtype == np.float16
        assert np.isfinite(layer).all()
        np.testing.assert_array_equal(layer > 0, mask.logits > 0)
        np.testing.assert_allclose(layer, np.clip(mask.logits, -60000, 60000), rtol=1e-3, atol=1e-6)


def test_a_score_of_any_float_type_can_be_kept() -> None:
    prediction = some_prediction()
    mask = prediction.masks[0]
    odd: Any = np.float32(0.5)
    entry, _ = seal(Prediction((Mask(mask.pixels, odd, mask.logits),)))
    assert records.open_prediction(entry, MASK).masks[0].score == 0.5


def test_an_image_file_comes_back_byte_for_byte() -> None:
    for file in (b"", b"abc", bytes(range(256)) * 9):
        entry = records.seal_image(KEYS.image, file, 7, 5, cost=0.0, created=0.0)
        assert records.open_image(entry, KEYS.image) == (file, 7, 5)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_an_embedding_comes_back_in_the_precision_that_was_asked(precision: frame.Precision) -> None:
    tensor = np.linspace(-3, 3, 64, dtype=np.float32).reshape(1, 4, 4, 4)
    entry = records.seal_embedding(
        KEYS.embedding(TOY), Embedding({"e": tensor}, 5, 7), cost=1.0, created=0.0, precision=precision
    )
    found = records.open_embedding(entry, KEYS.embedding(TOY))
    assert (found.height, found.width) == (5, 7)
    np.testing.assert_array_equal(found.tensors["e"], tensor.astype(np.float16 if precision == "fp16" else np.float32))


def some_masks(count: int = 3) -> records.CachedEverything:
    drawn = [np.random.default_rng(seed).random((20, 30)) > 0.5 for seed in range(count)]
    masks = [
        records.CachedMask(to_rle(pixels)["counts"], 1.01 - i / 10, int(pixels.sum()), bbox(pixels))
        for i, pixels in enumerate(drawn)
    ]
    found = [records.FoundMask(7 * i, (i + 0.1, 2.5), 0.95 + i / 100, mask) for i, mask in enumerate(masks)]
    return records.CachedEverything(20, 30, 1024, tuple(found))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_all_masks_of_an_image_come_back_as_they_were(count: int) -> None:
    found = some_masks(count)
    entry = records.seal_everything(EVERYTHING, found, cost=12.5, created=9.0)
    records.check(entry, EVERYTHING)
    assert records.open_everything(entry, EVERYTHING) == found
    assert (entry.kind, entry.cost, entry.created) == (Kind.EVERYTHING, 12.5, 9.0)


@pytest.mark.parametrize("lost", ["counts", "whole", "real"])
def test_masks_that_do_not_fit_together_are_damaged(lost: str) -> None:
    entry = records.seal_everything(EVERYTHING, some_masks(), cost=1.0, created=0.0)
    opened = frame.unseal(entry.value, EVERYTHING)
    tensors = dict(opened.tensors) | {lost: opened.tensors[lost][:-1]}
    spoilt = frame.seal(EVERYTHING, Kind.EVERYTHING, cost=1.0, created=0.0, meta=opened.meta, tensors=tensors)
    with pytest.raises(DamagedEntry):
        records.check(spoilt, EVERYTHING)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_all_instances_of_a_concept_and_what_was_asked_come_back(count: int) -> None:
    masks = [one.mask for one in some_masks(count).masks]
    instances = tuple(records.FoundInstance(mask, Box(0.25, i, 7, 9.5)) for i, mask in enumerate(masks))
    found = records.CachedDetections(20, 30, CONCEPT, instances)
    entry = records.seal_detections(DETECTIONS, found, cost=0.5, created=9.0)
    records.check(entry, DETECTIONS)
    assert records.open_detections(entry, DETECTIONS) == found
    assert (entry.kind, entry.cost) == (Kind.DETECTIONS, 0.5)


def each_kind() -> dict[str, Entry]:
    mask, logits = seal(some_prediction())
    embedding = Embedding({"e": np.zeros(3, np.float32)}, 5, 7)
    trunk, text, shown = KEYS.trunk(TOY), text_key("public", TOY, "hex nut"), KEYS.exemplars(TOY, CONCEPT.exemplars)
    facts: dict[str, Any] = {"cost": 1.0, "created": 0.0}
    none = records.CachedDetections(5, 7, CONCEPT, ())
    return {
        trunk: records.seal_embedding(trunk, embedding, kind=Kind.TRUNK, precision="fp16", **facts),
        text: records.seal_tensors(text, Kind.TEXT, embedding.tensors, **facts),
        shown: records.seal_tensors(shown, Kind.EXEMPLARS, embedding.tensors, **facts),
        DETECTIONS: records.seal_detections(DETECTIONS, none, **facts),
        KEYS.image: records.seal_image(KEYS.image, b"abc", 7, 5, cost=0.0, created=0.0),
        KEYS.embedding(TOY): records.seal_embedding(
            KEYS.embedding(TOY), embedding, cost=1.0, created=0.0, precision="fp16"
        ),
        int8_of(KEYS.embedding(TOY)): records.seal_int8(
            records.seal_embedding(KEYS.embedding(TOY), embedding, precision="fp16", **facts),
            KEYS.embedding(TOY),
            int8_of(KEYS.embedding(TOY)),
        ),
        MASK: mask,
        LOGITS: logits,
        EVERYTHING: records.seal_everything(EVERYTHING, some_masks(), cost=1.0, created=0.0),
    }


def test_every_kind_passes_its_check_and_no_changed_one_does() -> None:
    for key, entry in each_kind().items():
        records.check(entry, key)
        for other in (damage(entry), damage(entry, 5), damage(entry, entry.size - 1)):
            with pytest.raises(DamagedEntry):
                records.check(other, key)
        with pytest.raises(DamagedEntry):
            records.check(entry, key[:-1] + "x")


def test_an_entry_of_another_kind_than_its_key_says_is_damaged() -> None:
    for key, entry in each_kind().items():
        for kind in Kind:
            if kind is not entry.kind:
                with pytest.raises(DamagedEntry):
                    records.check(Entry(kind, entry.value, entry.cost, entry.created), key)
                with pytest.raises(DamagedEntry):
                    records.check(frame.seal(key, kind, cost=0.0, created=0.0), key)


@pytest.mark.parametrize("key", list(each_kind()))
@pytest.mark.parametrize("meta", [{}, {"size": 3, "masks": None}, {"size": [1, 2], "masks": [1]}, {"height": None}])
def test_a_sound_frame_without_its_kinds_content_is_damaged(key: str, meta: dict[str, Any]) -> None:
    entry = frame.seal(key, Kind(key.split("/")[3]), cost=0.0, created=0.0, meta=meta)
    with pytest.raises(DamagedEntry):
        records.check(entry, key)


def test_an_embedding_out_of_the_cache_has_the_digest_of_its_bytes() -> None:
    def stored(value: float) -> Embedding:
        embedding = Embedding({"e": np.full((1, 4), value, np.float32)}, 3, 5)
        assert embedding.digest == ""
        return records.open_embedding(
            records.seal_embedding("k", embedding, cost=1.0, created=2.0, precision="fp16"), "k"
        )

    assert stored(0.5).digest == stored(0.5).digest != stored(0.25).digest
    assert len(stored(0.5).digest) == 32


@pytest.mark.parametrize("candidates", [1, 3, 4])
@pytest.mark.parametrize("side", [7, 256])
def test_how_large_logits_will_be_is_known_to_the_byte_before_they_are_sealed(candidates: int, side: int) -> None:
    """A trace is told so with the click, and what replays it works with the server's own bytes."""
    layers = [np.full((side, side), 1e6 - number, np.float32) for number in range(candidates)]
    for cost in (0.25, 0.062251114009995945, 12.0):
        expected = records.logits_bytes(LOGITS, layers, cost=cost, created=1796056128.62)
        assert records.seal_logits(LOGITS, layers, cost=cost, created=1796056128.62).size == expected
