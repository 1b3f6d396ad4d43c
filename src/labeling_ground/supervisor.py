"""Background work that is started anew after errors, which are counted and logged."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from labeling_ground.metrics import Metrics

log = logging.getLogger(__name__)

Work = Callable[[], Awaitable[object]]


class Supervisor:
    """Runs background work; logs, counts and repeats what fails.

    One belongs to each server. All its methods take the work's name, which is a metric's label: a fixed word or two,
    never a client's data.

    Args:
        metrics: where its server counts; new ones if left out.
        pause_s: seconds between a failure of ``persist`` and the next attempt; doubled by each further failure.
        longest_s: longest such pause, in seconds.
    """

    def __init__(self, metrics: Metrics | None = None, *, pause_s: float = 0.5, longest_s: float = 30.0) -> None:
        self.metrics = metrics or Metrics()
        self._pause_s = pause_s
        self._longest_s = longest_s
        self._failing: set[str] = set()

    def failed(self, name: str, error: BaseException) -> None:
        """Count an error, and log it unless the attempt before failed too."""
        self.metrics.background_errors.labels(name).inc()
        if name not in self._failing:
            self._failing.add(name)
            log.error("background work failed and is tried again: %s", name, exc_info=error)

    def succeeded(self, name: str) -> None:
        """Note that the work was done: its next error is news again."""
        self._failing.discard(name)

    async def attempt(self, name: str, work: Work) -> bool:
        """Do the work once; whether it was done. Any error, also a stray cancellation, is logged and counted.

        Raises:
            CancelledError: the caller itself was cancelled.
        """
        try:
            await work()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self.failed(name, error)  # something inside the work was cancelled, and nobody meant this task
        except Exception as error:  # noqa: BLE001 -- the one place whose purpose that is
            self.failed(name, error)
        else:
            self.succeeded(name)
            return True
        return False

    async def persist(self, name: str, work: Work) -> None:
        """Do the work until it is done once, with growing pauses between the attempts.

        For loops that never end by themselves: one that ran for long before it failed is resumed after a short pause.
        """
        failures = 0
        while True:
            began = time.monotonic()
            if await self.attempt(name, work):
                return
            if time.monotonic() - began > self._longest_s:
                failures = 0
            await asyncio.sleep(min(self._pause_s * 2.0**failures, self._longest_s))
            failures = min(failures + 1, 16)

    def watch(self, name: str, task: asyncio.Task[Any]) -> None:
        """Log and count the error that a task of its own may end with; it is not repeated."""

        def ended(task: asyncio.Task[Any]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self.failed(name, error)

        task.add_done_callback(ended)


class Background:
    """Tasks that go on after an answer; where one fails, its supervisor logs and counts that.

    Args:
        supervisor: whose the tasks are.
        name: of the work, for the supervisor.
    """

    def __init__(self, supervisor: Supervisor, name: str) -> None:
        self._supervisor = supervisor
        self._name = name
        self._tasks: set[asyncio.Task[object]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Let the work go on by itself."""
        task = asyncio.create_task(work)
        self._supervisor.watch(self._name, task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self, most_s: float) -> None:
        """Wait until all of them have ended, for so many seconds at most."""
        if self._tasks and most_s > 0:
            await asyncio.wait(set(self._tasks), timeout=most_s)

    async def aclose(self) -> None:
        """Call all of them off."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=5)
