"""A tier that is down, slow, full or damaged is a miss and a counter; what was purged does not come back."""

import asyncio
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.doubles import (
    LONG_S,
    TOY,
    BrokenStore,
    Clock,
    DamagingStore,
    DictStore,
    HangingStore,
    SlowStore,
    counted_of,
    errors_of,
    now,
    sealed,
    until,
    virtually,
)

from labeling_ground.breaker import Breaker
from labeling_ground.cache.tier import Tier
from labeling_ground.errors import DamagedEntry, StoreFailed, StoreFull
from labeling_ground.key import ImageKeys
from labeling_ground.pools import Pool
from labeling_ground.types import Entry

pytestmark = pytest.mark.anyio


def key(number: int = 0) -> str:
    return ImageKeys("public", f"{number:064x}").embedding(TOY)


def filled(count: int = 1) -> dict[str, Entry]:
    return {key(number): sealed(key(number)) for number in range(count)}


def tier_of(
    store: DictStore, clock: Callable[[], float] | None = None, at_once: int | None = None, **options: Any
) -> Tier:
    clock = clock or Clock()
    if at_once is not None:
        store.at_once = at_once  # type: ignore[attr-defined]
    given: dict[str, Any] = {"deadline_s": 0.05, "breaker": Breaker(5, 5.0, clock), "clock": clock}
    return Tier(store, **(given | options))


async def ask(tier: Tier, number: int = 0, late: list[Entry] | None = None) -> Entry | None:
    return await tier.look_up(key(number), (late if late is not None else []).append)


# --- look-ups ------------------------------------------------------------------------------------------------------


async def test_what_is_there_is_found_and_what_is_not_is_a_miss() -> None:
    found: list[Entry] = []
    tier = tier_of(DictStore(filled()))
    assert await ask(tier, 0, found) == sealed(key())
    assert found == [sealed(key())]
    assert await ask(tier, 1, found) is None
    assert len(found) == 1
    assert errors_of(tier) == {}


def test_past_its_deadline_a_look_up_is_a_miss_and_is_left_to_finish_and_its_late_find_is_handed_on() -> None:
    async def main() -> None:
        store = SlowStore(2.0, filled())
        tier = tier_of(store, clock=asyncio.get_running_loop().time)
        late: list[Entry] = []
        started = now()
        assert await ask(tier, 0, late) is None
        assert now() - started == pytest.approx(0.05)
        assert errors_of(tier) == {"deadline": 1}
        assert late == []
        await asyncio.sleep(2.0)
        assert late == [sealed(key())]

    virtually(main)


class Winding(SlowStore):
    """Takes a few turns of the loop to hand on what has arrived, as drivers do."""

    async def get(self, key: str) -> Entry | None:
        entry = await super().get(key)
        for _ in range(4):
            await asyncio.sleep(0)
        return entry


async def test_an_answer_that_came_in_time_to_a_loop_that_was_held_up_is_not_late() -> None:
    tier = tier_of(Winding(0.01, filled()))
    asking = asyncio.create_task(ask(tier))
    await asyncio.sleep(0.001)
    time.sleep(0.1)  # noqa: ASYNC251 -- this is what it is about
    assert await asking == sealed(key())
    assert errors_of(tier) == {}


def test_a_look_up_whose_asker_left_is_left_to_finish() -> None:
    async def main() -> None:
        tier = tier_of(SlowStore(0.04, filled()), clock=asyncio.get_running_loop().time)
        late: list[Entry] = []
        asking = asyncio.create_task(ask(tier, 0, late))
        await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.sleep(0.1)
        assert late == [sealed(key())]
        assert errors_of(tier) == {}

    virtually(main)


def test_an_ask_that_is_worth_waiting_for_can_have_a_longer_deadline() -> None:
    async def main() -> None:
        tier = tier_of(SlowStore(2.0, filled()))
        assert await tier.look_up(key(), lambda _: None, 5.0) == sealed(key())

    virtually(main)


