"""Rounding what memory has no room for: how much waits, what is carried over, and what goes wrong unseen by nobody."""

from typing import Any

import numpy as np
import pytest
from tests.doubles import TOY, Clock, failures_of, memory_store, until

from labeling_ground.cache.policies.gds import GreedyDualSize
from labeling_ground.cache.policies.ranked import RankedPolicy
from labeling_ground.cache.tiered import TieredStore
from labeling_ground.codec import frame, records
from labeling_ground.key import ImageKeys, int8_of
from labeling_ground.supervisor import Supervisor
from labeling_ground.types import Embedding, Entry, Kind

pytestmark = pytest.mark.anyio

SIZE = 33_000
"""Bytes of an embedding, about; in int8 it has half of them."""
MAPS = np.random.default_rng(0).standard_normal((1, 4, 64, 64), np.float32)


def key(number: int) -> str:
    return ImageKeys("public", f"{number:064x}").embedding(TOY)


def embedding(number: int, *, created: float = 0.0, cost: float = 1.0) -> Entry:
    made = Embedding({"maps": MAPS}, 30, 40)
    return records.seal_embedding(key(number), made, cost=cost, created=created, precision="fp16")


def tiers(budget: int = 10 * SIZE, **options: Any) -> TieredStore:
    given = {"policy": RankedPolicy(GreedyDualSize())} | options
    store = TieredStore(memory_store(budget, **given), supervisor=Supervisor())
    store.int8.models.add("toy")
    return store


async def rounded(store: TieredStore) -> None:
    await until(lambda: not store.int8._pending_bytes)


def in_int8(store: TieredStore) -> int:
    return store.memory.stats().entries_by_kind[Kind.EMBEDDING_INT8]


async def test_of_many_that_go_at_once_those_that_would_take_memory_beside_the_budget_are_dropped() -> None:
    store = tiers(320 * SIZE)
    for number in range(300):
        store.put(key(number), embedding(number))
    store.memory.reconfigure(budget_bytes=160 * SIZE)
    assert store.int8._pending_bytes <= 160 * SIZE // 16
    assert len(store.int8.pending) == 9
    await rounded(store)
    assert store.memory.bytes <= 160 * SIZE
    assert store.memory.peak_bytes <= 320 * SIZE
    await store.aclose()


async def test_it_expires_when_the_full_one_would_have_and_a_use_starts_its_time_anew() -> None:
    clock = Clock(10_000.0)
    store = tiers(clock=clock, idle_s=100.0)
    for number in range(12):
        clock.now += 1
        store.put(key(number), embedding(number, created=clock.now))
        await rounded(store)
    assert {number for number in range(12) if int8_of(key(number)) in store.memory} >= {0, 1}
    clock.now = 10_000 + 1 + 99
    assert store.peek(int8_of(key(1))) is not None
    clock.now = 10_000 + 1 + 100
    assert store.peek(int8_of(key(0))) is None
    clock.now = 10_000 + 1 + 99 + 99
    assert store.peek(int8_of(key(1))) is not None
    await store.aclose()


async def test_the_done_hint_is_carried_over_so_it_goes_before_what_somebody_works_on() -> None:
    store = tiers()
    for number in range(9):
        store.put(key(number), embedding(number))
    store.mark_done(ImageKeys("public", f"{3:064x}").group, True)
    store.put(key(20), embedding(20))
    await rounded(store)
    assert int8_of(key(3)) in store.memory
    store.put(key(21), embedding(21))
    await rounded(store)
    assert int8_of(key(3)) not in store.memory
    await store.aclose()


async def test_it_is_as_old_and_as_dear_as_the_full_one_and_counts_as_evicted_for_the_budget() -> None:
    store = tiers()
    for number in range(12):
        store.put(key(number), embedding(number, created=float(number), cost=2.0))
        await rounded(store)
    found = store.peek(int8_of(key(0)))
    assert found is not None
    assert (found.created, found.cost, found.kind) == (0.0, 2.0, Kind.EMBEDDING_INT8)
    assert found.size < 0.6 * SIZE
    assert store.memory.evictions["budget"] == in_int8(store) > 1
    await store.aclose()


async def test_an_embedding_that_cannot_be_rounded_is_dropped_and_counted() -> None:
    store = tiers()
    supervisor: Supervisor = store.int8._background._supervisor
    value = embedding(0).value
    store.put(key(0), Entry(Kind.EMBEDDING, b"x" + value[1:], 0.1, 0.0))
    for number in range(1, 12):
        store.put(key(number), embedding(number))
    await until(lambda: failures_of(supervisor)["round embeddings"] == 1)
    await rounded(store)
    assert int8_of(key(0)) not in store.memory
    assert store.peek(key(0)) is None
    await store.aclose()


async def test_other_kinds_and_keys_of_another_form_are_left_alone() -> None:
    store = tiers()
    other = ImageKeys("public", "a" * 64).trunk(TOY)
    store.put(other, frame.seal(other, Kind.TRUNK, cost=0.0, created=0.0, tensors={"trunk": MAPS.astype(np.float16)}))
    for number in range(12):
        store.put(key(number), embedding(number))
    await rounded(store)
    assert store.peek(other) is None
    assert {kind for kind, count in store.memory.stats().entries_by_kind.items() if count} == {
        Kind.EMBEDDING,
        Kind.EMBEDDING_INT8,
    }
    await store.aclose()
