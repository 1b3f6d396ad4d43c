"""So many at a time, so many waiting, fair to people and tenants."""

import asyncio
from typing import Any

import pytest
from tests.doubles import Clock, until

from labeling_ground.errors import BackendFailed, Overloaded
from labeling_ground.service.queues import FairQueue, Outlook
from labeling_ground.types import Priority
from labeling_ground.urgency import Urgency

pytestmark = pytest.mark.anyio


def turned_away(queue: FairQueue) -> int:
    return int(queue.metrics.figures().sum("turned_away"))


class Customers:
    """Come, stay until they are let go, and leave."""

    def __init__(self, queue: FairQueue) -> None:
        self.queue = queue
        self.order: list[int] = []
        self.leave = asyncio.Event()
        self.most = 0

    def come(self, *names: int) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._visit(name)) for name in names]

    async def _visit(self, name: int) -> None:
        async with self.queue.slot():
            self.order.append(name)
            self.most = max(self.most, self.queue.running)
            await self.leave.wait()


async def test_no_more_than_its_slots_run_and_the_rest_keep_their_order() -> None:
    customers = Customers(FairQueue("encoder", 2, 10))
    tasks = customers.come(*range(8))
    await until(lambda: customers.queue.waiting == 6)
    assert customers.queue.running == 2
    customers.leave.set()
    await asyncio.gather(*tasks)
    assert customers.most == 2
    assert customers.order == list(range(8))
    assert (customers.queue.running, customers.queue.waiting, turned_away(customers.queue)) == (0, 0, 0)


async def test_one_more_than_the_queue_holds_is_turned_away_with_an_estimate() -> None:
    clock = Clock()
    queue = FairQueue("encoder", 2, 4, clock=clock)
    async with queue.timed():
        clock.now += 10.0
    customers = Customers(queue)
    tasks = customers.come(*range(6))
    await until(lambda: queue.waiting == 4)
    with pytest.raises(Overloaded, match="encoder") as caught:
        queue.check_room()
    assert caught.value.retry_after == pytest.approx(20.0)
    with pytest.raises(Overloaded):
        async with queue.slot():
            pass
    assert turned_away(queue) == 2
    customers.leave.set()
    await asyncio.gather(*tasks)
    queue.check_room()


async def test_patient_work_waits_in_a_full_queue_and_has_no_turn_before_others() -> None:
    customers = Customers(FairQueue("decoder", 1, 2))
    tasks = customers.come(*range(3))
    await until(lambda: customers.queue.waiting == 2)

    async def patient() -> None:
        async with customers.queue.slot(patient=True):
            customers.order.append(99)

    tasks.append(asyncio.create_task(patient()))
    await until(lambda: customers.queue.waiting == 3)
    with pytest.raises(Overloaded):
        customers.queue.check_room()
    customers.leave.set()
    await asyncio.gather(*tasks)
    assert customers.order == [0, 1, 2, 99]


async def test_who_leaves_the_queue_makes_room_and_holds_up_nobody() -> None:
    customers = Customers(FairQueue("encoder", 1, 3))
    tasks = customers.come(0, 1, 2, 3)
    await until(lambda: customers.queue.waiting == 3)
    tasks[1].cancel()
    await asyncio.wait({tasks[1]})
    assert customers.queue.waiting == 2
    tasks += customers.come(4)
    customers.leave.set()
    await asyncio.wait(tasks)
    assert customers.order == [0, 2, 3, 4]
    assert (customers.queue.running, customers.queue.waiting) == (0, 0)


async def test_a_slot_is_given_back_when_the_work_in_it_fails_or_is_called_off() -> None:
    queue = FairQueue("encoder", 1, 1)
    with pytest.raises(ValueError, match="no"):
        async with queue.slot():
            raise ValueError("no")
    customers = Customers(queue)
    [task] = customers.come(1)
    await until(lambda: queue.running == 1)
    task.cancel()
    await asyncio.wait({task})
    async with queue.slot():
        assert queue.running == 1


