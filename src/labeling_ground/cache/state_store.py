"""The port for what changes, and must outlive the process that changes it."""

from typing import Protocol, runtime_checkable

TENANT_DIGITS = 16
"""So many characters at the beginning of a log's name say which tenant it belongs to."""


class StateStore(Protocol):
    """Logs by name: bytes that are added to, and now and then begun anew, by several who do not wait for each other.

    Unlike the values of a ``Store`` they change, and unlike these they cannot be computed again. Every method raises
    ``StoreFailed`` where the store is not there, or does not do it. The caller sets the deadline.
    """

    async def load(self, name: str) -> bytes:
        """The log; empty where there is none, or where its time has run out."""
        ...

    async def write(
        self, name: str, seen: bytes, new: bytes, idle_s: float, *, anew: bool
    ) -> tuple[bool, bytes] | None:
        """Add bytes to a log that begins with what was seen, or (``anew``) replace one that is just that, in one step.

        Whether that was done, and the log as it is then, with so many seconds left; ``None`` where there is no room.
        """
        ...

    async def meet(self, server: str, present_s: float) -> tuple[int, str]:
        """Note that this server is there, for so many seconds.

        How many others are, and a name for what keeps the logs: another name means that another store has taken its
        place, which may lack what was written lately. The name is empty where that cannot be told.
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


@runtime_checkable
class ReplacesAtOnce(Protocol):
    """A state store that mostly writes in less time than asking another thread, or machine, to do so takes."""

    def replace_at_once(self, name: str, seen: bytes, log: bytes, idle_s: float) -> bool:
        """Put a log in the place of one that is just what was seen. Whether that was done; else nothing was, be it that
        the log is another one, or that it would take long."""
        ...
