"""Threads for blocking work. Each kind of work has a pool of its own, so that none waits behind another."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

T = TypeVar("T")


async def carry_out(executor: Executor, work: Callable[[], T], ended: Callable[[], None] = lambda: None) -> T:
    """What ``work`` returns, called in a thread: carried to its end, whether the caller still waits or not.

    Args:
        executor: has the threads.
        work: blocks, and touches nothing that belongs to the event loop.
        ended: called in the event loop when the work has ended, or cannot begin.

    Raises:
        RuntimeError: the executor takes nothing any more.
        Exception: whatever ``work`` raised.
    """
    loop = asyncio.get_running_loop()
    told: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        ended()
        if told.done():  # the caller has left
            return
        if error is None:
            told.set_result(cast("T", result))
        else:
            told.set_exception(error)

    def run() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = work()
        except (StopIteration, SystemExit) as raised:  # a future takes no such thing, and it would end the server
            error = RuntimeError(f"{type(raised).__name__}: {raised}")
        except BaseException as raised:  # noqa: BLE001 -- it goes to the caller
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, result, error)

    try:
        running = loop.run_in_executor(executor, run)
    except BaseException:
        ended()
        raise
    running.add_done_callback(lambda call: call.cancelled() and told.cancel())  # the executor was closed
    return await told


class Pool:
    """A bounded number of threads for one kind of blocking work.

    What finds no free thread waits in the event loop, first come first served, and never begins if its caller is
    cancelled meanwhile. What has begun has its thread until it ends, whether its caller still waits or not.

    Args:
        name: of the threads.
        threads: how many, at least 1.
    """

    def __init__(self, name: str, threads: int) -> None:
        self.threads = threads
        self.running = 0
        """Calls that have a thread now."""
        self.begun = 0
        """Calls that have been given a thread so far."""
        self._executor = ThreadPoolExecutor(threads, name)
        self._queue: deque[asyncio.Future[None]] = deque()
        self._background: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Calls that wait for a thread."""
        return len(self._queue) + len(self._background)

    async def run(self, work: Callable[..., T], *args: Any, background: bool = False) -> T:
        """What ``work(*args)`` returns, called in a thread of this pool.

        Args:
            work: blocks, and touches nothing that belongs to the event loop.
            *args: what it is called with.
            background: whether all other calls go first that wait for a thread at the same time.

        Raises:
            Exception: whatever ``work`` raised.
        """
        await self._take(self._background if background else self._queue)
        self.begun += 1
        return await carry_out(self._executor, partial(work, *args), self._give_back)

    def close(self) -> None:
        """Give the threads back; what has begun ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _take(self, queue: "deque[asyncio.Future[None]]") -> None:
        if self.running < self.threads:
            self.running += 1
            return
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with contextlib.suppress(ValueError):  # whose turn came next has passed it over already
                    queue.remove(turn)
            else:  # the turn came, and the caller was cancelled before it noticed
                self._give_back()
            raise

    def _give_back(self) -> None:
        """Hand a thread to the next call that waits."""
        for queue in (self._queue, self._background):
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self.running -= 1


_LOADS = 16


@dataclass(frozen=True)
class Pools:
    """The pools of one server.

    Attributes:
        requests: reading what clients send: JSON, base64, digests, the headers of image files.
        images: decoding image files; for previews in the background.
        values: sealing results, so that they can be kept.
        drawing: masks to PNG and polygons, answers to JSON; grids' answers and previews are background.
        grids: judging a grid's candidates, and its cached result.
        files: reading and writing files that are no part of the cache.
        models: loading models. That is one at a time, and one more for each load that hangs.
    """

    requests: Pool
    images: Pool
    values: Pool
    drawing: Pool
    grids: Pool
    files: Pool
    models: Pool

    @classmethod
    def sized(cls, *, images: int = 2, values: int = 2, drawing: int = 1, grids: int = 1) -> "Pools":
        """Pools of so many threads; reading requests takes as many as sealing values, files one."""
        return cls(
            requests=Pool("requests", values),
            images=Pool("images", images),
            values=Pool("values", values),
            drawing=Pool("drawing", drawing),
            grids=Pool("grids", grids),
            files=Pool("files", 1),
            models=Pool("models", _LOADS),
        )

    def close(self) -> None:
        """Give all threads back."""
        for pool in vars(self).values():
            pool.close()
