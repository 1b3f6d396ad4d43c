"""What another budget would have done, told while the server works: against stores that have that budget."""

import asyncio
import gc
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from hashlib import sha256
from multiprocessing import get_context

import pytest
from tests.doubles import TOY, Clock, DictStore, dice, memory_store

from labeling_ground.cache.choose import choose
from labeling_ground.cache.memory import MemoryStore
from labeling_ground.cache.purges import Purges
from labeling_ground.cache.reconfigure import reconfigure
from labeling_ground.cache.shadow import LARGER_BY, ShadowCaches
from labeling_ground.cache.store import Store
from labeling_ground.cache.tiered import TieredStore
from labeling_ground.key import ImageKeys
from labeling_ground.metrics import Metrics
from labeling_ground.types import Entry, Kind, Weight

pytestmark = pytest.mark.anyio

KIB, MIB = 1 << 10, 1 << 20


def image(number: int) -> ImageKeys:
    return ImageKeys("public", sha256(str(number).encode()).hexdigest())


def observed(
    clock: Clock, budget: int, policy: str = "lru", *lower: Store, idle_s: float = 1800.0, share: float = 1.0
) -> tuple[TieredStore, ShadowCaches]:
    def make(budget_bytes: int) -> MemoryStore:
        return memory_store(budget_bytes, idle_s=idle_s, policy=choose(policy).make(), clock=clock)

    shadows = ShadowCaches(
        make,
        budget_bytes=budget,
        idle_s=idle_s,
        purges=Purges(clock=clock),
        metrics=Metrics(),
        share=share,
        clock=clock,
    )
    return TieredStore(make(budget), lower, shadows=shadows, idle_s=idle_s, clock=clock), shadows


def recomputed(shadows: ShadowCaches) -> dict[str, tuple[float, float]]:
    """By kind, how many entries were recomputed after the budget had evicted them, and the seconds that took."""
    figures = shadows.metrics.figures()
    seconds = figures.by("kind", "recomputed_after_eviction_seconds")
    entries = figures.by("kind", "recomputed_after_eviction_entries")
    return {kind: (number, seconds[kind]) for kind, number in entries.items() if number}


def ask(store: TieredStore, key: str, entry: Entry) -> float:
    """The seconds that it takes."""
    if store.peek(key) is not None:
        return 0.0
    store.put(key, entry)
    return entry.cost


def work(clock: Clock, stores: list[TieredStore], *, images: int, asks: int, every_s: float = 2.0) -> list[float]:
    """Random asks, some images far more popular than others, with done hints and purges; the seconds by store."""
    rng, seconds = dice(1), [0.0] * len(stores)
    facts = [(rng.uniform(0.1, 2.0), rng.randrange(10, 60) * KIB) for _ in range(images)]
    for _ in range(asks):
        clock.now += rng.expovariate(1 / every_s)
        number = int(images * rng.random() ** 3)
        one, (cost, size), chance = image(number), facts[number], rng.random()
        for index, store in enumerate(stores):
            if chance < 0.02:
                store.mark_done(one.group, chance < 0.01)
            elif chance < 0.021:
                asyncio.run(store.delete(f"{one.group}*"))
            else:
                entry = Weight(Kind.EMBEDDING, b"", cost, clock.now, size)
                seconds[index] += ask(store, one.embedding(TOY), entry)
    return seconds


@pytest.mark.parametrize("policy", ["gds", "lru", "lfu", "idle", "labeling_ground.simulate.s3fifo:make"])
def test_the_shadow_caches_say_exactly_what_larger_stores_save_while_all_images_are_sampled(policy: str) -> None:
    clock = Clock(1e9)
    budget = 4 * MIB
    store, shadows = observed(clock, budget, policy)
    larger = [observed(clock, int(budget * (1 + by)), policy)[0] for by in LARGER_BY]
    seconds, *others = work(clock, [store, *larger], images=600, asks=4000)
    assert shadows.sampled == 1.0
    for cache, other in zip(shadows.caches, others, strict=True):
        assert cache.seconds_saved == pytest.approx(seconds - other, abs=1e-6)
        assert (cache.hits > 10) is (other < seconds)
    assert policy == "idle" or others[2] < others[0] < 0.97 * seconds


