"""Sessions: clients' named working states. A thin layer above the cache, never part of a key.

Every change is made in this process first, without awaiting: twenty clicks at once are twenty clicks. Where there is
a store, the change is then written through before its asker hears of it, so that it outlives this process. Several
changes of one session travel together. A save replaces only the version that this process knew; where another server
has saved since, its version is taken over and what it lacks is done again on top. So all servers that share a store
count every click once, whichever of them it comes to.

Where the store does not do it, what follows depends on whether another server may take the session's next change. If
not, the change counts here and is kept later. If so, it is taken back and its asker is told to try again: otherwise the
other server's answer would lack it. What a state store has lost that was kept before (a fail-over to a replica that was
behind) is merged into what it has by the first server that knows of it.
"""

import asyncio
import itertools
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from labeling_ground.cache.shares import payer
from labeling_ground.cache.state_store import VersionedState
from labeling_ground.errors import LabelingGroundError, StoreFailed, UnknownSession
from labeling_ground.service.session_state import SessionState, Snapshot
from labeling_ground.service.session_store import SessionStore
from labeling_ground.supervisor import Supervisor
from labeling_ground.types import Box, Point

_REMEMBERED = 1024
"""Changes of one session that are done again, at most, on top of what another server saved."""
_TRIES = 3
"""How often a store is asked for a session that is not known here: without an answer its change cannot be made."""

_Key = tuple[str, str]
_Work = Callable[[SessionState, str], Any]
"""Changes a state; the second argument is the change's name."""


@dataclass(slots=True, eq=False)
class _Change:
    """Something that was done here and is not known to be kept."""

    work: _Work
    name: str
    number: int
    image_id: str
    """The image that it was about; empty where it opened one."""
    result: Any = None
    revert: Callable[[SessionState, Any], object] | None = None
    """Undoes it in a state that has it, given its result."""
    sent: set[int] = field(default_factory=set)
    """Of each save that had it: the last number in it."""
    given_up: bool = False
    """Whether its asker was told that it was not done."""
    told: asyncio.Future[None] | None = None
    """Done once it is kept, or cannot be; ``None`` where nobody waits for that."""
    kept: bool = False
    error: LabelingGroundError | None = None

    def settle(self, *, kept: bool) -> None:
        """Let the asker go on."""
        if self.told is not None and not self.told.done():
            self.kept = kept
            self.told.set_result(None)


@dataclass(slots=True, eq=False)
class _Held:
    """A session as this process knows it."""

    used: float
    state: SessionState = field(default_factory=SessionState)
    version: bytes = b""
    """Of the kept state that this one was built on."""
    base: bytes = b""
    """That state; empty where none is known to be kept."""
    pending: list[_Change] = field(default_factory=list)
    saver: asyncio.Task[None] | None = None

    @property
    def is_unsaved(self) -> bool:
        """Whether there are changes to be saved."""
        return any(not change.given_up for change in self.pending)


