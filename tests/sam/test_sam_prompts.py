import numpy as np
import pytest

from labeling_ground.errors import BadPrompt
from labeling_ground.sam.family import Family
from labeling_ground.sam.geometry import longest_side, stretched
from labeling_ground.sam.masks import paint
from labeling_ground.sam.prompts import low_res_logits, tensors
from labeling_ground.types import Box, Point, Prompt

FRAME = longest_side(512, 512)
CLICK, OFF = Point(10, 20, 1), Point(30, 40, 0)
BOX = Box(1, 2, 3, 4)
MASK = np.linspace(-8, 8, 65536, dtype=np.float32).reshape(256, 256)


@pytest.mark.parametrize(
    ("family", "prompt", "coords", "labels"),
    [
        (Family.SAM, Prompt((CLICK,)), [[20, 40], [0, 0]], [1, -1]),
        (Family.SAM, Prompt((CLICK, OFF)), [[20, 40], [60, 80], [0, 0]], [1, 0, -1]),
        (Family.SAM, Prompt((), BOX), [[2, 4], [6, 8]], [2, 3]),
        (Family.SAM, Prompt((CLICK,), BOX), [[20, 40], [2, 4], [6, 8]], [1, 2, 3]),
        (Family.SAM2, Prompt((CLICK,)), [[20, 40], [0, 0]], [1, -1]),
        (Family.SAM2, Prompt((), BOX), [[2, 4], [6, 8], [0, 0]], [2, 3, -1]),
        (Family.SAM2, Prompt((CLICK,), BOX), [[2, 4], [6, 8], [20, 40], [0, 0]], [2, 3, 1, -1]),
        (Family.SAM3, Prompt((CLICK,), BOX), [[2, 4], [6, 8], [20, 40], [0, 0]], [2, 3, 1, -1]),
        (Family.EFFICIENT_SAM, Prompt((CLICK,)), [[20, 40]], [1]),
        (Family.EFFICIENT_SAM, Prompt((OFF,), BOX), [[2, 4], [6, 8], [60, 80]], [2, 3, 0]),
    ],
)
def test_points_corners_and_padding(
    family: Family, prompt: Prompt, coords: list[list[float]], labels: list[float]
) -> None:
    made = tensors(prompt, FRAME, family)
    assert made.point_coords.tolist() == [coords]
    assert made.point_labels.tolist() == [labels]
    assert made.tokens == len(labels)
    assert made.point_coords.dtype == made.point_labels.dtype == np.float32


def test_coordinates_follow_the_frame() -> None:
    made = tensors(Prompt((Point(100, 100, 1),)), stretched(200, 400), Family.SAM2)
    assert made.point_coords[0, 0].tolist() == [256, 512]


def test_no_mask_is_zeros_and_the_number_0() -> None:
    made = tensors(Prompt((CLICK,)), FRAME, Family.SAM)
    assert made.mask_input.shape == (1, 1, 256, 256)
    assert not made.mask_input.any()
    assert made.has_mask_input.tolist() == [0]


@pytest.mark.parametrize("family", [Family.SAM, Family.SAM2, Family.SAM3])
def test_a_mask_alone_has_no_token_as_in_the_reference(family: Family) -> None:
    made = tensors(Prompt((), None, MASK), FRAME, family)
    assert made.tokens == 0
    assert made.point_coords.shape == (1, 0, 2)
    assert made.has_mask_input.tolist() == [1]
    assert (made.mask_input[0, 0] == MASK).all()


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(BadPrompt, match="empty"):
        tensors(Prompt(), FRAME, Family.SAM)


def test_efficient_sam_reads_six_points_and_no_mask() -> None:
    assert tensors(Prompt((CLICK,) * 4, BOX), FRAME, Family.EFFICIENT_SAM).tokens == 6
    with pytest.raises(BadPrompt, match=r"at most 6 points.*has 7"):
        tensors(Prompt((CLICK,) * 5, BOX), FRAME, Family.EFFICIENT_SAM)
    with pytest.raises(BadPrompt, match="no mask_input"):
        tensors(Prompt((CLICK,), None, MASK), FRAME, Family.EFFICIENT_SAM)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(BadPrompt, match="256 × 256"):
        tensors(Prompt((), None, MASK[:100]), FRAME, Family.SAM)


@pytest.mark.parametrize("family", [Family.SAM, Family.SAM2])
@pytest.mark.parametrize("size", [(600, 1000), (1000, 600), (90, 120), (40, 700)])
def test_a_mask_comes_back_from_its_low_res_logits(family: Family, size: tuple[int, int]) -> None:
    """Painted as a model's own logits are, it is the mask, but for what its edge loses on the way."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    mask = (columns > size[1] * 0.25) & (columns < size[1] * 0.8) & (rows >= size[0] // 3)
    frame = family.frame(*size)
    logits = low_res_logits(mask, frame)
    assert (logits.shape, str(logits.dtype), float(np.abs(logits).max())) == ((256, 256), "float32", 10.0)
    painted = paint(logits, frame, family)
    assert (painted & mask).sum() / (painted | mask).sum() > 0.97


def test_a_mask_is_nowhere_in_the_padding() -> None:
    logits = low_res_logits(np.ones((300, 600), np.bool_), Family.SAM.frame(300, 600))
    assert (logits[:128] == 10).all()
    assert (logits[128:] == -10).all()
