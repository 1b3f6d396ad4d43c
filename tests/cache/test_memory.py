"""What the memory tier does beyond the port."""

import asyncio
import random
import sys
from typing import Any

import pytest

from labeling_ground.cache.choose import POLICIES, choose
from labeling_ground.cache.memory import MemoryStore
from labeling_ground.cache.policies.gds import GreedyDualSize
from labeling_ground.cache.policies.lru import LeastRecentlyUsed
from labeling_ground.cache.policies.ranked import RankedPolicy
from labeling_ground.errors import BadSettings
from labeling_ground.types import Entry, Kind

pytestmark = pytest.mark.anyio


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lru() -> RankedPolicy:
    return RankedPolicy(LeastRecentlyUsed())


def build(
    clock: Clock,
    budget: int = 80,
    idle_s: float | None = 100.0,
    max_age_s: float | None = None,
    policy: RankedPolicy | None = None,
) -> MemoryStore:
    return MemoryStore(
        budget_bytes=budget,
        idle_s=idle_s,
        max_age_s=max_age_s,
        policy=lru() if policy is None else policy,
        clock=clock,
        wall_clock=clock,
    )


def entry(clock: Clock, size: int = 10, cost: float = 1.0) -> Entry:
    return Entry(Kind.MASK, bytes(size), cost, clock.now)


def held(store: MemoryStore) -> list[str]:
    """Keys without a use of them."""
    return list(store._records)


async def test_evictions_are_told_with_their_reason() -> None:
    """Whoever listens hears of every entry that went, with the entry itself, after it went."""
    clock = Clock()
    store = build(clock, max_age_s=1000.0)
    heard: list[tuple[str, int, str]] = []
    last_used = dict.fromkeys("abcdefghi", clock.now)

    def listen(key: str, entry: Entry, reason: str, used: float, done: bool) -> None:
        assert key not in held(store)
        assert (used, done) == (last_used[key], False)
        heard.append((key, entry.size, reason))

    store.on_evict = listen
    for key in "abcdefghi":
        store.insert(key, entry(clock))
    await store.delete("b")
    store.drop_damaged("c")
    clock.now += 99
    assert store.peek("d") is not None
    last_used["d"] = clock.now
    clock.now += 1
    assert store.peek("e") is None
    for _ in range(10):
        clock.now += 95
        if store.peek("d") is not None:
            last_used["d"] = clock.now
    assert heard[:4] == [
        ("a", 10, "budget"),
        ("b", 10, "purge"),
        ("c", 10, "damaged"),
        ("e", 10, "idle"),
    ]
    assert heard[4] == ("d", 10, "age")
    assert store.stats().evictions == {
        "idle": 1,
        "age": 1,
        "budget": 1,
        "purge": 1,
        "damaged": 1,
    }


def test_what_has_expired_goes_before_what_is_in_use() -> None:
    """Room is made first of what nobody may read any more, even if the policy would keep it."""
    clock = Clock()
    store = build(clock, policy=RankedPolicy(GreedyDualSize()))
    store.insert("dear", entry(clock, cost=1000.0))
    clock.now += 50
    for key in "abcdefg":
        store.insert(key, entry(clock))
    clock.now += 50
    store.insert("h", entry(clock))
    assert held(store) == list("abcdefgh")


async def test_a_sweep_takes_no_more_than_its_limit() -> None:
    """The event loop is given back in between; the longest unused go first."""
    clock = Clock()
    store = build(clock)
    for key in "abcde":
        store.insert(key, entry(clock, 1))
        clock.now += 1
    clock.now += 97
    assert store.expire(limit=2) == 2
    assert held(store) == ["c", "d", "e"]
    assert store.expire() == 1
    assert store.expire() == 0


async def test_a_sweep_finds_what_is_too_old_in_any_order_of_coming_in() -> None:
    """Age is counted from creation, and an entry may come up from another tier late."""
    clock = Clock()
    store = build(clock, idle_s=None, max_age_s=100.0)
    store.insert("new", Entry(Kind.MASK, b"x", 1.0, 1000.0))
    store.insert("old", Entry(Kind.MASK, b"x", 1.0, 920.0))
    store.insert("mid", Entry(Kind.MASK, b"x", 1.0, 950.0))
    clock.now = 1055.0
    assert store.expire() == 2
    assert held(store) == ["new"]


async def test_limits_can_change_at_run_time() -> None:
    """A smaller budget evicts what it must in the policy's order, and nothing else goes."""
    clock = Clock()
    store = build(clock)
    for key in "abcdefgh":
        store.insert(key, entry(clock))
    store.peek("a")
    store.reconfigure(budget_bytes=40)
    assert held(store) == ["f", "g", "h", "a"]
    store.reconfigure(idle_s=500.0)
    clock.now += 499
    assert store.peek("g") is not None
    clock.now += 1
    assert store.expire() == 3
    assert held(store) == ["g"]
    assert store.stats().evictions["idle"] == 3


