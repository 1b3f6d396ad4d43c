"""Label Studio's run lengths, read back by Label Studio's own decoder and by one written from the format."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from tests.doubles import patient
from tests.web.formats import _label_studios_brushes, brush

from labeling_ground.codec.brush import to_brush_rle


def read_back(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    values = brush(list(to_brush_rle(mask))).reshape(*mask.shape, 4)
    assert (values == values[:, :, :1]).all()
    assert set(np.unique(values)) <= {0, 255}
    return np.asarray(values[:, :, 3] > 0)


@given(mask=arrays.arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40))))
@patient
def test_any_mask_comes_back(mask: NDArray[np.bool_]) -> None:
    assert np.array_equal(read_back(mask), mask)


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("pixels", [1, 2, 4, 64, 16_383, 16_384, 16_385, 32_768, 40_000])
def test_runs_around_each_length_that_is_written_in_another_way(pixels: int, filled: bool) -> None:
    mask = np.full((1, pixels), filled)
    assert np.array_equal(read_back(mask), mask)
    ended = np.concatenate((mask, ~mask[:, :1]), axis=1)
    assert np.array_equal(read_back(ended), ended)


def test_label_studio_reads_what_is_written() -> None:
    mask = np.zeros((340, 500), np.bool_)
    rows, columns = np.mgrid[:340, :500]
    mask[(rows - 122) ** 2 + (columns - 150) ** 2 <= 80**2] = True
    mask[300:, 400:] = True
    module: Any = _label_studios_brushes()
    values = module.decode_rle(list(to_brush_rle(mask)))
    assert np.array_equal(np.reshape(values, (340, 500, 4))[:, :, 3] > 0, mask)


def test_it_is_what_label_studio_would_write() -> None:
    mask = np.zeros((30, 50), np.bool_)
    mask[10:20, 7:33] = True
    module: Any = _label_studios_brushes()
    theirs = module.encode_rle(np.repeat(mask.astype(np.uint8).ravel() * 255, 4))
    assert brush(theirs).tolist() == brush(list(to_brush_rle(mask))).tolist()
