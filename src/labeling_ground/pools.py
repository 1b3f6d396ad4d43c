"""Threads for blocking work. Each kind of work has a pool of its own, so that none waits behind another."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


def see_failure(call: asyncio.Future[Any]) -> None:
    """Take note of the error that a call ended with: where its caller has left, nobody else will look."""
    if not call.cancelled():
        call.exception()


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
        try:
            running = asyncio.get_running_loop().run_in_executor(self._executor, partial(work, *args))
        except BaseException:
            self._give_back()
            raise
        self.begun += 1
        running.add_done_callback(self._ended)
        return await asyncio.shield(running)

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
                queue.remove(turn)
            else:  # the turn came, and the caller was cancelled before it noticed
                self._give_back()
            raise

    def _ended(self, call: asyncio.Future[Any]) -> None:
        see_failure(call)
        self._give_back()

    def _give_back(self) -> None:
        """Hand a thread to the next call that waits."""
        for queue in (self._queue, self._background):
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self.running -= 1


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
        models: loading models.
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
        """Pools of so many threads; reading requests takes as many as sealing values, files and models one."""
        return cls(
            requests=Pool("requests", values),
            images=Pool("images", images),
            values=Pool("values", values),
            drawing=Pool("drawing", drawing),
            grids=Pool("grids", grids),
            files=Pool("files", 1),
            models=Pool("models", 1),
        )

    def close(self) -> None:
        """Give all threads back."""
        for pool in vars(self).values():
            pool.close()
