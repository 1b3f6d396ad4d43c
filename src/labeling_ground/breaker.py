"""When to leave something that fails alone for a while: a tier of the cache, an engine."""

import time
from collections.abc import Callable


class Breaker:
    """Opens after so many failures in a row, and lets one ask through after a while."""

    def __init__(self, failures: int, reset_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = failures
        self._reset_s = reset_s
        self._clock = clock
        self.failures = 0
        """In a row, since it last succeeded."""
        self._opened: float | None = None

    @property
    def state(self) -> str:
        """``closed`` (all is well), ``open`` (left alone) or ``half-open`` (the next ask will be let through)."""
        if self._opened is None:
            return "closed"
        return "half-open" if self._clock() - self._opened >= self._reset_s else "open"

    def allows(self) -> bool:
        """Whether to ask now."""
        if self._opened is None:
            return True
        if self.state == "open":
            return False
        self._opened = self._clock()  # one ask goes through; the others wait for another reset time
        return True

    def succeeded(self) -> None:
        """There was an answer, be it «no»."""
        self.failures = 0
        self._opened = None

    def failed(self) -> None:
        """There was no answer in time, or an error."""
        self.failures += 1
        if self.failures >= self._limit:
            self._opened = self._clock()
