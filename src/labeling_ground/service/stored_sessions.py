"""Sessions, written through to where they outlive the process: a line for each change, several lines together."""

import asyncio
import contextlib
import hashlib
import itertools
import secrets
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Literal

from labeling_ground.cache.state_store import TENANT_DIGITS, ReplacesAtOnce, StateStore
from labeling_ground.cache.tier_calls import TierCalls
from labeling_ground.errors import LabelingGroundError, StoreFailed, UnknownSession
from labeling_ground.service.session_state import Change, SessionLog, Snapshot
from labeling_ground.service.session_table import OpenSession, PendingChange, SessionKey, SessionTable
from labeling_ground.supervisor import Supervisor

_TRIES = 3
"""How often a store is asked for a session that is not known here: without an answer its change cannot be made."""
_AFTERWARDS = {"answer", "drop", "restore", "model"}
"""Changes that follow an answer: they are not refused, and need not be stored where they do nothing."""


AtHand = Callable[[Snapshot], str | None]
"""Tells the id of the prediction for a snapshot whose masks are in memory."""


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


class StoredSessions:
    """Makes changes of sessions in this process, without awaiting, and then adds a line for each to the store's log.

    A line is added where the store has what this process knew of the session, whatever other servers have added since:
    nothing is done again, and what came of it is read from the lines in the store's order. Otherwise another server has
    begun the log anew, or the store has lost some of it: then both logs are merged, and what is pending is done on top.

    Where no other server shares the store, a change that it does not take counts in this process's memory, is added to
    ``sessions_unkept``, and is stored later. Else it is refused: another server's next answer would lack it.

    Args:
        most: how many sessions there are; the one idle for longest makes room, of the tenant that is to make it.
        tenant_share: what part of them one tenant may have while others need room; ``None``: there is one tenant.
        idle_s: seconds after the last use at which a session ends.
        most_clicks: how many clicks one session holds.
        state_store: where sessions outlive the process; ``None``: nowhere.
        deadline_s: how long a change waits for the store where no other server shares it.
        patience_s: how long it waits where some do, before it is refused.
        supervisor: counts errors while saving; its metrics are those of the sessions.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        most: int,
        tenant_share: float | None = None,
        idle_s: float,
        most_clicks: int,
        state_store: SessionStore | None = None,
        deadline_s: float = 0.1,
        patience_s: float = 1.0,
        supervisor: Supervisor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.trouble = ""
        """Why sessions are not stored at present, in a sentence; empty where they are."""
        self.table = SessionTable(most, tenant_share, idle_s, clock)
        self._state_store = state_store
        self._most_clicks = most_clicks
        self._deadline_s = deadline_s
        self._patience_s = patience_s
        self._supervisor = supervisor or Supervisor()
        self._me = secrets.token_hex(4)
        self._place = ""
        self._loading: dict[SessionKey, asyncio.Task[bool]] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self.table.items())

    @property
    def is_shared(self) -> bool:
        """Whether another server may be asked for a session's next change."""
        return self._state_store is not None and self._state_store.is_shared

    async def do(
        self, key: SessionKey, session: OpenSession, verb: str, *what: Any, at_hand: AtHand | None = None
    ) -> tuple[Snapshot, Snapshot]:
        """Make a change (see ``SessionState.apply``), stored together with what is ``at_hand``. The session before and
        after it.

        Raises:
            BadPrompt, TooLarge: it makes no sense in this session.
            StoreFailed: the store has not taken it, and other servers may be asked next: it was not made.
        """
        change = Change(self._name(), verb, what)
        try:
            session.log.state.check(change, self._most_clicks)
        except LabelingGroundError:
            if not await self._refresh(key, session):
                raise
            session.log.state.check(change, self._most_clicks)  # the newer state may be another one
        before, after, has_done = session.log.perform(change)
        made = [] if verb in _AFTERWARDS and not has_done else [PendingChange(change, before, after)]
        if at_hand is not None and (prediction_id := at_hand(after)) is not None:
            session.log.add(answer := Change(self._name(), "answer", after.answered(prediction_id)))
            made.append(PendingChange(answer, after, after))
        if self._state_store is None or not made:
            return before, after
        session.pending += made
        await self._persist(self._state_store, key, session, made[0])
        return made[0].before, made[0].after

    async def known(self, key: SessionKey) -> OpenSession:
        """The session, loaded where only the store has it.

        Raises:
            UnknownSession: nobody knows it.
            StoreFailed: it is not known here, and the store does not answer.
        """
        session, answered = self.table.find(key), True
        if session is None and self._state_store is not None:
            loading = self._loading.get(key)
            if loading is None:
                loading = self._loading[key] = asyncio.create_task(self._load(self._state_store, key))
                loading.add_done_callback(lambda _: self._loading.pop(key, None))
            await asyncio.wait({loading})  # not cancelled with the first who asks: others may wait too
            session, answered = self.table.find(key), loading.result()
        if session is not None:
            return session
        if not answered:
            raise StoreFailed(
                f"Session {key[1]!r} is not known to this server, and the place where sessions are kept does not "
                "answer. Try again, or send the image to /api/sam/image and start over."
            )
        raise UnknownSession(
            f"There is no session {key[1]!r}, or it was idle for too long. Send its image to /api/sam/image first."
        )

    async def sweep(self) -> None:
        """Store what could not be stored yet, and let the store delete what has run out."""
        if self._state_store is None:
            return
        for key, session in self.table.items():
            if session.is_unsaved:
                await asyncio.wait({self._save_soon(self._state_store, key, session)})
                if session.is_unsaved:  # the store is still away
                    return
        await self._state_store.sweep()

    async def meet(self) -> None:
        """See whether other servers share the store, and whether it is still the same one.

        Another one that has come in its place, as after a fail-over, may lack what was stored lately: what it has of
        every session that is known here is compared with that.
        """
        place = None if self._state_store is None else await self._state_store.meet(self._me)
        if self._state_store is None or place is None:
            return
        if self._place and place != self._place:
            for key, session in self.table.items():
                await asyncio.wait({self._save_soon(self._state_store, key, session)})
        self._place = place
        if self.trouble:
            await self.sweep()
            if not any(session.is_unsaved for _, session in self.table.items()):
                self.trouble = ""

    async def aclose(self, grace_s: float = 5.0) -> None:
        """Store what could not be stored yet, as far as the grace allows, and close the store."""
        if self._state_store is None:
            return
        try:
            await self._state_store.leave(self._me)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.sweep(), grace_s)
        finally:
            savers = {session.saver for _, session in self.table.items() if session.saver is not None}
            for task in savers:
                task.cancel()
            await asyncio.gather(*savers, return_exceptions=True)
            await self._state_store.aclose()

    def _name(self) -> str:
        return f"{self._me}.{next(self._numbers)}"

    async def _persist(self, store: SessionStore, key: SessionKey, session: OpenSession, made: PendingChange) -> None:
        """Wait until a change is stored. Where that fails, refuse it if others may be asked next; else it counts."""
        lines = session.unsaved()
        if session.saver is None and store.replace_at_once(key, lines.seen, lines.log, self.table.idle_s):
            session.note_saved(lines, lines.log)
            return
        self._save_soon(store, key, session)
        loop = asyncio.get_running_loop()
        made.told = loop.create_future()
        seconds = self._patience_s if store.is_shared else self._deadline_s
        timer = loop.call_later(seconds, partial(made.settle, stored=False))
        try:
            await made.told
        finally:
            timer.cancel()
            made.told = None
        if made.error is not None:
            raise made.error
        if made.stored:
            return
        if store.is_shared and made.change.verb not in _AFTERWARDS:
            self._refuse(session, made)
            raise StoreFailed(
                f"This change of session {key[1]!r} was not made: the place where sessions are kept does not take it, "
                "and other servers that may be asked next would not know of it. Try again."
            )
        self._supervisor.metrics.sessions_unkept.inc()
        if not store.is_shared:  # the next contact is a merge; what nobody waits for, as an answer, is in it
            session.known = session.log.to_bytes()
            session.pending = [each for each in session.pending if each.told is not None]

    def _refuse(self, session: OpenSession, made: PendingChange) -> None:
        """Take a change back. As it may be stored all the same, or still come to be, what undoes it is stored as well;
        the number of that keeps it out where it comes later."""
        session.pending.remove(made)
        if made.change.verb != "open":
            session.pending.append(session.undoing(made))
        session.rebuild()

    def _save_soon(self, store: SessionStore, key: SessionKey, session: OpenSession) -> asyncio.Task[None]:
        if session.saver is None:
            session.saver = asyncio.create_task(self._save(store, key, session))
            self._supervisor.watch("save sessions", session.saver)
        return session.saver

    async def _save(self, store: SessionStore, key: SessionKey, session: OpenSession) -> None:
        """Write what is pending, and whatever comes meanwhile; with nothing pending, see what is stored."""
        patience_s = self._patience_s if store.is_shared else None
        try:
            while True:
                known, lines = session.known, session.unsaved()
                found = await store.write(
                    key, lines.seen, lines.new, self.table.idle_s, anew=lines.anew, deadline_s=patience_s
                )
                if found is None:
                    self.trouble = self.trouble or "The last change of a session could not be kept."
                    return
                self.trouble = ""
                done, log = found
                if not done or session.known is not known:  # what was answered meanwhile is known, too
                    session.take_over(log)
                    continue
                session.note_saved(lines, log)
                if not session.is_unsaved:
                    return
        finally:
            session.saver = None
            for made in session.pending:
                made.settle(stored=False)

    async def _load(self, store: SessionStore, key: SessionKey) -> bool:
        """Take a session over from the store, if it is there. Whether the store has answered."""
        for _ in range(_TRIES):
            stored = await store.load(key)
            if stored is not None:
                break
        log = SessionLog.from_bytes(stored or b"")
        if stored and log is not None and self.table.find(key) is None:  # it may have been opened meanwhile
            self.table.add(key, self._new(log, stored, stored))
        return stored is not None

    def _new(self, *what: Any) -> OpenSession:
        return OpenSession(self._name, self._most_clicks, *what)

    async def _refresh(self, key: SessionKey, session: OpenSession) -> bool:
        """See whether another server has changed a session since, and take that over."""
        stored = None if self._state_store is None else await self._state_store.load(key)
        if not stored or stored == session.stored:
            return False
        session.take_over(stored)
        return True