def test_a_sample_says_nearly_the_same() -> None:
    """Seeded: a part of the images, and the estimate is within a twentieth of the seconds computed."""
    clock = Clock(1e9)
    store, shadows = observed(clock, 16 * MIB, "gds", share=0.1)
    larger = [observed(clock, int(16 * MIB * (1 + by)), "gds")[0] for by in LARGER_BY]
    seconds, *others = work(clock, [store, *larger], images=3000, asks=6000, every_s=0.1)
    assert 0.05 < shadows.sampled < 0.6
    for cache, other in zip(shadows.caches, others, strict=True):
        assert cache.seconds_saved == pytest.approx(seconds - other, abs=0.05 * seconds)
        assert cache.seconds_saved > 0.5 * (seconds - other)


def label(clock: Clock, stores: list[TieredStore], *, images: int, tasks: int) -> list[float]:
    """People who open images, popular ones more often, and click a dozen times on each; the seconds by store."""
    rng, seconds = dice(2), [0.0] * len(stores)
    for _ in range(tasks):
        one = image(int(images * rng.random() ** 2))
        clicks = [one.mask(TOY, f"{rng.randrange(30):032x}") for _ in range(12)]
        for index, store in enumerate(stores):
            seconds[index] += ask(store, one.embedding(TOY), Weight(Kind.EMBEDDING, b"", 0.5, clock.now, 500 * KIB))
            seconds[index] += sum(ask(store, key, Weight(Kind.MASK, b"", 0.02, clock.now, 3 * KIB)) for key in clicks)
        clock.now += rng.expovariate(1 / 5)
    return seconds


def test_a_sample_has_entries_as_large_as_the_whole() -> None:
    """An eighth of a sample's budget is less than an embedding: it was refused, and each hit in memory was a loss."""
    clock = Clock(1e9)
    store, shadows = observed(clock, 64 * MIB, "gds", share=0.1)
    larger = [observed(clock, int(64 * MIB * (1 + by)), "gds")[0] for by in LARGER_BY]
    seconds, *others = label(clock, [store, *larger], images=400, tasks=1500)
    assert shadows.sampled < 0.5
    assert [cache.store.stats().refused for cache in shadows.caches] == [0, 0, 0]
    assert shadows.estimates() == shadows.caches
    for cache, other in zip(shadows.estimates(), others, strict=True):
        assert cache.seconds_saved == pytest.approx(seconds - other, abs=0.05 * seconds)


def test_too_few_images_in_the_sample_tell_nothing() -> None:
    clock = Clock(1e9)
    store, shadows = observed(clock, 8 * MIB, "gds", share=0.01)
    assert shadows.estimates() == shadows.caches, "all images are seen so far"
    label(clock, [store], images=400, tasks=500)
    assert shadows.sampled < 0.2
    assert shadows.estimates() == ()


def measured(budget: int) -> tuple[float, int]:
    """Thousands of small entries and their evictions: the share that is sampled then, and what it takes in bytes."""
    clock = Clock(1e9)
    gc.collect()
    tracemalloc.start()
    try:
        _, shadows = observed(clock, budget, "gds", share=0.01)
        before = tracemalloc.get_traced_memory()[0]
        for number in range(8_000):
            key = image(number).mask(TOY, f"{number:032x}")
            shadows.arriving(key, Weight(Kind.MASK, b"", 0.02, clock.now, 4 * KIB), is_stored=False, computed=True)
            shadows.evicted(image(-number).mask(TOY, f"{number:032x}"), "budget", clock.now)
            clock.now += 0.01
        gc.collect()
        return shadows.sampled, tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def test_all_of_it_stays_within_a_hundredth_of_the_budget() -> None:
    budget = 128 * MIB
    # Alone in a process: here, threads that other tests have left behind take memory as well.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        sampled, taken = alone.submit(measured, budget).result(120)
    assert sampled < 0.2
    assert 0.004 * budget < taken <= 0.01 * budget


def embedding(cost: float = 1.0, size: int = 100 * KIB, clock: Callable[[], float] = lambda: 0.0) -> Entry:
    return Weight(Kind.EMBEDDING, b"", cost, clock(), size)


def test_recomputed_is_what_is_computed_again_after_the_budget_evicted_it() -> None:
    """Not what is new, idle, or purged; nor what comes up from below."""
    clock = Clock(1e9)
    store, shadows = observed(clock, MIB)
    keys = [image(number).embedding(TOY) for number in range(40)]
    for number, key in enumerate(keys[:12]):
        ask(store, key, embedding(1.0 + number))
    assert recomputed(shadows) == {}, "all was new"
    assert keys[0] not in store.memory
    ask(store, keys[0], embedding(1.0))
    assert recomputed(shadows) == {Kind.EMBEDDING: (1, 1.0)}
    asyncio.run(store.delete(f"{image(1).group}*"))
    ask(store, keys[1], embedding(2.0))
    assert recomputed(shadows)[Kind.EMBEDDING][0] == 1, "it was purged meanwhile"
    clock.now += 1800.0
    ask(store, keys[2], embedding(3.0))
    assert recomputed(shadows)[Kind.EMBEDDING][0] == 1, "it would have been idle for too long"


