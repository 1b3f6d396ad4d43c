"""Least recently used."""

from dataclasses import dataclass

from labeling_ground.cache.policies.port import Ranking


@dataclass(frozen=True, slots=True)
class LeastRecentlyUsed:
    """The rank is the time of last use.

    Size, cost and the done hint count for nothing here: plain LRU is chosen for an order
    that can be foretold from the times of use alone. Uses within one reading of the clock keep
    their order, since the one unused for longest goes first among equal ranks.
    """

    @property
    def name(self) -> str:
        """``lru``."""
        return "lru"

    def base(self, floor: float, now: float) -> float:
        """The time of use, seconds since 1970."""
        return now

    def rank(self, base: float, size: int, cost: float, done: bool, uses: int = 1) -> float:
        """The time of last use."""
        return base


def make(*, done_weight: float, frequency_exponent: float) -> Ranking:
    """The ranking that the name ``lru`` stands for."""
    return LeastRecentlyUsed()