async def test_a_shorter_idle_time_is_in_effect_before_anything_is_swept() -> None:
    """What it makes expire is not served, and goes before what is in use when there must be room."""
    clock = Clock()
    store = build(clock)
    for key in "abcd":
        store.insert(key, entry(clock))
        clock.now += 10
    store.reconfigure(idle_s=25.0)
    assert store.peek("a") is None
    store.reconfigure(budget_bytes=20)
    assert held(store) == ["c", "d"]
    assert store.evictions == {"idle": 2, "age": 0, "budget": 0, "purge": 0, "damaged": 0}


async def test_a_new_policy_learns_the_order_of_use_and_the_hints() -> None:
    """The policy can change under a full store: order of use and done hints carry over."""
    clock = Clock()
    store = build(clock)
    for group in "abcdefgh":
        store.insert(f"v1/t/{group}/image", entry(clock))
    clock.now += 1
    store.peek("v1/t/a/image")
    store.mark("v1/t/f/", True)
    await store.migrate(RankedPolicy(GreedyDualSize()))
    for group in "ij":
        store.insert(f"v1/t/{group}/image", entry(clock))
    assert [key[5] for key in held(store)] == list("cdeghaij")


def test_what_went_is_not_kept_alive() -> None:
    """Book-keeping holds on to no value that was evicted: the budget would mean nothing."""
    clock = Clock()
    store = build(clock)
    first = entry(clock)
    before = sys.getrefcount(first)
    store.insert("first", first)
    for key in "abcdefgh":
        store.insert(key, entry(clock))
    assert "first" not in held(store)
    assert sys.getrefcount(first) == before


def test_book_keeping_stays_in_proportion() -> None:
    """After any number of evictions the indexes are as large as what is held."""
    clock = Clock()
    store = build(clock, budget=800)
    for number in range(5000):
        store.insert(f"v1/t/{number}/image", entry(clock))
    assert len(held(store)) == len(store._by_image._groups) == 80
    assert len(store._ages._heap) + len(store._ages._new) <= 2 * 80 + 64 + 1


def test_book_keeping_shrinks_with_what_is_held() -> None:
    """Also when nothing comes in any more."""
    clock = Clock()
    store = build(clock, budget=80_000)
    for number in range(5000):
        store.insert(f"v1/t/{number}/image", entry(clock))
    clock.now += 100
    assert store.expire() == 5000
    assert store._by_image._groups == {}
    assert len(store._ages._heap) + len(store._ages._new) <= 64


async def test_while_many_are_purged_others_get_their_turn() -> None:
    clock = Clock()
    store = build(clock, budget=80_000)
    for number in range(5000):
        store.insert(f"v1/t/{number}/image", entry(clock))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while store.entries:
            turns += 1
            await asyncio.sleep(0)

    watching = asyncio.create_task(others())
    assert await store.delete("v1/*") == 5000
    await watching
    assert turns >= 4


def test_the_most_that_was_held_is_known() -> None:
    clock = Clock()
    store = build(clock)
    for key in "abc":
        store.insert(key, entry(clock))
    sum(store.purge("*"))
    store.insert("d", entry(clock))
    assert (store.bytes, store.peak_bytes) == (10, 30)


def test_watermarks_make_room_ahead() -> None:
    """Above the high one the store evicts down to the low one; in between it leaves things alone."""
    clock = Clock()
    store = MemoryStore(
        budget_bytes=100,
        idle_s=None,
        max_age_s=None,
        policy=lru(),
        high_watermark=0.9,
        low_watermark=0.5,
        clock=clock,
        wall_clock=clock,
    )
    for key in "abcdefghi":
        store.insert(key, entry(clock))
    assert held(store) == list("abcdefghi")
    store.insert("j", entry(clock))
    assert held(store) == list("fghij")
    store.reconfigure(budget_bytes=200)
    for key in "klmnopqrstuvw":
        store.insert(key, entry(clock))
    assert store.bytes == 180
    store.insert("x", entry(clock))
    assert store.bytes == 100


def test_expired_entries_may_be_room_enough() -> None:
    """Then nobody goes for the budget, whatever the low watermark says."""
    clock = Clock()
    store = MemoryStore(
        budget_bytes=100, idle_s=100.0, max_age_s=None, policy=lru(), low_watermark=0.5, clock=clock, wall_clock=clock
    )
    for key in "abcdefghij":
        store.insert(key, entry(clock))
        clock.now += 10
    store.insert("k", entry(clock))
    assert held(store) == list("bcdefghijk")
    assert store.evictions == {"idle": 1, "age": 0, "budget": 0, "purge": 0, "damaged": 0}


