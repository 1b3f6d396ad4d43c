"""The figures of one server: what was asked, what it cost, what the cache saved. Plain numbers, one truth for
``/v1/cache`` and ``/metrics``.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from labeling_ground.types import Kind, Outcome


class Fate(StrEnum):
    """What became of a queued prediction."""

    USED = "used"
    """It was computed, and it was the answer."""
    WITHDRAWN = "withdrawn"
    """A hit came first, and the model never saw it."""
    WASTED = "wasted"
    """A hit came after the model had begun."""


@dataclass
class KindFigures:
    """Look-ups of one kind. ``recomputed`` are those of the ``misses`` that were evicted before."""

    hits: int = 0
    misses: int = 0
    joined: int = 0
    recomputed: int = 0
    failed: int = 0
    """Asks that ended in an error; they are no look-ups."""
    seconds_saved: float = 0.0
    seconds_computed: float = 0.0
    asked: Counter[Outcome] = field(default_factory=Counter)
    """Those of the look-ups whose answer somebody waited for: not those behind a miss, and no prefetches."""

    @property
    def hit_ratio(self) -> float | None:
        """Hits of ``asked``, from 0 to 1; ``None`` before the first."""
        asked = self.asked.total()
        return self.asked[Outcome.HIT] / asked if asked else None

    @property
    def lookups(self) -> int:
        """Hits, misses and joined."""
        return self.hits + self.misses + self.joined


@dataclass
class Ledger:
    """Counts outcomes. Only the event loop writes to it."""

    kinds: dict[Kind, KindFigures] = field(
        default_factory=lambda: {kind: KindFigures() for kind in (Kind.EMBEDDING, Kind.MASK, Kind.EVERYTHING)}
    )
    fates: Counter[tuple[Kind, Fate]] = field(default_factory=Counter)

    def outcome(self, kind: Kind, outcome: Outcome, cost: float) -> None:
        """Count one look-up. ``cost``: the seconds that computing the entry took, or takes again."""
        figures = self.kinds[kind]
        if outcome is Outcome.HIT:
            figures.hits += 1
            figures.seconds_saved += cost
        elif outcome is Outcome.JOINED:
            figures.joined += 1
            figures.seconds_saved += cost
        else:
            figures.misses += 1
            figures.recomputed += outcome is Outcome.RECOMPUTED
            figures.seconds_computed += cost

    def asked(self, kind: Kind, outcome: Outcome) -> None:
        """Count that somebody waited for this look-up, which ``outcome`` has counted."""
        self.kinds[kind].asked[outcome] += 1

    def failure(self, kind: Kind) -> None:
        """Count an ask that ended in an error."""
        self.kinds[kind].failed += 1

    def fate(self, kind: Kind, fate: Fate) -> None:
        """Count what became of a queued prediction."""
        self.fates[kind, fate] += 1

    def total(self) -> KindFigures:
        """All kinds together."""
        total = KindFigures()
        for figures in self.kinds.values():
            for name in vars(total):
                setattr(total, name, getattr(total, name) + getattr(figures, name))
        return total
