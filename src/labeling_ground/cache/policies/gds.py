"""GreedyDual-Size by cost density, and GreedyDual-Size-Frequency.

The formulas are from Cao & Irani, "Cost-Aware WWW Proxy Caching Algorithms", USITS 1997, and Cherkasova, "Improving WWW
Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy", HP Laboratories HPL-98-69R1, 1998.
"""

from dataclasses import dataclass

from labeling_ground.cache.policies.port import Ranking

_HIGHEST_COST = 1e6
"""Seconds. One absurd cost must not push the floor to where all others look alike."""


@dataclass(frozen=True, slots=True)
class GreedyDualSize:
    """``H = L + weight · uses ^ frequency_exponent · cost / size``, set at insert and at every use.

    The smallest H goes and becomes L, so what is not used sinks below what comes in. ``weight`` is 1, or
    ``done_weight`` once the done hint is set. With the exponent 0, the default, uses do not count: in labeling many
    clicks on an image mean that it is finished, not that it is hot.
    """

    done_weight: float = 0.1
    frequency_exponent: float = 0.0

    @property
    def name(self) -> str:
        """``gds`` and its weight, and its exponent if there is one."""
        exponent = f" {self.frequency_exponent!r}" if self.frequency_exponent else ""
        return f"gds {self.done_weight!r}{exponent}"

    def base(self, floor: float, now: float) -> float:
        """L: the H of the last victim."""
        return floor

    def rank(self, base: float, size: int, cost: float, done: bool, uses: int = 1) -> float:
        """H, in seconds per byte above the H that the first victim had."""
        if not 0.0 <= cost <= _HIGHEST_COST:  # also true of a cost that is not a number
            cost = _HIGHEST_COST if cost > 0.0 else 0.0
        if self.frequency_exponent:
            cost *= uses**self.frequency_exponent
        return base + (self.done_weight if done else 1.0) * cost / (size or 1)


def make(*, done_weight: float, frequency_exponent: float) -> Ranking:
    """The ranking that the name ``gds`` stands for: the one without frequency."""
    return GreedyDualSize(done_weight)


def make_with_frequency(*, done_weight: float, frequency_exponent: float) -> Ranking:
    """The ranking that the name ``gdsf`` stands for."""
    return GreedyDualSize(done_weight, frequency_exponent)
