"""The class of a request: what goes first where requests wait."""

from enum import IntEnum


class Priority(IntEnum):
    """How urgent a computation is; the smaller value goes first."""

    INTERACTIVE = 0
    """Somebody waits for it at a screen."""
    PREFETCH = 1
    """Somebody will probably want it soon."""
    JOB = 2
    """Work in bulk, which takes what the others leave."""

    @property
    def label(self) -> str:
        """The name in headers, answers and metrics."""
        return self.name.lower()
