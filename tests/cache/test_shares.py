"""One tenant's load does not end another's work: who makes room in memory and on the disk."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.doubles import memory_store, sealed

from labeling_ground import key as keys
from labeling_ground.cache.choose import POLICIES, choose
from labeling_ground.cache.disk.store import DiskStore
from labeling_ground.cache.shares import payer

pytestmark = pytest.mark.anyio

SIZE = 10_000


def key(tenant: str, number: int) -> str:
    return keys.ImageKeys(tenant, keys.image_id(str(number).encode())).image


@pytest.mark.parametrize(
    ("held", "tenant", "who"),
    [
        ({"a": 90, "b": 10}, "a", "a"),
        ({"a": 90, "b": 10}, "b", "a"),
        ({"a": 90, "b": 10}, "c", "a"),
        ({"a": 50, "b": 50}, "b", "b"),
        ({"a": 30, "b": 40, "c": 30}, "a", "b"),
        ({"a": 100}, "b", "a"),
        ({"b": 100}, "b", "b"),
        ({}, "b", None),
    ],
)
def test_above_its_share_a_tenant_pays_itself_and_below_it_the_largest_pays(
    held: dict[str, int], tenant: str, who: str | None
) -> None:
    assert payer(held, tenant, 5, 50) == who


def test_a_key_of_ours_names_its_tenant_and_another_names_none() -> None:
    assert keys.tenant_in(key("a", 1)) == "a"
    assert keys.tenant_in("whatever") == ""


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"idle"}))
async def test_in_memory_the_flood_of_one_pushes_out_nothing_of_the_others(policy: str) -> None:
    """Under every policy, and also after a change to another one in the middle."""
    make = choose(policy, tenant_share=0.5).make
    store = memory_store(100 * SIZE, policy=make())
    small = [key("small", number) for number in range(30)]
    for one in small:
        store.insert(one, sealed(one, SIZE, cost=1e-6))
    for number in range(300):
        store.insert(key("flood", number), sealed(key("flood", number), SIZE, cost=10.0))
        if number == 150:
            await store.migrate(make())
    assert all(one in store for one in small)
    assert store.bytes <= 100 * SIZE
    late = [key("late", number) for number in range(20)]
    for one in late:
        store.insert(one, sealed(one, SIZE, cost=1e-6))
    assert all(one in store for one in [*small, *late]), "who comes late is given room by whoever has most"
    store.reconfigure(budget_bytes=90 * SIZE)
    assert all(one in store for one in small)


async def test_alone_a_tenant_has_everything() -> None:
    store = memory_store(100 * SIZE, policy=choose("gds", tenant_share=0.1).make())
    for number in range(95):
        store.insert(key("one", number), sealed(key("one", number), SIZE))
    assert store.entries == 95


async def test_what_goes_for_another_reason_is_not_counted_any_more() -> None:
    store = memory_store(100 * SIZE, policy=choose("lru", tenant_share=0.5).make())
    for tenant in ("a", "b"):
        for number in range(45):
            store.insert(key(tenant, number), sealed(key(tenant, number), SIZE))
    await store.delete(keys.pattern("a"))
    for number in range(100, 145):
        store.insert(key("c", number), sealed(key("c", number), SIZE))
    assert Counter(one.split("/")[1] for one in store._records) == {"b": 45, "c": 45}


@pytest.fixture
def disk(tmp_path: Path) -> Callable[..., DiskStore]:
    def make(**options: Any) -> DiskStore:
        given: dict[str, Any] = {"budget_bytes": 40 * 50_000, "idle_s": 1800.0, "max_age_s": None}
        return DiskStore(tmp_path / "cache", ranking=choose("gds").ranking, **(given | options))

    return make


@pytest.mark.parametrize("size", [40_000, 20_000])
async def test_on_the_disk_too_and_another_process_counts_what_this_one_wrote(
    disk: Callable[..., DiskStore], size: int
) -> None:
    """Values in files of their own, and small ones in the index."""
    store, other = disk(tenant_share=0.5), disk(tenant_share=0.5)
    small = [key("small", number) for number in range(12)]
    for one in small:
        await store.put(one, sealed(one, size, cost=1e-6))
    for number in range(150):
        await (store, other)[number % 2].put(key("flood", number), sealed(key("flood", number), size, cost=10.0))
    late = [key("late", number) for number in range(8)]
    for one in late:
        await other.put(one, sealed(one, size, cost=1e-6))
    assert [one for one in [*small, *late] if not await store.has(one)] == []
    assert (await store.stats()).bytes <= 40 * 50_000
    assert sum([(await each.stats()).evictions["budget"] for each in (store, other)]) > 0
    for each in (store, other):
        await each.aclose()


async def test_without_tenants_the_disk_goes_by_rank_alone(disk: Callable[..., DiskStore]) -> None:
    store = disk()
    cheap = key("small", 1)
    await store.put(cheap, sealed(cheap, 40_000, cost=1e-6))
    for number in range(100):
        await store.put(key("flood", number), sealed(key("flood", number), 40_000, cost=10.0))
    assert not await store.has(cheap)
    await store.aclose()
