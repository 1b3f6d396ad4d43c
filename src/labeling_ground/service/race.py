"""Look-up and prediction in parallel, without paying twice.

Both start at the same moment, but the prediction waits at a gate that opens when the look-up has missed, or when a
short window is over, whichever comes first. A hit answers at once, and a prediction that is still at the gate never
reaches the model.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from labeling_ground.errors import LabelingGroundError
from labeling_ground.service.ledger import Fate

T = TypeVar("T")
F = TypeVar("F")


class Gate:
    """Holds a prediction back. ``window_s`` of ``None`` means: until it is opened."""

    def __init__(self, window_s: float | None) -> None:
        self._open = asyncio.Event()
        self._deadline = None if window_s is None else asyncio.get_running_loop().time() + window_s
        self.was_passed = False

    def open(self) -> None:
        """Let the prediction through now."""
        self._open.set()

    async def wait(self) -> None:
        """Wait for the gate to open; from then on the prediction counts as started."""
        if not self._open.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._deadline):
                    await self._open.wait()
        self.was_passed = True


async def race(
    look_up: Awaitable[F | None],
    predict: Callable[[Gate], Awaitable[T]],
    *,
    window_s: float | None,
    settle: Callable[[Fate], None],
) -> F | T:
    """Answer with whichever comes first: what the look-up finds, or what the model predicts.

    Args:
        look_up: never raises; a store's failure is ``None``.
        predict: calls ``gate.wait()`` before it lets the model do anything.
        window_s: how long the gate stays shut while the look-up has not answered; ``None`` keeps it shut until then
            (mode ``first``).
        settle: is told what became of the prediction.

    Raises:
        Exception: what ``predict`` raised, unless the look-up finds the answer all the same.
    """
    gate = Gate(window_s)
    looking: asyncio.Future[F | None] = asyncio.ensure_future(look_up)
    predicting: asyncio.Future[T] = asyncio.ensure_future(predict(gate))
    both: set[asyncio.Future[Any]] = {looking, predicting}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        failed = predicting.done() and predicting.exception() is not None
        if predicting.done() and not failed:
            settle(Fate.USED)
            return predicting.result()  # the look-up that lost is left to finish
        if failed and not isinstance(predicting.exception(), LabelingGroundError):
            return predicting.result()  # a bug: say so, whatever the look-up would have found
        found = await asyncio.shield(looking)
        if found is not None:
            settle(Fate.WASTED if gate.was_passed else Fate.WITHDRAWN)
            return found
        gate.open()
        result = await predicting
        settle(Fate.USED)
        return result
    finally:
        if not predicting.done():
            predicting.cancel()
            with contextlib.suppress(asyncio.CancelledError, LabelingGroundError):
                await asyncio.wait({predicting}, timeout=0)
