"""Embeddings as safetensors."""

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from labeling_ground.codec.tensors import to_safetensors, unpack
from labeling_ground.errors import BadInput
from labeling_ground.types import Embedding

DTYPES = ["float32", "float16", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]


def sample(dtype: str = "float32") -> NDArray[Any]:
    return np.arange(24).reshape(1, 2, 3, 4).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_keep_their_type(dtype: str) -> None:
    embedding = Embedding({"a": sample(dtype), "b": sample()[:, :, ::2].transpose()}, 480, 640)
    back, metadata = unpack(to_safetensors(embedding, metadata={"model": "sam-é"}))
    assert metadata == {"model": "sam-é", "height": "480", "width": "640"}
    assert set(back) == {"a", "b"}
    for name, tensor in embedding.tensors.items():
        assert back[name].dtype == tensor.dtype
        np.testing.assert_array_equal(back[name], tensor)


def test_big_endian_numbers_keep_their_value() -> None:
    data = to_safetensors(Embedding({"a": sample(">i4")}, 1, 1), metadata={})
    np.testing.assert_array_equal(unpack(data)[0]["a"], sample("int32"))


def test_the_size_cannot_be_overridden() -> None:
    data = to_safetensors(Embedding({"a": sample()}, 3, 4), metadata={"height": "9"})
    assert unpack(data)[1] == {"height": "3", "width": "4"}


WHOLE = to_safetensors(Embedding({"a": sample()}, 3, 4), metadata={"k": "v"})


def test_cut_off_anywhere() -> None:
    for end in range(len(WHOLE)):
        with pytest.raises(BadInput):
            unpack(WHOLE[:end])


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
        unpack(struct.pack("<Q", len(text)) + text + bytes(4))


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8), st.binary())
def test_hostile_bytes(turns: list[tuple[int, int]], random: bytes) -> None:
    hostile = bytearray(WHOLE)
    for position, value in turns:
        hostile[position % len(hostile)] = value
    for data in (bytes(hostile), random):
        try:
            back, metadata = unpack(data)
        except BadInput:
            continue
        assert all(isinstance(text, str) for text in metadata.values())
        assert all(isinstance(tensor, np.ndarray) for tensor in back.values())
