"""Policy, budgets and idle time change while the server runs, in every tier, and nothing valid goes by it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.doubles import BrokenStore, Clock, DictStore, memory_store, sealed

from labeling_ground.cache.choose import POLICIES, choose
from labeling_ground.cache.disk import DiskStore
from labeling_ground.cache.store import Store
from labeling_ground.cache.tiered import TieredStore
from labeling_ground.errors import BadSettings, StoreFailed
from labeling_ground.key import ImageKeys
from labeling_ground.service.runtime_settings import CacheSettings, RuntimeSettings
from labeling_ground.service.sessions import Sessions
from labeling_ground.types import ModelVersion

pytestmark = pytest.mark.anyio

KIB, MIB = 1 << 10, 1 << 20
START = CacheSettings("gds", 0.1, 0.0, 64 * MIB, 64 * MIB, 1800.0)
TOY = ModelVersion("toy", "0" * 64)
KEYS = [ImageKeys("public", f"{number:064x}").embedding(TOY) for number in range(400)]


class Adjusted(DictStore):
    """Notes what it is told."""

    told: dict[str, Any]

    async def reconfigure(self, **given: Any) -> None:
        self.told = given


class Unwilling(BrokenStore):
    """Takes no new limits."""

    async def reconfigure(self, **_: Any) -> None:
        raise StoreFailed("It is down.")


@pytest.fixture
def clock() -> Clock:
    return Clock(1e9)


@pytest.fixture
def disk(tmp_path: Path, clock: Clock) -> Callable[[], DiskStore]:
    def make() -> DiskStore:
        return DiskStore(
            tmp_path / "cache",
            budget_bytes=START.disk_bytes,
            idle_s=START.idle_s,
            max_age_s=None,
            ranking=choose("gds").ranking,
            clock=clock,
        )

    return make


def tuner_of(
    clock: Clock, *lower: Store, start: CacheSettings = START
) -> tuple[RuntimeSettings, TieredStore, Sessions]:
    memory = memory_store(start.memory_bytes, idle_s=start.idle_s, policy=choose(start.policy).make(), clock=clock)
    store = TieredStore(memory, lower, idle_s=start.idle_s, deadline_s=5.0, clock=clock)
    sessions = Sessions(most=9, idle_s=start.idle_s, most_clicks=9, clock=clock)
    return RuntimeSettings(store, sessions, start), store, sessions


async def fill(store: TieredStore, clock: Clock, count: int, size: int = KIB) -> list[str]:
    for number, key in enumerate(KEYS[:count]):
        store.put(key, sealed(key, size, cost=1.0 + number, created=clock.now))
        clock.now += 0.001
    await store.drain()
    return KEYS[:count]


@pytest.mark.parametrize("policy", sorted(POLICIES))
async def test_a_change_of_policy_drops_nothing_in_any_tier(
    clock: Clock, disk: Callable[[], DiskStore], policy: str
) -> None:
    lower = disk()
    runtime_settings, store, _ = tuner_of(clock, lower)
    held = await fill(store, clock, 60)
    before = await store.stats()
    assert (await runtime_settings.change(policy=policy, done_weight=0.5, frequency_exponent=1.0)).policy == policy
    assert runtime_settings.now == CacheSettings(policy, 0.5, 1.0, START.memory_bytes, START.disk_bytes, START.idle_s)
    after = await store.stats()
    assert [(tier.entries, tier.bytes, tier.evictions) for tier in after] == [
        (tier.entries, tier.bytes, tier.evictions) for tier in before
    ]
    assert all(store.memory.peek(key) is not None for key in held)
    assert all([await lower.get(key) is not None for key in held])
    await store.aclose()


async def test_who_goes_next_follows_the_new_policy(clock: Clock, disk: Callable[[], DiskStore]) -> None:
    """The cheapest under ``gds``, the one unused for longest under ``lru``: in memory and on disk."""
    lower = disk()
    runtime_settings, store, _ = tuner_of(clock, lower)
    held = await fill(store, clock, 24, 30 * KIB)
    for key in reversed(held):  # the cheapest was used last
        clock.now += 65.0
        store.peek(key)
        await lower.touch(key)
    await runtime_settings.change(policy="lru")
    await runtime_settings.change(memory_bytes=12 * 31 * KIB, disk_bytes=12 * 31 * KIB)
    for found in ([store.memory.peek(key) is not None for key in held], [await lower.touch(key) for key in held]):
        assert found[0]
        assert not found[-1]
        assert found == sorted(found, reverse=True)
    await store.aclose()


async def test_budgets_shrink_under_load_and_grow_again(clock: Clock, disk: Callable[[], DiskStore]) -> None:
    """While others write and read, what is held comes down to the new budget and stays there."""
    lower = disk()
    runtime_settings, store, _ = tuner_of(clock, lower)
    await fill(store, clock, 300, 100 * KIB)  # 29 MiB: more than one step
    stop = asyncio.Event()
    turns = 0

    async def load() -> None:
        nonlocal turns
        while not stop.is_set():
            key = KEYS[turns % len(KEYS)]
            if store.peek(key) is None:
                store.put(key, sealed(key, 100 * KIB, created=clock.now))
            turns += 1
            await asyncio.sleep(0)

    working = asyncio.create_task(load())
    now = await runtime_settings.change(memory_bytes=2 * MIB, disk_bytes=4 * MIB)
    assert (now.memory_bytes, now.disk_bytes) == (2 * MIB, 4 * MIB)
    assert turns > 0, "others had their turn"
    for _ in range(3):
        await asyncio.sleep(0.01)
        assert store.memory.bytes <= 2 * MIB
        assert (await lower.stats()).bytes <= 4 * MIB
    stop.set()
    await working
    await runtime_settings.change(memory_bytes=64 * MIB, disk_bytes=64 * MIB)
    held = store.memory.bytes
    await fill(store, clock, 300, 100 * KIB)
    assert store.memory.bytes > 10 * held
    assert (await lower.stats()).bytes > 20 * MIB
    await store.aclose()


async def test_a_shorter_idle_time_takes_what_is_idle_and_nothing_that_is_in_use(
    clock: Clock, disk: Callable[[], DiskStore]
) -> None:
    """Below, uses are noted once in 90 s only: those in memory count nevertheless."""
    lower = disk()
    runtime_settings, store, sessions = tuner_of(clock, lower)
    used, unused = (await fill(store, clock, 2))[:2]
    await sessions.open("public", "s", "0" * 64, 4, 3, sessions.turn())
    clock.now += 45.0
    assert store.peek(used) is not None
    clock.now += 5.0
    await runtime_settings.change(idle_s=10.0)
    await store.sweep()
    assert store.memory.peek(used) is not None
    assert store.memory.peek(unused) is None
    assert (await lower.stats()).entries == 1
    assert len(sessions) == 0
    clock.now += 4.0
    assert await lower.get(used) is not None
    clock.now += 11.0
    assert await lower.get(used) is None
    await store.aclose()


async def test_after_a_longer_idle_time_the_next_use_is_noted_below_at_once(clock: Clock) -> None:
    """A timer there still runs by the old time: it must not run out on what is in use."""
    lower = Adjusted()
    runtime_settings, store, _ = tuner_of(clock, lower)
    [key] = await fill(store, clock, 1)
    clock.now += 1.0
    store.peek(key)
    await asyncio.sleep(0.01)
    assert lower.count("touch") == 0, "it was written a second ago"
    await runtime_settings.change(idle_s=36_000.0)
    assert (lower.told["idle_s"], lower.told["budget_bytes"], lower.told["ranking"]) == (36_000.0, None, None)
    clock.now += 1.0
    store.peek(key)
    await asyncio.sleep(0.01)
    assert lower.count("touch") == 1
    await store.aclose()


async def test_each_tier_is_told_its_own_budget_and_only_what_is_new(clock: Clock) -> None:
    first, last = Adjusted(name="disk"), Adjusted(name="redis")
    runtime_settings, store, _ = tuner_of(clock, first, last, DictStore(name="deaf"))
    await runtime_settings.change(disk_bytes=9 * MIB, memory_bytes=START.memory_bytes)
    assert (first.told["budget_bytes"], last.told["budget_bytes"]) == (9 * MIB, None)
    assert (first.told["idle_s"], first.told["uses"]) == (..., ())
    await runtime_settings.change(policy="lru")
    assert first.told["ranking"].name == last.told["ranking"].name == "lru"
    await store.aclose()


async def test_when_a_tier_fails_nothing_has_changed(clock: Clock) -> None:
    runtime_settings, store, sessions = tuner_of(clock, Unwilling(name="disk"))
    for key in KEYS[:9]:
        store.memory.insert(key, sealed(key, KIB))
    with pytest.raises(StoreFailed):
        await runtime_settings.change(memory_bytes=2 * KIB, idle_s=1.0, policy="lru")
    assert runtime_settings.now == START
    assert sessions.table.idle_s == START.idle_s
    clock.now += 100.0
    assert all(store.memory.peek(key) is not None for key in KEYS[:9])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"policy": "best"}, "There is no eviction policy 'best'"),
        ({"policy": "os:system"}, "There is no eviction policy"),
        ({"disk_bytes": 0}, "no disk tier"),
        ({"done_weight": 2.0}, "done weight"),
    ],
)
async def test_what_makes_no_sense_changes_nothing(clock: Clock, changes: dict[str, Any], says: str) -> None:
    runtime_settings, store, _ = tuner_of(clock, Adjusted(name="disk"))
    with pytest.raises(BadSettings, match=says):
        await runtime_settings.change(**changes, memory_bytes=2 * MIB)
    assert runtime_settings.now == START
    assert store.memory.stats().budget == START.memory_bytes


async def test_a_policy_of_ones_own_can_be_come_back_to(clock: Clock) -> None:
    """It was loaded at start: asking for it loads no code that was not there."""
    own = "labeling_ground.cache.policies.lru:make"
    start = CacheSettings(own, 0.1, 0.0, MIB, 0, 60.0)
    runtime_settings, store, _ = tuner_of(clock, start=start)
    await runtime_settings.change(policy="gds")
    assert (await runtime_settings.change(policy=own)).policy == own
    with pytest.raises(BadSettings, match="no disk tier"):
        await runtime_settings.change(disk_bytes=MIB)
    await store.aclose()


async def test_two_changes_at_once_come_one_after_the_other(clock: Clock) -> None:
    """Neither undoes the other."""
    runtime_settings, store, _ = tuner_of(clock, Adjusted(name="disk"))
    await asyncio.gather(
        runtime_settings.change(policy="lru"),
        runtime_settings.change(memory_bytes=2 * MIB),
        runtime_settings.change(idle_s=60.0, done_weight=0.3),
    )
    assert runtime_settings.now == CacheSettings("lru", 0.3, 0.0, 2 * MIB, START.disk_bytes, 60.0)
    assert store.memory.stats().budget == 2 * MIB
    await store.aclose()


async def test_each_of_several_processes_gets_its_part_of_memory_and_the_whole_of_what_they_share(clock: Clock) -> None:
    disk = Adjusted(name="disk")
    _, store, sessions = tuner_of(clock, disk)
    settings = RuntimeSettings(store, sessions, START, processes=2)
    assert settings.changed == {}
    await settings.change(memory_bytes=96 * MIB, disk_bytes=128 * MIB)
    assert {tier.tier: tier.budget for tier in await store.stats()}["memory"] == 48 * MIB
    assert disk.told["budget_bytes"] == 128 * MIB
    assert settings.changed == {"memory_bytes": 96 * MIB, "disk_bytes": 128 * MIB}
    await store.aclose()
