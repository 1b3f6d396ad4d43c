"""The Python client's decoding: held against pycocotools, safetensors and Pillow, which it does without."""

import io

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image as Pillow
from pycocotools import mask as coco

from labeling_ground_client.decode import decode_png, decode_rle, decode_safetensors

masks = arrays.arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)))


def counts_of(mask: NDArray[np.bool_]) -> bytes:
    counts: bytes = coco.encode(np.asfortranarray(mask, np.uint8))["counts"]
    return counts


@given(masks)
def test_run_lengths_of_pycocotools_come_back_as_the_mask(mask: NDArray[np.bool_]) -> None:
    found = decode_rle(mask.shape, counts_of(mask))
    assert (found.dtype, found.flags.c_contiguous, found.flags.writeable) == (np.dtype(np.bool_), True, True)
    np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize("value", [True, False])
def test_a_full_and_an_empty_mask_of_a_large_image(value: bool) -> None:
    mask = np.full((4000, 6000), value)
    np.testing.assert_array_equal(decode_rle([4000, 6000], counts_of(mask).decode()), mask)


def test_long_runs_of_either_sign_take_several_characters() -> None:
    mask = np.zeros((2000, 1500), np.bool_)
    mask[3:1700, 700:1400:2] = True
    mask[:, 1450] = True
    np.testing.assert_array_equal(decode_rle(mask.shape, counts_of(mask)), mask)


GOOD = counts_of(np.eye(60, 80, dtype=np.bool_)).decode()


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        ([60, 80], ""),
        ([60, 80], GOOD[:-1]),
        ([60, 80], GOOD + "1"),
        ([60, 81], GOOD),
        ([0, 80], GOOD),
        ([60, 80], GOOD[:-1] + "o"),  # says that another character follows
        ([60, 80], "\x7f" + GOOD),
        ([60, 80], "ooooooooooo0"),
    ],
)
def test_damaged_run_lengths_are_an_error_and_no_mask(size: list[int], counts: str) -> None:
    with pytest.raises(ValueError, match="run lengths"):
        decode_rle(size, counts)


@given(masks)
def test_a_one_bit_png_comes_back_as_the_mask(mask: NDArray[np.bool_]) -> None:
    file = io.BytesIO()
    Pillow.fromarray(mask).save(file, "PNG")
    found = decode_png(file.getvalue())
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize("file", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n and so on"])
def test_what_is_no_png_is_an_error(file: bytes) -> None:
    with pytest.raises(ValueError, match="whole PNG"):
        decode_png(file)


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "u1", "i4", "u8", "?"])
def test_safetensors_come_back_as_they_were_written(kind: str) -> None:
    tensors = {
        "a": np.arange(24).reshape(2, 3, 4).astype(kind),
        "scalar": np.array(1, kind),
        "none": np.zeros((0, 3), kind),
    }
    found, metadata = decode_safetensors(safetensors.numpy.save(tensors, metadata={"width": "7"}))
    assert metadata == {"width": "7"}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].flags.writeable) == (tensor.dtype, True)
        np.testing.assert_array_equal(found[name], tensor)


@pytest.mark.parametrize("damaged", [b"", b"\x02\0\0\0\0\0\0\0[]", b"\xff" * 30])
def test_damaged_safetensors_are_an_error(damaged: bytes) -> None:
    with pytest.raises(ValueError, match="safetensors"):
        decode_safetensors(damaged)


def test_safetensors_that_are_cut_off_or_of_a_type_that_numpy_has_not_are_an_error() -> None:
    file = safetensors.numpy.save({"a": np.arange(24.0)})
    for damaged in (file[:-1], file.replace(b'"F64"', b'"Q64"')):
        with pytest.raises(ValueError, match="safetensors"):
            decode_safetensors(damaged)