@pytest.mark.parametrize("error", [StoreFailed("down"), OSError("gone"), ZeroDivisionError()])
async def test_whatever_a_tier_raises_is_a_miss_and_is_counted(error: Exception) -> None:
    tier = tier_of(BrokenStore(error))
    assert await ask(tier) is None
    assert errors_of(tier) == {"failed": 1}


@pytest.mark.parametrize("size", [10, 400_000])
async def test_damaged_bytes_are_a_miss_and_are_thrown_away_and_counted(size: int) -> None:
    store = DamagingStore({key(): sealed(key(), size)})
    tier = tier_of(store, deadline_s=LONG_S)  # what is large is checked by a thread
    found: list[Entry] = []
    assert await ask(tier, 0, found) is None
    assert found == []
    assert errors_of(tier) == {"damaged": 1}
    assert store.entries == {}
    assert store.damaged == 1
    assert tier.health.breaker.state == "closed"


async def test_a_sound_value_under_a_wrong_key_or_of_wrong_content_is_damaged() -> None:
    mask_key = ImageKeys("public", "0" * 64).mask(TOY, "d" * 32)
    store = DictStore({key(1): sealed(key(2)), mask_key: sealed(mask_key)})
    tier = tier_of(store)
    assert await ask(tier, 1) is None
    assert await tier.look_up(mask_key, lambda _: None) is None
    assert errors_of(tier) == {"damaged": 2}
    assert store.entries == {}


async def test_a_value_that_the_store_itself_cannot_read_is_damaged_and_no_failure_of_the_store() -> None:
    class UnreadableStore(DictStore):
        async def get(self, key: str) -> Entry | None:
            raise DamagedEntry("The value has no readable header.")

    store = UnreadableStore({key(): sealed(key())})
    tier = tier_of(store)
    assert await ask(tier) is None
    assert errors_of(tier) == {"damaged": 1}
    assert store.entries == {}
    assert tier.health.breaker.state == "closed"


# --- the breaker ---------------------------------------------------------------------------------------------------


async def test_after_five_failures_in_a_row_the_tier_is_left_alone_and_after_five_seconds_one_ask_tries() -> None:
    clock = Clock()
    store = BrokenStore(None, filled())
    tier = tier_of(store, clock)
    for _ in range(5):
        assert tier.health.breaker.state == "closed"
        await ask(tier)
    assert tier.health.breaker.state == "open"
    for _ in range(10):
        assert await ask(tier) is None
    assert (store.count("get"), counted_of(tier, "lookups_skipped")) == (5, 10)

    clock.now += 4.99
    await ask(tier)
    assert store.count("get") == 5
    clock.now += 0.01
    assert tier.health.breaker.state == "half-open"
    await asyncio.gather(*(ask(tier) for _ in range(10)))
    assert store.count("get") == 6, "one trial, not ten"
    assert tier.health.breaker.state == "open"

    clock.now += 5
    store.error = None
    assert await ask(tier) is not None
    assert tier.health.breaker.state == "closed"
    assert await ask(tier) is not None


async def test_failures_that_are_not_in_a_row_do_not_open_it() -> None:
    store = BrokenStore(None, filled())
    tier = tier_of(store)
    for _ in range(5):
        for error in (StoreFailed("down"),) * 4 + (None,):
            store.error = error
            await ask(tier)
    assert tier.health.breaker.state == "closed"


def test_a_tier_that_always_answers_too_late_is_left_alone_and_its_late_answers_do_not_change_that() -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        store = SlowStore(0.2, filled())
        tier = tier_of(store, clock)
        for _ in range(5):
            assert await ask(tier) is None
        assert tier.health.breaker.state == "open"
        await asyncio.sleep(0.5)
        assert tier.health.breaker.state == "open"
        assert tier.p99_s == 0.0

    virtually(main)


