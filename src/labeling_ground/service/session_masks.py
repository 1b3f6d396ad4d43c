"""What a session's client does, and the mask that comes of it: change the session, predict, note it or take it back."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from labeling_ground.errors import BadPrompt, LabelingGroundError, UnknownPrediction
from labeling_ground.key import canonical
from labeling_ground.service.asks import MaskAnswer, PromptAsk
from labeling_ground.service.predictor import Predictor
from labeling_ground.service.session_state import Snapshot
from labeling_ground.service.sessions import Sessions
from labeling_ground.types import Box, ModelVersion, Point

Attend = Callable[[Snapshot, Coroutine[Any, Any, MaskAnswer]], Awaitable[MaskAnswer | None]]
"""Waits for a snapshot's prediction as long as its asker does; ``None``: the asker has left, and the change counts."""
_Predict = Callable[[int, str | None], Awaitable[MaskAnswer]]
"""Predicts for so many of the clicks, refining this prediction."""


async def _to_the_end(_: Snapshot, prediction: Coroutine[Any, Any, MaskAnswer]) -> MaskAnswer:
    return await prediction


@dataclass(frozen=True, slots=True)
class SessionMask:
    """A session after a change, and its mask.

    Attributes:
        snapshot: what was pointed at by then.
        version: the model version that answers.
        model_note: what to know of that model's answers.
        answer: the prediction; ``None`` where nothing is pointed at, or where the asker has left.
    """

    snapshot: Snapshot
    version: ModelVersion
    model_note: str
    answer: MaskAnswer | None = None

    @property
    def has_left(self) -> bool:
        """Whether the asker has left."""
        return self.answer is None and not self.snapshot.is_empty


class SessionMasks:
    """Clicks, boxes and steps back of sessions, each answered with the mask for all that is pointed at then.

    A change whose prediction fails is taken back, so that trying again is safe. One whose asker has not waited for the
    answer counts: pages call a request off when the next click comes.

    Every method raises what ``Sessions`` and ``Predictor.masks`` raise, but for ``UnknownPrediction``.

    Args:
        sessions: the sessions.
        refine: whether a click refines the mask before it, where the model can do so.
        attend: waits for predictions.
    """

    def __init__(self, sessions: Sessions, *, refine: bool, attend: Attend = _to_the_end) -> None:
        self._sessions = sessions
        self._refine = refine
        self._attend = attend

    async def click(self, predictor: Predictor, tenant: str, session: str, points: Sequence[Point]) -> SessionMask:
        """Add clicks; all of them count or, if one is bad, none."""
        at_hand = _AtHand(predictor, tenant, session, refine=self._refines(predictor))
        snapshot = await self._sessions.click(tenant, session, points, at_hand)
        take_back = partial(self._sessions.take_back, tenant, session, snapshot)
        return await self._mask(at_hand, snapshot, take_back)

    async def rect(self, predictor: Predictor, tenant: str, session: str, box: Box) -> SessionMask:
        """Set the box, drawn from any corner; it replaces the clicks so far, and later ones refine it.

        Raises:
            BadPrompt: it has no area, or lies outside the image.
        """
        drawn = canonical(box=box).box
        if drawn is None:
            raise BadPrompt("The box has no area.")
        at_hand = _AtHand(predictor, tenant, session, refine=self._refines(predictor))
        before, after = await self._sessions.rect(tenant, session, drawn, at_hand)
        take_back = partial(self._sessions.restore, tenant, session, before, after)
        return await self._mask(at_hand, after, take_back)

    async def undo(self, predictor: Predictor, tenant: str, session: str) -> SessionMask:
        """Take the last click back, or the box when there is no click."""
        at_hand = _AtHand(predictor, tenant, session, refine=self._refines(predictor))
        before, after = await self._sessions.undo(tenant, session, at_hand)
        take_back = partial(self._sessions.restore, tenant, session, before, after)
        return await self._mask(at_hand, after, take_back)

    def _refines(self, predictor: Predictor) -> bool:
        return self._refine and "mask" in predictor.backend.info.capabilities

    async def _mask(self, asks: "_AtHand", snapshot: Snapshot, take_back: Callable[[], Awaitable[None]]) -> SessionMask:
        predictor, tenant, session = asks.predictor, asks.tenant, asks.session
        try:
            answer = asks.found_for(snapshot)
            if answer is None and not snapshot.is_empty:
                prediction = _predict(predictor, tenant, snapshot, client=client_of(session), refine=asks.refine)
                answer = await self._attend(snapshot, prediction)
                if answer is not None and asks.refine:
                    await self._sessions.answered(tenant, session, snapshot, answer.prediction_id)
            if answer is None:
                ask = predictor.model.bind(tenant, snapshot.image_id)
                return SessionMask(snapshot, ask.version, ask.model_note)
        except BaseException:
            await take_back()
            raise
        return SessionMask(snapshot, answer.version, answer.model_note, answer)


