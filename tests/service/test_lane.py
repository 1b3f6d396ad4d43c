"""So many at a time, so many waiting, first come first served."""

import asyncio

import pytest
from tests.doubles import Clock, until

from labeling_ground.errors import BackendFailed, Overloaded
from labeling_ground.service.lane import Lane

pytestmark = pytest.mark.anyio


class Customers:
    """Come, stay until they are let go, and leave."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.order: list[int] = []
        self.leave = asyncio.Event()
        self.most = 0

    def come(self, *names: int) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._visit(name)) for name in names]

    async def _visit(self, name: int) -> None:
        async with self.lane.slot():
            self.order.append(name)
            self.most = max(self.most, self.lane.running)
            await self.leave.wait()


async def test_no_more_than_its_slots_run_and_the_rest_keep_their_order() -> None:
    customers = Customers(Lane("encoder", 2, 10))
    tasks = customers.come(*range(8))
    await until(lambda: customers.lane.waiting == 6)
    assert customers.lane.running == 2
    customers.leave.set()
    await asyncio.gather(*tasks)
    assert customers.most == 2
    assert customers.order == list(range(8))
    assert (customers.lane.running, customers.lane.waiting, customers.lane.turned_away) == (0, 0, 0)


async def test_one_more_than_the_queue_holds_is_turned_away_with_an_estimate() -> None:
    clock = Clock()
    lane = Lane("encoder", 2, 4, clock=clock)
    async with lane.timed():
        clock.now += 10.0
    customers = Customers(lane)
    tasks = customers.come(*range(6))
    await until(lambda: lane.waiting == 4)
    with pytest.raises(Overloaded, match="encoder") as caught:
        lane.check_room()
    assert caught.value.retry_after == pytest.approx(20.0)
    with pytest.raises(Overloaded):
        async with lane.slot():
            pass
    assert lane.turned_away == 2
    customers.leave.set()
    await asyncio.gather(*tasks)
    lane.check_room()


async def test_patient_work_waits_in_a_full_queue_and_has_no_turn_before_others() -> None:
    customers = Customers(Lane("decoder", 1, 2))
    tasks = customers.come(*range(3))
    await until(lambda: customers.lane.waiting == 2)

    async def patient() -> None:
        async with customers.lane.slot(patient=True):
            customers.order.append(99)

    tasks.append(asyncio.create_task(patient()))
    await until(lambda: customers.lane.waiting == 3)
    with pytest.raises(Overloaded):
        customers.lane.check_room()
    customers.leave.set()
    await asyncio.gather(*tasks)
    assert customers.order == [0, 1, 2, 99]


async def test_who_leaves_the_queue_makes_room_and_holds_up_nobody() -> None:
    customers = Customers(Lane("encoder", 1, 3))
    tasks = customers.come(0, 1, 2, 3)
    await until(lambda: customers.lane.waiting == 3)
    tasks[1].cancel()
    await asyncio.wait({tasks[1]})
    assert customers.lane.waiting == 2
    tasks += customers.come(4)
    customers.leave.set()
    await asyncio.wait(tasks)
    assert customers.order == [0, 2, 3, 4]
    assert (customers.lane.running, customers.lane.waiting) == (0, 0)


async def test_a_slot_is_given_back_when_the_work_in_it_fails_or_is_called_off() -> None:
    lane = Lane("encoder", 1, 1)
    with pytest.raises(ValueError, match="no"):
        async with lane.slot():
            raise ValueError("no")
    customers = Customers(lane)
    [task] = customers.come(1)
    await until(lambda: lane.running == 1)
    task.cancel()
    await asyncio.wait({task})
    async with lane.slot():
        assert lane.running == 1


async def test_the_estimate_follows_what_was_measured_and_ignores_what_failed() -> None:
    clock = Clock()
    lane = Lane("encoder", 1, 1, clock=clock)

    async def work(seconds: float, *, fail: bool = False) -> None:
        async with lane.timed():
            clock.now += seconds
            if fail:
                raise ValueError

    assert lane.typical_s is None
    with pytest.raises(ValueError):
        await work(100.0, fail=True)
    assert lane.typical_s is None
    await work(1.0)
    await work(2.0)
    assert lane.typical_s == pytest.approx(1.2)


# --- calls of an engine ------------------------------------------------------------------------------------------


class Engine:
    """A call that goes on until it is told to end."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.ended = 0

    async def __call__(self) -> str:
        await self.end.wait()
        self.ended += 1
        return "result"


