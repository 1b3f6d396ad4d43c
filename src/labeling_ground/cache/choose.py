"""From the name of an eviction policy to its formula, once, at start.

A table of strings, so that what is not chosen is never imported, and so that users may pass their
own.
"""

import importlib
from collections.abc import Mapping
from types import MappingProxyType

from labeling_ground.cache.policy.port import Ranking
from labeling_ground.errors import BadSettings

RANKINGS: Mapping[str, str] = MappingProxyType(
    {
        "gds": "labeling_ground.cache.policy.gds:make",
        "lru": "labeling_ground.cache.policy.lru:make",
    }
)
"""Short name → ``module:attribute`` of a callable: ``done_weight`` in, a ``Ranking`` out."""


def choose_ranking(name: str, *, done_weight: float = 0.1) -> Ranking:
    """The ranking that a short name, or a ``module:attribute`` of the user's own, stands for.

    Args:
        name: one of ``RANKINGS``, or ``package.module:attribute``.
        done_weight: what the done hint multiplies the worth of an entry by, 0 to 1.

    Raises:
        BadSettings: no such name, it cannot be imported, or it makes no ranking.
    """
    if not 0.0 <= done_weight <= 1.0:
        raise BadSettings(f"The done weight is {done_weight}; it must lie between 0 and 1.")
    target = RANKINGS.get(name, name)
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise BadSettings(
            f"There is no eviction policy {name!r}. Choose one of {', '.join(sorted(RANKINGS))}, "
            "or name your own as package.module:attribute."
        )
    try:
        found: object = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        if not callable(found):
            raise BadSettings(f"The eviction policy {name!r} is not callable.")
        ranking = found(done_weight=done_weight)
    except (ImportError, AttributeError, TypeError) as error:
        raise BadSettings(
            f"The eviction policy {name!r} cannot be used: {error}. Shipped are {', '.join(sorted(RANKINGS))}."
        ) from error
    if not isinstance(ranking, Ranking):
        raise BadSettings(f"The eviction policy {name!r} made no ranking: it needs name, base() and rank().")
    return ranking