def test_one_look_up_that_is_late_and_then_fails_counts_once() -> None:
    async def main() -> None:
        class Late(SlowStore):
            async def work(self, verb: str, about: str) -> None:
                await super().work(verb, about)
                raise StoreFailed("late and broken")

        clock = asyncio.get_running_loop().time
        tier = tier_of(Late(0.1), clock)
        for _ in range(4):
            await ask(tier)
            await asyncio.sleep(0.2)
        assert tier.health.breaker.state == "closed"
        await ask(tier)
        assert tier.health.breaker.state == "open"

    virtually(main)


async def test_a_touch_that_works_is_a_sign_of_health_and_one_that_hangs_is_none() -> None:
    clock = Clock()
    store = BrokenStore(None, filled())
    tier = tier_of(store, clock)
    for _ in range(5):
        assert not await tier.touch(key())
    assert tier.health.breaker.state == "open"
    clock.now += 5
    store.error = None
    assert await tier.touch(key())
    assert tier.health.breaker.state == "closed"

    hanging = HangingStore(filled())
    stuck = tier_of(hanging, deadline_s=0.001)
    for _ in range(5):
        assert not await stuck.touch(key())
    assert stuck.health.breaker.state == "open"
    hanging.release.set()


def test_the_window_follows_the_slowest_of_a_hundred_embedding_look_ups_that_were_in_time() -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        waits = iter([0.001] * 98 + [0.02, 0.04])
        tier = tier_of(SlowStore(lambda: next(waits, 0.0), filled()), clock)
        for _ in range(100):
            await ask(tier)
        assert tier.p99_s == pytest.approx(0.04)
        for _ in range(200):
            await tier.look_up(ImageKeys("public", "0" * 64).mask(TOY, "d"), lambda _: None)
        assert tier.p99_s == pytest.approx(0.04), "masks are small: their look-ups say nothing about embeddings"
        for _ in range(256):
            await ask(tier)
        assert tier.p99_s == pytest.approx(0.0)

    virtually(main)


# --- writes --------------------------------------------------------------------------------------------------------


async def test_a_value_on_its_way_is_as_good_as_there_and_is_written_behind_the_callers_back() -> None:
    store = HangingStore(only=["put"])
    tier = tier_of(store)
    tier.queue.write(key(), sealed(key()))
    tier.queue.write(key(), sealed(key()))
    assert tier.queue.pending[key()].entry == sealed(key())
    assert await tier.touch(key())
    assert len(tier.queue) == 1
    store.release.set()
    await tier.queue.drain()
    assert not tier.queue.pending
    assert store.entries == filled()
    assert store.count("put") == 1
    await tier.aclose()


async def test_the_write_queue_is_bounded_in_bytes_and_what_does_not_fit_is_dropped_and_counted() -> None:
    store = HangingStore(only=["put"])
    size = sealed(key()).size
    tier = tier_of(store)
    tier.queue.most_bytes = 10 * size
    for number in range(30):
        tier.queue.write(key(number), sealed(key(number)))
    assert len(tier.queue) == 10
    assert errors_of(tier) == {"dropped": 20}
    store.release.set()
    await tier.queue.drain()
    assert len(store.entries) == 10
    for number in range(30, 40):
        tier.queue.write(key(number), sealed(key(number)))
    await tier.queue.drain()
    assert len(store.entries) == 20, "all of the bytes were given back"
    await tier.aclose()


async def test_a_value_that_is_larger_than_the_write_queue_has_it_alone() -> None:
    store = HangingStore(only=["put"])
    tier = tier_of(store)
    tier.queue.most_bytes = 1
    for number in range(3):
        tier.queue.write(key(number), sealed(key(number)))
    assert errors_of(tier) == {"dropped": 2}
    store.release.set()
    await tier.queue.drain()
    assert list(store.entries) == [key(0)]
    await tier.aclose()


async def test_writes_that_fail_are_counted_and_open_the_breaker_and_then_are_dropped() -> None:
    store = BrokenStore()
    tier = tier_of(store)
    for number in range(8):
        tier.queue.write(key(number), sealed(key(number)))
    await tier.queue.drain()
    assert errors_of(tier) == {"failed": 5, "dropped": 3}
    assert len(tier.queue) == 0
    await tier.aclose()


