"""From the name of an eviction policy to the policy itself, once, at start.

A table of strings, so that what is not chosen is never imported, and so that users may pass their
own.
"""

import importlib
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from labeling_ground.cache.policy.lru import LeastRecentlyUsed
from labeling_ground.cache.policy.port import Policy, Ranking
from labeling_ground.cache.policy.ranked import RankedPolicy
from labeling_ground.cache.policy.tenants import TenantPolicy
from labeling_ground.errors import BadSettings, LabelingGroundError

POLICIES: Mapping[str, str] = MappingProxyType(
    {
        "gds": "labeling_ground.cache.policy.gds:make",
        "gdsf": "labeling_ground.cache.policy.gds:make_with_frequency",
        "idle": "labeling_ground.cache.policy.lru:make_idle_only",
        "lfu": "labeling_ground.cache.policy.lfu:make",
        "lru": "labeling_ground.cache.policy.lru:make",
        "s3fifo": "labeling_ground.cache.policy.s3fifo:make",
    }
)
"""Short name → ``module:attribute`` of a callable: ``done_weight`` and ``frequency_exponent`` in, a ``Ranking`` or a
``Policy`` out."""


def choose_policy(
    name: str, *, done_weight: float = 0.1, frequency_exponent: float = 0.0, tenant_share: float | None = None
) -> Policy:
    """A new, empty policy for a tier in memory.

    Args:
        name: one of ``POLICIES``, or ``package.module:attribute`` of the user's own.
        done_weight: what the done hint multiplies the worth of an entry by, 0 to 1.
        frequency_exponent: how much uses count under ``gdsf``: 0 not at all, 1 in proportion.
        tenant_share: what one of several tenants may hold while others need room; ``None``: tenants are not told apart.

    Raises:
        BadSettings: no such name, it cannot be imported, or it makes neither a ranking nor a policy.
    """
    if tenant_share is not None:
        one = partial(choose_policy, name, done_weight=done_weight, frequency_exponent=frequency_exponent)
        return TenantPolicy(one, tenant_share)
    made = _make(name, done_weight, frequency_exponent)
    return RankedPolicy(made) if isinstance(made, Ranking) else made


def choose_ranking(name: str, *, done_weight: float = 0.1, frequency_exponent: float = 0.0) -> Ranking:
    """The ranking for a tier that keeps its order in SQL.

    What is no ranking (``idle`` and ``s3fifo``) cannot be kept there: last use decides in its place. Uses are not
    counted there either, so ``gdsf`` is ``gds``, and ``lfu`` goes by last use.

    Args:
        name: as for ``choose_policy``.
        done_weight: as there.
        frequency_exponent: as there.

    Raises:
        BadSettings: as there.
    """
    made = _make(name, done_weight, frequency_exponent)
    return made if isinstance(made, Ranking) else LeastRecentlyUsed()


def _make(name: str, done_weight: float, frequency_exponent: float) -> Ranking | Policy:
    if not 0.0 <= done_weight <= 1.0:
        raise BadSettings(f"The done weight is {done_weight}; it must lie between 0 and 1.")
    if not 0.0 <= frequency_exponent <= 4.0:
        raise BadSettings(f"The frequency exponent is {frequency_exponent}; it must lie between 0 and 4.")
    target = POLICIES.get(name, name)
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise BadSettings(
            f"There is no eviction policy {name!r}. Choose one of {', '.join(sorted(POLICIES))}, "
            "or name your own as package.module:attribute."
        )
    try:
        found: object = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        if not callable(found):
            raise BadSettings(f"The eviction policy {name!r} is not callable.")
        made: object = found(done_weight=done_weight, frequency_exponent=frequency_exponent)
    except LabelingGroundError:
        raise
    except Exception as error:  # code of others: whatever it raises, a sentence says what
        raise BadSettings(
            f"The eviction policy {name!r} cannot be used: {type(error).__name__}: {error}. "
            f"Shipped are {', '.join(sorted(POLICIES))}."
        ) from error
    if not isinstance(made, Ranking | Policy):
        raise BadSettings(
            f"The eviction policy {name!r} made no ranking and no policy: it needs name, base() and rank(), or "
            "insert(), hit(), mark(), remove(), evict() and makes_room."
        )
    return made
