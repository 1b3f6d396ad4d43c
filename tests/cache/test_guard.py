"""A tier that is down, slow, full or damaged is a miss and a counter; what was purged does not come back."""

import asyncio
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
    now,
    sealed,
    until,
    virtually,
)

from labeling_ground.breaker import Breaker
from labeling_ground.cache.guard import Guard
from labeling_ground.errors import StoreFailed, StoreFull
from labeling_ground.key import ImageKeys
from labeling_ground.pools import Pool
from labeling_ground.types import Entry

pytestmark = pytest.mark.anyio


def key(number: int = 0) -> str:
    return ImageKeys("public", f"{number:064x}").embedding(TOY)


def filled(count: int = 1) -> dict[str, Entry]:
    return {key(number): sealed(key(number)) for number in range(count)}


def guard(store: DictStore, clock: Callable[[], float] | None = None, **options: Any) -> Guard:
    clock = clock or Clock()
    given: dict[str, Any] = {"deadline_s": 0.05, "breaker": Breaker(5, 5.0, clock), "clock": clock}
    return Guard(store, **(given | options))


async def ask(guarded: Guard, number: int = 0, late: list[Entry] | None = None) -> Entry | None:
    return await guarded.look_up(key(number), (late if late is not None else []).append)


# --- look-ups ------------------------------------------------------------------------------------------------------


async def test_what_is_there_is_found_and_what_is_not_is_a_miss() -> None:
    found: list[Entry] = []
    guarded = guard(DictStore(filled()))
    assert await ask(guarded, 0, found) == sealed(key())
    assert found == [sealed(key())]
    assert await ask(guarded, 1, found) is None
    assert len(found) == 1
    assert guarded.figures.errors == {}


def test_past_its_deadline_a_look_up_is_a_miss_and_is_left_to_finish_and_its_late_find_is_handed_on() -> None:
    async def main() -> None:
        store = SlowStore(2.0, filled())
        guarded = guard(store, clock=asyncio.get_running_loop().time)
        late: list[Entry] = []
        started = now()
        assert await ask(guarded, 0, late) is None
        assert now() - started == pytest.approx(0.05)
        assert guarded.figures.errors == {"deadline": 1}
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
    guarded = guard(Winding(0.01, filled()))
    asking = asyncio.create_task(ask(guarded))
    await asyncio.sleep(0.001)
    time.sleep(0.1)  # noqa: ASYNC251 -- this is what it is about
    assert await asking == sealed(key())
    assert guarded.figures.errors == {}


def test_a_look_up_whose_asker_left_is_left_to_finish() -> None:
    async def main() -> None:
        guarded = guard(SlowStore(0.04, filled()), clock=asyncio.get_running_loop().time)
        late: list[Entry] = []
        asking = asyncio.create_task(ask(guarded, 0, late))
        await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.sleep(0.1)
        assert late == [sealed(key())]
        assert guarded.figures.errors == {}

    virtually(main)


def test_an_ask_that_is_worth_waiting_for_can_have_a_longer_deadline() -> None:
    async def main() -> None:
        guarded = guard(SlowStore(2.0, filled()))
        assert await guarded.look_up(key(), lambda _: None, 5.0) == sealed(key())

    virtually(main)


@pytest.mark.parametrize("error", [StoreFailed("down"), OSError("gone"), ZeroDivisionError()])
async def test_whatever_a_tier_raises_is_a_miss_and_is_counted(error: Exception) -> None:
    guarded = guard(BrokenStore(error))
    assert await ask(guarded) is None
    assert guarded.figures.errors == {"failed": 1}


@pytest.mark.parametrize("size", [10, 400_000])
async def test_damaged_bytes_are_a_miss_and_are_thrown_away_and_counted(size: int) -> None:
    store = DamagingStore({key(): sealed(key(), size)})
    guarded = guard(store, deadline_s=LONG_S)  # what is large is checked by a thread
    found: list[Entry] = []
    assert await ask(guarded, 0, found) is None
    assert found == []
    assert guarded.figures.errors == {"damaged": 1}
    assert store.entries == {}
    assert store.damaged == 1
    assert guarded.breaker.state == "closed"


