"""Another policy, another budget, another idle time, while the tiers are in use."""

import asyncio
from collections.abc import Mapping
from itertools import islice
from types import MappingProxyType

from labeling_ground.cache.choose import PolicyChoice
from labeling_ground.cache.memory import MemoryStore
from labeling_ground.cache.store import Adjustable
from labeling_ground.cache.tiered import TieredStore, sweep_memory
from labeling_ground.errors import StoreFailed

_SHRINK_STEP = 4 << 20
"""Bytes by which memory's budget is lowered at once; between the steps others get their turn."""
_USES_AT_ONCE = 5_000
"""Uses that are gathered at once, likewise."""


async def reconfigure(
    store: TieredStore,
    *,
    budgets: Mapping[str, int] = MappingProxyType({}),
    idle_s: float | None = None,
    policy: PolicyChoice | None = None,
    deadline_s: float | None = None,
) -> None:
    """Change what is given in all tiers; nothing goes but what the new limits force out.

    The lower tiers come first: only they can fail.

    Args:
        store: the tiers.
        budgets: bytes, by the tier's name.
        idle_s: the new idle time of all tiers.
        policy: who goes first.
        deadline_s: how long the lower tiers may take together, where the store's limits would not do.

    Raises:
        StoreFailed: a tier did not do it, and memory is as it was; trying again is safe.
    """
    memory = store.memory
    # Below a use is noted only once in a while, by the old idle time: too rarely for one that is much shorter.
    is_shorter = idle_s is not None and idle_s < store.touches.idle_s
    uses = await _uses(memory, idle_s) if idle_s is not None and is_shorter and store.lower else ()
    try:
        async with asyncio.timeout(deadline_s or store.limits.change_s):
            for tier in store.lower:
                if isinstance(tier.store, Adjustable):
                    await tier.store.reconfigure(
                        budget_bytes=budgets.get(tier.store.name),
                        idle_s=... if idle_s is None else idle_s,
                        ranking=None if policy is None else policy.ranking,
                        uses=uses,
                    )
    except TimeoutError as error:
        raise StoreFailed("A cache tier did not take the new settings in time. Try again.") from error
    if policy is not None:
        await memory.migrate(policy.make())
    if idle_s is not None:
        memory.reconfigure(idle_s=idle_s)
        store.touches.set_idle(idle_s)
    budget = budgets.get(memory.name)
    if store.shadows is not None:
        await store.shadows.reconfigure(budget_bytes=budget, idle_s=idle_s, policy=policy)
    if budget is not None:
        store.demotes = False  # what the operator has no room for must not push out what is in better use below
        try:
            await _shrink(memory, budget)
        finally:
            store.demotes = True
    if is_shorter:
        await sweep_memory(memory)


async def _uses(memory: MemoryStore, within_s: float) -> list[tuple[str, float]]:
    """What memory had used within so many seconds, gathered a part at a time."""
    found: list[tuple[str, float]] = []
    uses = memory.uses(within_s)
    while part := list(islice(uses, _USES_AT_ONCE)):
        found += part
        await asyncio.sleep(0)
    return found


async def _shrink(memory: MemoryStore, budget: int) -> None:
    """Take a budget, in steps where it is a smaller one."""
    step = memory.bytes - _SHRINK_STEP
    while step > budget:
        memory.reconfigure(budget_bytes=step)
        await asyncio.sleep(0)
        step = min(step, memory.bytes) - _SHRINK_STEP
    memory.reconfigure(budget_bytes=budget)
