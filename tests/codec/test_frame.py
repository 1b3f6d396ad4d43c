"""The frame gives back what was sealed, or says that it is damaged; it never gives back anything else."""

import contextlib
import hashlib
import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from tests.doubles import patient

from labeling_ground.codec import frame
from labeling_ground.errors import DamagedEntry
from labeling_ground.types import Entry, Kind

KEY = "v1/public/" + "a" * 64 + "/embedding/toy@0"
DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", ">i4", ">f4", ">f8"]

tensors = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)


def seal(precision: frame.Precision = "fp32", **named: NDArray[Any]) -> Entry:
    return frame.seal(
        KEY, Kind.EMBEDDING, cost=0.5, created=1.0, meta={"é": [1, None]}, tensors=named, precision=precision
    )


@patient
@given(st.dictionaries(st.text(max_size=5), tensors, max_size=3))
def test_every_tensor_comes_back_to_the_bit_in_full_precision(named: dict[str, NDArray[Any]]) -> None:
    entry = frame.seal(KEY, Kind.EMBEDDING, cost=0.5, created=1.0, tensors=named)
    frame.verify(entry.value, KEY)
    opened = frame.unseal(entry.value, KEY)
    assert list(opened.tensors) == list(named)
    for name, tensor in named.items():
        found = opened.tensors[name]
        assert found.dtype == tensor.dtype.newbyteorder("<")
        assert found.shape == tensor.shape
        np.testing.assert_array_equal(found, tensor)
    assert (opened.kind, opened.cost, opened.created) == (Kind.EMBEDDING, 0.5, 1.0)


@patient
@given(tensors)
def test_half_precision_rounds_floats_and_leaves_the_rest_alone(tensor: NDArray[Any]) -> None:
    found = frame.unseal(seal("fp16", t=tensor).value, KEY).tensors["t"]
    if tensor.dtype.kind != "f":
        np.testing.assert_array_equal(found, tensor)
        return
    finite = np.isfinite(tensor)
    np.testing.assert_array_equal(np.isfinite(found), finite, "half precision must not make infinities")
    np.testing.assert_array_equal(found[~finite], tensor[~finite])
    np.testing.assert_allclose(
        found[finite].astype(np.float64), tensor[finite].astype(np.float64), rtol=2**-11, atol=2**-25
    )


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4"])
def test_half_precision_halves_the_bytes_where_every_value_fits(dtype: str) -> None:
    fits = np.array([65504.0, -65504.0, 0.1], dtype)
    assert frame.unseal(seal("fp16", t=fits).value, KEY).tensors["t"].dtype == np.float16
    large = np.array([65505.0, 0.1], dtype)
    np.testing.assert_array_equal(frame.unseal(seal("fp16", t=large).value, KEY).tensors["t"], large)


@pytest.mark.parametrize("content", ["nothing", "spaces", "numbers"])
@patient
@given(pad=st.integers(0, 63), data=st.data())
def test_any_flipped_bit_is_found(content: str, pad: int, data: st.DataObject) -> None:
    key = KEY + "x" * pad
    value = frame.seal(key, Kind.EMBEDDING, cost=0.5, created=1.0, tensors=CONTENTS[content]).value
    frame.verify(value, key)
    bit = data.draw(st.integers(0, 8 * len(value) - 1))
    flipped = bytearray(value)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedEntry):
        frame.verify(bytes(flipped), key)


CONTENTS: dict[str, dict[str, NDArray[Any]]] = {
    "nothing": {},
    # White space right behind a header once hid that the header's length had been changed.
    "spaces": {"t": np.full(256, ord(" "), np.uint8)},
    "numbers": {"t": np.arange(7, dtype=np.float32), "u": np.arange(5, dtype=np.uint8)},
}