async def test_a_sound_value_under_a_wrong_key_or_of_wrong_content_is_damaged() -> None:
    mask_key = ImageKeys("public", "0" * 64).mask(TOY, "d" * 32)
    store = DictStore({key(1): sealed(key(2)), mask_key: sealed(mask_key)})
    guarded = guard(store)
    assert await ask(guarded, 1) is None
    assert await guarded.look_up(mask_key, lambda _: None) is None
    assert guarded.figures.errors == {"damaged": 2}
    assert store.entries == {}


# --- the breaker ---------------------------------------------------------------------------------------------------


async def test_after_five_failures_in_a_row_the_tier_is_left_alone_and_after_five_seconds_one_ask_tries() -> None:
    clock = Clock()
    store = BrokenStore(None, filled())
    guarded = guard(store, clock)
    for _ in range(5):
        assert guarded.breaker.state == "closed"
        await ask(guarded)
    assert guarded.breaker.state == "open"
    for _ in range(10):
        assert await ask(guarded) is None
    assert (store.count("get"), guarded.figures.skipped) == (5, 10)

    clock.now += 4.99
    await ask(guarded)
    assert store.count("get") == 5
    clock.now += 0.01
    assert guarded.breaker.state == "half-open"
    await asyncio.gather(*(ask(guarded) for _ in range(10)))
    assert store.count("get") == 6, "one trial, not ten"
    assert guarded.breaker.state == "open"

    clock.now += 5
    store.error = None
    assert await ask(guarded) is not None
    assert guarded.breaker.state == "closed"
    assert await ask(guarded) is not None


async def test_failures_that_are_not_in_a_row_do_not_open_it() -> None:
    store = BrokenStore(None, filled())
    guarded = guard(store)
    for _ in range(5):
        for error in (StoreFailed("down"),) * 4 + (None,):
            store.error = error
            await ask(guarded)
    assert guarded.breaker.state == "closed"


def test_a_tier_that_always_answers_too_late_is_left_alone_and_its_late_answers_do_not_change_that() -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        store = SlowStore(0.2, filled())
        guarded = guard(store, clock)
        for _ in range(5):
            assert await ask(guarded) is None
        assert guarded.breaker.state == "open"
        await asyncio.sleep(0.5)
        assert guarded.breaker.state == "open"
        assert guarded.p99_s == 0.0

    virtually(main)


def test_one_look_up_that_is_late_and_then_fails_counts_once() -> None:
    async def main() -> None:
        class Late(SlowStore):
            async def work(self, verb: str, about: str) -> None:
                await super().work(verb, about)
                raise StoreFailed("late and broken")

        clock = asyncio.get_running_loop().time
        guarded = guard(Late(0.1), clock)
        for _ in range(4):
            await ask(guarded)
            await asyncio.sleep(0.2)
        assert guarded.breaker.state == "closed"
        await ask(guarded)
        assert guarded.breaker.state == "open"

    virtually(main)


async def test_a_slide_that_works_is_a_sign_of_health_and_one_that_hangs_is_none() -> None:
    clock = Clock()
    store = BrokenStore(None, filled())
    guarded = guard(store, clock)
    for _ in range(5):
        assert not await guarded.touched(key())
    assert guarded.breaker.state == "open"
    clock.now += 5
    store.error = None
    assert await guarded.touched(key())
    assert guarded.breaker.state == "closed"

    hanging = HangingStore(filled())
    stuck = guard(hanging, deadline_s=0.001)
    for _ in range(5):
        assert not await stuck.touched(key())
    assert stuck.breaker.state == "open"
    hanging.release.set()


def test_the_window_follows_the_slowest_of_a_hundred_embedding_look_ups_that_were_in_time() -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        waits = iter([0.001] * 98 + [0.02, 0.04])
        guarded = guard(SlowStore(lambda: next(waits, 0.0), filled()), clock)
        for _ in range(100):
            await ask(guarded)
        assert guarded.p99_s == pytest.approx(0.04)
        for _ in range(200):
            await guarded.look_up(ImageKeys("public", "0" * 64).mask(TOY, "d"), lambda _: None)
        assert guarded.p99_s == pytest.approx(0.04), "masks are small: their look-ups say nothing about embeddings"
        for _ in range(256):
            await ask(guarded)
        assert guarded.p99_s == pytest.approx(0.0)

    virtually(main)


