"""By time alone: entries go by idle time and age, and what is new is not kept while there is no room."""

from dataclasses import dataclass
from typing import ClassVar

from labeling_ground.cache.policies.lru import LeastRecentlyUsed
from labeling_ground.cache.policies.port import Ranking


@dataclass(frozen=True, slots=True)
class IdleOnly(LeastRecentlyUsed):
    """The order of last use, for the case that the budget itself is lowered; nothing goes for what is new."""

    makes_room: ClassVar[bool] = False


def make(*, done_weight: float, frequency_exponent: float) -> Ranking:
    """The ranking that the name ``idle`` stands for."""
    return IdleOnly()
