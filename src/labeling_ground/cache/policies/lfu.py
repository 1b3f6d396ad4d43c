"""Least frequently used, without ageing: to compare with. Poor for labeling, where finished images were used most."""

from dataclasses import dataclass

from labeling_ground.cache.policies.port import Ranking


@dataclass(frozen=True, slots=True)
class LeastFrequentlyUsed:
    """The rank is the number of uses since the entry came in; of equals, the one unused for longest goes first."""

    @property
    def name(self) -> str:
        """``lfu``."""
        return "lfu"

    def base(self, floor: float, now: float) -> float:
        """Nothing: only uses count."""
        return 0.0

    def rank(self, base: float, size: int, cost: float, done: bool, uses: int = 1) -> float:
        """The number of uses."""
        return float(uses)


def make(*, done_weight: float, frequency_exponent: float) -> Ranking:
    """The ranking that the name ``lfu`` stands for."""
    return LeastFrequentlyUsed()