async def test_the_estimate_follows_what_was_measured_and_ignores_what_failed() -> None:
    clock = Clock()
    queue = FairQueue("encoder", 1, 1, clock=clock)

    async def work(seconds: float, *, fail: bool = False) -> None:
        async with queue.timed():
            clock.now += seconds
            if fail:
                raise ValueError

    assert queue.typical_s is None
    with pytest.raises(ValueError):
        await work(100.0, fail=True)
    assert queue.typical_s is None
    await work(1.0)
    await work(2.0)
    assert queue.typical_s == pytest.approx(1.2)


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
    queue, engine = FairQueue("decoder", 1, 4), Engine()

    async def ask() -> str:
        async with queue.slot() as place:
            return await place.call(engine)

    leaving = asyncio.create_task(ask())
    await until(lambda: queue.running == 1)
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait({leaving})
    staying = asyncio.create_task(ask())
    await until(lambda: queue.waiting == 1)
    assert queue.running == 1
    engine.end.set()
    assert await staying == "result"
    assert (queue.running, engine.ended) == (0, 2)


async def test_another_lanes_place_can_be_taken_for_as_long() -> None:
    queue, jobs, engine = FairQueue("decoder", 2, 4), FairQueue("grids", 1, 0), Engine()

    async def ask() -> None:
        async with jobs.slot() as job, queue.slot() as place:
            await place.call(engine, also=job)

    asking = asyncio.create_task(ask())
    await until(lambda: queue.running == 1)
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait({asking})
    assert (queue.running, jobs.running) == (1, 1)
    engine.end.set()
    await until(lambda: (queue.running, jobs.running) == (0, 0))


async def test_a_call_past_its_deadline_is_said_and_is_left_to_finish() -> None:
    queue, engine = FairQueue("encoder", 1, 4, deadline_s=0.01), Engine()
    said: list[str] = []
    queue.calls.on_late = said.append
    with pytest.raises(BackendFailed, match=r"The encoder has not answered within 0\.01 s"):
        async with queue.slot() as place:
            await place.call(engine)
    assert len(said) == queue.running == 1
    engine.end.set()
    await until(lambda: queue.running == 0)
    assert engine.ended == 1


async def test_closing_calls_off_what_runs() -> None:
    queue, engine = FairQueue("encoder", 1, 4), Engine()

    async def ask() -> str:
        async with queue.slot() as place:
            return await place.call(engine)

    asking = asyncio.create_task(ask())
    await until(lambda: queue.running == 1)
    await asyncio.sleep(0)
    await queue.aclose()
    await asyncio.wait({asking})
    assert (asking.cancelled(), queue.running, engine.ended) == (True, 0, 0)


# --- tenants --------------------------------------------------------------------------------------------------------


async def test_one_tenant_waits_in_its_share_of_the_queue_and_keeps_nobody_out() -> None:
    queue = FairQueue("encoder", 1, 8, tenant_share=0.5)
    leave = asyncio.Event()

    async def come(tenant: str, *, patient: bool = False) -> None:
        async with queue.slot(tenant, patient=patient):
            await leave.wait()

    tasks = [asyncio.create_task(come("a")) for _ in range(5)]
    await until(lambda: queue.waiting == 4)
    with pytest.raises(Overloaded, match="of this API key"):
        await come("a")
    tasks += [asyncio.create_task(come("b")) for _ in range(4)]
    await until(lambda: queue.waiting == 8)
    with pytest.raises(Overloaded):
        await come("b")
    tasks.append(asyncio.create_task(come("c")))
    await until(lambda: queue.waiting == 9)
    with pytest.raises(Overloaded):
        await come("c")
    assert turned_away(queue) == 3
    leave.set()
    await asyncio.gather(*tasks)
    queue.check_room("a")


async def test_what_a_tenant_was_promised_counts_as_its_own() -> None:
    queue = FairQueue("encoder", 1, 8, tenant_share=0.5)
    queue.check_room("a", {"a": 3})
    with pytest.raises(Overloaded, match="of this API key"):
        queue.check_room("a", {"a": 4})
    queue.check_room("b", {"a": 9})  # nothing of its own waits
    with pytest.raises(Overloaded):
        queue.check_room("b", {"a": 8, "b": 1})


async def test_where_tenants_are_not_told_apart_one_may_have_the_whole_queue() -> None:
    queue = FairQueue("encoder", 1, 8)
    queue.check_room("a", {"a": 8})
    with pytest.raises(Overloaded):
        queue.check_room("a", {"a": 9})


