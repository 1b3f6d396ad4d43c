"""Least recently used: the order that everyone knows, to compare with."""

from dataclasses import dataclass

from labeling_ground.cache.policy.port import Policy, Ranking
from labeling_ground.cache.policy.ranked import RankedPolicy


@dataclass(frozen=True, slots=True)
class LeastRecentlyUsed:
    """The rank is the time of last use.

    Size, cost and the done hint count for nothing here: whoever chooses plain LRU wants an order
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


def make_idle_only(*, done_weight: float, frequency_exponent: float) -> Policy:
    """The policy that the name ``idle`` stands for: entries go by idle time and age only.

    While there is no room, what is new is not kept. The order is that of last use, for the case that the budget itself
    is lowered.
    """
    return RankedPolicy(LeastRecentlyUsed(), makes_room=False)