def test_it_does_not_count_where_idle_time_would_have_taken_it_as_well() -> None:
    """Idle time counts from the last use, not from when the budget evicted it."""
    clock = Clock(1e9)
    store, shadows = observed(clock, MIB)
    keys = [image(number).embedding(TOY) for number in range(30)]
    ask(store, keys[0], embedding())
    clock.now += 1700.0
    for key in keys[1:12]:
        ask(store, key, embedding())
    assert keys[0] not in store.memory
    clock.now += 100.0
    ask(store, keys[0], embedding())
    assert recomputed(shadows) == {}
    clock.now += 1700.0
    for key in keys[12:23]:
        ask(store, key, embedding())
    clock.now += 99.0
    ask(store, keys[0], embedding())
    assert [*recomputed(shadows)] == [Kind.EMBEDDING]


async def test_what_a_lower_tier_has_is_not_recomputed_and_no_hit_of_a_shadow_cache() -> None:
    clock = Clock(1e9)
    lower = DictStore()
    store, shadows = observed(clock, MIB, "lru", lower)
    keys = [image(number).embedding(TOY) for number in range(12)]
    for key in keys:
        ask(store, key, embedding())
    lower.entries = {keys[0]: embedding()}
    store._promote(keys[0], embedding())
    assert recomputed(shadows) == {}
    assert [cache.hits for cache in shadows.caches] == [0.0, 0.0, 0.0]
    assert [cache.seconds_saved for cache in shadows.caches] == [0.0, 0.0, 0.0]
    assert all(keys[0] in cache.store for cache in shadows.caches)
    await store.aclose()


def test_a_mask_and_its_logits_are_one_computation() -> None:
    """Counted by the one that was asked for; an image file is not computed at all."""
    clock = Clock(1e9)
    store, shadows = observed(clock, MIB)
    one = image(1)
    pair = one.mask(TOY, "d" * 32), one.logits(TOY, "d" * 32)

    def decode(asked: Kind = Kind.MASK) -> None:
        for key, kind, size in zip(pair, (Kind.MASK, Kind.LOGITS), (KIB, 100 * KIB), strict=True):
            store.put(key, Weight(kind, b"", 0.5, clock.now, size), computed=kind is asked)

    def push_out(start: int) -> None:
        for number in range(start, start + 11):
            store.put(image(number).embedding(TOY), embedding())

    decode()
    push_out(10)
    assert not [key for key in pair if key in store.memory]
    decode()  # both were evicted; the shadow caches still had them
    assert recomputed(shadows)[Kind.MASK] == (1, 0.5)
    assert [cache.hits for cache in shadows.caches] == [1.0, 1.0, 1.0]
    for number in range(30, 41):
        store.put(image(number).embedding(TOY), embedding())
        store.peek(pair[0])
    assert [key in store.memory for key in pair] == [True, False]
    decode(Kind.LOGITS)
    assert recomputed(shadows)[Kind.MASK] == (2, 1.0)
    assert [cache.hits for cache in shadows.caches] == [2.0, 2.0, 2.0]
    store.put(one.image, Weight(Kind.IMAGE, b"", 1.0, clock.now, KIB))
    push_out(50)
    store.put(one.image, Weight(Kind.IMAGE, b"", 1.0, clock.now, KIB))
    assert Kind.IMAGE not in recomputed(shadows)


async def test_the_shadow_caches_follow_a_change_of_settings() -> None:
    """Their budgets stay larger by their share, and nothing that they hold goes by a change of policy."""
    clock = Clock(1e9)
    store, shadows = observed(clock, 8 * MIB)
    for number in range(70):
        store.put(image(number).embedding(TOY), embedding())
    held = [cache.store.entries for cache in shadows.caches]
    await reconfigure(store, policy=choose("gds"), idle_s=60.0)
    assert [cache.store.entries for cache in shadows.caches] == held
    await reconfigure(store, budgets={"memory": 2 * MIB})
    budgets = [cache.store.budget for cache in shadows.caches]
    assert budgets == [int(2 * MIB * (1 + by) * shadows.sampled) for by in LARGER_BY]
    clock.now += 61.0
    await store.sweep()
    assert [cache.store.entries for cache in shadows.caches] == [0, 0, 0]
