"""Blocking work has bounded threads; what waits for one can be called off, and background work lets others go first."""

import asyncio
import gc
import threading

import pytest
from tests.doubles import until

from labeling_ground.pools import Pool

pytestmark = pytest.mark.anyio


class Lru:
    """A pool of one thread, which is taken until it is let go; calls note their names."""

    def __init__(self) -> None:
        self.pool = Pool("test", 1)
        self.go = threading.Event()
        self.order: list[str] = []
        self.holding = asyncio.create_task(self.pool.run(self.go.wait))

    def call(self, name: str, *, background: bool = False) -> "asyncio.Task[None]":
        return asyncio.create_task(self.pool.run(self.order.append, name, background=background))

    async def all_wait(self, count: int) -> None:
        await until(lambda: self.pool.waiting == count)

    async def end(self, *calls: "asyncio.Task[None]") -> None:
        self.go.set()
        await asyncio.gather(self.holding, *calls)
        await until(lambda: self.pool.running == 0)
        self.pool.close()


async def test_calls_wait_for_a_thread_in_their_order_and_background_goes_last() -> None:
    held = Lru()
    calls = [held.call("grid 1", background=True), held.call("grid 2", background=True)]
    calls += [held.call("click 1"), held.call("click 2")]
    await held.all_wait(4)
    assert (held.pool.running, held.pool.begun) == (1, 1)
    await held.end(*calls)
    assert held.order == ["click 1", "click 2", "grid 1", "grid 2"]
    assert held.pool.begun == 5


async def test_a_call_that_is_called_off_while_it_waits_never_begins() -> None:
    held = Lru()
    first, second = held.call("first"), held.call("second")
    await held.all_wait(2)
    first.cancel()
    await asyncio.wait({first})
    assert held.pool.waiting == 1
    await held.end(second)
    assert held.order == ["second"]


async def test_a_call_that_is_called_off_in_the_turn_it_gets_its_thread_hands_that_on() -> None:
    held = Lru()
    first, second = held.call("first"), held.call("second")
    await held.all_wait(2)
    held.pool._give_back()  # the thread's call is through: the turn is the first one's, who has not noticed yet
    first.cancel()
    held.go.set()
    await asyncio.gather(held.holding, second)
    assert held.order == ["second"]


@pytest.mark.parametrize("background", [False, True])
async def test_a_call_that_is_called_off_just_before_a_thread_is_free_is_cancelled_and_nothing_else(
    background: bool,
) -> None:
    held = Lru()
    first, second = (held.call(name, background=background) for name in ("first", "second"))
    await held.all_wait(2)
    first.cancel()  # it has not noticed yet ...
    held.pool._give_back()  # ... when the thread's call is through, so the turn is the second one's
    await asyncio.wait({first})
    assert first.cancelled()
    held.go.set()
    await asyncio.gather(held.holding, second)
    assert held.order == ["second"]
    held.pool.close()


async def test_a_call_that_has_begun_keeps_its_thread_though_its_caller_left() -> None:
    held = Lru()
    next_one = held.call("next")
    await held.all_wait(1)
    held.holding.cancel()
    await asyncio.wait({held.holding})
    assert (held.pool.running, held.pool.waiting, held.order) == (1, 1, [])
    held.go.set()
    await next_one
    assert held.order == ["next"]


async def test_an_error_that_nobody_waits_for_is_not_complained_about() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    pool, go = Pool("test", 1), threading.Event()

    def fail() -> None:
        go.wait()
        raise ValueError("nobody hears it")

    calling = asyncio.create_task(pool.run(fail))
    await until(lambda: pool.running == 1)
    calling.cancel()
    await asyncio.wait({calling})
    go.set()
    await until(lambda: pool.running == 0)
    del calling
    gc.collect()
    assert complaints == []
    pool.close()


@pytest.mark.parametrize("raised", [StopIteration("the end"), SystemExit(3)])
async def test_what_no_future_takes_and_what_would_end_the_server_are_errors_like_others(raised: BaseException) -> None:
    pool = Pool("test", 1)

    def fail() -> None:
        raise raised

    with pytest.raises(RuntimeError, match=type(raised).__name__):
        await asyncio.wait_for(pool.run(fail), 60)
    assert await pool.run(divmod, 7, 2) == (3, 1)
    pool.close()


async def test_an_error_reaches_the_caller_and_frees_the_thread() -> None:
    pool = Pool("test", 1)
    with pytest.raises(ZeroDivisionError):
        await pool.run(divmod, 1, 0)
    assert await pool.run(divmod, 7, 2) == (3, 1)
    pool.close()
    with pytest.raises(RuntimeError, match="shutdown"):
        await pool.run(divmod, 1, 1)
    assert pool.running == 0
