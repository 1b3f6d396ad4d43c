"""Ending tasks that may be talking to Redis."""

import asyncio
from typing import Any


async def stop(task: asyncio.Task[Any]) -> None:
    """End a task, and wait until it has ended.

    Where a cancellation comes in the moment in which a command has just been sent, Python 3.11's ``asyncio.wait_for``,
    which the driver sends with, takes it for done and goes on. So it is cancelled until it hears.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.05)