async def test_closing_writes_what_is_pending() -> None:
    store = DictStore()
    tier = tier_of(store)
    for number in range(20):
        tier.queue.write(key(number), sealed(key(number)))
    await tier.aclose()
    assert len(store.entries) == 20
    assert store.closed


async def test_closing_a_tier_that_hangs_takes_no_longer_than_the_grace_and_nothing_comes_after() -> None:
    before = asyncio.all_tasks()
    store = HangingStore()
    tier = tier_of(store)
    tier.queue.write(key(), sealed(key()))
    await ask(tier)
    await tier.aclose(grace_s=0.01)
    assert store.closed
    tier.queue.write(key(1), sealed(key(1)))
    tier.touch_later(key())
    with pytest.raises(StoreFailed):
        await tier.queue.delete("v1/*")
    assert len(asyncio.all_tasks() - before) == 1, "only the look-up that hangs"
    store.release.set()


# --- purges --------------------------------------------------------------------------------------------------------


async def test_a_purge_takes_what_is_written_what_is_being_written_and_what_waits_and_counts_each_once() -> None:
    store = HangingStore({key(0): sealed(key(0))}, only=["put"])
    tier = tier_of(store)
    for number in range(1, 5):
        tier.queue.write(key(number), sealed(key(number)))
    await until(lambda: store.count("put") == 1)
    purge = asyncio.create_task(tier.queue.delete("v1/*"))
    await asyncio.sleep(0)
    assert len(tier.queue) == 0
    store.release.set()
    assert await purge == 5
    await tier.queue.drain()
    assert store.entries == {}
    await tier.aclose()


async def test_what_is_kept_after_a_purge_stays_even_where_the_same_key_was_just_being_written() -> None:
    store = HangingStore(only=["put"])
    tier = tier_of(store)
    tier.queue.most_bytes = 3 * sealed(key()).size
    tier.queue.write(key(), sealed(key()))
    await until(lambda: store.count("put") == 1)
    tier.mark_done("g", True)
    purge = asyncio.create_task(tier.queue.delete("v1/*"))
    await asyncio.sleep(0)
    tier.queue.write(key(), sealed(key(), cost=2.0))
    store.release.set()
    await purge
    await tier.queue.drain()
    assert store.entries == {key(): sealed(key(), cost=2.0)}
    for number in range(1, 4):
        tier.queue.write(key(number), sealed(key(number)))
    assert len(tier.queue) == 3, "the bytes that wait were counted right"
    await tier.aclose()


async def test_one_value_can_be_written_ahead_of_all_others_and_waited_for() -> None:
    store = SlowStore(0.001)
    tier = tier_of(store)
    for number in range(20):
        tier.queue.write(key(number), sealed(key(number)))
    await until(lambda: len(store.calls) == 1)
    await tier.queue.flush(key(15))
    assert set(store.entries) == {key(0), key(15)}
    await tier.queue.flush(key(15))
    await tier.queue.flush(key(99))
    await tier.queue.drain()
    assert len(store.entries) == 20
    await tier.aclose()


async def test_a_value_that_cannot_be_written_is_not_waited_for_without_end() -> None:
    tier = tier_of(BrokenStore())
    tier.queue.write(key(), sealed(key()))
    await tier.queue.flush(key())
    assert errors_of(tier) == {"failed": 1}
    await tier.aclose()


async def test_whatever_else_is_asked_has_the_same_deadline_breaker_and_counters() -> None:
    tier = tier_of(DictStore())
    hanging = asyncio.Event()

    async def fail() -> str:
        raise OSError("gone")

    async def answer() -> str:
        await asyncio.sleep(0)
        return "yes"

    assert await tier.calls.ask("thing", answer) == "yes"
    assert await tier.calls.ask("thing", fail) is None
    assert await tier.calls.ask("thing", hanging.wait) is None
    assert errors_of(tier) == {"failed": 1, "deadline": 1}
    for _ in range(3):
        await tier.calls.ask("thing", fail)
    assert tier.health.breaker.state == "open"
    assert await tier.calls.ask("thing", answer) is None
    hanging.set()
    await tier.aclose()