# --- classes and turns -----------------------------------------------------------------------------------------------


class ControlledEngine:
    """Takes one at a time, each for as many seconds of a test's clock as it says; writes down whose turn came when."""

    def __init__(self, slots: int = 1, places: int = 64, **options: Any) -> None:
        self.clock = Clock()
        self.queue = FairQueue("encoder", slots, places, clock=self.clock, **options)
        self.order: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._ends: list[tuple[asyncio.Event, float]] = []

    def come(
        self, name: str, tenant: str = "a", *, seconds: float = 1.0, urgency: Urgency | None = None, times: int = 1
    ) -> None:
        for _ in range(times):
            self.tasks.append(asyncio.create_task(self._visit(name, tenant, seconds, urgency)))

    async def settled(self) -> None:
        """Everybody has found a place to wait."""
        await until(lambda: self.queue.waiting + self.queue.running == sum(not task.done() for task in self.tasks))

    async def end_one(self) -> None:
        """Let the computation end that has run for longest."""
        await until(lambda: bool(self._ends))
        end, seconds = self._ends.pop(0)
        self.clock.now += seconds
        before = sum(task.done() for task in self.tasks)
        end.set()
        await until(lambda: sum(task.done() for task in self.tasks) > before)

    async def end_all(self) -> None:
        while any(not task.done() for task in self.tasks):
            await self.end_one()

    def leave_behind(self, index: int) -> None:
        """Do not wait for the end of one that was called off while it ran."""
        del self._ends[index]

    async def _visit(self, name: str, tenant: str, seconds: float, urgency: Urgency | None) -> None:
        async with self.queue.slot(tenant, key=name, urgency=urgency), self.queue.timed():
            self.order.append(name)
            end = asyncio.Event()
            self._ends.append((end, seconds))
            await end.wait()


async def test_people_go_first_then_prefetches_then_jobs() -> None:
    engine = ControlledEngine()
    engine.come("first")
    await engine.settled()
    for name in ("job", "prefetch", "interactive"):
        engine.come(name, urgency=Urgency(Priority[name.upper()]), times=2)
    await engine.settled()
    await engine.end_all()
    assert engine.order == ["first", *["interactive"] * 2, *["prefetch"] * 2, *["job"] * 2]


async def test_each_class_has_places_of_its_own() -> None:
    engine = ControlledEngine(places=2)
    engine.come("first", urgency=Urgency(Priority.JOB))
    await engine.settled()
    for priority in sorted(Priority, reverse=True):
        engine.queue.check_room(priority=priority)
        engine.come(priority.label, urgency=Urgency(priority), times=2)
        await engine.settled()
        with pytest.raises(Overloaded):
            engine.queue.check_room(priority=priority)
    assert {priority: waiting for priority, (waiting, _) in engine.queue.classes().items()} == dict.fromkeys(
        Priority, 2
    )
    assert list(engine.queue.metrics.figures().by("class", "turned_away").values()) == [1, 1, 1]
    await engine.end_all()


async def test_a_tenant_that_comes_later_waits_for_one_turn_of_the_other() -> None:
    engine = ControlledEngine()
    engine.come("a", "a", times=10)
    await engine.settled()
    engine.come("b", "b", times=3)
    await engine.settled()
    await engine.end_all()
    assert engine.order == [*"abababaaaaaaa"]


async def test_tenants_get_the_same_seconds_however_long_theirs_take() -> None:
    """One tenant's images take four seconds, the other's one: while both wait, four of these go with one of those."""
    engine = ControlledEngine(places=100)
    engine.come("a", "a", seconds=4.0, times=20)
    engine.come("b", "b", seconds=1.0, times=80)
    await engine.settled()
    for _ in range(60):
        await engine.end_one()
    assert (engine.order[:60].count("a"), engine.order[:60].count("b")) == (12, 48)
    await engine.end_all()


async def test_an_idle_tenant_saves_nothing_and_one_that_was_alone_owes_nothing() -> None:
    engine = ControlledEngine()
    engine.come("a", "a", seconds=100.0)
    await engine.end_all()
    engine.come("a", "a", times=4)
    await engine.settled()
    engine.come("b", "b", times=4)
    await engine.settled()
    await engine.end_all()
    assert engine.order == [*"a", *"abababab"]


