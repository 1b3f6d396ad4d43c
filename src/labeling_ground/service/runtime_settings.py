"""What an operator can change of the cache while the server runs."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from labeling_ground.cache.choose import POLICIES, choose, unknown
from labeling_ground.cache.reconfigure import reconfigure
from labeling_ground.cache.tiered import TieredStore
from labeling_ground.errors import BadSettings
from labeling_ground.service.sessions import Sessions

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """What decides over keeping.

    Attributes:
        policy: who goes first: a short name, or ``module:attribute``.
        done_weight: weight of an image's entries under the done hint.
        frequency_exponent: how much uses count under ``gdsf``.
        memory_bytes: budget of the memory tier.
        disk_bytes: budget of the disk tier; 0 where there is none.
        idle_s: seconds without use after which an entry goes, and a session ends.
    """

    policy: str
    done_weight: float
    frequency_exponent: float
    memory_bytes: int
    disk_bytes: int
    idle_s: float


class RuntimeSettings:
    """Puts cache settings into effect. What it changes is this process's, and lasts until the process ends.

    Args:
        store: the tiers.
        sessions: they end after the same idle time.
        cache_settings: what the tiers were made with.
        tenant_share: see ``cache.choose.choose``.
        processes: so many share the budget of memory evenly.
        check: says with ``BadSettings`` what cannot work, before anything is changed.
    """

    def __init__(
        self,
        store: TieredStore,
        sessions: Sessions,
        cache_settings: CacheSettings,
        *,
        tenant_share: float | None = None,
        processes: int = 1,
        check: Callable[[CacheSettings], None] | None = None,
    ) -> None:
        self._tenant_share = tenant_share
        self._processes = processes
        self.now = cache_settings
        """What is in effect."""
        self._store = store
        self._sessions = sessions
        self._at_start = cache_settings
        self._check = check
        self._turn = asyncio.Lock()

    @property
    def policies(self) -> tuple[str, ...]:
        """The policies to choose from; code of the operator's own is loaded at start, and not by request."""
        given = self._at_start.policy
        return (*POLICIES, *(() if given in POLICIES else (given,)))

    @property
    def changed(self) -> dict[str, Any]:
        """What was changed since the start: the fields that ``change`` takes."""
        start = asdict(self._at_start)
        return {name: value for name, value in asdict(self.now).items() if value != start[name]}

    async def change(self, **changes: Any) -> CacheSettings:
        """Change some fields of the cache settings; the others stay. What is in effect then.

        Nothing that is held goes but what the new limits force out.

        Raises:
            BadSettings: there is no such policy, or no such tier, or budgets cannot work; nothing was changed.
            StoreFailed: a tier did not do it; trying again is safe.
        """
        async with self._turn:
            old, new = self.now, replace(self.now, **changes)
            if new.policy not in self.policies:
                raise unknown(new.policy, self.policies)
            if bool(new.disk_bytes) is not bool(old.disk_bytes):
                raise BadSettings("There is no disk tier in this server. Start it with one to give it a budget.")
            if self._check is not None and (new.memory_bytes, new.disk_bytes) != (old.memory_bytes, old.disk_bytes):
                self._check(new)
            weight, exponent = new.done_weight, new.frequency_exponent
            is_other = (new.policy, weight, exponent) != (old.policy, old.done_weight, old.frequency_exponent)
            budgets = {"memory": (old.memory_bytes, new.memory_bytes), "disk": (old.disk_bytes, new.disk_bytes)}
            policy = choose(  # says what is wrong with it before anything is changed
                new.policy, done_weight=weight, frequency_exponent=exponent, tenant_share=self._tenant_share
            )
            await reconfigure(
                self._store,
                budgets={
                    tier: after // self._processes if tier == "memory" else after
                    for tier, (before, after) in budgets.items()
                    if after != before
                },
                idle_s=new.idle_s if new.idle_s != old.idle_s else None,
                policy=policy if is_other else None,
            )
            self._sessions.table.idle_s = new.idle_s
            self.now = new
            if new != old:
                log.info("cache settings: %s", ", ".join(f"{name} {value}" for name, value in asdict(new).items()))
            return new