async def test_a_tier_that_is_full_is_not_left_alone() -> None:
    tier = tier_of(DictStore(filled()))

    async def refuse(*_: str) -> int:
        raise StoreFull("no room")

    for _ in range(10):
        assert await tier.calls.ask("thing", refuse) is None
        with pytest.raises(StoreFailed):
            await tier.queue.delete("v1/*", refuse)
    assert errors_of(tier) == {"failed": 20}
    assert tier.health.breaker.state == "closed"
    assert await ask(tier) is not None
    await tier.aclose()


def test_an_ask_with_a_longer_deadline_is_judged_by_that() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        tier = tier_of(DictStore(), loop.time, deadline_s=0.05)

        async def fail() -> None:
            await asyncio.sleep(0.3)
            raise OSError("gone")

        for _ in range(5):
            await tier.calls.ask("thing", fail, 1.0)
        assert tier.health.breaker.state == "open"
        await asyncio.sleep(5.0)

        async def answer() -> str:
            await asyncio.sleep(0.3)
            return "yes"

        assert await tier.calls.ask("thing", answer, 1.0) == "yes"
        assert tier.health.breaker.state == "closed"
        assert errors_of(tier) == {"failed": 5}
        await tier.aclose()

    virtually(main)


async def test_a_purge_spares_what_it_does_not_mean() -> None:
    store = DictStore(filled(2))
    tier = tier_of(store)
    tier.queue.write(key(2), sealed(key(2)))
    assert await tier.queue.delete(key(0)) == 1
    await tier.queue.drain()
    assert set(store.entries) == {key(1), key(2)}
    await tier.aclose()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StoreFull("The disk is full."), "failed to purge. The disk is full. Try again."),
        (OSError("gone"), "failed to purge. Try again."),
    ],
)
async def test_a_purge_that_a_tier_did_not_do_is_said_with_the_reason(error: Exception, said: str) -> None:
    tier = tier_of(BrokenStore(error))
    with pytest.raises(StoreFailed, match=re.escape(said)):
        await tier.queue.delete("v1/*")
    assert errors_of(tier) == {"failed": 1}
    await tier.aclose()


async def test_a_purge_is_tried_even_where_the_breaker_is_open() -> None:
    store = BrokenStore(None, filled())
    tier = tier_of(store)
    for _ in range(5):
        await ask(tier)
    store.error = None
    assert tier.health.breaker.state == "open"
    assert await tier.queue.delete("v1/*") == 1
    await tier.aclose()


# --- hints and sweeps ------------------------------------------------------------------------------------------------


async def test_hints_and_sweeps_are_handed_on_and_spared_to_a_tier_that_fails() -> None:
    store = BrokenStore()
    store.error = None
    tier = tier_of(store)
    tier.mark_done("g", True)
    tier.mark_done("g", False)
    await tier.sweep()
    assert store.calls == [("done", "g"), ("not done", "g"), ("sweep", "")]
    store.error = StoreFailed("down")
    for _ in range(5):
        await ask(tier)
    store.calls.clear()
    tier.mark_done("g", True)
    tier.touch_later(key())
    await tier.sweep()
    await tier.queue.drain()
    assert store.calls == []
    await tier.aclose()


async def test_a_sweep_that_hangs_is_not_waited_for_without_end() -> None:
    store = HangingStore(only=["sweep"])
    tier = tier_of(store)
    await tier.sweep(deadline_s=0.001)
    store.release.set()
    await tier.aclose()


