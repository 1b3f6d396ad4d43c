"""The hedged look-up: look-up and prediction in parallel, without paying twice.

Both start at the same moment, but the prediction waits at a start gate that opens when the look-up has missed, or when
a short window is over, whichever comes first. A hit answers at once, and a prediction that is still at the gate never
reaches the model.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, TypeVar

from labeling_ground.errors import LabelingGroundError

T = TypeVar("T")
F = TypeVar("F")


class HedgeOutcome(StrEnum):
    """What became of a queued prediction."""

    USED = "used"
    """It was computed, and it was the answer."""
    WITHDRAWN = "withdrawn"
    """A hit came first, and the model never saw it."""
    WASTED = "wasted"
    """A hit came after the model had begun."""


class StartGate:
    """Holds a prediction back. ``window_s`` of ``None`` means: until it is opened."""

    def __init__(self, window_s: float | None) -> None:
        self._open = asyncio.Event()
        self._deadline = None if window_s is None else asyncio.get_running_loop().time() + window_s
        self.begun = False
        """Whether the model has begun: whoever passes the gate says so."""

    def open(self) -> None:
        """Let the prediction through now: the look-up missed."""
        self._open.set()

    async def missed(self) -> None:
        """Wait until the look-up has missed, however short the window is."""
        await self._open.wait()

    async def wait(self) -> None:
        """Wait for the gate to open."""
        if not self._open.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._deadline):
                    await self._open.wait()


async def hedged_look_up(
    look_up: Awaitable[F | None],
    predict: Callable[[StartGate], Awaitable[T]],
    *,
    window_s: float | None,
    count: Callable[[HedgeOutcome], None],
) -> F | T:
    """Answer with whichever comes first: what the look-up finds, or what the model predicts.

    Args:
        look_up: never raises; a store's failure is ``None``.
        predict: calls ``gate.wait()`` before it lets the model do anything, and sets ``gate.begun`` when it does.
        window_s: how long the gate stays shut while the look-up has not answered; ``None`` keeps it shut until then
            (mode ``first``).
        count: is told what became of the prediction. One that came without the model, as another process made it
            meanwhile, is withdrawn.

    Raises:
        Exception: what ``predict`` raised, unless the look-up finds the answer all the same.
    """
    gate = StartGate(window_s)
    looking: asyncio.Future[F | None] = asyncio.ensure_future(look_up)
    predicting: asyncio.Future[T] = asyncio.ensure_future(predict(gate))
    predicting.add_done_callback(_seen)
    both: set[asyncio.Future[Any]] = {looking, predicting}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        # An error that is none of ours is a bug: it is said, whatever the look-up would find.
        if not predicting.done() or isinstance(predicting.exception(), LabelingGroundError):
            found = await asyncio.shield(looking)
            if found is not None:
                count(HedgeOutcome.WASTED if gate.begun else HedgeOutcome.WITHDRAWN)
                return found
            gate.open()
        result = await predicting  # a look-up that lost is left to finish
        count(HedgeOutcome.USED if gate.begun else HedgeOutcome.WITHDRAWN)
        return result
    finally:
        predicting.cancel()


def _seen(task: asyncio.Future[Any]) -> None:
    """Take note of an error, so that one which nobody waits for any more is not complained about."""
    if not task.cancelled():
        task.exception()