async def test_a_long_debt_is_worked_off_in_no_time() -> None:
    """A call of an hour among calls of a millisecond: the rounds that serve nobody are not gone through one by one."""
    engine = ControlledEngine()
    engine.come("short", "b", seconds=0.001)
    await engine.end_all()
    engine.come("hour", "a", seconds=3_600.0)
    engine.come("next", "a", seconds=0.001)
    await engine.settled()
    engine.queue.typical_s = 1e-5
    await engine.end_all()
    assert engine.order == ["short", "hour", "next"]


async def test_what_somebody_waits_for_by_now_is_lifted() -> None:
    engine, opened = ControlledEngine(), Urgency(Priority.JOB)
    engine.come("first")
    await engine.settled()
    engine.come("other", urgency=Urgency(Priority.PREFETCH))
    engine.come("opened", urgency=opened)
    await engine.settled()
    assert engine.queue.outlook("opened") == Outlook(2, None)
    asker = Urgency(Priority.PREFETCH)
    opened.follow(asker)
    assert engine.queue.outlook("opened") == Outlook(2, None), "as urgent as the other, and came later"
    asker.raise_to(Priority.INTERACTIVE)
    assert engine.queue.outlook("opened") == Outlook(1, None)
    assert engine.queue.classes()[Priority.INTERACTIVE][0] == 1
    await engine.end_all()
    assert engine.order == ["first", "opened", "other"]


async def test_a_lifted_one_that_leaves_holds_up_nobody() -> None:
    engine, urgency = ControlledEngine(), Urgency(Priority.JOB)
    engine.come("first")
    engine.come("leaves", urgency=urgency)
    await engine.settled()
    urgency.raise_to(Priority.INTERACTIVE)
    engine.tasks[1].cancel()
    await asyncio.wait({engine.tasks[1]})
    assert (engine.queue.waiting, engine.queue.running) == (0, 1)
    urgency.raise_to(Priority.INTERACTIVE)
    engine.come("last")
    await engine.settled()
    await engine.end_all()
    assert engine.order == ["first", "last"]


async def test_a_turn_that_falls_to_somebody_who_is_just_leaving_goes_to_the_next() -> None:
    engine = ControlledEngine()
    engine.come("first")
    engine.come("leaves")
    engine.come("next")
    await engine.settled()
    engine.tasks[1].cancel()
    engine.tasks[0].cancel()  # hands its place on before the other one has noticed
    await until(lambda: engine.order[-1] == "next")
    assert (engine.queue.waiting, engine.queue.running) == (0, 1)
    engine.leave_behind(0)
    await engine.end_all()


async def test_the_outlook_is_the_order_in_which_they_are_taken() -> None:
    engine = ControlledEngine()
    engine.come("first", seconds=3.0)
    await engine.end_all()
    engine.come("running", seconds=3.0)
    await engine.settled()
    names = ("b0", "a0", "b1", "a1", "a2", "job")
    for name in ("job", "a0", "a1", "a2", "b0", "b1"):
        priority = Priority.JOB if name == "job" else Priority.INTERACTIVE
        engine.come(name, name[0], seconds=3.0, urgency=Urgency(priority))
    await engine.settled()
    outlooks = [engine.queue.outlook(name) for name in names]
    assert outlooks == [Outlook(place, 3.0 * (place + 1)) for place in range(1, 7)], "each, and the rest of one"
    assert engine.queue.outlook("running") is None
    await engine.end_all()
    assert tuple(engine.order[2:]) == names


async def test_several_places_bring_the_end_nearer() -> None:
    engine = ControlledEngine(slots=2)
    engine.queue.typical_s = 3.0
    engine.come("running", times=2)
    await engine.settled()
    for number in range(3):
        engine.come(f"waits{number}")
    await engine.settled()
    assert [engine.queue.outlook(f"waits{number}") for number in range(3)] == [
        Outlook(1, 6.0),
        Outlook(2, 6.0),
        Outlook(3, 9.0),
    ]
    await engine.end_all()
