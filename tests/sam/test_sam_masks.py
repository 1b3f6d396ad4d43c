import time

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.needs import needs
from tests.sam.references import TOLERANCE, sam

from labeling_ground.sam.family import Family
from labeling_ground.sam.masks import is_stable, needed, order, paint, paint_with_stability, prediction
from labeling_ground.types import Box, Point, Prompt

SIZES = [(768, 1024), (1024, 1024), (601, 801), (1500, 700), (30, 20), (1, 7), (7, 1), (1, 5000), (2000, 2999)]
CLICK = (Point(1, 1, 1),)
MASK = np.zeros((256, 256), np.float32)


def blobs(seed: int, *, offset: float = 0.0) -> NDArray[np.float32]:
    """Smooth random logits, as a decoder's are."""
    coarse = np.random.default_rng(seed).normal(offset, 4, (24, 24)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_CUBIC), np.float32)


def dot() -> NDArray[np.float32]:
    """One positive logit."""
    logits = np.full((256, 256), -1, np.float32)
    logits[100, 130] = 9
    return logits


def by_hand(logits: NDArray[np.float32], height: int, width: int, family: Family) -> NDArray[np.float32]:
    """The whole way with OpenCV, without saving anything."""
    frame = family.frame(height, width)
    if family in (Family.SAM, Family.SAM_HQ):
        logits = np.asarray(cv2.resize(logits, (1024, 1024)), np.float32)[: frame.inner_height, : frame.inner_width]
    return np.asarray(cv2.resize(logits, (width, height)), np.float32).reshape(height, width)


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("logits", [blobs(1), blobs(2, offset=-6), dot()], ids=["many", "few", "dot"])
def test_a_mask_is_the_upsampled_logits_above_zero(
    logits: NDArray[np.float32], size: tuple[int, int], family: Family
) -> None:
    mask = paint(logits, family.frame(*size), family)
    expected = by_hand(logits, *size, family)
    assert mask.shape == size
    assert mask.dtype == np.bool_
    wrong = mask != (expected > 0)
    assert np.abs(expected[wrong]).max(initial=0) < TOLERANCE


@pytest.mark.parametrize("size", SIZES)
def test_masks_are_the_references(size: tuple[int, int]) -> None:
    torch = needs("torch")
    logits = blobs(3)
    frame = Family.SAM.frame(*size)
    inner = (frame.inner_height, frame.inner_width)
    expected = sam().postprocess_masks(torch.from_numpy(logits)[None, None], inner, size)[0, 0].numpy()
    wrong = paint(logits, frame, Family.SAM) != (expected > 0)
    assert np.abs(expected[wrong]).max(initial=0) < TOLERANCE


@pytest.mark.parametrize("size", SIZES)
def test_sam_2s_masks_are_torchs(size: tuple[int, int]) -> None:
    torch = needs("torch")
    logits = blobs(4)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None, None], size, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    wrong = paint(logits, Family.SAM2.frame(*size), Family.SAM2) != (expected > 0)
    assert np.abs(expected[wrong]).max(initial=0) < TOLERANCE


@pytest.mark.parametrize("size", SIZES)
def test_sam_3s_larger_logits_are_painted_as_they_are_and_handed_out_smaller(size: tuple[int, int]) -> None:
    logits = np.asarray(cv2.resize(blobs(4), (288, 288), interpolation=cv2.INTER_CUBIC), np.float32) * 10
    frame = Family.SAM3.frame(*size)
    expected = np.asarray(cv2.resize(logits, size[::-1]), np.float32).reshape(size)
    [mask] = prediction(logits[None], scores(0.5), Prompt(CLICK), frame, Family.SAM3).masks
    assert np.abs(expected[mask.pixels != (expected > 0)]).max(initial=0) < TOLERANCE
    painted, _ = paint_with_stability(logits, frame, Family.SAM3, 1.0)
    assert np.abs(expected[painted != (expected > 0)]).max(initial=0) < TOLERANCE
    assert mask.logits.shape == (256, 256)
    assert np.abs(mask.logits).max() == 32
    assert mask.logits[100, 100] == pytest.approx(np.clip(cv2.resize(logits, (256, 256))[100, 100], -32, 32))


def test_an_empty_mask_is_empty() -> None:
    assert not paint(np.full((256, 256), -1, np.float32), Family.SAM.frame(30, 40), Family.SAM).any()


def test_what_lies_in_the_padding_is_not_in_the_image() -> None:
    logits = np.full((256, 256), -1, np.float32)
    logits[200:] = 1
    assert not paint(logits, Family.SAM.frame(500, 1000), Family.SAM).any()


