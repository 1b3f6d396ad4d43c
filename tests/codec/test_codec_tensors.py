"""Embeddings as safetensors."""

import json
import struct
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from labeling_ground.codec.tensors import from_safetensors, to_safetensors
from labeling_ground.errors import BadInput
from labeling_ground.types import Embedding

DTYPES = ["float32", "float16", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]


def sample(dtype: str = "float32") -> NDArray[Any]:
    return np.arange(24).reshape(1, 2, 3, 4).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_keep_their_type(dtype: str) -> None:
    embedding = Embedding({"a": sample(dtype), "b": sample()[:, :, ::2].transpose()}, 480, 640)
    back, metadata = from_safetensors(to_safetensors(embedding, metadata={"model": "sam-é"}))
    assert metadata == {"model": "sam-é"}
    assert (back.height, back.width) == (480, 640)
    assert set(back.tensors) == {"a", "b"}
    for name, tensor in embedding.tensors.items():
        assert back.tensors[name].dtype == tensor.dtype
        np.testing.assert_array_equal(back.tensors[name], tensor)


def test_big_endian_numbers_keep_their_value() -> None:
    data = to_safetensors(Embedding({"a": sample(">i4")}, 1, 1), metadata={})
    np.testing.assert_array_equal(from_safetensors(data)[0].tensors["a"], sample("int32"))


def test_the_size_cannot_be_overridden() -> None:
    data = to_safetensors(Embedding({"a": sample()}, 3, 4), metadata={"height": "9"})
    back, metadata = from_safetensors(data)
    assert (back.height, back.width, metadata) == (3, 4, {})


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"height": "3"},
        {"height": "3", "width": "0"},
        {"height": "3", "width": "-4"},
        {"height": "3", "width": "4.5"},
        {"height": "3", "width": "²"},
        {"height": "3", "width": "9" * 5000},
    ],
)
def test_a_file_without_a_usable_size_is_refused(metadata: dict[str, str] | None) -> None:
    with pytest.raises(BadInput, match="height and width"):
        from_safetensors(safetensors.numpy.save({"a": sample()}, metadata=metadata))


WHOLE = to_safetensors(Embedding({"a": sample()}, 3, 4), metadata={"k": "v"})


def test_cut_off_anywhere() -> None:
    for end in range(len(WHOLE)):
        with pytest.raises(BadInput):
            from_safetensors(WHOLE[:end])


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}},
        {"__metadata__": {"height": 3, "width": 4}},
        [],
    ],
)
def test_headers_that_lie(header: Any) -> None:
    text = json.dumps(header).encode()
    with pytest.raises(BadInput):
        from_safetensors(struct.pack("<Q", len(text)) + text + bytes(4))


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8), st.binary())
def test_hostile_bytes(turns: list[tuple[int, int]], random: bytes) -> None:
    hostile = bytearray(WHOLE)
    for position, value in turns:
        hostile[position % len(hostile)] = value
    for data in (bytes(hostile), random):
        try:
            back, _ = from_safetensors(data)
        except BadInput:
            continue
        assert back.height > 0
        assert back.width > 0
