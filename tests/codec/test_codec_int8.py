"""Embeddings in int8: how far off, what stays as it is, and that the form is the embedding's alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tests.doubles import TOY

from labeling_ground.codec import records
from labeling_ground.codec.int8 import from_int8, to_int8
from labeling_ground.errors import DamagedEntry
from labeling_ground.key import ImageKeys, int8_of
from labeling_ground.types import Embedding, Kind

KEY = ImageKeys("public", "a" * 64).embedding(TOY)


@given(
    arrays.arrays(
        np.float16, st.tuples(st.just(1), st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)),
        elements=st.floats(-6e4, 6e4, width=16),
    )
)  # fmt: skip
def test_each_value_is_off_by_half_a_step_of_its_channel_at_most(tensor: np.ndarray) -> None:
    rounded = to_int8({"e": tensor})
    assert {name: made.dtype for name, made in rounded.items()} == {"e": np.int8, "e.step": np.float32}
    wide = tensor.astype(np.float32)
    steps = np.abs(wide).max(axis=(0, 2, 3), keepdims=True) / 127
    made = from_int8(rounded)["e"]
    assert made.dtype == np.float32
    assert made.shape == tensor.shape
    assert (np.abs(made - wide) <= steps * 0.5001 + 1e-30).all()


def test_one_channel_far_above_the_others_does_not_take_their_steps() -> None:
    tensor = np.stack([np.linspace(-1, 1, 64), np.linspace(-1e4, 1e4, 64)]).astype(np.float16).reshape(1, 2, 8, 8)
    made = from_int8(to_int8({"e": tensor}))["e"]
    assert np.abs(made[0, 0] - tensor[0, 0].astype(np.float32)).max() < 0.005


def test_whole_numbers_and_tensors_without_channels_stay_as_they_are() -> None:
    given_ones: dict[str, Any] = {
        "labels": np.arange(12, dtype=np.int32).reshape(1, 3, 4),
        "means": np.array([1.5, 2.5], np.float32),
    }
    rounded = to_int8(given_ones)
    assert rounded == given_ones
    assert from_int8(rounded) == given_ones


def test_the_stored_form_has_half_the_bytes_the_same_cost_and_age_and_a_kind_and_key_of_its_own() -> None:
    rng = np.random.default_rng(0)
    embedding = Embedding({"e": rng.standard_normal((1, 16, 32, 32), np.float32)}, 30, 40)
    full = records.seal_embedding(KEY, embedding, cost=2.5, created=7.0, precision="fp16", note="A note.")
    rounded = records.seal_int8(full, KEY, int8_of(KEY))
    assert (rounded.kind, rounded.cost, rounded.created) == (Kind.EMBEDDING_INT8, 2.5, 7.0)
    assert rounded.size < 0.55 * full.size
    records.check(rounded, int8_of(KEY))
    assert records.open_facts(rounded, int8_of(KEY)).note == "A note."
    opened = records.open_int8(rounded, int8_of(KEY))
    assert (opened.height, opened.width) == (30, 40)
    assert 0 < np.abs(opened.tensors["e"] - embedding.tensors["e"]).max() < 0.05
    assert opened.digest != records.open_embedding(full, KEY).digest
    assert records.seal_int8(full, KEY, int8_of(KEY)) == rounded, "it depends on the embedding alone"
    with pytest.raises(DamagedEntry):
        records.check(rounded, KEY)
    with pytest.raises(DamagedEntry):
        records.check(full, int8_of(KEY))
    with pytest.raises(DamagedEntry, match="no embedding that could be rounded"):
        records.seal_int8(rounded, int8_of(KEY), int8_of(KEY))