# --- writes --------------------------------------------------------------------------------------------------------


async def test_a_value_on_its_way_is_as_good_as_there_and_is_written_behind_the_callers_back() -> None:
    store = HangingStore(only=["put"])
    guarded = guard(store)
    guarded.write(key(), sealed(key()))
    guarded.write(key(), sealed(key()))
    assert guarded.waiting(key()) == sealed(key())
    assert await guarded.touched(key())
    assert guarded.pending == 1
    store.release.set()
    await guarded.drain()
    assert guarded.waiting(key()) is None
    assert store.entries == filled()
    assert store.count("put") == 1
    await guarded.aclose()


async def test_the_write_queue_is_bounded_in_bytes_and_what_does_not_fit_is_dropped_and_counted() -> None:
    store = HangingStore(only=["put"])
    size = sealed(key()).size
    guarded = guard(store, pending_bytes=10 * size)
    for number in range(30):
        guarded.write(key(number), sealed(key(number)))
    assert guarded.pending == 10
    assert guarded.figures.errors == {"dropped": 20}
    store.release.set()
    await guarded.drain()
    assert len(store.entries) == 10
    for number in range(30, 40):
        guarded.write(key(number), sealed(key(number)))
    await guarded.drain()
    assert len(store.entries) == 20, "all of the bytes were given back"
    await guarded.aclose()


async def test_writes_that_fail_are_counted_and_open_the_breaker_and_then_are_dropped() -> None:
    store = BrokenStore()
    guarded = guard(store)
    for number in range(8):
        guarded.write(key(number), sealed(key(number)))
    await guarded.drain()
    assert guarded.figures.errors == {"failed": 5, "dropped": 3}
    assert guarded.pending == 0
    await guarded.aclose()


async def test_closing_writes_what_is_pending() -> None:
    store = DictStore()
    guarded = guard(store)
    for number in range(20):
        guarded.write(key(number), sealed(key(number)))
    await guarded.aclose()
    assert len(store.entries) == 20
    assert store.closed


async def test_closing_a_tier_that_hangs_takes_no_longer_than_the_grace_and_nothing_comes_after() -> None:
    before = asyncio.all_tasks()
    store = HangingStore()
    guarded = guard(store)
    guarded.write(key(), sealed(key()))
    await ask(guarded)
    await guarded.aclose(grace_s=0.01)
    assert store.closed
    guarded.write(key(1), sealed(key(1)))
    guarded.touch(key())
    with pytest.raises(StoreFailed):
        await guarded.delete("v1/*")
    assert len(asyncio.all_tasks() - before) == 1, "only the look-up that hangs"
    store.release.set()


# --- purges --------------------------------------------------------------------------------------------------------


async def test_a_purge_takes_what_is_written_what_is_being_written_and_what_waits_and_counts_each_once() -> None:
    store = HangingStore({key(0): sealed(key(0))}, only=["put"])
    guarded = guard(store)
    for number in range(1, 5):
        guarded.write(key(number), sealed(key(number)))
    await until(lambda: store.count("put") == 1)
    purge = asyncio.create_task(guarded.delete("v1/*"))
    await asyncio.sleep(0)
    assert guarded.pending == 0
    store.release.set()
    assert await purge == 5
    await guarded.drain()
    assert store.entries == {}
    await guarded.aclose()


async def test_what_is_kept_after_a_purge_stays_even_where_the_same_key_was_just_being_written() -> None:
    store = HangingStore(only=["put"])
    guarded = guard(store, pending_bytes=3 * sealed(key()).size)
    guarded.write(key(), sealed(key()))
    await until(lambda: store.count("put") == 1)
    guarded.mark_done("g", True)
    purge = asyncio.create_task(guarded.delete("v1/*"))
    await asyncio.sleep(0)
    guarded.write(key(), sealed(key(), cost=2.0))
    store.release.set()
    await purge
    await guarded.drain()
    assert store.entries == {key(): sealed(key(), cost=2.0)}
    for number in range(1, 4):
        guarded.write(key(number), sealed(key(number)))
    assert guarded.pending == 3, "the bytes that wait were counted right"
    await guarded.aclose()


