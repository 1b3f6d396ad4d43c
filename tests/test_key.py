"""Keys are pure, order-free, and never the same for two different things."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.doubles import patient

from labeling_ground import key as keys
from labeling_ground.errors import BadInput, BadPrompt
from labeling_ground.key import ImageKeys, canonical, prompt_digest
from labeling_ground.types import Box, EverythingOptions, Exemplar, Kind, ModelVersion, Point, Prompt, Stretch

ID = "ab" * 32
VERSION = ModelVersion("sam-vit-h", "cd" * 32)

on_grid = st.integers(0, 4096 * 64).map(lambda steps: steps / 64)
points = st.builds(Point, on_grid, on_grid, st.sampled_from([0, 1]))
boxes = st.tuples(on_grid, on_grid, on_grid, on_grid).filter(lambda b: b[0] != b[2] and b[1] != b[3])


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    box = draw(st.none() | boxes)
    logits = None
    if draw(st.booleans()):
        logits = np.full((256, 256), draw(st.integers(-3, 3)), np.float32)
        logits[draw(st.integers(0, 255)), draw(st.integers(0, 255))] += draw(st.integers(0, 2))
    drawn = draw(st.lists(points, max_size=4))
    if box is None and logits is None and not any(p.label for p in drawn):
        drawn.append(Point(draw(on_grid), draw(on_grid), 1))
    return canonical(drawn, None if box is None else Box(*box), logits, multimask=draw(st.booleans()))


def parts(prompt: Prompt) -> tuple[Any, ...]:
    logits = None if prompt.mask_input is None else prompt.mask_input.tobytes()
    return prompt.points, prompt.box, logits, prompt.multimask


@patient
@given(prompts(), prompts())
def test_distinct_prompts_have_distinct_digests_and_equal_ones_the_same(one: Prompt, other: Prompt) -> None:
    assert (parts(one) == parts(other)) == (prompt_digest(one) == prompt_digest(other))


@patient
@given(st.lists(points, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_the_points_does_not_matter(drawn: list[Point], dice: Any) -> None:
    drawn.append(Point(1, 2, 1))
    shuffled = drawn.copy()
    dice.shuffle(shuffled)
    assert prompt_digest(canonical(drawn)) == prompt_digest(canonical(shuffled))


@patient
@given(boxes)
def test_a_box_is_the_same_from_whichever_corner_it_was_drawn(box: tuple[float, float, float, float]) -> None:
    x0, y0, x1, y1 = box
    corners = [(x0, y0, x1, y1), (x1, y0, x0, y1), (x0, y1, x1, y0), (x1, y1, x0, y0)]
    assert len({prompt_digest(canonical(box=Box(*corner))) for corner in corners}) == 1


@patient
@given(st.floats(-1e6, 1e6))
def test_coordinates_snap_to_the_nearest_64th_of_a_pixel_exactly_in_float32(x: float) -> None:
    snapped = canonical([Point(x, 0, 1)]).points[0].x
    assert (snapped * 64).is_integer()
    assert abs(snapped - x) <= 1 / 128
    if abs(snapped) < 2**17:
        assert float(np.float32(snapped)) == snapped
    assert canonical([Point(snapped, 0, 1)]).points[0].x == snapped


def test_minus_zero_is_zero_in_points_boxes_and_mask_inputs() -> None:
    flat = np.zeros((256, 256), np.float32)
    for minus, plus in (
        (canonical([Point(-0.0, -0.001, 1)]), canonical([Point(0.0, 0.0, 1)])),
        (canonical(box=Box(-0.0, -0.0, 5, 5)), canonical(box=Box(0, 0, 5, 5))),
        (canonical(mask_input=-flat), canonical(mask_input=flat)),
    ):
        assert prompt_digest(minus) == prompt_digest(plus)
    assert math.copysign(1, canonical([Point(-0.0, 0, 1)]).points[0].x) == 1


def test_every_part_of_a_prompt_counts() -> None:
    flat = np.zeros((256, 256), np.float32)
    asked = [
        canonical([Point(3, 4, 1)]),
        canonical([Point(4, 3, 1)]),
        canonical([Point(3, 4, 1)], multimask=False),
        canonical([Point(3, 4, 1), Point(3, 4, 1)]),
        canonical([Point(3, 4, 1), Point(3, 4, 0)]),
        canonical([Point(3, 4, 1)], Box(3, 4, 5, 6)),
        canonical(box=Box(3, 4, 5, 6)),
        canonical([Point(3, 4, 1)], mask_input=flat),
        canonical([Point(3, 4, 1)], mask_input=flat + 1),
    ]
    assert len({prompt_digest(prompt) for prompt in asked}) == len(asked)


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"points": [Point(1, 1, 0)]},
        {"points": [Point(1, 1, 2)]},
        {"points": [Point(1, 1, -1)]},
        {"points": [Point(math.nan, 1, 1)]},
        {"points": [Point(1, math.inf, 1)]},
        {"points": [Point(10**400, 1, 1)]},
        {"box": Box(math.nan, 0, 1, 1)},
        {"box": Box(0, 0, -math.inf, 1)},
        {"box": Box(3, 0, 3.001, 9)},
        {"mask_input": np.zeros((255, 256), np.float32)},
        {"mask_input": np.full((256, 256), np.nan, np.float32)},
        {"mask_input": np.full((256, 256), 1e300)},
    ],
)
def test_a_prompt_that_makes_no_sense_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(BadPrompt):
        canonical(**bad)


def test_a_named_mask_input_is_enough_before_it_is_resolved() -> None:
    assert canonical([Point(1, 1, 0)], referred=True).points == (Point(1, 1, 0),)


def test_a_prompt_does_not_change_with_the_array_that_it_was_made_from() -> None:
    logits = np.zeros((256, 256), np.float32)
    prompt = canonical(mask_input=logits)
    before = prompt_digest(prompt)
    logits[:] = 9
    assert prompt_digest(prompt) == before


@pytest.mark.parametrize(
    ("sent", "settled"),
    [
        ("Screw", "screw"),
        ("  a\tred \n nut ", "a red nut"),
        ("CAFE\u0301", "caf\u00e9"),
        ("\u212a\u00a0clip", "k clip"),
        ("STRASSE", "strasse"),
        ("Stra\u00dfe", "stra\u00dfe"),
        ("\u0130", "i\u0307"),
        ("\u1112\u1161\u11ab", "\ud55c"),
    ],
)
def test_a_phrase_has_the_form_that_the_tokenizer_gives_it(sent: str, settled: str) -> None:
    assert keys.canonical_phrase(sent) == settled
    assert keys.canonical_phrase(settled) == settled


@patient
@given(st.text())
def test_a_settled_phrase_stays_as_it_is(text: str) -> None:
    try:
        settled = keys.canonical_phrase(text)
    except BadPrompt:
        return
    assert keys.canonical_phrase(settled) == settled
    assert settled.encode().decode() == settled


def test_phrases_that_a_tokenizer_tells_apart_are_not_one() -> None:
    said = ["screw", "screws", "screw.", "a screw", "caf\u00e9", "cafe", "strasse", "stra\u00dfe"]
    assert len({keys.concept_digest(keys.canonical_concept(one)) for one in said}) == len(said)


def test_exemplars_are_sorted_each_counts_once_and_boxes_are_canonical() -> None:
    boxes = [Exemplar(Box(5, 6, 1, 2)), Exemplar(Box(0, 0, 3, 3), positive=False), Exemplar(Box(1, 2, 5, 6.001))]
    concepts = [keys.canonical_concept(None, each) for each in itertools.permutations(boxes)]
    assert {concept.exemplars for concept in concepts} == {
        (Exemplar(Box(0, 0, 3, 3), positive=False), Exemplar(Box(1, 2, 5, 6)))
    }
    assert len({keys.concept_digest(concept) for concept in concepts}) == 1


def test_every_part_of_a_concept_counts() -> None:
    box, other = Box(1, 2, 3, 4), Box(1, 2, 3, 5)
    asked = [
        ("nut", []),
        ("nut ", [Exemplar(box)]),
        ("nut", [Exemplar(box, positive=False)]),
        (None, [Exemplar(box)]),
        (None, [Exemplar(other)]),
        (None, [Exemplar(box), Exemplar(other)]),
        (None, [Exemplar(box), Exemplar(other, positive=False)]),
        ("none", []),
    ]
    digests = {keys.concept_digest(keys.canonical_concept(phrase, boxes)) for phrase, boxes in asked}
    assert len(digests) == len(asked)
    of_one = {
        keys.ImageKeys("a", ID).exemplars(VERSION, keys.canonical_concept("x", boxes).exemplars) for _, boxes in asked
    }
    assert len(of_one) == 6


@pytest.mark.parametrize(
    ("phrase", "exemplars", "said"),
    [
        (None, [], "give a phrase"),
        (" \t", [], "phrase is empty"),
        ("", [Exemplar(Box(0, 0, 1, 1))], "phrase is empty"),
        (None, [Exemplar(Box(0, 0, 1, 1), positive=False)], "positive true"),
        ("nut", [Exemplar(Box(0, 0, 0, 1))], "no area"),
        ("nut", [Exemplar(Box(0, 0, math.nan, 1))], "finite"),
        ("nut", [Exemplar(Box(0, 0, 1, 1)), Exemplar(Box(1, 1, 0, 0), positive=False)], "positive and as negative"),
        ("a\0b", [], "control character"),
        ("\ud800", [], "no Unicode"),
    ],
)
def test_a_concept_that_makes_no_sense_is_refused(phrase: str | None, exemplars: list[Exemplar], said: str) -> None:
    with pytest.raises(BadPrompt, match=said):
        keys.canonical_concept(phrase, exemplars)


def test_every_option_counts_and_minus_zero_is_zero() -> None:
    base = EverythingOptions()
    others = [
        dataclasses.replace(base, **{field.name: getattr(base, field.name) + 1}) for field in dataclasses.fields(base)
    ]
    assert len({keys.options_digest(options) for options in [base, *others]}) == 7
    zero, minus = (EverythingOptions(pred_iou_thresh=value, stability_score_offset=value) for value in (0.0, -0.0))
    assert keys.options_digest(zero) == keys.options_digest(minus)
    one, true = (EverythingOptions(box_nms_thresh=value) for value in (1.0, 1))
    assert keys.options_digest(one) == keys.options_digest(true)


def test_keys_are_the_same_in_every_process() -> None:
    """A change of this test is a change of every cache in the world: raise the layout's version with it."""
    image = ImageKeys("public", ID)
    digest = prompt_digest(canonical([Point(3, 4, 1)], Box(1, 2, 3, 4)))
    assert image.image == f"v1/public/{ID}/image"
    assert image.embedding(VERSION) == f"v1/public/{ID}/embedding/sam-vit-h@cdcdcdcdcdcdcdcd"
    assert image.mask(VERSION, digest) == f"v1/public/{ID}/mask/sam-vit-h@cdcdcdcdcdcdcdcd/{digest}"
    assert digest == "28c1c35db656a4de7d094fd3dc426967"
    everything = image.everything(VERSION, EverythingOptions())
    assert everything == f"v1/public/{ID}/everything/sam-vit-h@cdcdcdcdcdcdcdcd/c598e35322a7fbb1b9378f3824fc2850"
    concept = keys.concept_digest(keys.canonical_concept("Hex nut", [Exemplar(Box(1, 2, 3, 4))]))
    assert image.trunk(VERSION) == f"v1/public/{ID}/trunk/sam-vit-h@cdcdcdcdcdcdcdcd"
    assert image.detections(VERSION, concept) == f"v1/public/{ID}/detections/sam-vit-h@cdcdcdcdcdcdcdcd/{concept}"
    assert concept == "e5fc4dc12c7b3f74eba489df977529c3"
    text = "69219ae4024b122bccb9561e111f94ab682518799f8510c0cbfc9dead6f73bbc"
    assert keys.text_key("public", VERSION, "hex nut") == f"v1/public/{text}/text/sam-vit-h@cdcdcdcdcdcdcdcd"
    assert keys.image_id(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_all_keys_of_an_image_are_one_group_and_no_other_images() -> None:
    image, other = ImageKeys("a", ID), ImageKeys("a", "cd" * 32)
    all_keys = [image.image, image.embedding(VERSION), image.mask(VERSION, "d"), image.logits(VERSION, "d")]
    all_keys += [image.everything(VERSION, EverythingOptions()), image.trunk(VERSION), image.detections(VERSION, "d")]
    all_keys.append(image.exemplars(VERSION, ()))
    assert {keys.group_of(key) for key in all_keys} == {image.group}
    assert keys.group_of(other.image) == other.group != image.group
    assert len(set(all_keys)) == 8
    assert keys.group_of(keys.text_key("a", VERSION, "screw")) not in (image.group, other.group)


def test_a_purge_means_what_it_names_and_nothing_else() -> None:
    tenants, images = ["a", "ab"], ["1" * 64, "2" * 64]
    versions = [ModelVersion(name, digit * 64) for name in ("h", "vit-h", "sam-vit-h") for digit in "12"]
    every: dict[str, tuple[str, str, str | None]] = {}
    for tenant, image_id in itertools.product(tenants, images):
        image = ImageKeys(tenant, image_id)
        every[image.image] = (tenant, image_id, None)
        for version in versions:
            of_one = (image.embedding(version), image.mask(version, "f" * 32), image.logits(version, "f" * 32))
            of_concepts = (image.trunk(version), image.detections(version, "f" * 32), image.exemplars(version, ()))
            for key in (*of_one, *of_concepts, image.everything(version, EverythingOptions())):
                every[key] = (tenant, image_id, version.model)
            every[keys.text_key(tenant, version, "screw")] = (tenant, "", version.model)  # purging an image spares it
    for chosen in itertools.product([None, *tenants], [None, *images], [None, "h", "vit-h", "sam-vit-h"]):
        match = keys.matcher(keys.pattern(*chosen))
        meant = {
            key
            for key, parts in every.items()
            if all(want in (None, part) for want, part in zip(chosen, parts, strict=True))
        }
        assert {key for key in every if match(key)} == meant


def test_a_matcher_takes_everything_but_the_star_literally() -> None:
    assert keys.matcher("v1/a.b/*")("v1/a.b/c")
    assert not keys.matcher("v1/a.b/*")("v1/aXb/c")
    assert not keys.matcher("*/a.b@*")("x/aXb@1")
    assert keys.matcher("v1/a")("v1/a")
    assert not keys.matcher("v1/a")("v1/ab")


def test_an_image_id_is_64_lower_case_hex_digits() -> None:
    assert keys.is_image_id(ID)
    assert not any(keys.is_image_id(text) for text in ("", ID[1:], ID + "a", ID.upper(), "g" * 64, ID + "\n"))


def test_a_stretch_is_part_of_what_is_computed_and_not_of_the_file() -> None:
    """One file, forgotten in one go; embeddings, masks and the rest differ with every way of reading it."""
    stretched_id = keys.image_id(b"", Stretch(0.5, 99.5))
    assert stretched_id == keys.image_id(b"") + "~stretch-0.5-99.5"
    plain, stretched = ImageKeys("a", keys.image_id(b"")), ImageKeys("a", stretched_id)
    assert (plain.group, plain.image) == (stretched.group, stretched.image)
    options = EverythingOptions()
    for key in ("embedding", "mask", "logits", "everything", "trunk", "exemplars", "detections"):
        rest: Any = {"embedding": (), "everything": (options,), "trunk": (), "exemplars": ((),)}.get(key, ("d",))
        one, other = (getattr(image, key)(VERSION, *rest) for image in (plain, stretched))
        assert one != other
        assert keys.group_of(other) == plain.group
        assert all(map(keys.matcher(keys.pattern("a", stretched_id)), (one, other)))
        assert all(map(keys.matcher(keys.pattern(model=VERSION.model)), (one, other)))


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0, 100, "0-100"),
        (1, 99, "1-99"),
        (0.35, 99.65, "0.35-99.65"),
        (10.0, 90.10, "10-90.1"),
        (0.1 + 0.2, 50, "0.3-50"),
    ],
)
def test_a_stretch_has_one_way_of_writing(low: float, high: float, text: str) -> None:
    image_id = keys.stretched(ID, Stretch(low, high))
    assert image_id == f"{ID}~stretch-{text}"
    assert keys.is_image_id(image_id)
    assert keys.stretch_of(image_id) == Stretch(round(low, 2), round(high, 2))
    assert keys.stretch_of(ID) is None


@pytest.mark.parametrize(
    "text", ["1-099", "01-99", "0.50-99", "1.-99", "-1-99", "1-101", "1-99-", "1", "1-99\n", "1e1-99"]
)
def test_another_way_of_writing_a_stretch_is_no_image_id(text: str) -> None:
    assert not keys.is_image_id(f"{ID}~stretch-{text}")


@pytest.mark.parametrize(("low", "high"), [(99, 1), (50, 50), (-1, 50), (1, 100.5), (float("nan"), 99)])
def test_two_percentiles_are_a_lower_and_a_higher_one(low: float, high: float) -> None:
    with pytest.raises(BadInput, match=r"stretch=0\.5,99\.5"):
        Stretch(low, high)


def test_a_tenant_does_not_give_its_key_away() -> None:
    assert keys.tenant_of("secret") != keys.tenant_of("secret2")
    assert "secret" not in keys.tenant_of("secret")
    assert len(keys.tenant_of("ключ")) == 16


def test_the_kinds_in_keys_are_the_kinds_of_entries() -> None:
    image = ImageKeys("a", ID)
    assert [key.split("/")[3] for key in (image.image, image.embedding(VERSION))] == [Kind.IMAGE, Kind.EMBEDDING]
