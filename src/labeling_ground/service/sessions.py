"""Sessions: clients' named working states. A thin layer above the cache, never part of a key.

Every change is made in this process first, without awaiting: twenty clicks at once are twenty clicks. Where there is
a keeper, the change is then written through before its asker hears of it, so that it outlives this process. Several
changes of one session travel together. A save replaces only the version that this process knew; where another server
has saved since, its version is taken over and what it lacks is done again on top. So all servers that share a keeper
count every click once, whichever of them it comes to.
"""

import asyncio
import itertools
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from labeling_ground.cache.keeper import Kept
from labeling_ground.errors import LabelingGroundError, StoreFailed, UnknownSession
from labeling_ground.service.session_keeper import GuardedKeeper
from labeling_ground.service.session_state import SessionState, Snapshot
from labeling_ground.types import Box, Point

_REMEMBERED = 1024
"""Changes of one session that are done again, at most, on top of what another server saved."""
_TRIES = 3
"""How often a keeper is asked for a session that is not known here: without an answer its change cannot be made."""

_Key = tuple[str, str]
_Work = Callable[[SessionState], Any]


@dataclass(slots=True, eq=False)
class _Change:
    """Something that was done here and is not known to be kept."""

    work: _Work
    image_id: str
    """The image that it was about; empty where it opened one."""
    result: Any = None
    number: int = 0
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
    pending: list[_Change] = field(default_factory=list)
    saver: asyncio.Task[None] | None = None