async def test_one_value_can_be_written_ahead_of_all_others_and_waited_for() -> None:
    store = SlowStore(0.001)
    guarded = guard(store)
    for number in range(20):
        guarded.write(key(number), sealed(key(number)))
    await until(lambda: len(store.calls) == 1)
    await guarded.written(key(15))
    assert set(store.entries) == {key(0), key(15)}
    await guarded.written(key(15))
    await guarded.written(key(99))
    await guarded.drain()
    assert len(store.entries) == 20
    await guarded.aclose()


async def test_a_value_that_cannot_be_written_is_not_waited_for_without_end() -> None:
    guarded = guard(BrokenStore())
    guarded.write(key(), sealed(key()))
    await guarded.written(key())
    assert guarded.figures.errors == {"failed": 1}
    await guarded.aclose()


async def test_whatever_else_is_asked_has_the_same_deadline_breaker_and_counters() -> None:
    guarded = guard(DictStore())
    hanging = asyncio.Event()

    async def fail() -> str:
        raise OSError("gone")

    async def answer() -> str:
        await asyncio.sleep(0)
        return "yes"

    assert await guarded.ask("thing", answer) == "yes"
    assert await guarded.ask("thing", fail) is None
    assert await guarded.ask("thing", hanging.wait) is None
    assert guarded.figures.errors == {"failed": 1, "deadline": 1}
    for _ in range(3):
        await guarded.ask("thing", fail)
    assert guarded.breaker.state == "open"
    assert await guarded.ask("thing", answer) is None
    hanging.set()
    await guarded.aclose()


async def test_a_tier_that_is_full_is_not_left_alone() -> None:
    guarded = guard(DictStore(filled()))

    async def refuse(*_: str) -> int:
        raise StoreFull("no room")

    for _ in range(10):
        assert await guarded.ask("thing", refuse) is None
        with pytest.raises(StoreFailed):
            await guarded.delete("v1/*", refuse)
    assert guarded.figures.errors == {"failed": 20}
    assert guarded.breaker.state == "closed"
    assert await ask(guarded) is not None
    await guarded.aclose()


def test_an_ask_with_a_longer_deadline_is_judged_by_that() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        guarded = guard(DictStore(), loop.time, deadline_s=0.05)

        async def fail() -> None:
            await asyncio.sleep(0.3)
            raise OSError("gone")

        for _ in range(5):
            await guarded.ask("thing", fail, 1.0)
        assert guarded.breaker.state == "open"
        await asyncio.sleep(5.0)

        async def answer() -> str:
            await asyncio.sleep(0.3)
            return "yes"

        assert await guarded.ask("thing", answer, 1.0) == "yes"
        assert guarded.breaker.state == "closed"
        assert guarded.figures.errors == {"failed": 5}
        await guarded.aclose()

    virtually(main)


async def test_a_purge_spares_what_it_does_not_mean() -> None:
    store = DictStore(filled(2))
    guarded = guard(store)
    guarded.write(key(2), sealed(key(2)))
    assert await guarded.delete(key(0)) == 1
    await guarded.drain()
    assert set(store.entries) == {key(1), key(2)}
    await guarded.aclose()


@pytest.mark.parametrize("error", [StoreFailed("down"), OSError("gone")])
async def test_a_purge_that_a_tier_did_not_do_is_said(error: Exception) -> None:
    guarded = guard(BrokenStore(error))
    with pytest.raises(StoreFailed):
        await guarded.delete("v1/*")
    assert guarded.figures.errors == {"failed": 1}
    await guarded.aclose()


async def test_a_purge_is_tried_even_where_the_breaker_is_open() -> None:
    store = BrokenStore(None, filled())
    guarded = guard(store)
    for _ in range(5):
        await ask(guarded)
    store.error = None
    assert guarded.breaker.state == "open"
    assert await guarded.delete("v1/*") == 1
    await guarded.aclose()


# --- hints and sweeps ------------------------------------------------------------------------------------------------


async def test_hints_and_sweeps_are_handed_on_and_spared_to_a_tier_that_fails() -> None:
    store = BrokenStore()
    store.error = None
    guarded = guard(store)
    guarded.mark_done("g", True)
    guarded.mark_done("g", False)
    await guarded.sweep()
    assert store.calls == [("done", "g"), ("not done", "g"), ("sweep", "")]
    store.error = StoreFailed("down")
    for _ in range(5):
        await ask(guarded)
    store.calls.clear()
    guarded.mark_done("g", True)
    guarded.touch(key())
    await guarded.sweep()
    await guarded.drain()
    assert store.calls == []
    await guarded.aclose()


