"""What a tier's calls come to: counters, the circuit breaker, and what is wrong at present."""

import logging
from collections import Counter
from dataclasses import dataclass, field

from labeling_ground.breaker import Breaker
from labeling_ground.cache.store import Store, Troubled
from labeling_ground.errors import StoreFull

log = logging.getLogger(__name__)


@dataclass
class TierCounters:
    """What happened at one tier."""

    errors: Counter[str] = field(default_factory=Counter)
    """By reason: ``deadline``, ``busy`` (the answer was late because of work of this process, not of the tier),
    ``failed``, ``damaged``, ``dropped`` (a value was not written: the queue was full, or the breaker open)."""
    skipped: int = 0
    """Look-ups that were not tried while the breaker was open."""
    demoted: int = 0
    """Values written again when memory had no room for them, because the tier did not have them any more."""


class TierHealth:
    """Counts a tier's failures and tells its circuit breaker of them.

    Args:
        store: the tier.
        breaker: when to leave the tier alone.
        counters: where failures are counted; new ones unless given.
    """

    def __init__(self, store: Store, breaker: Breaker, counters: TierCounters | None = None) -> None:
        self.store = store
        self.breaker = breaker
        self.counters = counters or TierCounters()
        self._trouble = ""

    @property
    def trouble(self) -> str:
        """What is wrong with the tier at present, in a sentence; empty where nothing is.

        It failed at the start, or at what was last asked of it; or it takes no more values.
        """
        if self._trouble:
            return self._trouble
        return self.store.trouble if isinstance(self.store, Troubled) else ""

    @trouble.setter
    def trouble(self, sentence: str) -> None:
        self._trouble = sentence

    def succeeded(self) -> None:
        """Note that the tier did what it was asked."""
        self._trouble = ""
        self.breaker.succeeded()

    def failed(self, what: str, error: Exception, *, is_counted: bool = False) -> None:
        """Note that a call failed; ``is_counted``: the breaker knows of it already, since its deadline had passed."""
        if self.counters.errors["failed"] == 0 or self.breaker.state == "closed":
            log.warning("%s: a %s failed: %s", self.store.name, what, error)
        self.counters.errors["failed"] += 1
        self._trouble = str(error) or f"The {self.store.name} cache failed: {type(error).__name__}."
        if is_counted:
            return
        if isinstance(error, StoreFull):  # it still serves what it has
            self.breaker.succeeded()
        else:
            self.breaker.failed()

    def was_late(self, *, is_tier: bool) -> None:
        """Note that there was no answer within the deadline: because of the tier, or of this process's own work."""
        self.counters.errors["deadline" if is_tier else "busy"] += 1
        if is_tier:
            self.breaker.failed()
