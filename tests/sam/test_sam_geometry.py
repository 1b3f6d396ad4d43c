import pytest

from labeling_ground.sam.family import Family
from labeling_ground.sam.geometry import longest_side, stretched


@pytest.mark.parametrize(
    ("size", "inner"),
    [
        ((768, 1024), (768, 1024)),
        ((1024, 768), (1024, 768)),
        ((3000, 4000), (768, 1024)),
        ((601, 801), (768, 1024)),  # 768.3
        ((600, 801), (767, 1024)),  # 767.04
        ((333, 1000), (341, 1024)),  # 340.99
        ((1, 2048), (1, 1024)),  # 0.5 is rounded up
        ((1, 5000), (1, 1024)),  # 0.2 would be nothing
        ((1, 1), (1024, 1024)),
    ],
)
def test_the_long_side_becomes_1024_and_the_short_one_is_rounded_half_up(
    size: tuple[int, int], inner: tuple[int, int]
) -> None:
    frame = longest_side(*size)
    assert (frame.inner_height, frame.inner_width) == inner


def test_coordinates_are_scaled_by_the_rounded_sizes_and_not_shifted() -> None:
    frame = longest_side(601, 801)
    assert frame.place(0, 0) == (0, 0)
    assert frame.place(801, 601) == pytest.approx((1024, 768))
    assert frame.place(400.5, 300.5) == pytest.approx((512, 384))


def test_sam_2_stretches_the_image_over_the_whole_square() -> None:
    frame = stretched(100, 400)
    assert (frame.inner_height, frame.inner_width) == (1024, 1024)
    assert frame.place(200, 50) == (512, 512)


def test_sam_3s_square_is_smaller() -> None:
    frame = Family.SAM3.frame(100, 400)
    assert (frame.side, frame.inner_height, frame.inner_width) == (1008, 1008, 1008)
    assert frame.place(200, 50) == (504, 504)


def test_each_family_has_its_rule() -> None:
    assert Family.SAM.frame(100, 400) == longest_side(100, 400)
    assert Family.SAM_HQ.frame(100, 400) == longest_side(100, 400)
    assert Family.SAM2.frame(100, 400) == stretched(100, 400)
    assert len(Family.SAM.embedding_names) == 1
    assert len(Family.SAM2.embedding_names) == 3
    assert Family.SAM_HQ.embedding_bytes(2) == 6 << 20