async def test_a_sweep_that_hangs_is_not_waited_for_without_end() -> None:
    store = HangingStore(only=["sweep"])
    guarded = guard(store)
    await guarded.sweep(deadline_s=0.001)
    store.release.set()
    await guarded.aclose()


async def test_a_value_kept_again_after_a_purge_is_written_though_its_first_write_was_under_way() -> None:
    store = DictStore()
    hold, begun = asyncio.Event(), asyncio.Event()
    put = store.put

    async def slow(key: str, entry: Entry, used: float | None = None) -> None:
        begun.set()
        await hold.wait()
        await put(key, entry, used)

    store.put = slow  # type: ignore[method-assign]
    guarded, value = guard(store), sealed(key())
    guarded.write(key(), value)
    await begun.wait()
    purging = asyncio.create_task(guarded.delete(key()))
    await asyncio.sleep(0)
    guarded.write(key(), value)  # the very same
    hold.set()
    await purging
    await guarded.drain()
    assert store.entries == {key(): value}
    assert guarded.pending == 0
    await guarded.aclose()


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
    guarded = guard(store)
    assert guarded.trouble == ""
    await guarded.open(60.0)
    assert guarded.trouble == "The disk is full."
    assert await ask(guarded) is None
    assert guarded.trouble == "The disk is full."
    store.dead = False
    assert await ask(guarded) is None
    assert guarded.trouble == ""
    await guarded.aclose()


# --- what is not the tier's time -----------------------------------------------------------------------------------


async def test_a_value_that_waits_to_be_checked_is_late_but_the_tier_is_healthy() -> None:
    pool, go = Pool("checks", 1), threading.Event()
    busy = asyncio.create_task(pool.run(go.wait))
    late: list[Entry] = []
    guarded = guard(DictStore({key(): sealed(key(), 400_000)}), checks=pool)
    for _ in range(6):
        assert await ask(guarded, 0, late) is None
    assert guarded.figures.errors == {"busy": 6}
    assert guarded.breaker.state == "closed"
    go.set()
    await busy
    await until(lambda: late == [sealed(key(), 400_000)] * 6)
    assert await ask(guarded) == sealed(key(), 400_000)


def test_look_ups_that_wait_for_a_place_are_late_but_the_tier_is_healthy_and_is_not_asked_for_them() -> None:
    async def main() -> None:
        store = SlowStore(0.04, filled(30))
        guarded = guard(store, clock=asyncio.get_running_loop().time, at_once=2)
        found = await asyncio.gather(*(ask(guarded, number) for number in range(30)))
        assert [entry is not None for entry in found] == [True] * 4 + [False] * 26
        assert guarded.figures.errors == {"busy": 26}
        assert guarded.breaker.state == "closed"
        await asyncio.sleep(1.0)
        assert store.count("get") == 4
        assert await ask(guarded, 29) == sealed(key(29))

    virtually(main)


def test_look_ups_that_wait_behind_a_tier_that_hangs_say_that_it_hangs() -> None:
    async def main() -> None:
        guarded = guard(HangingStore(), clock=asyncio.get_running_loop().time, at_once=2)
        await asyncio.gather(*(ask(guarded, number) for number in range(2)))
        assert (guarded.figures.errors, guarded.breaker.state) == ({"deadline": 2}, "closed")
        await asyncio.gather(*(ask(guarded, number) for number in range(3)))
        assert (guarded.figures.errors, guarded.breaker.state) == ({"deadline": 5}, "open")

    virtually(main)


async def test_a_touch_waits_for_a_place_as_look_ups_do() -> None:
    store = HangingStore(filled(), only=["get"])
    guarded = guard(store, at_once=1, deadline_s=LONG_S)
    looking = asyncio.create_task(ask(guarded))
    await until(lambda: store.count("get") == 1)
    touching = asyncio.create_task(guarded.touched(key()))
    await asyncio.sleep(0.01)
    assert store.count("touch") == 0
    store.release.set()
    assert await touching
    assert await looking == sealed(key())