@pytest.mark.parametrize(("low", "high"), [(0.1, 1.0), (0.9, 0.8), (0.5, 1.1)])
def test_watermarks_out_of_order_are_said(low: float, high: float) -> None:
    with pytest.raises(BadSettings, match="watermarks"):
        MemoryStore(budget_bytes=100, idle_s=None, max_age_s=None, policy=lru(), low_watermark=low, high_watermark=high)


async def test_idle_alone_keeps_what_is_there_and_refuses_what_is_new() -> None:
    """Nothing goes for the budget; only a smaller budget puts out what was unused for longest."""
    clock = Clock()
    store = MemoryStore(
        budget_bytes=80, idle_s=100.0, max_age_s=None, policy=choose("idle").make(), clock=clock, wall_clock=clock
    )
    for key in "abcdefghij":
        store.insert(key, entry(clock))
        clock.now += 1
    assert held(store) == list("abcdefgh")
    assert store.stats().refused == 2
    assert store.peek("a") is not None
    clock.now += 92
    store.insert("k", entry(clock))  # b and c are idle by now
    assert held(store) == list("defghak")
    store.reconfigure(budget_bytes=32)
    assert held(store) == list("hak")


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_no_policy_lets_the_bytes_exceed_the_budget(name: str) -> None:
    """Whatever comes, is used, marked and purged: the books agree with what is held."""
    clock = Clock()
    store = MemoryStore(
        budget_bytes=800,
        idle_s=50.0,
        max_age_s=200.0,
        policy=choose(name, frequency_exponent=1.0).make(),
        clock=clock,
        wall_clock=clock,
    )
    dice = random.Random(3)
    for _ in range(4000):
        clock.now += dice.random()
        group = f"v1/t/{dice.randrange(40)}/"
        match dice.randrange(10):
            case 0:
                store.mark(group, dice.random() < 0.7)
            case 1 if dice.random() < 0.1:
                sum(store.purge(f"{group}*"))
            case 2 | 3 | 4:
                store.insert(f"{group}{dice.randrange(3)}", entry(clock, dice.randrange(1, 110), dice.random()))
            case _:
                store.peek(f"{group}{dice.randrange(3)}")
        assert store.bytes <= 800
        assert store.bytes == sum(record.size for record in store._records.values())
    assert set(store.evictions) == {"idle", "age", "budget", "purge", "damaged"}
    assert (store.evictions["budget"] > 0) is (name != "idle")
    asyncio.run(store.migrate(choose("gds").make()))
    store.reconfigure(budget_bytes=0)
    assert held(store) == []
    assert store._by_image._groups == {}


def test_uses_carry_over_to_a_policy_that_counts_them() -> None:
    clock = Clock()
    store = build(clock)
    for key in "abcdefgh":
        store.insert(key, entry(clock))
    for key in "aab":
        store.peek(key)
    asyncio.run(store.migrate(choose("lfu").make()))
    store.reconfigure(budget_bytes=24)
    assert sorted(held(store)) == ["a", "b"]


@pytest.mark.parametrize("name", ["gds", "lru", "labeling_ground.simulate.s3fifo:make"])
async def test_a_policy_is_adopted_in_slices_and_nothing_is_lost(name: str) -> None:
    """Others get their turn all the time, use the store, and find it in order."""
    clock = Clock()
    count, turns = 20_000, 0
    store = build(clock, budget=10 * count, idle_s=1e6)
    keys = [f"v1/t/{number // 5}/{number}" for number in range(count)]
    for key in keys:
        clock.now += 0.01
        store.insert(key, entry(clock, cost=clock.now % 7))
    adopting = asyncio.ensure_future(store.migrate(choose(name).make()))
    rng = random.Random(1)
    fresh = 0
    while not adopting.done():
        await asyncio.sleep(0)
        turns += 1
        clock.now += 1.0
        store.peek(rng.choice(keys))
        store.mark(f"v1/t/{rng.randrange(count // 5)}/", True)
        sum(store.purge(f"v1/t/{rng.randrange(count // 5)}/*"))
        for _ in range(20):
            store.insert(f"v1/new/{fresh}/0", entry(clock))
            fresh += 1
        assert store.bytes == 10 * store.entries <= 10 * count
    await adopting
    assert turns >= 2 * count // 2000 - 2, "sorted and told in parts"
    if name == "lru":
        for key in rng.sample(keys, 500):
            store.peek(key)
        order = list(store._records)
        store.reconfigure(budget_bytes=8000)
        assert held(store) == order[-800:]
    store.reconfigure(budget_bytes=0)
    assert held(store) == []