async def test_a_value_kept_again_after_a_purge_is_written_though_its_first_write_was_under_way() -> None:
    store = DictStore()
    hold, begun = asyncio.Event(), asyncio.Event()
    put = store.put

    async def slow(key: str, entry: Entry, used: float | None = None) -> None:
        begun.set()
        await hold.wait()
        await put(key, entry, used)

    store.put = slow  # type: ignore[method-assign]
    tier, value = tier_of(store), sealed(key())
    tier.queue.write(key(), value)
    await begun.wait()
    purging = asyncio.create_task(tier.queue.delete(key()))
    await asyncio.sleep(0)
    tier.queue.write(key(), value)  # the very same
    hold.set()
    await purging
    await tier.queue.drain()
    assert store.entries == {key(): value}
    assert len(tier.queue) == 0
    await tier.aclose()


async def test_a_tier_that_failed_at_the_start_says_so_until_it_works() -> None:
    class Dead(DictStore):
        dead = True

        async def open(self) -> None:
            if self.dead:
                raise StoreFailed("The disk is full.")

        async def get(self, key: str) -> Entry | None:
            await self.open()
            return await super().get(key)

    store = Dead()
    tier = tier_of(store)
    assert tier.health.trouble == ""
    await tier.open(60.0)
    assert tier.health.trouble == "The disk is full."
    assert await ask(tier) is None
    assert tier.health.trouble == "The disk is full."
    store.dead = False
    assert await ask(tier) is None
    assert tier.health.trouble == ""
    await tier.aclose()


# --- what is not the tier's time -----------------------------------------------------------------------------------


async def test_a_value_that_waits_to_be_checked_is_late_but_the_tier_is_healthy() -> None:
    pool, go = Pool("checks", 1), threading.Event()
    busy = asyncio.create_task(pool.run(go.wait))
    late: list[Entry] = []
    tier = tier_of(DictStore({key(): sealed(key(), 400_000)}), checks=pool)
    for _ in range(6):
        assert await ask(tier, 0, late) is None
    assert errors_of(tier) == {"busy": 6}
    assert tier.health.breaker.state == "closed"
    go.set()
    await busy
    await until(lambda: late == [sealed(key(), 400_000)] * 6)
    assert await ask(tier) == sealed(key(), 400_000)


def test_look_ups_that_wait_for_a_place_are_late_but_the_tier_is_healthy_and_is_not_asked_for_them() -> None:
    async def main() -> None:
        store = SlowStore(0.04, filled(30))
        tier = tier_of(store, clock=asyncio.get_running_loop().time, at_once=2)
        found = await asyncio.gather(*(ask(tier, number) for number in range(30)))
        assert [entry is not None for entry in found] == [True] * 4 + [False] * 26
        assert errors_of(tier) == {"busy": 26}
        assert tier.health.breaker.state == "closed"
        await asyncio.sleep(1.0)
        assert store.count("get") == 4
        assert await ask(tier, 29) == sealed(key(29))

    virtually(main)


def test_look_ups_that_wait_behind_a_tier_that_hangs_say_that_it_hangs() -> None:
    async def main() -> None:
        tier = tier_of(HangingStore(), clock=asyncio.get_running_loop().time, at_once=2)
        await asyncio.gather(*(ask(tier, number) for number in range(2)))
        assert (errors_of(tier), tier.health.breaker.state) == ({"deadline": 2}, "closed")
        await asyncio.gather(*(ask(tier, number) for number in range(3)))
        assert (errors_of(tier), tier.health.breaker.state) == ({"deadline": 5}, "open")

    virtually(main)


async def test_a_touch_waits_for_a_place_as_look_ups_do() -> None:
    store = HangingStore(filled(), only=["get"])
    tier = tier_of(store, at_once=1, deadline_s=LONG_S)
    looking = asyncio.create_task(ask(tier))
    await until(lambda: store.count("get") == 1)
    touching = asyncio.create_task(tier.touch(key()))
    await asyncio.sleep(0.01)
    assert store.count("touch") == 0
    store.release.set()
    assert await touching
    assert await looking == sealed(key())
