"""Where each kind lives, what is promoted, what use slides, what a purge means."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.doubles import (
    TOY,
    BrokenStore,
    Clock,
    DamagingStore,
    DictStore,
    HangingStore,
    MemoryAsStore,
    SlowStore,
    counted_of,
    errors_of,
    memory_store,
    sealed,
    until,
    virtually,
)

from labeling_ground.cache.choose import choose
from labeling_ground.cache.disk import DiskStore
from labeling_ground.cache.store import Store
from labeling_ground.cache.tiered import TieredStore
from labeling_ground.codec import frame
from labeling_ground.errors import StoreFailed
from labeling_ground.key import ImageKeys
from labeling_ground.types import Entry, Kind

pytestmark = pytest.mark.anyio

KEYS = ImageKeys("public", "a" * 64)
EMBEDDING, IMAGE = KEYS.embedding(TOY), KEYS.image
MASK, LOGITS = KEYS.mask(TOY, "d" * 32), KEYS.logits(TOY, "d" * 32)


def entry(key: str) -> Entry:
    return frame.seal(key, Kind(key.split("/")[3]), cost=1.0, created=1.0, meta={"width": 4, "height": 3})


def tiers(*lower: Store, **options: Any) -> TieredStore:
    return TieredStore(memory_store(), lower, **options)


async def test_each_kind_lives_where_it_belongs() -> None:
    first, last = DictStore(name="first"), DictStore(name="last")
    store = tiers(first, last)
    for key in (EMBEDDING, MASK, LOGITS, IMAGE):
        store.put(key, entry(key))
    await store.drain()
    assert set(first.entries) == {EMBEDDING, MASK}
    assert set(last.entries) == {EMBEDDING, MASK, IMAGE}
    held = store.memory.stats().entries_by_kind
    assert {kind for kind, count in held.items() if count} == {"embedding", "mask", "logits"}
    await store.aclose()


async def test_without_lower_tiers_memory_keeps_everything() -> None:
    store = tiers()
    assert not store.lower
    for key in (EMBEDDING, MASK, LOGITS):
        store.put(key, entry(key))
        assert store.peek(key) == entry(key)
    store.put(IMAGE, entry(IMAGE))
    kept = store.peek(IMAGE)
    assert kept is not None
    assert kept.value == entry(IMAGE).value
    assert kept.cost < 0.001 < entry(IMAGE).cost, "what sending it again takes, not what encoding it does"
    assert await store.touch(IMAGE)
    assert await store.look_up("v1/public/x/mask") is None


async def test_what_is_found_below_is_promoted_to_memory_but_an_image_file_is_not() -> None:
    lower = DictStore({EMBEDDING: sealed(EMBEDDING), IMAGE: sealed(IMAGE)})
    store = tiers(lower)
    assert store.peek(EMBEDDING) is None
    assert await store.look_up(EMBEDDING) == sealed(EMBEDDING)
    assert store.peek(EMBEDDING) == sealed(EMBEDDING)
    assert await store.look_up(IMAGE) == sealed(IMAGE)
    assert store.peek(IMAGE) is None
    await store.aclose()


def test_what_a_slow_tier_finds_too_late_is_there_for_the_next_ask() -> None:
    async def main() -> None:
        store = tiers(SlowStore(2.0, {EMBEDDING: sealed(EMBEDDING)}), clock=asyncio.get_running_loop().time)
        assert await store.look_up(EMBEDDING) is None
        await asyncio.sleep(2.0)
        assert store.peek(EMBEDDING) == sealed(EMBEDDING)

    virtually(main)


@pytest.mark.parametrize("bad", [BrokenStore, DamagingStore])
async def test_the_next_tier_is_asked_where_one_fails(bad: type[DictStore]) -> None:
    first = bad(entries={EMBEDDING: sealed(EMBEDDING)})
    store = tiers(first, DictStore({EMBEDDING: sealed(EMBEDDING)}))
    assert await store.look_up(EMBEDDING) == sealed(EMBEDDING)
    await store.aclose()


async def test_what_is_used_on_its_way_down_comes_back_to_memory() -> None:
    lower = HangingStore(only=["put"])
    store = tiers(lower)
    store.put(EMBEDDING, sealed(EMBEDDING))
    store.put(IMAGE, sealed(IMAGE))
    await store.memory.delete("v1/*")
    assert store.peek(EMBEDDING) is not None
    assert store.peek(IMAGE) is not None
    assert store.memory.stats().entries_by_kind["embedding"] == 1
    assert store.memory.stats().entries_by_kind["image"] == 0
    lower.release.set()
    await store.aclose()


async def test_a_value_on_its_way_down_is_at_hand_even_if_memory_did_not_take_it() -> None:
    lower = HangingStore(only=["put"])
    store = TieredStore(memory_store(8), [lower])
    store.put(EMBEDDING, sealed(EMBEDDING))
    assert store.peek(EMBEDDING) == sealed(EMBEDDING)
    lower.release.set()
    await store.drain()
    assert store.peek(EMBEDDING) is None
    assert await store.look_up(EMBEDDING) == sealed(EMBEDDING)
    await store.aclose()


# --- use slides the idle timer ------------------------------------------------------------------------------------


async def test_hits_in_memory_touch_the_lower_tiers_at_most_every_twentieth_of_the_idle_time() -> None:
    clock = Clock()
    lower = DictStore()
    store = TieredStore(memory_store(clock=clock), [lower], idle_s=1800.0, clock=clock)
    store.put(EMBEDDING, sealed(EMBEDDING))
    await store.drain()
    for _ in range(1800):
        clock.now += 1.0
        assert store.peek(EMBEDDING) is not None
        await asyncio.sleep(0)
    await until(lambda: lower.count("touch") == 20)
    assert lower.count("get") == 0
    await store.aclose()


async def test_the_very_first_hit_touches_too_when_it_comes_long_after_the_write() -> None:
    clock = Clock()
    lower = DictStore()
    store = TieredStore(memory_store(clock=clock), [lower], idle_s=1800.0, clock=clock)
    store.put(EMBEDDING, sealed(EMBEDDING))
    await store.drain()
    clock.now += 1200.0
    assert store.peek(EMBEDDING) is not None
    await until(lambda: lower.count("touch") == 1)
    await store.aclose()


async def test_what_was_promoted_is_touched_below_by_its_hits_above() -> None:
    clock = Clock()
    lower = DictStore({EMBEDDING: sealed(EMBEDDING)})
    store = TieredStore(memory_store(clock=clock), [lower], idle_s=1800.0, clock=clock)
    await store.look_up(EMBEDDING)
    for hits in (1, 2):
        clock.now += 1200.0
        assert store.peek(EMBEDDING) is not None
        await until(lambda: lower.count("touch") == hits)  # noqa: B023 -- it is awaited here
    await store.aclose()


async def test_an_image_can_be_touched_without_being_read() -> None:
    clock = Clock()
    lower = DictStore()
    store = TieredStore(memory_store(), [lower], idle_s=1800.0, clock=clock)
    store.put(IMAGE, sealed(IMAGE))
    await store.drain()
    store.use(IMAGE)
    clock.now += 91.0
    store.use(IMAGE)
    store.use(IMAGE)
    await until(lambda: lower.count("touch") == 1)
    assert await store.touch(IMAGE)
    assert not await store.touch(ImageKeys("public", "b" * 64).image)
    await store.aclose()


# --- purges --------------------------------------------------------------------------------------------------------


async def test_a_purge_reaches_every_tier_and_counts_each_key_once_per_tier() -> None:
    first, last = DictStore(name="first"), DictStore(name="last")
    store = tiers(first, last)
    for key in (EMBEDDING, LOGITS, IMAGE):
        store.put(key, entry(key))
    assert await store.delete("v1/*") == 2 + 1 + 2
    await store.drain()
    assert not first.entries
    assert not last.entries
    assert store.peek(EMBEDDING) is None
    await store.aclose()


async def test_what_was_begun_before_a_purge_is_not_kept_after_it_and_what_began_after_is() -> None:
    store = tiers(DictStore())
    before = store.purges.count
    await store.delete(KEYS.group + "*")
    assert not store.put(EMBEDDING, sealed(EMBEDDING), before)
    assert store.peek(EMBEDDING) is None
    other = ImageKeys("public", "b" * 64).embedding(TOY)
    assert store.put(other, sealed(other), before), "another image is not meant"
    assert store.put(EMBEDDING, sealed(EMBEDDING), store.purges.count)
    assert store.peek(EMBEDDING) is not None
    await store.aclose()


async def test_more_purges_than_are_remembered_count_as_having_meant_everything() -> None:
    store = tiers(DictStore())
    before = store.purges.count
    await store.delete(KEYS.group + "*")
    for _ in range(1_000):
        await store.delete("v1/another/*")
    assert not store.put(EMBEDDING, sealed(EMBEDDING), before)
    await store.delete("v1/another/*")
    assert store.put(EMBEDDING, sealed(EMBEDDING), store.purges.count - 1), "all that came since are remembered"
    await store.aclose()


async def test_what_a_look_up_finds_that_began_before_a_purge_is_not_promoted_after_it() -> None:
    class Forgetful(HangingStore):
        async def get(self, key: str) -> Entry | None:
            found = self.entries.get(key)  # read before the purge, handed out after it
            await self.work("get", key)
            return found

    lower = Forgetful({EMBEDDING: sealed(EMBEDDING)}, only=["get"])
    store = tiers(lower)
    looking = asyncio.create_task(store.look_up(EMBEDDING))
    await until(lambda: lower.count("get") == 1)
    await store.delete("v1/*")
    lower.release.set()
    await looking
    assert store.peek(EMBEDDING) is None
    await store.aclose()


async def test_a_purge_that_one_tier_did_not_do_is_said_and_the_others_did_it() -> None:
    good = DictStore({EMBEDDING: sealed(EMBEDDING)}, name="good")
    store = tiers(BrokenStore(OSError("gone")), good)
    with pytest.raises(StoreFailed):
        await store.delete("v1/*")
    await until(lambda: not good.entries)
    await store.aclose()


async def test_a_purge_does_not_wait_for_a_tier_that_hangs_without_end() -> None:
    lower = HangingStore(only=["delete"])
    store = tiers(lower)
    with pytest.raises(StoreFailed, match="in time"):
        await store.delete("v1/*", deadline_s=0.001)
    lower.release.set()
    await store.aclose()


# --- the rest --------------------------------------------------------------------------------------------------------


async def test_figures_say_which_tier_does_not_answer() -> None:
    hanging = HangingStore()
    store = tiers(DictStore(), BrokenStore(), BrokenStore(OSError("gone")), hanging)
    told = [(stats.tier, stats.answers) for stats in await store.stats(deadline_s=0.001)]
    assert told == [("memory", True), ("dict", True), ("broken", False), ("broken", False), ("hanging", False)]
    hanging.release.set()
    await store.aclose()


async def test_hints_reach_every_tier_and_closing_closes_them_all() -> None:
    class Bad(DictStore):
        async def aclose(self) -> None:
            await super().aclose()
            raise StoreFailed("cannot even close")

    bad, good = Bad(name="bad"), DictStore(name="good")
    store = tiers(bad, good)
    store.mark_done(KEYS.group, True)
    await store.sweep()
    await store.aclose()
    assert bad.calls == good.calls == [("done", KEYS.group), ("sweep", "")]
    assert bad.closed
    assert good.closed


async def test_what_was_kept_is_found_after_a_restart(tmp_path: Path) -> None:
    def made() -> TieredStore:
        return tiers(
            DiskStore(tmp_path, budget_bytes=1 << 20, idle_s=1800.0, max_age_s=None, ranking=choose("gds").ranking)
        )

    store = made()
    for key in (EMBEDDING, IMAGE):
        store.put(key, sealed(key))
    await store.aclose()
    again = made()
    for key in (EMBEDDING, IMAGE):
        assert await again.look_up(key, deadline_s=60.0) == sealed(key)
    assert again.peek(EMBEDDING) == sealed(EMBEDDING)
    await again.aclose()


async def test_what_another_process_purged_goes_from_every_tier_that_is_this_ones_own() -> None:
    own, shared = DictStore(name="own"), DictStore(name="shared")
    store = tiers(own, shared)
    for key in (EMBEDDING, MASK):
        store.put(key, entry(key))
    await store.drain()
    before = store.purges.count
    told: list[str] = []

    async def take_back(pattern: str) -> int:
        told.append(pattern)
        return 0

    await store.delete(KEYS.group + "embedding*", {shared.name: take_back})
    assert told == [KEYS.group + "embedding*"]
    assert store.peek(EMBEDDING) is None
    assert set(own.entries) == {MASK}
    assert set(shared.entries) == {EMBEDDING, MASK}, "it was purged there already, and this may be a newer one"
    assert not store.put(EMBEDDING, entry(EMBEDDING), before), "it was computed before the purge"
    assert store.put(MASK, entry(MASK), before)


async def test_what_waits_to_be_written_when_another_purges_is_not_written() -> None:
    shared = HangingStore(only=["put"], name="shared")
    store = tiers(shared)
    for key in (MASK, EMBEDDING):
        store.put(key, entry(key))
    await until(lambda: shared.count("put") == 1)

    async def take_back(pattern: str) -> int:
        shared.entries.clear()  # in turn with the writes: the one under way has ended
        return 0

    purging = asyncio.create_task(store.delete("v1/*", {shared.name: take_back}))
    await until(lambda: len(store.lower[0].queue) == 0)
    shared.release.set()
    await purging
    await store.drain()
    assert shared.entries == {}
    assert shared.count("put") == 1


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_what_a_purge_means_comes_in_nowhere_while_it_goes_through(elsewhere: bool) -> None:
    """A look-up may find it below all the while, and is answered."""
    lower = HangingStore({EMBEDDING: sealed(EMBEDDING)}, only=["delete"])
    store = tiers(lower)
    other = ImageKeys("public", "b" * 64).embedding(TOY)
    pattern = f"{KEYS.group}*"
    work = store.delete(pattern, {}) if elsewhere else store.delete(pattern)
    purging = asyncio.create_task(work)
    await until(lambda: lower.count("delete") == 1)
    begun = store.purges.count
    assert await store.look_up(EMBEDDING) == sealed(EMBEDDING)
    assert store.peek(EMBEDDING) is None
    assert not store.put(MASK, entry(MASK), begun)
    assert not store.put(MASK, entry(MASK))
    assert store.put(other, sealed(other), begun)
    lower.release.set()
    await purging
    await store.drain()
    assert not store.put(MASK, entry(MASK), begun), "it may come of what was there before"
    assert set(lower.entries) == {other}
    assert store.put(MASK, entry(MASK), store.purges.count)
    await store.aclose()


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_where_one_tier_cannot_purge_the_others_do_and_that_is_waited_for(elsewhere: bool) -> None:
    first = BrokenStore(entries={EMBEDDING: sealed(EMBEDDING)}, name="first")
    last = HangingStore({EMBEDDING: sealed(EMBEDDING)}, only=["delete"])
    store = tiers(first, last)
    work = store.delete("v1/*", {}) if elsewhere else store.delete("v1/*")
    purging = asyncio.create_task(work)
    await until(lambda: last.count("delete") == 1)
    assert not purging.done()
    last.release.set()
    with pytest.raises(StoreFailed):
        await purging
    assert last.entries == {}


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_whoever_asks_is_told_of_every_purge(elsewhere: bool) -> None:
    shared = DictStore()
    store = tiers(shared)
    told: list[bool] = []
    store.purges.on_purge.append(lambda match: told.append(match(MASK)))
    for pattern in ("v1/*", "v2/*"):
        if elsewhere:
            await store.delete(pattern, {})
        else:
            await store.delete(pattern)
    assert told == [True, True, False, False], "before and after"


# --- demotion ---------------------------------------------------------------------------------------------------------

OTHERS = [ImageKeys("public", letter * 64).embedding(TOY) for letter in "bcdefghijk"]


async def squeezed(lower: Store, **options: Any) -> TieredStore:
    """Tiers whose memory holds eight of the ten ``OTHERS``, after the first of them was kept."""
    size = sealed(OTHERS[0], 4000).size
    store = TieredStore(memory_store(8 * size + 100), [lower], **options)
    store.put(OTHERS[0], sealed(OTHERS[0], 4000, cost=0.5))
    await store.drain()
    return store


def push_out(store: TieredStore, count: int = 8) -> None:
    for key in OTHERS[1 : count + 1]:
        store.memory.insert(key, sealed(key, 4000, cost=9.0))


async def test_what_memory_has_no_room_for_goes_down_where_the_tier_below_has_lost_it() -> None:
    lower = DictStore()
    store = await squeezed(lower)
    lower.entries.clear()
    push_out(store)
    assert OTHERS[0] not in store.memory
    assert store.peek(OTHERS[0]) is not None, "on its way it is at hand"
    await store.drain()
    assert lower.entries == {OTHERS[0]: sealed(OTHERS[0], 4000, cost=0.5), OTHERS[1]: sealed(OTHERS[1], 4000, cost=9.0)}
    assert counted_of(store.lower[0], "demoted") == 2, "it came up again and pushed out another"
    await store.aclose()


async def test_what_goes_down_is_as_old_there_as_its_last_use_here() -> None:
    clock = Clock(1e6)
    lower = MemoryAsStore(memory_store(1 << 20, clock=clock, idle_s=100.0))
    size = sealed(OTHERS[0], 4000).size
    store = TieredStore(memory_store(8 * size + 100, clock=clock, idle_s=100.0), [lower], clock=clock, idle_s=100.0)
    store.memory.insert(OTHERS[0], sealed(OTHERS[0], 4000, cost=0.5))
    clock.now += 60.0
    push_out(store)
    await store.drain()
    assert counted_of(store.lower[0], "demoted") == 1
    clock.now += 39.0
    assert await lower.has(OTHERS[0])
    clock.now += 1.0
    assert not await lower.has(OTHERS[0])
    await store.aclose()


async def test_what_the_tier_below_still_has_is_not_written_again() -> None:
    lower = DictStore()
    store = await squeezed(lower)
    push_out(store)
    await store.drain()
    assert (lower.count("has"), lower.count("put"), lower.count("touch")) == (1, 1, 0)
    assert counted_of(store.lower[0], "demoted") == 0
    await store.aclose()


@pytest.mark.parametrize("kind", [Kind.MASK, Kind.LOGITS, Kind.IMAGE])
def test_only_what_is_worth_it_goes_down(kind: Kind) -> None:
    """Masks are computed nearly as fast as they are read; nor does what cost less than ten reads."""

    async def main() -> None:
        lower = SlowStore(0.01)
        store = await squeezed(lower, clock=asyncio.get_running_loop().time)
        for _ in range(3):
            await store.look_up(OTHERS[0])
        other = KEYS.group + {Kind.MASK: "mask/x/y", Kind.LOGITS: "logits/x/y", Kind.IMAGE: "image"}[kind]
        store.memory.insert(other, Entry(kind, bytes(4000), 0.1, 1.0))
        cheap = ImageKeys("public", "f" * 64).embedding(TOY)
        store.memory.insert(cheap, sealed(cheap, 4000, cost=0.05))
        lower.entries.clear()
        for key in OTHERS[1:]:
            store.memory.insert(key, sealed(key, 4000, cost=9.0))
        assert not [key for key in (OTHERS[0], other, cheap) if key in store.memory]
        await store.drain()
        assert set(lower.entries) <= {OTHERS[0], OTHERS[1]}
        assert OTHERS[0] in lower.entries
        await store.aclose()

    virtually(main)


async def test_what_goes_for_another_reason_than_room_is_not_written_below() -> None:
    lower = DictStore()
    store = await squeezed(lower)
    store.memory.insert(OTHERS[1], sealed(OTHERS[1], 4000))
    lower.entries.clear()
    store.memory.purge(OTHERS[0])
    store.memory.drop_damaged(OTHERS[1])
    await store.drain()
    assert lower.entries == {}
    await store.aclose()


async def test_a_purge_takes_what_is_on_its_way_down() -> None:
    """Also the one that is just being looked for below; nothing comes back."""
    lower = HangingStore(only=["has"])
    store = await squeezed(lower)
    lower.entries.clear()
    push_out(store, 9)
    await until(lambda: lower.count("has") == 1)
    purging = asyncio.create_task(store.delete("v1/*"))
    await until(lambda: len(store.lower[0].queue) == 0)
    lower.release.set()
    await purging
    await store.drain()
    assert lower.entries == {}
    await store.aclose()


async def test_going_down_is_bounded_and_leaves_a_failing_tier_alone() -> None:
    """Half of the queue at most; nothing while the breaker is open."""
    lower = HangingStore(only=["has"])
    store = await squeezed(lower)
    lower.entries.clear()
    tier = store.lower[0]
    tier.queue.most_bytes = 3 * sealed(OTHERS[0], 4000).size
    push_out(store, 9)
    assert len(tier.queue) == 1
    assert errors_of(tier) == {}
    lower.release.set()
    await store.drain()
    for _ in range(9):
        tier.health.breaker.failed()
    store.memory.reconfigure(budget_bytes=0)
    assert len(tier.queue) == 0
    await store.aclose()


async def test_a_real_disk_gets_back_what_it_lost(tmp_path: Path) -> None:
    """And the next look-up finds it there, and brings it up again."""
    disk = DiskStore(tmp_path, budget_bytes=1 << 20, idle_s=None, max_age_s=None, ranking=choose("gds").ranking)
    store = await squeezed(disk, deadline_s=60.0)
    await disk.drop_damaged(OTHERS[0])
    push_out(store)
    await store.drain()
    assert counted_of(store.lower[0], "demoted") == 1
    assert OTHERS[0] not in store.memory
    assert await store.look_up(OTHERS[0]) == sealed(OTHERS[0], 4000, cost=0.5)
    assert OTHERS[0] in store.memory
    await store.aclose()
