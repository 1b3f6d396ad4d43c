"""Saying now and then what happens all the time."""

import logging
import time
from collections.abc import Callable

_EVERY_S = 60.0
"""Seconds between two warnings. No limit: each is counted."""


class Complaint:
    """A warning about values that a tier did not keep, at most once a minute.

    Args:
        log: where it goes.
        tier: the tier's name.
        clock: seconds.
    """

    def __init__(self, log: logging.Logger, tier: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._tier = tier
        self._clock = clock
        self._last: float | None = None

    def make(self, error: Exception) -> None:
        """Say it, unless that was done less than a minute ago."""
        now = self._clock()
        if self._last is None or now - self._last >= _EVERY_S:
            self._last = now
            self._log.warning("%s: a value was not kept: %s", self._tier, error)