def test_a_small_object_of_a_large_photograph_costs_little() -> None:
    small = np.full((256, 256), -1, np.float32)
    small[100:130, 100:130] = 1
    large = np.full((256, 256), 1, np.float32)
    frame = Family.SAM.frame(3000, 4000)

    def seconds(logits: NDArray[np.float32]) -> float:
        taken = []
        for _ in range(5):
            started = time.thread_time()  # of this thread alone, however busy the machine is
            paint(logits, frame, Family.SAM)
            taken.append(time.thread_time() - started)
        return min(taken)

    assert seconds(small) < seconds(large) / 2


def scores(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


FOUR = np.stack([blobs(i) for i in range(4)])


@pytest.mark.parametrize("family", list(Family))
def test_several_masks_are_the_ambiguous_ones_best_first(family: Family) -> None:
    assert order(FOUR, scores(0.99, 0.1, 0.5, 0.3), Prompt(CLICK), family) == [2, 3, 1]
    assert order(FOUR, scores(0.99, 0.5, 0.5, 0.5), Prompt(CLICK), family) == [1, 2, 3]


@pytest.mark.parametrize(
    ("prompt", "index"),
    [
        (Prompt(CLICK, multimask=False), 2),
        (Prompt((*CLICK, Point(2, 2, 0)), multimask=False), 0),
        (Prompt((), Box(0, 0, 2, 2), multimask=False), 0),
        (Prompt(CLICK, None, MASK, multimask=False), 0),
    ],
)
def test_the_single_mask_is_the_unambiguous_one_but_for_a_lone_click(prompt: Prompt, index: int) -> None:
    assert order(FOUR, scores(0.99, 0.1, 0.5, 0.3), prompt, Family.SAM) == [index]


def test_sam_2s_single_mask_is_the_unambiguous_one_if_it_is_stable() -> None:
    firm = np.where(blobs(5) > 0, 1.0, -1.0).astype(np.float32)
    weak = firm * 0.01
    one = Prompt(CLICK, multimask=False)
    assert is_stable(firm)
    assert not is_stable(weak)
    assert is_stable(np.full((256, 256), -1, np.float32))
    assert order(np.stack([firm, *FOUR[1:]]), scores(0.1, 0.2, 0.9, 0.3), one, Family.SAM2) == [0]
    assert order(np.stack([weak, *FOUR[1:]]), scores(0.1, 0.2, 0.9, 0.3), one, Family.SAM2) == [2]
    assert order(np.stack([weak, *FOUR[1:]]), scores(0.1, 0.2, 0.9, 0.3), one, Family.SAM3) == [2]


def test_a_prediction_is_what_the_port_promises() -> None:
    made = prediction(FOUR * 20, scores(0.9, 0.2, 1.2, -0.1), Prompt(CLICK), Family.SAM2.frame(40, 50), Family.SAM2)
    assert [mask.score for mask in made.masks] == pytest.approx([1.0, 0.2, 0.0])
    for mask in made.masks:
        assert mask.pixels.shape == (40, 50)
        assert mask.logits.dtype == np.float32
        assert np.abs(mask.logits).max() <= 32


@pytest.mark.parametrize("count", [1, 3])
def test_graphs_that_choose_themselves_are_taken_at_their_word(count: int) -> None:
    made = prediction(FOUR[:count], scores(0.1, 0.9, 0.5)[:count], Prompt(CLICK), Family.SAM.frame(9, 9), Family.SAM)
    assert [mask.score for mask in made.masks] == pytest.approx([0.1] if count == 1 else [0.9, 0.5, 0.1])


def test_all_candidates_of_efficient_sam_are_readings_and_all_travel() -> None:
    for multimask in (True, False):
        prompt = Prompt(CLICK, multimask=multimask)
        assert needed(prompt, Family.EFFICIENT_SAM) == ((), False)
        made = prediction(
            FOUR[1:], scores(0.2, 0.9, 0.4), prompt, Family.EFFICIENT_SAM.frame(40, 50), Family.EFFICIENT_SAM
        )
        assert [mask.score for mask in made.masks] == pytest.approx([0.9, 0.4, 0.2] if multimask else [0.9])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("logits", [blobs(2, offset=-6), dot(), blobs(1)], ids=["few", "dot", "ragged"])
def test_a_mask_says_within_which_box_it_lies(logits: NDArray[np.float32], size: tuple[int, int]) -> None:
    stacked = np.stack([logits] * 4)
    [mask] = prediction(
        stacked, np.full(4, 0.5, np.float32), Prompt(CLICK, multimask=False), Family.SAM.frame(*size), Family.SAM
    ).masks
    assert mask.within is not None
    x, y, width, height = mask.within
    assert mask.pixels[y : y + height, x : x + width].sum() == mask.pixels.sum()
