"""Where sessions outlive the process, behind what stands in front of every tier."""

import contextlib
import hashlib

from labeling_ground.cache.guard import Guard
from labeling_ground.cache.keeper import Keeper, Kept
from labeling_ground.errors import StoreFailed


class GuardedKeeper:
    """A keeper behind the guard of the tier that it lies in, or one beside that: same deadline, failures counted there.

    Args:
        keeper: where states are kept; closed with this object.
        guard: of the tier, which its owner closes, or made by ``Guard.beside``.
    """

    def __init__(self, keeper: Keeper, guard: Guard) -> None:
        self._keeper = keeper
        self._guard = guard

    async def load(self, tenant: str, session: str) -> tuple[bool, Kept | None]:
        """Whether there was an answer, and the state if there is one."""
        name = _name(tenant, session)

        async def ask() -> tuple[bool, Kept | None]:
            return True, await self._keeper.load(name)

        return await self._guard.ask("load of a session", ask) or (False, None)

    async def save(self, tenant: str, session: str, new: Kept, seen: bytes, idle_s: float) -> Kept | None:
        """What is kept then; ``None`` where it was not done, or not in time. It may still be done later."""
        name = _name(tenant, session)
        return await self._guard.ask("save of a session", lambda: self._keeper.save(name, new, seen, idle_s))

    async def sweep(self) -> None:
        """Delete what has run out. A keeper that fails will do it another time."""
        with contextlib.suppress(StoreFailed):
            await self._keeper.sweep()

    async def aclose(self) -> None:
        """Close the keeper."""
        await self._keeper.aclose()


def _name(tenant: str, session: str) -> str:
    """Under what it is kept. Names are clients' data, of any length and with any character."""
    return hashlib.sha256(f"{tenant}\n{session}".encode("utf-8", "surrogatepass")).hexdigest()
