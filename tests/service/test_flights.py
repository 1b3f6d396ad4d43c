"""Many askers, one computation; who leaves takes nobody along, but the last one turns off the light."""

import asyncio
import gc
from collections.abc import Callable

import pytest
from tests.doubles import until

from labeling_ground.errors import BackendFailed, Overloaded
from labeling_ground.service.once import Flights

pytestmark = pytest.mark.anyio


class Work:
    """A computation that waits for its cue and counts."""

    def __init__(self) -> None:
        self.cue = asyncio.Event()
        self.begun = 0
        self.called_off = 0
        self.error: Exception | None = None
        self.cannot_stop = False

    async def __call__(self, begin: Callable[[], None]) -> str:
        self.begun += 1
        if self.cannot_stop:
            begin()
        try:
            await self.cue.wait()
        except asyncio.CancelledError:
            self.called_off += 1
            raise
        if self.error is not None:
            raise self.error
        return f"answer {self.begun}"


def ask(flights: Flights[str], work: Work, count: int = 1) -> list[asyncio.Task[tuple[str, bool]]]:
    return [asyncio.create_task(flights.join("k", work)) for _ in range(count)]


async def test_fifty_askers_are_one_computation_and_one_of_them_did_not_join() -> None:
    flights: Flights[str] = Flights()
    work = Work()
    asks = ask(flights, work, 50)
    await until(lambda: work.begun == 1)
    work.cue.set()
    answers = await asyncio.gather(*asks)
    assert work.begun == 1
    assert {answer for answer, _ in answers} == {"answer 1"}
    assert [joined for _, joined in answers].count(False) == 1
    assert len(flights) == 0


async def test_other_keys_are_other_computations() -> None:
    flights: Flights[str] = Flights()
    work = Work()
    work.cue.set()
    await asyncio.gather(*(flights.join(str(i), work) for i in range(5)))
    assert work.begun == 5


async def test_the_first_asker_leaving_does_not_cancel_the_others() -> None:
    flights: Flights[str] = Flights()
    work = Work()
    first, *others = ask(flights, work, 3)
    await until(lambda: work.begun == 1)
    first.cancel()
    await asyncio.wait({first})
    assert first.cancelled()
    assert "k" in flights
    work.cue.set()
    assert await asyncio.gather(*others) == [("answer 1", True)] * 2
    assert (work.begun, work.called_off) == (1, 0)


async def test_the_last_asker_leaving_cancels_the_work() -> None:
    flights: Flights[str] = Flights()
    work = Work()
    asks = ask(flights, work, 3)
    await until(lambda: work.begun == 1)
    for task in asks[:2]:
        task.cancel()
    await asyncio.wait(asks[:2])
    assert work.called_off == 0
    asks[2].cancel()
    await asyncio.wait(asks)
    await until(lambda: work.called_off == 1)
    assert "k" not in flights
    assert len(flights) == 0


async def test_what_cannot_be_stopped_is_finished_though_all_left_and_is_joined_until_then() -> None:
    landed: list[str] = []
    flights: Flights[str] = Flights(landed.append)
    work = Work()
    work.cannot_stop = True
    [first] = ask(flights, work)
    await until(lambda: work.begun == 1)
    first.cancel()
    await asyncio.wait({first})
    assert "k" in flights
    [second] = ask(flights, work)
    await asyncio.sleep(0)
    work.cue.set()
    assert await second == ("answer 1", True)
    assert (work.begun, work.called_off) == (1, 0)
    await until(lambda: landed == ["k"])
    assert len(flights) == 0


