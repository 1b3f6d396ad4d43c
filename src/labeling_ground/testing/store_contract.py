"""What every store must do, for a test class to inherit. ``docs/extending.md`` shows how."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labeling_ground import key as keys
from labeling_ground.cache.store import Store
from labeling_ground.testing.suite import Suite
from labeling_ground.types import Entry, Kind

BUDGET = 800_000

IDLE = 1800.0


class Clock:
    """Wall clock that moves when a test says so, and others that follow it."""

    def __init__(self) -> None:
        self._now = 1_700_000_000.0
        self.follow: Callable[[float], None] = lambda seconds: None

    def __call__(self) -> float:
        return self._now

    @property
    def now(self) -> float:
        """Seconds since 1970; ``follow`` is called with the difference when this is set."""
        return self._now

    @now.setter
    def now(self, now: float) -> None:
        self.follow(now - self._now)
        self._now = now


@dataclass(frozen=True)
class Setup:
    """What a maker needs to build a store."""

    folder: Path
    clock: Clock
    budget: int = BUDGET
    idle_s: float | None = IDLE
    max_age_s: float | None = None


def entry(clock: Clock, size: int = 100, cost: float = 1.0, kind: Kind = Kind.MASK, seed: int = 0) -> Entry:
    """An entry of so many bytes, made now; the seed decides which bytes."""
    return Entry(kind, random.Random(seed).randbytes(size), cost, clock.now)


def image(number: int, tenant: str = keys.PUBLIC) -> keys.ImageKeys:
    """The keys of an image that has this number for its content."""
    return keys.ImageKeys(tenant, keys.image_id(str(number).encode()))


SIZES = [0, 1, 100, 32 * 1024, 32 * 1024 + 1, BUDGET // 8]


class _StoreSuite(Suite):
    """What both suites have in common."""

    @pytest.fixture
    def make(self) -> Callable[[Setup], Store]:
        """What builds the store under test. Every suite gives its own."""
        raise NotImplementedError("Give the suite a fixture make, which returns a function from Setup to a store.")

    @pytest.fixture
    def clock(self) -> Clock:
        """The time that the store goes by."""
        return Clock()

    @pytest.fixture
    async def store(self, make: Callable[[Setup], Store], clock: Clock, tmp_path: Path) -> AsyncIterator[Store]:
        """The store under test, closed in the end."""
        made = make(Setup(tmp_path / "cache", clock))
        yield made
        await made.aclose()


class StoreContract(_StoreSuite):
    """What every store must do, also one whose entries a server keeps and evicts."""

    @pytest.mark.parametrize("size", SIZES)
    async def test_what_was_put_comes_back(self, store: Store, clock: Clock, size: int) -> None:
        """An entry comes back equal in every field, at any size that is admitted."""
        put = entry(clock, size, cost=0.125, kind=Kind.EMBEDDING)
        await store.put(image(1).image, put)
        assert await store.get(image(1).image) == put

    async def test_a_miss_is_none(self, store: Store) -> None:
        """A key that was never put is no error."""
        assert await store.get(image(1).image) is None
        assert await store.touch(image(1).image) is False
        await store.drop_damaged(image(1).image)
        await store.mark_done(image(1).group, True)

    async def test_values_never_change(self, store: Store, clock: Clock) -> None:
        """Writing a key that is there leaves the first value and counts nothing twice."""
        first, second = entry(clock, 100, seed=1), entry(clock, 200, seed=2)
        await store.put("v1/public/x/image", first)
        await store.put("v1/public/x/image", second)
        assert await store.get("v1/public/x/image") == first
        assert (await store.stats()).entries == 1

    @pytest.mark.parametrize(
        "key",
        [
            "v1/public/../../etc/passwd",
            "v1/public/x/mask/m@1/[a-z]?",
            "v1/public/x/mask/m@1/%_'\";--",
            "v1/public/x/mask/m@1/" + "y" * 2000,
            "v1/public/x/mask/Ümläut@1/\u4e2d\u6587",
            "v1/PUBLIC/X/MASK/m@1/a",
            "x",
            "",
        ],
    )
    async def test_strange_keys_are_only_keys(self, store: Store, clock: Clock, key: str) -> None:
        """Whatever a key holds, it names its own entry, in the store and nowhere else."""
        small, large = entry(clock, 50, seed=3), entry(clock, 50_000, seed=4)
        await store.put(key, small)
        await store.put(key + "+", large)
        assert await store.get(key) == small
        assert await store.get(key + "+") == large
        assert await store.get(key.swapcase() + "+" if key.swapcase() != key else "other") is None
        assert await store.delete(key) == 1
        assert await store.get(key) is None
        assert await store.get(key + "+") == large

    async def test_use_restarts_the_idle_timer(self, store: Store, clock: Clock) -> None:
        """What is used again and again stays; what is not goes after the idle time, counted as idle."""
        await store.put("v1/public/used/image", entry(clock))
        await store.put("v1/public/unused/image", entry(clock))
        for _ in range(4):
            clock.now += IDLE * 0.6
            assert await store.get("v1/public/used/image") is not None
        assert await store.get("v1/public/unused/image") is None
        clock.now += IDLE
        assert await store.get("v1/public/used/image") is None
        stats = await store.stats()
        assert (stats.entries, stats.evictions["idle"]) == (0, 2)

    async def test_asking_whether_a_key_is_there_is_no_use_of_it(self, store: Store, clock: Clock) -> None:
        """The idle timer runs on; what has expired is not there."""
        await store.put("v1/public/x/image", entry(clock))
        clock.now += IDLE * 0.6
        assert await store.has("v1/public/x/image") is True
        assert await store.has("v1/public/y/image") is False
        clock.now += IDLE * 0.6
        assert await store.has("v1/public/x/image") is False
        assert await store.get("v1/public/x/image") is None

    async def test_a_touch_restarts_the_idle_timer(self, store: Store, clock: Clock) -> None:
        """A hit in a tier above keeps the entry here too, and is told whether it is here."""
        await store.put("v1/public/x/image", entry(clock))
        for _ in range(3):
            clock.now += IDLE * 0.6
            assert await store.touch("v1/public/x/image") is True
        assert await store.get("v1/public/x/image") is not None
        clock.now += IDLE
        assert await store.touch("v1/public/x/image") is False

    async def test_putting_again_restarts_the_idle_timer(self, store: Store, clock: Clock) -> None:
        """A second put is a use."""
        for _ in range(3):
            await store.put("v1/public/x/image", entry(clock))
            clock.now += IDLE * 0.6
        assert await store.get("v1/public/x/image") is not None

    async def test_what_a_tier_above_gave_up_is_as_old_as_its_last_use(self, store: Store, clock: Clock) -> None:
        """Its idle time goes on where it was; a use here starts it anew, as ever."""
        await store.put("v1/public/x/image", entry(clock), clock.now - IDLE * 0.6)
        await store.put("v1/public/y/image", entry(clock, 50_000), clock.now - IDLE * 0.6)
        await store.put("v1/public/used/image", entry(clock), clock.now - IDLE * 0.6)
        await store.put("v1/public/long ago/image", entry(clock), clock.now - IDLE * 1.1)
        assert await store.get("v1/public/long ago/image") is None
        assert await store.get("v1/public/used/image") is not None
        clock.now += IDLE * 0.6
        assert await store.has("v1/public/x/image") is False
        assert await store.has("v1/public/y/image") is False
        assert await store.get("v1/public/used/image") is not None

    async def test_an_expired_entry_can_be_put_anew(self, store: Store, clock: Clock) -> None:
        """After the idle time the key is free for a new value."""
        await store.put("v1/public/x/image", entry(clock, seed=1))
        clock.now += IDLE
        new = entry(clock, seed=2)
        await store.put("v1/public/x/image", new)
        assert await store.get("v1/public/x/image") == new
        assert (await store.stats()).evictions["idle"] == 1

    async def test_max_age_is_absolute(self, make: Callable[[Setup], Store], clock: Clock, tmp_path: Path) -> None:
        """Use does not lengthen the greatest age, which counts from creation and not from coming in."""
        store = make(Setup(tmp_path / "cache", clock, max_age_s=1000.0))
        try:
            old = entry(clock)
            clock.now += 400
            await store.put("v1/public/old/image", old)
            await store.put("v1/public/new/image", entry(clock))
            clock.now += 540  # a server's time goes on: it has a minute for what comes next
            assert await store.get("v1/public/old/image") == old
            clock.now += 60
            assert await store.get("v1/public/old/image") is None
            assert await store.get("v1/public/new/image") is not None
            await store.put("v1/public/old/image", old)
            assert await store.get("v1/public/old/image") is None
            evictions = (await store.stats()).evictions
            assert (
                evictions["age"] + evictions["idle"] == 1
            )  # a server does not tell what an expired key had expired of
        finally:
            await store.aclose()

    async def test_a_purge_takes_what_it_names(self, store: Store, clock: Clock) -> None:
        """Image, model, tenant, everything: a pattern takes its keys, counts them, leaves others."""
        versions = {"sam@1": "sam@1", "sam@2": "sam@2", "sam-hq@1": "sam-hq@1"}
        made: set[str] = set()
        for tenant in ("public", "tenant"):
            for number in (1, 2):
                of = image(number, tenant)
                made.add(of.image)
                for version in versions:
                    made.add(f"{of.group}embedding/{version}")
                    made.add(f"{of.group}mask/{version}/digest")

        async def refill() -> None:
            for key in made:
                await store.put(key, entry(clock))

        one = image(1).image_id
        for pattern in (
            keys.pattern(),
            keys.pattern(tenant="public"),
            keys.pattern(tenant="public", image_id=one),
            keys.pattern(image_id=one),
            keys.pattern(model="sam"),
            keys.pattern(tenant="tenant", image_id=one, model="sam-hq"),
            keys.pattern(tenant="nobody"),
            image(2).image,
        ):
            await refill()
            before = (await store.stats()).evictions["purge"]
            expected = {key for key in made if keys.matcher(pattern)(key)}
            assert await store.delete(pattern) == len(expected), pattern
            left = {key for key in made if await store.get(key) is not None}
            assert left == made - expected, pattern
            assert (await store.stats()).evictions["purge"] == before + len(expected)

    async def test_a_damaged_entry_is_dropped_and_counted(self, store: Store, clock: Clock) -> None:
        """The caller, who knows the checksum, can have one entry thrown away."""
        await store.put("v1/public/x/image", entry(clock, 50_000))
        await store.drop_damaged("v1/public/x/image")
        assert await store.get("v1/public/x/image") is None
        assert (await store.stats()).evictions["damaged"] == 1

    async def test_an_asker_that_leaves_breaks_nothing(self, store: Store, clock: Clock) -> None:
        """Cancelled puts and gets leave a store that is whole: what is found is right, and what is put now is found."""
        put = await leave_early(store, clock)
        for key, value in put.items():
            assert await store.get(key) in (value, None)
        for key, value in put.items():
            await store.put(key, value)
            assert await store.get(key) == value


async def leave_early(store: Store, clock: Clock) -> dict[str, Entry]:
    """Puts and gets, half of which are cancelled under way. What was put."""
    put = {f"v1/public/{n}/image": entry(clock, 60_000, seed=n) for n in range(10)}
    tasks = [asyncio.ensure_future(store.put(key, value)) for key, value in put.items()]
    tasks += [asyncio.ensure_future(store.put(key, value)) for key, value in put.items()]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    asks = [asyncio.ensure_future(store.get(key)) for key in put]
    await asyncio.sleep(0)
    for ask in asks[::2]:
        ask.cancel()
    await asyncio.gather(*asks, return_exceptions=True)
    return put


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 5), st.sampled_from([0, 7, 40_000])),
        st.tuples(st.just("get"), st.integers(0, 5)),
        st.tuples(st.just("touch"), st.integers(0, 5)),
        st.tuples(st.just("done"), st.integers(0, 5)),
        st.tuples(st.just("delete"), st.integers(0, 5)),
        st.tuples(st.just("damaged"), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.sampled_from([IDLE / 10, IDLE / 2])),
    ),
    max_size=25,
)


class EvictingStoreContract(_StoreSuite):
    """What a store must do that decides itself, by cost, which entry goes."""

    async def test_the_bytes_are_those_of_the_values(self, store: Store, clock: Clock) -> None:
        """What is put twice, or dropped, is not counted."""
        for key, size in (("x", 100), ("x", 200), ("y", 50), ("z", 25)):
            await store.put(f"v1/public/{key}/image", entry(clock, size))
        await store.delete("v1/public/z/image")
        stats = await store.stats()
        assert (stats.entries, stats.bytes) == (2, 150)

    async def test_a_sweep_takes_what_has_expired(self, store: Store, clock: Clock) -> None:
        """Nobody has to ask for an entry before it goes, and what is in use stays."""
        for number in range(300):
            await store.put(image(number).image, entry(clock, 10))
        clock.now += IDLE / 2
        await store.touch(image(7).image)
        await store.stats()
        clock.now += IDLE / 2
        gone = await store.sweep()
        stats = await store.stats()
        assert (gone, stats.entries, stats.evictions["idle"]) == (299, 1, 299)
        assert await store.get(image(7).image) is not None

    async def test_an_eighth_of_the_budget_is_the_most(self, store: Store, clock: Clock) -> None:
        """One byte above an eighth of the budget is refused and counted; the rest stays."""
        await store.put("v1/public/fits/image", entry(clock, BUDGET // 8))
        await store.put("v1/public/large/image", entry(clock, BUDGET // 8 + 1))
        assert await store.get("v1/public/large/image") is None
        assert await store.get("v1/public/fits/image") is not None
        stats = await store.stats()
        assert (stats.refused, stats.entries, stats.budget) == (1, 1, BUDGET)

    async def test_the_budget_holds_while_many_fill_the_store(self, store: Store, clock: Clock) -> None:
        """However many put at once, the store keeps to its budget, and nothing read is wrong."""
        put = {f"v1/public/{n}/image": entry(clock, 1000 + 997 * n, seed=n) for n in range(90)}
        most = 0

        async def fill(key: str) -> None:
            nonlocal most
            await store.put(key, put[key])
            most = max(most, (await store.stats()).bytes)
            assert await store.get(key) in (put[key], None)

        async with anyio.create_task_group() as group:
            for key in put:
                group.start_soon(fill, key)
        assert BUDGET * 0.8 < most <= BUDGET
        stats = await store.stats()
        assert stats.entries + stats.evictions["budget"] == len(put)
        kept = [key for key in put if await store.get(key) is not None]
        assert stats.entries == len(kept)
        assert stats.bytes == sum(put[key].size for key in kept)

    async def test_the_done_hint_decides_who_goes(self, store: Store, clock: Clock) -> None:
        """Under GreedyDual-Size a finished image goes before older, equal ones, unless used again."""
        size = BUDGET // 8
        for number in range(8):
            await store.put(image(number).image, entry(clock, size, seed=number))
        await store.mark_done(image(5).group, True)
        await store.mark_done(image(6).group, True)
        await store.mark_done(image(7).group, True)
        await store.mark_done(image(7).group, False)
        assert await store.get(image(6).image) is not None
        for number in (8, 9):
            await store.put(image(number).image, entry(clock, size, seed=number))
        left = [number for number in range(10) if await store.touch(image(number).image)]
        assert left == [1, 2, 3, 4, 6, 7, 8, 9]

    async def test_cost_by_the_byte_decides_who_goes(self, store: Store, clock: Clock) -> None:
        """Under GreedyDual-Size the cheapest by the byte goes first, however new it is."""
        size = BUDGET // 8
        for number in range(8):
            await store.put(image(number).image, entry(clock, size, cost=10.0 - number))
        await store.put(image(8).image, entry(clock, size, cost=5.0))
        left = [number for number in range(9) if await store.touch(image(number).image)]
        assert left == [0, 1, 2, 3, 4, 5, 6, 8]
        assert (await store.stats()).evictions["budget"] == 1

    async def test_the_oldest_is_known(self, store: Store, clock: Clock) -> None:
        """The oldest creation time follows what is held."""
        assert (await store.stats()).oldest_created is None
        for number, age in enumerate((50, 200, 100)):
            await store.put(image(number).image, Entry(Kind.IMAGE, b"x", 1.0, clock.now - age))
        assert (await store.stats()).oldest_created == clock.now - 200
        await store.delete(image(1).image)
        assert (await store.stats()).oldest_created == clock.now - 100

    async def test_an_asker_that_leaves_leaves_true_figures(self, store: Store, clock: Clock) -> None:
        """What a cancelled put has kept is counted, and nothing else."""
        put = await leave_early(store, clock)
        kept = [key for key, value in put.items() if await store.get(key) == value]
        stats = await store.stats()
        assert (stats.entries, stats.bytes) == (len(kept), 60_000 * len(kept))

    @settings(
        max_examples=25,
        deadline=None,  # the machine may be busy with other things
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(steps=STEPS)
    async def test_the_figures_are_true(
        self,
        make: Callable[[Setup], Store],
        tmp_path_factory: pytest.TempPathFactory,
        steps: list[tuple[str, int] | tuple[str, int, int] | tuple[str, float]],
    ) -> None:
        """After any calls, entries, bytes, kinds and evictions are those of a plain dict."""
        clock = Clock()
        store = make(Setup(tmp_path_factory.mktemp("store") / "cache", clock))
        kinds = list(Kind)
        held: dict[str, tuple[Entry, float]] = {}
        gone = {"idle": 0, "purge": 0, "damaged": 0}

        def expire(key: str) -> None:
            if key in held and clock.now - held[key][1] >= IDLE:
                del held[key]
                gone["idle"] += 1

        try:
            for verb, first, *rest in steps:
                if verb == "wait":
                    clock.now += first
                    continue
                number = int(first)
                key = f"v1/public/{number}/{kinds[number % 4]}"
                if verb == "put":
                    expire(key)
                    value = entry(clock, rest[0], kind=kinds[number % 4], seed=number)
                    held[key] = (held[key][0] if key in held else value, clock.now)
                    await store.put(key, value)
                elif verb in ("get", "touch"):
                    expire(key)
                    if verb == "get":
                        assert await store.get(key) == (held[key][0] if key in held else None)
                    else:
                        assert await store.touch(key) == (key in held)
                    if key in held:
                        held[key] = (held[key][0], clock.now)
                elif verb == "done":
                    await store.mark_done(keys.group_of(key), True)
                elif verb == "delete":
                    gone["purge"] += key in held
                    assert await store.delete(keys.group_of(key) + "*") == (key in held)
                    held.pop(key, None)
                else:
                    gone["damaged"] += key in held
                    held.pop(key, None)
                    await store.drop_damaged(key)
            stats = await store.stats()
            assert stats.entries == len(held)
            assert stats.bytes == sum(value.size for value, _ in held.values())
            for kind in Kind:
                of = [value for value, _ in held.values() if value.kind is kind]
                assert stats.entries_by_kind[kind] == len(of)
                assert stats.bytes_by_kind[kind] == sum(value.size for value in of)
            assert {reason: stats.evictions[reason] for reason in gone} == gone
            assert stats.oldest_created == min((v.created for v, _ in held.values()), default=None)
        finally:
            await store.aclose()