def test_every_bit_of_the_prefix_counts() -> None:
    for named in CONTENTS.values():
        for pad in range(64):
            key = KEY + "x" * pad
            value = frame.seal(key, Kind.MASK, cost=0.0, created=0.0, tensors=named).value
            for bit in range(24 * 8):
                flipped = bytearray(value)
                flipped[bit // 8] ^= 1 << bit % 8
                with pytest.raises(DamagedEntry):
                    frame.verify(bytes(flipped), key)


@patient
@given(st.integers(0, 400), st.binary(max_size=8))
def test_a_value_that_is_cut_short_or_longer_is_damaged(length: int, more: bytes) -> None:
    value = seal(t=np.arange(50)).value
    assume(length < len(value))
    for other in (value[:length], value + b"\0" + more):
        with pytest.raises(DamagedEntry):
            frame.verify(other, KEY)


def test_a_value_under_another_key_is_damaged() -> None:
    value = seal(t=np.arange(5)).value
    for read in (frame.verify, frame.unseal, frame.entry_of):
        with pytest.raises(DamagedEntry):
            read(value, KEY + "1")


@patient
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes_raise_nothing_but_damaged_entry(noise: bytes, with_magic: bool) -> None:
    value = frame.MAGIC + noise if with_magic else noise
    for read in (frame.verify, frame.unseal, frame.entry_of):
        with pytest.raises(DamagedEntry):
            read(value, KEY)


headers = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from(["uint8", "f4", KEY]),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


@patient
@given(headers, headers)
def test_a_header_of_nonsense_raises_nothing_but_damaged_entry(layout: Any, meta: Any) -> None:
    """Its checksum may be right: it may have been written by other code than ours."""
    value = _with_header({"key": KEY, "kind": "mask", "cost": 1, "created": 1, "meta": meta, "tensors": layout})
    for read in (frame.verify, frame.unseal):
        with contextlib.suppress(DamagedEntry):
            read(value, KEY)


@pytest.mark.parametrize(
    "layout",
    [
        [["t", "object", [1], 0]],
        [["t", "uint8", [2**80], 0]],
        [["t", "uint8", [2**40], 0]],
        [["t", "uint8", [-5], 0]],
        [["t", "uint8", [5], 2**70]],
        [["t", "uint8", [5], -999]],
        [["t", "uint8", "5", 0]],
        [[["t"], "uint8", [5], 0]],
        [["t", "uint8"]],
        7,
    ],
)
def test_a_layout_that_cannot_be_is_damaged(layout: Any) -> None:
    value = _with_header({"key": KEY, "kind": "mask", "cost": 1, "created": 1, "meta": {}, "tensors": layout})
    with pytest.raises(DamagedEntry):
        frame.unseal(value, KEY)


@pytest.mark.parametrize("text", [b"[" * 100_000, b"[]", b"7", b"{}", b"\xff", b"1" * 5000])
def test_a_header_that_is_no_header_is_damaged(text: bytes) -> None:
    value = _with_bytes(text)
    for read in (frame.verify, frame.unseal, frame.entry_of):
        with pytest.raises(DamagedEntry):
            read(value, KEY)


def test_reading_copies_nothing_and_gives_nothing_to_write_on() -> None:
    value = seal(a=np.arange(1000, dtype=np.float32), b=np.arange(3)).value
    for tensor in frame.unseal(value, KEY).tensors.values():
        assert np.shares_memory(tensor, np.frombuffer(value, np.uint8))
        assert not tensor.flags.writeable
        assert tensor.ctypes.data % tensor.itemsize == 0


def test_there_is_no_pickle_in_it_and_none_is_opened() -> None:
    with pytest.raises(TypeError, match="object"):
        seal(t=np.array([{}]))
    with pytest.raises(DamagedEntry):
        frame.unseal(pickle.dumps({"key": KEY}), KEY)


def test_an_entry_can_be_made_from_its_bytes_alone() -> None:
    entry = seal(t=np.arange(3))
    assert frame.entry_of(entry.value, KEY) == entry


def _with_header(header: Any) -> bytes:
    return _with_bytes(json.dumps(header).encode())


def _with_bytes(header: bytes) -> bytes:
    body = len(header).to_bytes(4, "little") + header + b"\0" * (-(24 + len(header)) % 64) + bytes(64)
    return frame.MAGIC + hashlib.sha256(body).digest()[:16] + body