async def test_who_only_follows_starts_nothing_and_is_an_asker_like_any_other() -> None:
    flights: Flights[str] = Flights()
    work = Work()
    assert await flights.follow("k") is None
    [first] = ask(flights, work)
    await until(lambda: work.begun == 1)
    follower = asyncio.create_task(flights.follow("k"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    work.cue.set()
    assert await follower == "answer 1"
    assert (work.begun, work.called_off, await flights.follow("k")) == (1, 0, None)


@pytest.mark.parametrize(("error", "told"), [(Overloaded("full", retry_after=1.0), None), (BackendFailed("no"), "no")])
async def test_who_follows_what_is_turned_away_may_try_for_itself(error: Exception, told: str | None) -> None:
    flights: Flights[str] = Flights()
    work = Work()
    work.error = error
    [first] = ask(flights, work)
    await until(lambda: work.begun == 1)
    follower = asyncio.create_task(flights.follow("k"))
    await asyncio.sleep(0)
    work.cue.set()
    if told is None:
        assert await follower is None
    else:
        with pytest.raises(BackendFailed, match=told):
            await follower
    await asyncio.wait({first})
    assert first.exception() is error


async def test_a_failure_of_what_nobody_waits_for_any_more_is_not_complained_about() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    flights: Flights[str] = Flights()
    work = Work()
    work.cannot_stop, work.error = True, BackendFailed("no")
    [only] = ask(flights, work)
    await until(lambda: work.begun == 1)
    only.cancel()
    work.cue.set()
    await asyncio.wait({only})
    await until(lambda: len(flights) == 0)
    del only
    gc.collect()
    assert complaints == []


async def test_an_ask_right_after_the_last_one_left_starts_anew() -> None:
    """It must not join the computation that is going down, however long that takes."""
    flights: Flights[str] = Flights()
    going_down, work = asyncio.Event(), Work()

    async def slow_to_stop(_: object) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            going_down.set()
            await work.cue.wait()
        return "never"

    first = asyncio.create_task(flights.join("k", slow_to_stop))
    await asyncio.sleep(0.001)
    first.cancel()
    await going_down.wait()
    [second] = ask(flights, work)
    await until(lambda: work.begun == 1)
    work.cue.set()
    assert await second == ("answer 1", False)


async def test_a_failure_reaches_all_who_waited_and_is_remembered_by_nobody() -> None:
    flights: Flights[str] = Flights()
    work = Work()
    work.error = BackendFailed("no")
    asks = ask(flights, work, 5)
    await until(lambda: work.begun == 1)
    work.cue.set()
    assert [type(e) for e in await asyncio.gather(*asks, return_exceptions=True)] == [BackendFailed] * 5
    work.error = None
    assert await flights.join("k", work) == ("answer 2", False)


async def test_who_comes_just_after_a_failure_does_not_get_it() -> None:
    """Not even in the very turn of the loop in which it came about."""
    flights: Flights[str] = Flights()
    good, cue = Work(), asyncio.Event()
    good.cue.set()

    async def come_late() -> tuple[str, bool]:
        await cue.wait()
        return await flights.join("k", good)

    async def fail(_: object) -> str:
        cue.set()  # who waits for it runs after this has ended and before the flight is off the table
        raise BackendFailed("no")

    late = asyncio.create_task(come_late())
    await asyncio.sleep(0)
    with pytest.raises(BackendFailed):
        await flights.join("k", fail)
    assert await late == ("answer 1", False)


async def test_a_failure_that_nobody_waits_for_is_not_complained_about() -> None:
    flights: Flights[str] = Flights()
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def stubborn(_: object) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            raise BackendFailed("while it was called off")

    task = asyncio.create_task(flights.join("k", stubborn))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    await asyncio.sleep(0.01)
    del task
    assert complaints == []


async def test_when_the_server_stops_who_waits_is_told_to_try_again() -> None:
    flights: Flights[str] = Flights()
    work = Work()
    asks = ask(flights, work, 3)
    await until(lambda: work.begun == 1)
    await flights.aclose()
    assert [type(e) for e in await asyncio.gather(*asks, return_exceptions=True)] == [BackendFailed] * 3
    assert work.called_off == 1
    assert len(flights) == 0
    await flights.aclose()


async def test_an_asker_with_a_time_out_of_its_own_gets_its_time_out() -> None:
    flights: Flights[str] = Flights()
    work = Work()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await flights.join("k", work)
    await until(lambda: work.called_off == 1)