async def test_a_place_is_taken_until_the_call_in_it_is_through_though_its_caller_left() -> None:
    lane, engine = Lane("decoder", 1, 4), Engine()

    async def ask() -> str:
        async with lane.slot() as place:
            return await place.call(engine)

    leaving = asyncio.create_task(ask())
    await until(lambda: lane.running == 1)
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait({leaving})
    staying = asyncio.create_task(ask())
    await until(lambda: lane.waiting == 1)
    assert lane.running == 1
    engine.end.set()
    assert await staying == "result"
    assert (lane.running, engine.ended) == (0, 2)


async def test_another_lanes_place_can_be_taken_for_as_long() -> None:
    lane, jobs, engine = Lane("decoder", 2, 4), Lane("grids", 1, 0), Engine()

    async def ask() -> None:
        async with jobs.slot() as job, lane.slot() as place:
            await place.call(engine, also=job)

    asking = asyncio.create_task(ask())
    await until(lambda: lane.running == 1)
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait({asking})
    assert (lane.running, jobs.running) == (1, 1)
    engine.end.set()
    await until(lambda: (lane.running, jobs.running) == (0, 0))


async def test_a_call_past_its_deadline_is_said_and_is_left_to_finish() -> None:
    lane, engine = Lane("encoder", 1, 4, deadline_s=0.01), Engine()
    said: list[str] = []
    lane.on_late = said.append
    with pytest.raises(BackendFailed, match=r"The encoder has not answered within 0\.01 s"):
        async with lane.slot() as place:
            await place.call(engine)
    assert len(said) == lane.running == 1
    engine.end.set()
    await until(lambda: lane.running == 0)
    assert engine.ended == 1


async def test_closing_calls_off_what_runs() -> None:
    lane, engine = Lane("encoder", 1, 4), Engine()

    async def ask() -> str:
        async with lane.slot() as place:
            return await place.call(engine)

    asking = asyncio.create_task(ask())
    await until(lambda: lane.running == 1)
    await asyncio.sleep(0)
    await lane.aclose()
    await asyncio.wait({asking})
    assert (asking.cancelled(), lane.running, engine.ended) == (True, 0, 0)


# --- tenants --------------------------------------------------------------------------------------------------------


async def test_one_tenant_waits_in_its_share_of_the_queue_and_keeps_nobody_out() -> None:
    lane = Lane("encoder", 1, 8, tenant_share=0.5)
    leave = asyncio.Event()

    async def come(tenant: str, *, patient: bool = False) -> None:
        async with lane.slot(tenant, patient=patient):
            await leave.wait()

    tasks = [asyncio.create_task(come("a")) for _ in range(5)]
    await until(lambda: lane.waiting == 4)
    with pytest.raises(Overloaded, match="of this API key"):
        await come("a")
    tasks += [asyncio.create_task(come("b")) for _ in range(4)]
    await until(lambda: lane.waiting == 8)
    with pytest.raises(Overloaded):
        await come("b")
    tasks.append(asyncio.create_task(come("c")))
    await until(lambda: lane.waiting == 9)
    with pytest.raises(Overloaded):
        await come("c")
    assert lane.turned_away == 3
    leave.set()
    await asyncio.gather(*tasks)
    lane.check_room("a")


async def test_what_a_tenant_was_promised_counts_as_its_own() -> None:
    lane = Lane("encoder", 1, 8, tenant_share=0.5)
    lane.check_room("a", {"a": 3})
    with pytest.raises(Overloaded, match="of this API key"):
        lane.check_room("a", {"a": 4})
    lane.check_room("b", {"a": 9})  # nothing of its own waits
    with pytest.raises(Overloaded):
        lane.check_room("b", {"a": 8, "b": 1})


async def test_where_tenants_are_not_told_apart_one_may_have_the_whole_queue() -> None:
    lane = Lane("encoder", 1, 8)
    lane.check_room("a", {"a": 8})
    with pytest.raises(Overloaded):
        lane.check_room("a", {"a": 9})