class Sessions:
    """All sessions of all tenants, bounded and with an idle time.

    Where no other server shares the state store, one that is down, slow or full fails no change: it then counts in this
    process's memory only, is counted in ``unkept``, and is kept later, with the session's next change or with a sweep.

    Every change raises ``UnknownSession`` where nobody knows the session, and ``StoreFailed`` where the store does not
    answer and either this process does not know the session, or other servers may know it too. Nothing was done then.

    Args:
        most: how many are held; the one idle for longest makes room, of the tenant that is to make it.
        tenant_share: what part of them one tenant may have while others need room; ``None``: there is one tenant.
        idle_s: seconds after the last use at which a session ends.
        most_clicks: how many clicks one session holds.
        state_store: where sessions outlive the process; ``None``: nowhere.
        deadline_s: how long a change waits for the state store where no other server shares it.
        patience_s: how long it waits where some do, before it is taken back.
        supervisor: counts errors while saving.
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
        self.idle_s = idle_s
        self.unkept = 0
        """Changes that were answered before they were kept."""
        self.trouble = ""
        """Why sessions are not kept at present, in a sentence; empty where they are."""
        self._most = most
        self._share = tenant_share
        self._of: dict[str, OrderedDict[_Key, None]] = {}  # each tenant's sessions, the idlest first
        self._most_clicks = most_clicks
        self._state_store = state_store
        self._deadline_s = deadline_s
        self._patience_s = patience_s
        self._supervisor = supervisor or Supervisor()
        self._place = ""
        self._clock = clock
        self._held: OrderedDict[_Key, _Held] = OrderedDict()
        self._loading: dict[_Key, asyncio.Task[bool]] = {}
        self._me = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._turns = itertools.count(1)

    @property
    def is_shared(self) -> bool:
        """Whether another server may be asked for a session's next change."""
        return self._state_store is not None and self._state_store.is_shared

    def __len__(self) -> int:
        self._expire()
        return len(self._held)

    def turn(self) -> int:
        """A number for an image that has just come, so that ``open`` knows which of two came later."""
        return next(self._turns)

    async def open(self, tenant: str, name: str, image_id: str, width: int, height: int, turn: int) -> None:
        """Start over with an image: an earlier image and its clicks are forgotten.

        Encoding takes its time, so an image may be done after one that came later: then the later one stays.
        """
        if self._find((tenant, name)) is None:
            self._hold((tenant, name), _Held(self._clock()))

        def work(state: SessionState, _: str) -> None:
            state.open(image_id, width, height, (self._me, turn))

        await self._change(tenant, name, work, opens=True)

    async def click(self, tenant: str, name: str, points: Sequence[Point]) -> Snapshot:
        """Add clicks. All of them count or, if one is bad, none.

        Raises:
            UnknownSession, StoreFailed: see the class.
            BadPrompt: a click outside the image, or a first click that is not on an object.
            TooLarge: the session is full.
        """
        found: Snapshot = await self._change(
            tenant,
            name,
            lambda state, change: state.click(points, change, self._most_clicks),
            revert=lambda state, made: state.take_back(made),
        )
        return found

    async def rect(self, tenant: str, name: str, box: Box) -> tuple[Snapshot, Snapshot]:
        """Set the box; the clicks so far are forgotten, later ones refine it. The session before and after.

        Raises:
            UnknownSession, StoreFailed: see the class.
            BadPrompt: the box lies outside the image.
        """
        return await self._both(tenant, name, lambda state, change: state.rect(box, change))

    async def undo(self, tenant: str, name: str) -> tuple[Snapshot, Snapshot]:
        """Take the last click back, or the box when there is no click. The session before and after.

        Raises:
            UnknownSession, StoreFailed: see the class.
        """
        return await self._both(tenant, name, lambda state, _: state.undo())

    async def finish(self, tenant: str, name: str) -> Snapshot:
        """Forget the clicks and the box, keep the image.

        Raises:
            UnknownSession, StoreFailed: see the class.
        """
        return (await self._both(tenant, name, lambda state, change: state.finish(change)))[1]

    async def answered(self, tenant: str, name: str, asked: Snapshot, prediction_id: str) -> None:
        """Note the prediction for a snapshot, so that the next click can refine it."""
        await self._afterwards(tenant, name, lambda state: state.answered(asked, prediction_id))

    async def take_back(self, tenant: str, name: str, asked: Snapshot) -> None:
        """Remove just the clicks that made this snapshot: its prediction failed, and the annotator will click anew."""
        await self._afterwards(tenant, name, lambda state: state.take_back(asked))

    async def restore(self, tenant: str, name: str, before: Snapshot, after: Snapshot) -> None:
        """Undo a change whose prediction failed, unless something else has happened since: trying again is safe."""
        await self._afterwards(tenant, name, lambda state: state.restore(before, after))

    async def look(self, tenant: str, name: str) -> Snapshot:
        """The session as this process knows it.

        Raises:
            UnknownSession, StoreFailed: see the class.
        """
        return (await self._known(tenant, name)).state.snapshot()

    async def sweep(self) -> None:
        """Keep what could not be kept yet, and let the state store delete what has run out."""
        self._expire()
        if self._state_store is None:
            return
        for key, held in list(self._held.items()):
            if held.pending:
                if not held.is_unsaved:  # whether what was given up is not kept all the same is seen by saving
                    held.pending.append(self._made(_nothing, held))
                await asyncio.wait({self._save_soon(self._state_store, key, held)})
                if held.is_unsaved:  # it is still away
                    return
        await self._state_store.sweep()

    async def meet(self) -> None:
        """See whether other servers share the state store, and whether it is still the same one.

        Where another one has come in its place, as after a fail-over, it may lack what was kept of late: every session
        that is known here is saved to it again.
        """
        if self._state_store is None:
            return
        place = await self._state_store.meet(self._me)
        if place is None:
            return
        if self._place and place != self._place:
            for key, held in list(self._held.items()):
                held.pending.append(self._made(_nothing, held))
                await asyncio.wait({self._save_soon(self._state_store, key, held)})
        self._place = place
        if self.trouble:
            await self.sweep()
            if not any(held.is_unsaved for held in self._held.values()):
                self.trouble = ""

    async def aclose(self, grace_s: float = 5.0) -> None:
        """Keep what could not be kept yet, as far as the grace allows, and close the state store."""
        if self._state_store is None:
            return
        try:
            await self._state_store.leave(self._me)
            sweeping = asyncio.create_task(self.sweep())
            await asyncio.wait({sweeping}, timeout=grace_s)
            sweeping.cancel()
            savers = {held.saver for held in self._held.values() if held.saver is not None}
            for task in savers:
                task.cancel()
            await asyncio.wait({sweeping, *savers})
        finally:
            await self._state_store.aclose()
        if not sweeping.cancelled() and (error := sweeping.exception()) is not None:
            raise error  # whoever closes this says so in the log

    async def _both(
        self, tenant: str, name: str, work: Callable[[SessionState, str], Snapshot]
    ) -> tuple[Snapshot, Snapshot]:
        def both(state: SessionState, change: str) -> tuple[Snapshot, Snapshot]:
            return state.snapshot(), work(state, change)

        found: tuple[Snapshot, Snapshot] = await self._change(
            tenant, name, both, revert=lambda state, made: state.restore(*made)
        )
        return found

    async def _afterwards(self, tenant: str, name: str, work: Callable[[SessionState], bool]) -> None:
        """A change that follows an answer, and says whether it did anything. A session that has gone needs none."""
        try:
            held = await self._known(tenant, name)
        except (UnknownSession, StoreFailed):
            return
        if work(held.state):
            await self._keep((tenant, name), held, self._made(lambda state, _: work(state), held))

    async def _change(
        self,
        tenant: str,
        name: str,
        work: _Work,
        *,
        opens: bool = False,
        revert: Callable[[SessionState, Any], object] | None = None,
    ) -> Any:
        key, held = (tenant, name), await self._known(tenant, name)
        change = self._made(work, held, revert)
        try:
            change.result = work(held.state, change.name)
        except LabelingGroundError:
            if not await self._refresh(key, held):
                raise
            # What is wrong with an older state may be right with the newer one.
            change = self._made(work, held, revert)
            change.result = work(held.state, change.name)
        if opens:
            change.image_id = ""
        await self._keep(key, held, change)
        if change.given_up:
            raise StoreFailed(
                f"This change of session {name!r} was not made: the place where sessions are kept does not take it, "
                "and other servers that may be asked next would not know of it. Try again."
            )
        return change.result

    def _made(self, work: _Work, held: _Held, revert: Callable[[SessionState, Any], object] | None = None) -> _Change:
        number = next(self._numbers)
        return _Change(work, f"{self._me}.{number}", number, held.state.image_id, revert=revert)

    async def _keep(self, key: _Key, held: _Held, change: _Change) -> None:
        """Write a change through that was made here. Where that fails and others may be asked next, take it back, if
        that is possible: what an answer has brought about is kept later."""
        if self._state_store is None:
            return
        held.state.note(self._me, change.number)
        held.pending.append(change)
        del held.pending[:-_REMEMBERED]
        change.told = told = asyncio.get_running_loop().create_future()
        self._save_soon(self._state_store, key, held)
        try:
            patience_s = self._patience_s if self._state_store.is_shared else self._deadline_s
            await asyncio.wait({told}, timeout=patience_s)
        finally:
            change.told = None
        if change.error is not None:
            raise change.error
        if change.kept:
            return
        if self._state_store.is_shared and (change.revert is not None or change.image_id == ""):
            change.given_up = True
            self._rebuild(key, held)
        else:
            self.unkept += 1

    def _save_soon(self, state_store: SessionStore, key: _Key, held: _Held) -> asyncio.Task[None]:
        if held.saver is None:
            held.saver = asyncio.create_task(self._save(state_store, key, held))
            self._supervisor.watch("save sessions", held.saver)
        return held.saver

    async def _save(self, state_store: SessionStore, key: _Key, held: _Held) -> None:
        try:
            while held.is_unsaved:
                last, new = held.pending[-1].number, VersionedState.new(held.state.to_bytes())
                sent = [change for change in held.pending if not change.given_up]
                for change in sent:
                    change.sent.add(last)
                patience_s = self._patience_s if state_store.is_shared else None
                kept = await state_store.save(*key, new, held.version, self.idle_s, patience_s)
                if kept is None:
                    self.trouble = self.trouble or "The last change of a session could not be kept."
                    return
                self.trouble = ""
                if kept.version == new.version:
                    held.version, held.base = kept.version, new.value
                    # Those given up before are in no save: this one replaced the state that they were not in.
                    self._settle(held, sent, [change for change in held.pending if change.number > last])
                    if any(change.given_up for change in sent):
                        self._rebuild(key, held)
                else:
                    self._take_over(key, held, kept)
        finally:
            held.saver = None
            for change in held.pending:
                change.settle(kept=False)

    def _take_over(self, key: _Key, held: _Held, kept: VersionedState) -> None:
        """Go on from what another server has saved, and from what was kept before and is not in it: do again, on top of
        that, what it lacks."""
        held.version = kept.version
        state = SessionState.from_bytes(kept.value)
        if state is None:  # bytes that say nothing: they will be replaced by what is known here
            return
        last = state.seen.get(self._me, 0)
        done = [
            change for change in held.pending if last in change.sent or (not change.given_up and change.number <= last)
        ]
        before = SessionState.from_bytes(held.base)
        if before is not None:
            state.merge(before)
        held.base = state.to_bytes()
        self._settle(held, done, [change for change in held.pending if change not in done])
        self._rebuild(key, held)

    def _settle(self, held: _Held, kept: Sequence[_Change], left: list[_Change]) -> None:
        """Note which changes are kept and which are left. One that was given up meanwhile is undone by another one."""
        held.pending = left
        for change in kept:
            change.settle(kept=True)
            if change.given_up and change.revert is not None:
                held.pending.append(self._made(partial(_revert, change), held))

    def _rebuild(self, key: _Key, held: _Held) -> None:
        """Make the state anew: what is kept, and on top of it what is not yet and was not given up."""
        state = SessionState.from_bytes(held.base) or SessionState()
        pending, held.pending = held.pending, []
        for change in pending:
            if change.told is None and change.image_id not in ("", state.image_id):
                continue  # it was answered long ago, and about an image that has been left since
            held.pending.append(change)
            if change.given_up:
                continue
            try:
                change.result = change.work(state, change.name)
            except LabelingGroundError as error:
                change.error = error
                change.settle(kept=False)
                held.pending.remove(change)
            else:
                state.note(self._me, change.number)
        held.state = state
        if not state.image_id and self._held.get(key) is held:
            self._drop(key)  # opening it was given up

    async def _refresh(self, key: _Key, held: _Held) -> bool:
        """See whether another server has saved since, and take that over."""
        if self._state_store is None:
            return False
        _, kept = await self._state_store.load(*key)
        if kept is None or kept.version == held.version:
            return False
        self._take_over(key, held, kept)
        return True

    async def _known(self, tenant: str, name: str) -> _Held:
        key = (tenant, name)
        answered = True
        if (held := self._find(key)) is None and self._state_store is not None:
            loading = self._loading.get(key)
            if loading is None:
                loading = self._loading[key] = asyncio.create_task(self._load(self._state_store, key))
                loading.add_done_callback(lambda _: self._loading.pop(key, None))
            await asyncio.wait({loading})  # not cancelled with the first who asks: others may wait too
            answered = loading.result()
            held = self._find(key)
        if held is not None:
            return held
        if not answered:
            raise StoreFailed(
                f"Session {name!r} is not known to this server, and the place where sessions are kept does not answer. "
                "Try again, or send the image to /api/sam/image and start over."
            )
        raise UnknownSession(
            f"There is no session {name!r}, or it was idle for too long. Send its image to /api/sam/image first."
        )

    async def _load(self, state_store: SessionStore, key: _Key) -> bool:
        """Take a session over from the state store, if it has it. Whether it has answered."""
        answered, kept = False, None
        for _ in range(_TRIES):
            answered, kept = await state_store.load(*key)
            if answered:
                break
        state = None if kept is None else SessionState.from_bytes(kept.value)
        if kept is not None and state is not None and key not in self._held:  # it may have been opened meanwhile
            self._hold(key, _Held(self._clock(), state, kept.version, kept.value))
        return answered

    def _find(self, key: _Key) -> _Held | None:
        self._expire()
        held = self._held.get(key)
        if held is not None:
            held.used = self._clock()
            self._held.move_to_end(key)
            self._of[key[0]].move_to_end(key)
        return held

    def _hold(self, key: _Key, held: _Held) -> None:
        self._held[key] = held
        self._of.setdefault(key[0], OrderedDict())[key] = None
        while len(self._held) > self._most:
            of: OrderedDict[_Key, Any] = self._held
            if self._share is not None:
                counts = {tenant: len(sessions) for tenant, sessions in self._of.items()}
                of = self._of[payer(counts, key[0], 0, self._share * self._most) or key[0]]
            # One that is being saved should not be loaded beside that.
            idle = (other for other in of if self._held[other].saver is None and other != key)
            self._drop(next(idle, None) or next(iter(of)))

    def _drop(self, key: _Key) -> None:
        del self._held[key], self._of[key[0]][key]
        if not self._of[key[0]]:
            del self._of[key[0]]

    def _expire(self) -> None:
        limit = self._clock() - self.idle_s
        while self._held:
            key, held = next(iter(self._held.items()))
            if held.used > limit:
                break
            self._drop(key)


def _revert(change: _Change, state: SessionState, _: str) -> None:
    if change.revert is not None:
        change.revert(state, change.result)


def _nothing(_: SessionState, __: str) -> None:
    """A change that is only there to be saved."""
