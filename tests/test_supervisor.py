"""Background work goes on whatever happens to it, and what happens is counted."""

import asyncio
import itertools
import logging

import pytest
from tests.doubles import failures_of, now, virtually

from labeling_ground.supervisor import Supervisor


def test_a_failing_attempt_is_counted_each_time_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Supervisor()

    async def fail() -> None:
        raise ZeroDivisionError("a policy of the operator's own")

    async def do() -> None:
        """Nothing goes wrong."""

    async def main() -> list[bool]:
        return [await supervisor.attempt("sweep", work) for work in (fail, fail, do, fail)]

    with caplog.at_level(logging.ERROR):
        assert virtually(main) == [False, False, True, False]
    assert failures_of(supervisor) == {"sweep": 3}
    assert [record.exc_info is not None for record in caplog.records] == [True, True], "again after it had been well"


def test_a_loop_that_breaks_is_resumed_with_pauses_that_grow_and_start_over_once_it_has_run_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    supervisor, began = Supervisor(pause_s=1.0, longest_s=4.0), list[float]()
    monkeypatch.setattr("labeling_ground.supervisor.time.monotonic", now)

    async def loop() -> None:
        began.append(now())
        if len(began) == 5:
            await asyncio.sleep(100.0)
        if len(began) < 7:
            raise OSError("the disk")

    async def main() -> None:
        await supervisor.persist("loop", loop)

    virtually(main)
    pauses = [after - before for before, after in itertools.pairwise(began)]
    assert pauses == [1.0, 2.0, 4.0, 4.0, 101.0, 2.0]
    assert failures_of(supervisor) == {"loop": 6}


def test_a_cancellation_from_inside_is_an_error_and_one_from_outside_ends_the_work() -> None:
    supervisor, attempts = Supervisor(pause_s=1.0), 0

    async def work() -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise asyncio.CancelledError  # as a driver's own future does that somebody cancelled
        await asyncio.sleep(1000.0)

    async def main() -> None:
        task = asyncio.create_task(supervisor.persist("work", work))
        await asyncio.sleep(10.0)
        assert (attempts, failures_of(supervisor)) == (2, {"work": 1})
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    virtually(main)


def test_the_error_of_a_task_that_nobody_waits_for_is_counted() -> None:
    supervisor = Supervisor()

    async def fail() -> None:
        raise KeyError("x")

    async def main() -> None:
        task = asyncio.create_task(fail())
        supervisor.watch("after an answer", task)
        await asyncio.wait({task})
        await asyncio.sleep(0)

    virtually(main)
    assert failures_of(supervisor) == {"after an answer": 1}