class _AtHand:
    """What a change of a session is answered with, where that is in memory before the change is stored."""

    def __init__(self, predictor: Predictor, tenant: str, session: str, *, refine: bool) -> None:
        self.predictor, self.tenant, self.session = predictor, tenant, session
        self.refine = refine
        self._found: tuple[Snapshot, MaskAnswer] | None = None

    def __call__(self, snapshot: Snapshot) -> str | None:
        """The id of the prediction, to be noted; ``None`` where nothing is in memory, or none is refined."""
        if snapshot.is_empty or (self.refine and snapshot.parent is not None):
            return None
        prompt, client = PromptAsk(points=snapshot.clicks, box=snapshot.box), client_of(self.session)
        try:
            found = self.predictor.masks_at_once(self.tenant, snapshot.image_id, [prompt], client=client)
        except LabelingGroundError:
            return None  # it is said when the change is stored, and can be taken back
        if not isinstance(found, list):
            return None
        self._found = snapshot, found[0]
        return found[0].prediction_id if self.refine else None

    def found_for(self, snapshot: Snapshot) -> MaskAnswer | None:
        """The answer for a snapshot, which is another one where other servers have changed the session meanwhile."""
        return self._found[1] if self._found is not None and self._found[0] == snapshot else None


def client_of(session: str) -> str:
    """The client whose images a session's are, for the done hint."""
    return f"session:{session}"


async def _predict(predictor: Predictor, tenant: str, snapshot: Snapshot, *, client: str, refine: bool) -> MaskAnswer:
    """The prediction for a session's clicks and box.

    What it refines may be gone, by eviction, by a purge, or with a process that was killed before it had written it
    down. Then it is predicted again from its own clicks: a session's masks do not depend on what the cache has kept.
    """

    async def predict(count: int, parent: str | None) -> MaskAnswer:
        mask_input = None if parent is None else (parent, 0)
        prompt = PromptAsk(points=snapshot.clicks[:count], box=snapshot.box, mask_input=mask_input)
        [answer] = await predictor.masks(tenant, snapshot.image_id, [prompt], client=client)
        return answer

    clicks = len(snapshot.clicks)
    if refine and snapshot.parent is not None:
        try:
            return await predict(clicks, snapshot.parent)
        except UnknownPrediction:
            try:
                return await predict(clicks, await _predicted_again(predict, snapshot))
            except UnknownPrediction:
                pass  # there is no room for it; the clicks alone say enough
    return await predict(clicks, None)


async def _predicted_again(predict: _Predict, snapshot: Snapshot) -> str | None:
    """The prediction that the snapshot refines, and all that it refines itself, from the first on."""
    made: str | None = None
    for count, prediction_id in snapshot.answers:
        answer = await predict(count, made)
        if answer.prediction_id != prediction_id and made is not None:
            # Either another model answered it, or its clicks came before there was anything to refine.
            alone = await predict(count, None)
            if alone.prediction_id == prediction_id:
                answer = alone
        made = answer.prediction_id
    return made
