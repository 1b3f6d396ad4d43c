"""Sessions: clients' named working states. A thin layer above the cache, never part of a key."""

import itertools
from collections.abc import Sequence
from typing import Any

from labeling_ground.errors import StoreFailed, UnknownSession
from labeling_ground.service.session_state import Snapshot
from labeling_ground.service.stored_sessions import AtHand, StoredSessions
from labeling_ground.types import Box, Point

_turns = itertools.count(1)


class Sessions(StoredSessions):
    """What clients do with their sessions, each of which is changed as a whole or not at all.

    Every change raises ``UnknownSession`` where nobody knows the session, and ``StoreFailed`` where the store does not
    answer and either this process does not know the session, or other servers may know it too. Nothing was done then.

    A prediction that is ``at_hand`` for the session as it is then is noted and stored with the change, in one.
    """

    def turn(self) -> int:
        """A number for an image that has just come, so that ``open`` knows which of two came later."""
        return next(_turns)

    async def open(
        self, tenant: str, name: str, image_id: str, width: int, height: int, turn: int, model: str = ""
    ) -> None:
        """Start over with an image: an earlier image and its clicks are forgotten.

        Encoding takes its time, so an image may be done after one that came later: then the later one stays.
        ``model`` is the model that was named, empty where none was.
        """
        key = tenant, name
        if (session := self.table.find(key)) is None:
            self.table.add(key, session := self._new())
        try:
            await self.do(key, session, "open", image_id, width, height, self._me, turn, model)
        finally:
            if not session.log.state.image_id and self.table.find(key) is session:
                self.table.drop(key)  # opening it was refused

    async def click(self, tenant: str, name: str, points: Sequence[Point], at_hand: AtHand | None = None) -> Snapshot:
        """Add clicks. All of them count or, if one is bad, none.

        Raises:
            BadPrompt: a click outside the image, or a first click that is not on an object.
            TooLarge: the session is full.
        """
        return (await self._do(tenant, name, "click", *points, at_hand=at_hand))[1]

    async def rect(self, tenant: str, name: str, box: Box, at_hand: AtHand | None = None) -> tuple[Snapshot, Snapshot]:
        """Set the box; the clicks so far are forgotten, later ones refine it. The session before and after.

        Raises:
            BadPrompt: the box lies outside the image.
        """
        return await self._do(tenant, name, "rect", box, at_hand=at_hand)

    async def undo(self, tenant: str, name: str, at_hand: AtHand | None = None) -> tuple[Snapshot, Snapshot]:
        """Take the last click back, or the box when there is no click. The session before and after."""
        return await self._do(tenant, name, "undo", at_hand=at_hand)

    async def finish(self, tenant: str, name: str) -> Snapshot:
        """Forget the clicks and the box, keep the image."""
        return (await self._do(tenant, name, "finish"))[1]

    async def answered(self, tenant: str, name: str, asked: Snapshot, prediction_id: str) -> None:
        """Note the prediction for a snapshot, so that the next click can refine it."""
        await self._afterwards(tenant, name, "answer", *asked.answered(prediction_id))

    async def take_back(self, tenant: str, name: str, asked: Snapshot) -> None:
        """Remove just the clicks that made this snapshot: its prediction failed, and the annotator will click anew."""
        if asked.changes:
            await self._afterwards(tenant, name, "drop", asked.image_id, asked.changes[-1])

    async def restore(self, tenant: str, name: str, before: Snapshot, after: Snapshot) -> None:
        """Undo a change whose prediction failed, unless something else has happened since: trying again is safe."""
        await self._afterwards(tenant, name, "restore", after.last_reset, after.mark, *before.as_it_was)

    async def model(self, tenant: str, name: str) -> str:
        """The model that was named for the session; empty where none was, or where the session cannot be found."""
        try:
            return (await self.known((tenant, name))).log.state.model
        except (UnknownSession, StoreFailed):
            return ""

    async def use(self, tenant: str, name: str, model: str) -> None:
        """Remember the model that was named for the session: what is asked from now on is predicted by that one."""
        await self._afterwards(tenant, name, "model", model)

    async def look(self, tenant: str, name: str) -> Snapshot:
        """The session as this process knows it."""
        return (await self.known((tenant, name))).log.state.snapshot()

    async def _do(
        self, tenant: str, name: str, verb: str, *what: Any, at_hand: AtHand | None = None
    ) -> tuple[Snapshot, Snapshot]:
        return await self.do((tenant, name), await self.known((tenant, name)), verb, *what, at_hand=at_hand)

    async def _afterwards(self, tenant: str, name: str, verb: str, *what: Any) -> None:
        """A change that follows an answer. A session that has gone needs none."""
        try:
            session = await self.known((tenant, name))
        except (UnknownSession, StoreFailed):
            return
        await self.do((tenant, name), session, verb, *what)
