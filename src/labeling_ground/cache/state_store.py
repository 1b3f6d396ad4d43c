"""The port for small states that change, and must outlive the process that changes them."""

import secrets
from dataclasses import dataclass
from typing import Protocol

VERSION_BYTES = 8
TENANT_DIGITS = 16
"""So many characters at the beginning of a state's name say which tenant it belongs to."""


@dataclass(frozen=True, slots=True)
class VersionedState:
    """One version of a state. ``version`` is random: no two are alike, whoever made them and whatever was lost."""

    version: bytes
    value: bytes

    @classmethod
    def new(cls, value: bytes) -> "VersionedState":
        """A state that nobody has kept yet."""
        return cls(secrets.token_bytes(VERSION_BYTES), value)


class StateStore(Protocol):
    """States by name, each replaced only by one who knows the version that he replaces.

    Unlike the values of a ``Store`` they change, and unlike these they cannot be computed again. Every method raises
    ``StoreFailed`` where the state store is not there, or does not do it. Whoever calls sets the deadline.
    """

    async def load(self, name: str) -> VersionedState | None:
        """The state, or ``None`` where there is none, or where its time has run out."""
        ...

    async def save(self, name: str, new: VersionedState, seen: bytes, idle_s: float) -> VersionedState | None:
        """Keep the new version for so many seconds if the version ``seen`` is the one that is kept, or if none is.

        What is kept afterwards: ``new``, or what somebody else has saved since. ``None`` where there is no room.
        """
        ...

    async def meet(self, server: str, present_s: float) -> tuple[int, str]:
        """Note that this server is there, for so many seconds.

        How many others are, and a name for what keeps the states: another name means that another one has taken its
        place, which may lack what was kept of late. The name is empty where that cannot be told.
        """
        ...

    async def leave(self, server: str) -> None:
        """Note that this server is not there any more."""
        ...

    async def sweep(self) -> None:
        """Delete what has run out."""
        ...

    async def aclose(self) -> None:
        """Let go of what was opened here."""
        ...
