"""Masks there and back again: run lengths, 1-bit PNG, polygons."""

import io
import warnings
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image as Pillow
from pycocotools import mask as coco
from tests.doubles import bits_of

from labeling_ground.codec.mask import (
    Ring,
    area,
    bbox,
    from_png,
    from_rle,
    to_centre_rings,
    to_png,
    to_polygons,
    to_polygons_with_holes,
    to_rle,
)
from labeling_ground.errors import BadInput, BadPrompt, TooLarge

Bits = NDArray[np.bool_]
masks = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))


def disc(height: int = 60, width: int = 80, radius: int = 20) -> Bits:
    y, x = np.mgrid[:height, :width]
    found: Bits = (x - width // 2) ** 2 + (y - height // 2) ** 2 <= radius**2
    return found


def blob(seed: int, height: int = 90, width: int = 120) -> Bits:
    """A smooth shape, possibly in several parts and with holes."""
    noise = np.random.default_rng(seed).random((height, width), dtype=np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 9)
    found: Bits = smooth > np.quantile(smooth, 0.6)
    return found


def filled(rings: list[Ring], shape: tuple[int, int]) -> Bits:
    """The documented rule, literally: a pixel counts if its centre is inside, by even and odd."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.zeros(shape, np.bool_)
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True):
            if y0 != y1:
                crossed = (y0 <= y) != (y1 <= y)
                inside ^= crossed & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return inside


def signed_area(ring: Ring) -> float:
    x, y = np.array(ring).T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def reference_decode(size: list[int], counts: bytes) -> NDArray[np.uint8]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools 2.0.x with numpy 2
        decoded: NDArray[np.uint8] = coco.decode({"size": size, "counts": counts})
    return decoded


def iou(a: Bits, b: Bits) -> float:
    return float((a & b).sum() / (a | b).sum())


# -- run lengths -----------------------------------------------------------------------------------


@given(masks)
def test_run_lengths_agree_with_pycocotools(mask: Bits) -> None:
    rle = to_rle(mask)
    reference = reference_decode(rle["size"], rle["counts"].encode())
    np.testing.assert_array_equal(reference, mask)
    back = from_rle(rle["size"], rle["counts"])
    assert back.dtype == np.bool_
    np.testing.assert_array_equal(back, mask)


@given(masks, st.data())
def test_a_part_of_run_lengths(mask: Bits, data: st.DataObject) -> None:
    height, width = mask.shape
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    across, down = data.draw(st.integers(1, width - left)), data.draw(st.integers(1, height - top))
    rle = to_rle(mask)
    part = from_rle(rle["size"], rle["counts"], within=(left, top, across, down))
    np.testing.assert_array_equal(part, mask[top : top + down, left : left + across])


def test_long_runs_take_several_characters() -> None:
    mask = np.zeros((2000, 1500), np.bool_)
    mask[3:1700, 700:] = True
    rle = to_rle(mask)
    np.testing.assert_array_equal(from_rle(rle["size"], rle["counts"].encode()), mask)


@pytest.mark.parametrize("value", [True, False])
def test_full_and_empty(value: bool) -> None:
    mask = np.full((7, 5), value)
    rle = to_rle(mask)
    np.testing.assert_array_equal(from_rle(rle["size"], rle["counts"]), mask)
    np.testing.assert_array_equal(bits_of(to_png(mask)), mask)


def test_any_number_but_zero_is_the_object() -> None:
    numbers = np.array([[0, 1, 255], [7, 0, 0]], np.uint8)
    assert to_rle(numbers) == to_rle(numbers != 0)
    assert to_png(numbers) == to_png(numbers != 0)
    assert area(numbers) == 3
    assert to_rle(np.asfortranarray(numbers)) == to_rle(numbers)


@pytest.mark.parametrize("shape", [(0, 4), (4,), (1, 2, 3)])
def test_what_is_no_mask_is_our_own_mistake(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two dimensions"):
        to_rle(np.zeros(shape, np.bool_))


GOOD = to_rle(disc())["counts"]


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        ([60, 80], ""),
        ([60, 80], GOOD[:-1]),
        ([60, 80], GOOD + "1"),
        ([60, 81], GOOD),
        ([60, 80], GOOD.replace(GOOD[3], "\x7f")),
        ([60, 80], "é"),
        ([60, 80], " "),
        ([60, 80], "Po" * 30),
        ([60, 80], "o" * 20 + "0"),
        ([60, 80], "o" * 6 + "0"),
        ([60, 80], "@"),
        ([0, 80], "0"),
        ([-60, -80], GOOD),
        ([60], GOOD),
        ([60, 80, 1], GOOD),
        ([True, True], "1"),
    ],
)
def test_hostile_run_lengths(size: list[int], counts: str) -> None:
    with pytest.raises(BadPrompt):
        from_rle(size, counts)


def test_a_promise_of_gigapixels_is_refused() -> None:
    with pytest.raises(TooLarge):
        from_rle([1_000_000, 1_000_000], "0")
    with pytest.raises(TooLarge):
        from_rle([60, 80], GOOD, max_pixels=4799)
    assert from_rle([60, 80], GOOD, max_pixels=4800).sum() == disc().sum()


@settings(max_examples=300)
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.one_of(st.binary(max_size=30), st.text(st.characters(min_codepoint=48, max_codepoint=111))),
)
def test_random_run_lengths_are_read_right_or_refused(height: int, width: int, counts: str | bytes) -> None:
    try:
        mask = from_rle([height, width], counts)
    except BadInput:
        return
    raw = counts if isinstance(counts, bytes) else counts.encode()
    reference = reference_decode([height, width], raw)
    np.testing.assert_array_equal(mask, reference)


# -- PNG -------------------------------------------------------------------------------------------


@given(masks)
def test_png_is_one_bit_and_pillow_reads_the_same(mask: Bits) -> None:
    data = to_png(mask)
    with Pillow.open(io.BytesIO(data)) as picture:
        assert picture.mode == "1"
        np.testing.assert_array_equal(np.asarray(picture), mask)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), 0), mask * 255)


# -- boxes and polygons ----------------------------------------------------------------------------


@given(masks)
def test_box_and_area(mask: Bits) -> None:
    rows, columns = np.nonzero(mask)
    assert area(mask) == len(rows)
    expected = (0, 0, 0, 0)
    if len(rows):
        left, top = int(columns.min()), int(rows.min())
        expected = (left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1)
    assert bbox(mask) == expected


@settings(max_examples=200, deadline=None)
@given(masks)
def test_exact_polygons_give_the_very_mask(mask: Bits) -> None:
    rings = to_polygons(mask, epsilon=0)
    np.testing.assert_array_equal(filled(rings, (mask.shape[0], mask.shape[1])), mask)
    assert sum(map(signed_area, rings)) == mask.sum()
    parts, _ = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    assert sum(signed_area(ring) > 0 for ring in rings) == parts - 1


@settings(max_examples=100, deadline=None)
@given(masks, st.floats(0, 8))
def test_no_ring_is_ever_flat(mask: Bits, epsilon: float) -> None:
    exact, rings = to_polygons(mask, epsilon=0), to_polygons(mask, epsilon=epsilon)
    assert len(rings) == len(exact)
    for ring, original in zip(rings, exact, strict=True):
        assert len(ring) >= 3
        assert signed_area(ring) == pytest.approx(signed_area(original), rel=0.021)


@pytest.mark.parametrize("seed", range(24))
def test_simplified_polygons_stay_close(seed: int) -> None:
    mask = blob(seed)
    rings = to_polygons(mask)
    assert iou(filled(rings, (90, 120)), mask) >= 0.98
    assert sum(map(len, rings)) < sum(map(len, to_polygons(mask, epsilon=0))) / 2


@pytest.mark.parametrize("radius", [12, 20, 29])
def test_small_discs_stay_close(radius: int) -> None:
    mask = disc(radius=radius)
    assert iou(filled(to_polygons(mask), (60, 80)), mask) >= 0.98


def test_a_hole_turns_the_other_way() -> None:
    mask = np.zeros((9, 9), np.bool_)
    mask[1:8, 1:8] = True
    mask[3:6, 3:6] = False
    outer, hole = to_polygons(mask)
    assert (signed_area(outer), signed_area(hole)) == (49, -9)


@settings(max_examples=200, deadline=None)
@given(masks)
def test_polygons_with_holes_are_valid_and_give_the_very_mask(mask: Bits) -> None:
    polygons = to_polygons_with_holes(mask)
    found = np.zeros(mask.shape, np.bool_)
    for outer, *holes in polygons:
        for ring in (outer, *holes):
            assert len(set(ring)) == len(ring) >= 4  # a ring that meets itself is refused by geometry libraries
        assert signed_area(outer) > 0
        assert all(signed_area(hole) < 0 for hole in holes)
        part = filled([outer, *holes], mask.shape)
        assert not (found & part).any()
        found |= part
        assert cv2.connectedComponents(part.astype(np.uint8), connectivity=4)[0] == 2  # in one piece
    assert (found == (mask != 0)).all()


def test_pixels_that_touch_at_a_corner_are_polygons_of_their_own() -> None:
    diamond = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.bool_)
    assert [len(polygon) for polygon in to_polygons_with_holes(diamond)] == [1, 1, 1, 1]
    bay = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.bool_)  # its hole touches the outside at a corner
    [(outer, hole)] = to_polygons_with_holes(bay)
    assert (1.0, 1.0) in hole
    assert (2.0, 2.0) in hole
    assert (2.0, 2.0) in outer


def test_a_single_pixel_is_its_square() -> None:
    mask = np.zeros((5, 5), np.bool_)
    mask[2, 3] = True
    (ring,) = to_polygons(mask, epsilon=4)
    assert sorted(ring) == [(3, 2), (3, 3), (4, 2), (4, 3)]
    assert to_polygons(np.zeros((5, 5), np.bool_)) == []


@pytest.mark.parametrize("rows", [(0, 5), (700, 1300), (2995, 3000), (0, 3000), (1234, 1235)])
def test_a_large_masks_png_is_a_valid_stream_wherever_the_object_lies(rows: tuple[int, int]) -> None:
    """Runs of zeros above and below are written without being compressed, their checksum computed."""
    mask = np.zeros((3000, 2000), np.bool_)
    mask[rows[0] : rows[1], 300:1700:3] = True
    for png in (to_png(mask), to_png(mask, bbox(mask))):
        np.testing.assert_array_equal(bits_of(png), mask)
        body = png[png.index(b"IDAT") + 4 : png.rindex(b"IEND") - 8]
        assert zlib.decompress(body) == b"".join(b"\0" + np.packbits(row).tobytes() for row in mask)


def test_only_the_box_is_looked_at_where_one_is_known() -> None:
    mask = np.zeros((60, 80), np.bool_)
    mask[20:30, 40:47] = True
    mask[0, 0] = True  # outside the box: whoever gives one promises that there is nothing
    around = (30, 10, 40, 40)
    assert bbox(mask, around) == (40, 20, 7, 10)
    assert area(mask, around) == 70
    assert bbox(mask, (0, 40, 10, 10)) == (0, 0, 0, 0)
    assert area(mask, (0, 0, 0, 0)) == 0


# -- rings through pixel centres --------------------------------------------------------------------


@given(masks)
def test_centre_rings_filled_by_opencv_are_the_mask_with_its_holes_filled(mask: Bits) -> None:
    canvas = np.zeros(mask.shape, np.uint8)
    rings = to_centre_rings(mask)
    for ring in rings:
        cv2.fillPoly(canvas, [np.array(ring, np.int32)], 1)
        assert len(ring) >= 3
    outside = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), 2, flags=4)
    assert (canvas.astype(bool) == (outside[1:-1, 1:-1] != 2)).all()


def test_centre_rings_are_simplified_by_a_share_of_their_length() -> None:
    sizes = [len(to_centre_rings(disc(200, 200, 80), epsilon_share=share)[0]) for share in (0.0, 0.001, 0.01)]
    assert sizes[0] > sizes[1] > sizes[2] > 4
    canvas = np.zeros((200, 200), np.uint8)
    cv2.fillPoly(canvas, [np.array(to_centre_rings(disc(200, 200, 80), epsilon_share=0.001)[0])], 1)
    assert iou(canvas.astype(bool), disc(200, 200, 80)) > 0.98
    assert to_centre_rings(np.zeros((5, 5), np.bool_)) == []


@pytest.mark.parametrize("mode", ["1", "L", "I;16"])
def test_a_gray_png_of_any_depth_is_a_mask(mode: str) -> None:
    wanted = disc()
    picture = Pillow.fromarray(wanted.astype(np.uint16) * 300 if mode == "I;16" else wanted.astype(np.uint8) * 7)
    file = io.BytesIO()
    (Pillow.fromarray(wanted) if mode == "1" else picture).save(file, "PNG")
    assert (from_png(file.getvalue()) == wanted).all()
    assert (from_png(to_png(wanted)) == wanted).all()


@pytest.mark.parametrize("mode", ["RGB", "P", "LA"])
def test_a_png_that_says_in_no_one_channel_what_is_on_the_object_is_refused(mode: str) -> None:
    file = io.BytesIO()
    Pillow.new(mode, (8, 6)).save(file, "PNG")
    with pytest.raises(BadPrompt, match="one channel"):
        from_png(file.getvalue())


def test_what_is_no_png_or_too_large_is_refused() -> None:
    png = to_png(disc())
    for damaged in (b"", b"RIFF" + png, png[:40], png[:16] + bytes(8) + png[24:]):
        with pytest.raises(BadPrompt, match="PNG"):
            from_png(damaged)
    with pytest.raises(TooLarge, match="80 × 60"):
        from_png(png, max_pixels=4000)
