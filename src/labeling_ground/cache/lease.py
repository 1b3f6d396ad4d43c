"""The port for leases: which of many processes computes what all of them ask for."""

import asyncio
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from typing import Protocol

from labeling_ground.types import Priority


class Claim(StrEnum):
    """What came of asking for a lease."""

    GRANTED = "granted"
    """It is ours, until it expires."""
    TAKEN = "taken"
    """Another process holds it, and will tell when it is released."""
    STORED = "stored"
    """The shared tier has the value already: there is nothing to compute."""
    FULL = "full"
    """The shared tier has no room for a lease: the asker computes without one."""


class Leases(Protocol):
    """One lease per key of a value that the shared tier may hold.

    A lease saves work and nothing hangs on it for correctness: a value belongs to its key for ever, so two who both
    believe that they hold it compute the same thing twice. It ends by itself when its holder no longer renews it.
    The caller sets the deadline, and takes an error for «no answer».
    """

    async def take(self, key: str, token: str, seconds: float, priority: Priority = Priority.INTERACTIVE) -> Claim:
        """Take the lease for so many seconds, unless it is taken or the value is stored: one step, nothing in between.

        ``token`` is random, and the holder's alone. ``priority`` is the class of who asks: where the lease is taken,
        its holder can learn it.
        """
        ...

    async def renew(self, key: str, token: str, seconds: float) -> bool:
        """Let it run for so many seconds from now. Whether it is still this token's; if not, nothing is changed."""
        ...

    async def awaited_as(self, key: str) -> Priority | None:
        """The most urgent class of the processes that wait for the lease; ``None`` if none does, or it is not known."""
        ...

    async def release(self, key: str, token: str) -> bool:
        """End the lease, if it is still this token's, and wake the processes that wait for it. Whether it was."""
        ...

    def listen(self, key: str) -> AbstractAsyncContextManager[asyncio.Event]:
        """An event that is set at every release from now on. Never raises.

        Notice may be late or be lost: who listens looks again once it listens, and now and then after that.
        """
        ...

    async def aclose(self) -> None:
        """Stop listening."""
        ...