async def test_who_leaves_in_the_middle_leaves_a_whole_policy() -> None:
    clock = Clock()
    store = build(clock, budget=100_000, idle_s=1e6)
    for number in range(9000):
        store.insert(f"v1/t/{number}/0", entry(clock))
        clock.now += 1
    adopting = asyncio.ensure_future(store.migrate(lru()))
    for _ in range(3):
        await asyncio.sleep(0)
    adopting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adopting
    store.reconfigure(budget_bytes=80)
    assert held(store) == [f"v1/t/{number}/0" for number in range(8992, 9000)]


@pytest.mark.parametrize("strange", ["", "x", "v1/x", "v1/t/x"])
def test_a_strange_key_takes_no_other_into_its_group(strange: str) -> None:
    clock = Clock()
    store = build(clock, policy=RankedPolicy(GreedyDualSize()))
    store.insert(strange, entry(clock))
    for group in "abcdefg":
        store.insert(f"v1/t/{group}/image", entry(clock))
    store.mark("v1/t/d/", True)
    store.insert("v1/t/h/image", entry(clock))
    assert "v1/t/d/image" not in store
    assert sum(store.purge("v1/t/a/*")) == 1


def test_what_comes_from_a_tier_above_is_as_old_as_its_last_use() -> None:
    """It is not new because it came: its idle time goes on, and the order of use is the true one."""
    clock = Clock()
    store = build(clock)
    for key in "abcdefg":
        store.insert(key, entry(clock))
        clock.now += 10
    store.insert("x", entry(clock), used=1025.0)
    store.insert("h", entry(clock))
    store.insert("i", entry(clock))
    store.insert("j", entry(clock))
    assert sorted(held(store)) == sorted("defghijx")
    store.insert("k", entry(clock))
    assert "x" not in store
    store.insert("y", entry(clock), used=1025.0)
    clock.now = 1125.0
    assert store.peek("y") is None
    assert store.peek("k") is not None


class Clocks:
    """A wall clock that is set, and one that goes on."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_700_000_000.0, 5_000.0

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    def store(self, **options: Any) -> MemoryStore:
        given: dict[str, Any] = {"budget_bytes": 80, "idle_s": 100.0, "max_age_s": None, "policy": lru()}
        return MemoryStore(**(given | options), clock=lambda: self.steady, wall_clock=lambda: self.wall)

    def entry(self) -> Entry:
        return Entry(Kind.MASK, bytes(10), 1.0, self.wall)


@pytest.mark.parametrize("set_by", [-86_400.0, 86_400.0])
async def test_what_is_unused_goes_after_its_idle_time_however_the_wall_clock_is_set(set_by: float) -> None:
    clocks = Clocks()
    store = clocks.store()
    store.insert("a", clocks.entry())
    store.insert("b", clocks.entry())
    clocks.wall += set_by
    clocks.passes(99.0)
    assert store.expire() == 0
    assert store.peek("a") is not None
    clocks.passes(1.0)
    assert store.peek("b") is None
    assert store.expire() == 0
    clocks.passes(99.0)
    assert store.expire() == 1
    assert store.evictions["idle"] == 2


@pytest.mark.parametrize("set_by", [-86_400.0, 86_400.0])
async def test_what_is_too_old_goes_at_its_age_however_the_wall_clock_is_set(set_by: float) -> None:
    clocks = Clocks()
    store = clocks.store(idle_s=None, max_age_s=50.0)
    store.insert("a", clocks.entry())
    store.insert("b", clocks.entry())
    clocks.wall += set_by
    clocks.passes(49.0)
    assert store.peek("a") is not None
    clocks.passes(1.0)
    assert store.peek("a") is None
    assert store.expire() == 1
    assert store.evictions["age"] == 2


async def test_what_was_made_or_used_in_the_future_was_made_and_used_now() -> None:
    """It comes from a tier whose times are the wall clock's, which was ahead."""
    clocks = Clocks()
    store = clocks.store(max_age_s=150.0)
    store.insert("a", Entry(Kind.MASK, bytes(10), 1.0, clocks.wall + 1e6), used=clocks.wall + 1e6)
    clocks.passes(99.0)
    assert store.peek("a") is not None
    clocks.passes(51.0)
    assert store.peek("a") is None


async def test_times_that_are_told_are_the_wall_clock_s() -> None:
    clocks = Clocks()
    told: list[float] = []
    store = clocks.store()
    store.on_evict = lambda key, entry, reason, used, done: told.append(used)
    store.insert("a", clocks.entry())
    used = clocks.wall
    clocks.passes(30.0)
    assert list(store.uses(100.0)) == [("a", used)]
    sum(store.purge("a"))
    assert told == [used]