class Sessions:
    """All sessions of all tenants, bounded and with an idle time.

    A keeper that is down, slow or full fails no change: it then counts in this process's memory only, is counted in
    ``unkept``, and is kept later, with the session's next change or with a sweep.

    Every change raises ``UnknownSession`` where nobody knows the session, and ``StoreFailed`` where this process does
    not and the keeper does not answer.

    Args:
        most: how many are held; the one idle for longest makes room.
        idle_s: seconds after the last use at which a session ends.
        most_clicks: how many clicks one session holds.
        keeper: where sessions outlive the process; ``None``: nowhere.
        deadline_s: how long a change waits for the keeper.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        most: int,
        idle_s: float,
        most_clicks: int,
        keeper: GuardedKeeper | None = None,
        deadline_s: float = 0.1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.idle_s = idle_s
        self.unkept = 0
        """Changes that were answered before they were kept."""
        self._most = most
        self._most_clicks = most_clicks
        self._keeper = keeper
        self._deadline_s = deadline_s
        self._clock = clock
        self._held: OrderedDict[_Key, _Held] = OrderedDict()
        self._loading: dict[_Key, asyncio.Task[bool]] = {}
        self._me = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._turns = itertools.count(1)

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

        def work(state: SessionState) -> None:
            state.open(image_id, width, height, (self._me, turn))

        await self._change(tenant, name, work, opens=True)

    async def click(self, tenant: str, name: str, points: Sequence[Point]) -> Snapshot:
        """Add clicks. All of them count or, if one is bad, none.

        Raises:
            UnknownSession, StoreFailed: see the class.
            BadPrompt: a click outside the image, or a first click that is not on an object.
            TooLarge: the session is full.
        """
        change = f"{self._me}.{next(self._numbers)}"
        found: Snapshot = await self._change(tenant, name, lambda state: state.click(points, change, self._most_clicks))
        return found

    async def rect(self, tenant: str, name: str, box: Box) -> tuple[Snapshot, Snapshot]:
        """Set the box; the clicks so far are forgotten, later ones refine it. The session before and after.

        Raises:
            UnknownSession, StoreFailed: see the class.
            BadPrompt: the box lies outside the image.
        """
        return await self._both(tenant, name, lambda state: state.rect(box))

    async def undo(self, tenant: str, name: str) -> tuple[Snapshot, Snapshot]:
        """Take the last click back, or the box when there is no click. The session before and after.

        Raises:
            UnknownSession, StoreFailed: see the class.
        """
        return await self._both(tenant, name, SessionState.undo)

    async def finish(self, tenant: str, name: str) -> Snapshot:
        """Forget the clicks and the box, keep the image.

        Raises:
            UnknownSession, StoreFailed: see the class.
        """
        found: Snapshot = await self._change(tenant, name, SessionState.finish)
        return found

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
        """Keep what could not be kept yet, and let the keeper delete what has run out."""
        self._expire()
        if self._keeper is None:
            return
        for key, held in list(self._held.items()):
            if held.pending:
                await asyncio.wait({self._save_soon(self._keeper, key, held)})
                if held.pending:  # it is still away
                    return
        await self._keeper.sweep()

    async def aclose(self, grace_s: float = 5.0) -> None:
        """Keep what could not be kept yet, as far as the grace allows, and close the keeper."""
        if self._keeper is None:
            return
        try:
            sweeping = asyncio.create_task(self.sweep())
            await asyncio.wait({sweeping}, timeout=grace_s)
            sweeping.cancel()
            savers = {held.saver for held in self._held.values() if held.saver is not None}
            for task in savers:
                task.cancel()
            await asyncio.wait({sweeping, *savers})
        finally:
            await self._keeper.aclose()
        if not sweeping.cancelled() and (error := sweeping.exception()) is not None:
            raise error  # whoever closes this says so in the log

    async def _both(
        self, tenant: str, name: str, work: Callable[[SessionState], Snapshot]
    ) -> tuple[Snapshot, Snapshot]:
        def both(state: SessionState) -> tuple[Snapshot, Snapshot]:
            return state.snapshot(), work(state)

        found: tuple[Snapshot, Snapshot] = await self._change(tenant, name, both)
        return found

    async def _afterwards(self, tenant: str, name: str, work: Callable[[SessionState], bool]) -> None:
        """A change that follows an answer, and says whether it did anything. A session that has gone needs none."""
        try:
            held = await self._known(tenant, name)
        except (UnknownSession, StoreFailed):
            return
        if work(held.state):
            await self._keep((tenant, name), held, _Change(work, held.state.image_id))

    async def _change(self, tenant: str, name: str, work: _Work, *, opens: bool = False) -> Any:
        key, held = (tenant, name), await self._known(tenant, name)
        try:
            change = _Change(work, "" if opens else held.state.image_id, work(held.state))
        except LabelingGroundError:
            if not await self._refresh(key, held):
                raise
            # What is wrong with an older state may be right with the newer one.
            change = _Change(work, held.state.image_id, work(held.state))
        await self._keep(key, held, change)
        return change.result

    async def _keep(self, key: _Key, held: _Held, change: _Change) -> None:
        """Write a change through that was made here."""
        if self._keeper is None:
            return
        change.number = next(self._numbers)
        held.state.note(self._me, change.number)
        held.pending.append(change)
        del held.pending[:-_REMEMBERED]
        change.told = told = asyncio.get_running_loop().create_future()
        self._save_soon(self._keeper, key, held)
        try:
            await asyncio.wait({told}, timeout=self._deadline_s)
        finally:
            change.told = None
        if change.error is not None:
            raise change.error
        self.unkept += not change.kept

    def _save_soon(self, keeper: GuardedKeeper, key: _Key, held: _Held) -> asyncio.Task[None]:
        if held.saver is None:
            held.saver = asyncio.create_task(self._save(keeper, key, held))
        return held.saver

    async def _save(self, keeper: GuardedKeeper, key: _Key, held: _Held) -> None:
        try:
            while held.pending:
                last, new = held.pending[-1].number, Kept.new(held.state.to_bytes())
                kept = await keeper.save(*key, new, held.version, self.idle_s)
                if kept is None:
                    return
                if kept.version == new.version:
                    held.version = kept.version
                    self._settle(held, last)
                else:
                    self._take_over(held, kept)
        finally:
            held.saver = None
            for change in held.pending:
                change.settle(kept=False)

    def _take_over(self, held: _Held, kept: Kept) -> None:
        """Go on from what another server has saved: do again, on top of it, what it lacks."""
        held.version = kept.version
        state = SessionState.from_bytes(kept.value)
        if state is None:  # bytes that say nothing: they will be replaced by what is known here
            return
        self._settle(held, state.seen.get(self._me, 0))
        pending, held.pending = held.pending, []
        for change in pending:
            if change.told is None and change.image_id not in ("", state.image_id):
                continue  # it was answered long ago, and about an image that has been left since
            try:
                change.result = change.work(state)
            except LabelingGroundError as error:
                change.error = error
                change.settle(kept=False)
            else:
                state.note(self._me, change.number)
                held.pending.append(change)
        held.state = state

    @staticmethod
    def _settle(held: _Held, last: int) -> None:
        """Changes up to this number are kept."""
        for change in held.pending:
            if change.number <= last:
                change.settle(kept=True)
        held.pending = [change for change in held.pending if change.number > last]

    async def _refresh(self, key: _Key, held: _Held) -> bool:
        """See whether another server has saved since, and take that over."""
        if self._keeper is None:
            return False
        _, kept = await self._keeper.load(*key)
        if kept is None or kept.version == held.version:
            return False
        self._take_over(held, kept)
        return True

    async def _known(self, tenant: str, name: str) -> _Held:
        key = (tenant, name)
        answered = True
        if (held := self._find(key)) is None and self._keeper is not None:
            loading = self._loading.get(key)
            if loading is None:
                loading = self._loading[key] = asyncio.create_task(self._load(self._keeper, key))
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

    async def _load(self, keeper: GuardedKeeper, key: _Key) -> bool:
        """Take a session over from the keeper, if it has it. Whether it has answered."""
        answered, kept = False, None
        for _ in range(_TRIES):
            answered, kept = await keeper.load(*key)
            if answered:
                break
        state = None if kept is None else SessionState.from_bytes(kept.value)
        if kept is not None and state is not None and key not in self._held:  # it may have been opened meanwhile
            self._hold(key, _Held(self._clock(), state, kept.version))
        return answered

    def _find(self, key: _Key) -> _Held | None:
        self._expire()
        held = self._held.get(key)
        if held is not None:
            held.used = self._clock()
            self._held.move_to_end(key)
        return held

    def _hold(self, key: _Key, held: _Held) -> None:
        self._held[key] = held
        while len(self._held) > self._most:
            # One that is being saved should not be loaded beside that.
            idle = (other for other, held in self._held.items() if held.saver is None and other != key)
            del self._held[next(idle, None) or next(iter(self._held))]

    def _expire(self) -> None:
        limit = self._clock() - self.idle_s
        while self._held:
            key, held = next(iter(self._held.items()))
            if held.used > limit:
                break
            del self._held[key]
