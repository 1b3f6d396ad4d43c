"""From the name of an eviction policy to the policy itself: checked once, then made for each tier.

A table of strings, so that what is not chosen is never imported, and so that users may pass their own.
"""

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from labeling_ground.cache.policies.gds import GreedyDualSize
from labeling_ground.cache.policies.lru import LeastRecentlyUsed
from labeling_ground.cache.policies.port import Policy, Ranking
from labeling_ground.cache.policies.ranked import RankedPolicy
from labeling_ground.cache.policies.tenants import TenantPolicy
from labeling_ground.errors import BadSettings, LabelingGroundError

POLICIES: Mapping[str, str] = MappingProxyType(
    {
        "gds": "labeling_ground.cache.policies.gds:make",
        "gdsf": "labeling_ground.cache.policies.gds:make_with_frequency",
        "idle": "labeling_ground.cache.policies.idle:make",
        "lfu": "labeling_ground.cache.policies.lfu:make",
        "lru": "labeling_ground.cache.policies.lru:make",
    }
)
"""Short name → ``module:attribute`` of a callable: ``done_weight`` and ``frequency_exponent`` in, a ``Ranking`` or a
``Policy`` out."""
_ONLY_SIMULATED = ("s3fifo",)


@dataclass(frozen=True, slots=True)
class PolicyChoice:
    """An eviction policy that was chosen by name.

    Attributes:
        ranking: the formula for a tier that keeps its order in SQL, where uses are not counted: ``gdsf`` is ``gds``
            there, and what is no formula goes by last use.
        make: makes an empty policy for a tier in memory.
    """

    ranking: Ranking
    make: Callable[[], Policy]


def choose(
    name: str,
    *,
    done_weight: float = 0.1,
    frequency_exponent: float = 0.0,
    tenant_share: float | None = None,
    known: Mapping[str, str] = POLICIES,
) -> PolicyChoice:
    """Find an eviction policy by its name.

    Args:
        name: one of ``known``, or ``package.module:attribute`` of the user's own.
        done_weight: what the done hint multiplies the worth of an entry by, 0 to 1.
        frequency_exponent: how much uses count under ``gdsf``: 0 not at all, 1 in proportion.
        tenant_share: what one of several tenants may hold while others need room; ``None``: tenants are not told apart.
        known: short names and what they stand for.

    Raises:
        BadSettings: no such name, it cannot be imported, or it makes neither a ranking nor a policy.
    """
    if not 0.0 <= done_weight <= 1.0:
        raise BadSettings(f"The done weight is {done_weight}; it must lie between 0 and 1.")
    if not 0.0 <= frequency_exponent <= 4.0:
        raise BadSettings(f"The frequency exponent is {frequency_exponent}; it must lie between 0 and 4.")
    find = partial(_make, name, known, done_weight, frequency_exponent)
    found = find()
    make: Callable[[], Policy]
    if isinstance(found, Ranking):
        make = partial(RankedPolicy, found)
        ranking = replace(found, frequency_exponent=0.0) if isinstance(found, GreedyDualSize) else found
    else:
        make, ranking = find, LeastRecentlyUsed()  # type: ignore[assignment]
    if tenant_share is not None:
        make = partial(TenantPolicy, make, tenant_share, makes_room=getattr(found, "makes_room", True))
    return PolicyChoice(ranking, make)


def unknown(name: str, known: Mapping[str, str] | tuple[str, ...] = POLICIES) -> BadSettings:
    """The error that says that there is no such policy, and which there are."""
    why = (
        f"The eviction policy {name!r} is only for the simulator (labeling-ground cache simulate)."
        if name in _ONLY_SIMULATED
        else f"There is no eviction policy {name!r}."
    )
    return BadSettings(f"{why} Choose one of {', '.join(sorted(known))}.")


def _make(name: str, known: Mapping[str, str], done_weight: float, frequency_exponent: float) -> Ranking | Policy:
    target = known.get(name, name)
    if not all(target.partition(":")):
        raise BadSettings(f"{unknown(name, known)} Or name your own as package.module:attribute.")
    try:
        found: object = pkgutil.resolve_name(target)
        if not callable(found):
            raise BadSettings(f"The eviction policy {name!r} is not callable.")
        made: object = found(done_weight=done_weight, frequency_exponent=frequency_exponent)
    except LabelingGroundError:
        raise
    except Exception as error:  # code of others: whatever it raises, a sentence says what
        raise BadSettings(
            f"The eviction policy {name!r} cannot be used: {type(error).__name__}: {error}. "
            f"Shipped are {', '.join(sorted(known))}."
        ) from error
    if not isinstance(made, Ranking | Policy):
        raise BadSettings(
            f"The eviction policy {name!r} made no ranking and no policy: it needs name, base() and rank(), or "
            "insert(), hit(), mark(), remove(), evict() and makes_room."
        )
    return made
