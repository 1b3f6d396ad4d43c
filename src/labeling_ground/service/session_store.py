"""Where sessions outlive the process, behind what stands in front of every tier."""

import contextlib
import hashlib
from functools import lru_cache, partial
from typing import Literal

from labeling_ground.cache.state_store import TENANT_DIGITS, ReplacesAtOnce, StateStore
from labeling_ground.cache.tier_calls import TierCalls
from labeling_ground.errors import StoreFailed


class SessionStore:
    """A store of sessions' logs, asked like the tier that it lies in: same deadline, failures counted there.

    Args:
        state_store: where the logs are; closed with this object.
        calls: to the tier, or calls of its own to the same place, with another breaker.
        others: whether other servers share the store: ``none``, ``some``, or ``auto``: those that it has met say so.
        present_s: seconds after which a server that has not been met again is taken for gone.
        meet_s: seconds that the store has to tell which are there.
    """

    def __init__(
        self,
        state_store: StateStore,
        calls: TierCalls,
        *,
        others: Literal["auto", "none", "some"] = "none",
        present_s: float = 60.0,
        meet_s: float = 2.0,
    ) -> None:
        self._state_store = state_store
        self._quick = state_store if isinstance(state_store, ReplacesAtOnce) else None
        self._calls = calls
        self._others = others
        self._present_s = present_s
        self._meet_s = meet_s
        self._met: int | None = None
        self._place = ""
        self._anew_until = 0.0

    @property
    def is_shared(self) -> bool:
        """Whether another server may take a session's next change; so too while that is not known yet."""
        return self._others == "some" or (self._others == "auto" and self._met != 0)

    async def meet(self, server: str) -> str | None:
        """Say that this server is there, and see which others are. What keeps the logs now (see ``StateStore.meet``);
        ``None`` without an answer: then those that were there last are taken to be there still."""
        met = await self._calls.ask("meet", lambda: self._state_store.meet(server, self._present_s), self._meet_s)
        if met is None:
            return None
        count, place = met
        now = self._calls.clock()
        if self._place and place != self._place:  # those who were there before may not have met there yet
            self._anew_until = now + self._present_s
        if count or not self._met or now >= self._anew_until:
            self._met = count
        self._place = place
        return place

    async def leave(self, server: str) -> None:
        """Say that this server is going. One that cannot say so is taken for gone some time later."""
        await self._calls.ask("leave", lambda: self._state_store.leave(server))

    async def load(self, key: tuple[str, str]) -> bytes | None:
        """A session's log, empty where there is none; ``None`` without an answer."""
        return await self._calls.ask("load of a session", partial(self._state_store.load, _name(*key)))

    async def write(
        self, key: tuple[str, str], seen: bytes, new: bytes, idle_s: float, *, anew: bool, deadline_s: float | None
    ) -> tuple[bool, bytes] | None:
        """See ``StateStore.write``; ``None`` where it was not done, or not in time. It may still be done later."""
        write = partial(self._state_store.write, _name(*key), seen, new, idle_s, anew=anew)
        return await self._calls.ask("save of a session", write, deadline_s)

    def replace_at_once(self, key: tuple[str, str], seen: bytes, log: bytes, idle_s: float) -> bool:
        """See ``ReplacesAtOnce``: whether it was done. Else it is to be awaited."""
        if self._quick is None or self._calls.is_busy or self._calls.health.trouble:
            return False
        return self._quick.replace_at_once(_name(*key), seen, log, idle_s)

    async def sweep(self) -> None:
        """Delete what has run out. A state store that fails will do it another time."""
        with contextlib.suppress(StoreFailed):
            await self._state_store.sweep()

    async def aclose(self) -> None:
        """Close the state store."""
        await self._state_store.aclose()


@lru_cache(maxsize=4096)
def _name(tenant: str, session: str) -> str:
    """Under what it is kept: digests of the tenant and of both, 64 hex digits. Names are clients' data, of any length
    and with any character."""
    whose, which = (
        hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in (tenant, f"{tenant}\n{session}")
    )
    return whose[:TENANT_DIGITS] + which[TENANT_DIGITS:]
