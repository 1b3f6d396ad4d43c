"""Whatever is asked for is computed once, and counted once: of any kind, by anything, without a model."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.doubles import LONG_S, DictStore, memory_store, sealed, until

from labeling_ground.cache.store import Store
from labeling_ground.cache.tiered import TieredStore
from labeling_ground.errors import UnknownImage
from labeling_ground.key import ImageKeys
from labeling_ground.service.counters import Counters
from labeling_ground.service.once import Attempt, Made, Once
from labeling_ground.types import Kind, ModelVersion, Outcome

pytestmark = pytest.mark.anyio

KEYS = ImageKeys("public", "a" * 64)
KEY = KEYS.embedding(ModelVersion("toy", "0" * 64))


class Work:
    """Computes a value, as often as it is asked to."""

    def __init__(self) -> None:
        self.done = 0
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.error: Exception | None = None
        self.is_stored = True

    async def __call__(self, attempt: Attempt) -> Made:
        await attempt.wait()
        attempt.start()
        attempt.commit()
        self.done += 1
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        entry = sealed(attempt.key, 100)
        attempt.store(entry)
        return Made(entry, Outcome.MISS)


@asynccontextmanager
async def once_over(*lower: Store) -> AsyncIterator[tuple[Once, TieredStore, Counters]]:
    counters = Counters()
    store = TieredStore(memory_store(), lower, deadline_s=LONG_S)
    try:
        yield Once(store, counters, mode="first"), store, counters
    finally:
        await store.aclose()


def outcomes(counters: Counters) -> dict[str, float]:
    """Look-ups of embeddings, by their outcome."""
    found = counters.metrics.figures().by("outcome", "lookups", kind="embedding")
    return {outcome: number for outcome, number in found.items() if number}


def hedges(counters: Counters) -> dict[str, float]:
    """What became of queued predictions."""
    return counters.metrics.figures().by("outcome", "predictions")


@pytest.mark.parametrize("lower", [0, 1])
async def test_fifty_askers_are_one_computation_and_the_next_one_is_a_hit(lower: int) -> None:
    work = Work()
    async with once_over(*(DictStore() for _ in range(lower))) as (once, _, counters):
        made = await asyncio.gather(*(once.get(Kind.EMBEDDING, KEY, work) for _ in range(50)))
        assert sorted({one.outcome for one in made}) == [Outcome.JOINED, Outcome.MISS]
        assert (await once.get(Kind.EMBEDDING, KEY, work)).outcome is Outcome.HIT
        assert work.done == 1
        assert outcomes(counters) == {"miss": 1, "joined": 49, "hit": 1}
        assert hedges(counters) == {"used": 1}


async def test_what_a_lower_tier_has_is_not_computed() -> None:
    work, below = Work(), DictStore()
    async with once_over(below) as (once, store, counters):
        await once.get(Kind.EMBEDDING, KEY, work)
        await store.drain()
        await store.memory.delete("*")
        assert (await once.get(Kind.EMBEDDING, KEY, work)).outcome is Outcome.HIT
        assert work.done == 1
        assert hedges(counters)["withdrawn"] == 1


async def test_what_lies_in_memory_only_is_computed_without_asking_the_lower_tiers() -> None:
    work, below = Work(), DictStore()
    async with once_over(below) as (once, _, counters):
        assert (await once.get(Kind.MASK, KEY, work, hedged=False)).outcome is Outcome.MISS
        assert (below.calls.count(("get", KEY)), hedges(counters)) == (0, {})


async def test_a_failure_reaches_all_askers_is_counted_for_each_and_remembered_by_none() -> None:
    work = Work()
    work.error = UnknownImage("a" * 64)
    async with once_over() as (once, _, counters):
        asks = [once.get(Kind.EMBEDDING, KEY, work) for _ in range(3)]
        assert {type(one) for one in await asyncio.gather(*asks, return_exceptions=True)} == {UnknownImage}
        assert (work.done, counters.metrics.figures().sum("failed", kind="embedding")) == (1, 3)
        assert outcomes(counters) == {}
        work.error = None
        assert (await once.get(Kind.EMBEDDING, KEY, work)).outcome is Outcome.MISS


async def test_what_was_begun_before_a_purge_is_answered_but_neither_joined_nor_stored() -> None:
    work = Work()
    work.may_end.clear()
    async with once_over(DictStore()) as (once, store, _):
        before = asyncio.create_task(once.get(Kind.EMBEDDING, KEY, work))
        await until(lambda: work.done == 1)
        await store.delete(f"{KEYS.group}*")
        after = asyncio.create_task(once.get(Kind.EMBEDDING, KEY, work))
        await until(lambda: work.done == 2)
        work.may_end.set()
        assert [(await before).outcome, (await after).outcome] == [Outcome.MISS, Outcome.MISS]
        assert store.peek(KEY) is not None, "the second one's, which began after the purge"


async def test_two_over_one_store_both_hear_of_a_purge() -> None:
    work = Work()
    work.may_end.clear()
    async with once_over() as (one, store, counters):
        two = Once(store, counters)
        asks = [asyncio.create_task(each.get(Kind.EMBEDDING, KEY, work)) for each in (one, two)]
        await until(lambda: work.done == 2)
        await store.delete(f"{KEYS.group}*")
        assert (len(one.flights), len(two.flights)) == (0, 0)
        work.may_end.set()
        await asyncio.gather(*asks)
        assert store.peek(KEY) is None
