"""The mask of a session: each click refines the mask before it, also where the cache has lost that one."""

from collections.abc import Awaitable, Callable

from labeling_ground.errors import UnknownPrediction
from labeling_ground.service.predictor import MaskAnswer, Predictor, PromptAsk
from labeling_ground.service.session_state import Snapshot

_Ask = Callable[[int, str | None], Awaitable[MaskAnswer]]
"""Predict for so many of the clicks, refining this prediction."""


async def mask_of(predictor: Predictor, tenant: str, snapshot: Snapshot, *, client: str, refine: bool) -> MaskAnswer:
    """The prediction for a session's clicks and box.

    What it refines may be gone, by eviction, by a purge, or with a process that was killed before it had written it
    down. Then it is predicted again from its own clicks: a session's masks do not depend on what the cache has kept.

    Args:
        predictor: predicts.
        tenant: whose session it is.
        snapshot: what was pointed at.
        client: whose images these are, for the done hint.
        refine: whether the mask before the last clicks is taken into account at all.

    Raises:
        LabelingGroundError: see ``Predictor.masks``, but for ``UnknownPrediction``.
    """

    async def ask(count: int, parent: str | None) -> MaskAnswer:
        mask_input = None if parent is None else (parent, 0)
        prompt = PromptAsk(points=snapshot.clicks[:count], box=snapshot.box, mask_input=mask_input)
        [answer] = await predictor.masks(tenant, snapshot.image_id, [prompt], client=client)
        return answer

    clicks = len(snapshot.clicks)
    if refine and snapshot.parent is not None:
        try:
            return await ask(clicks, snapshot.parent)
        except UnknownPrediction:
            try:
                return await ask(clicks, await _made_again(ask, snapshot))
            except UnknownPrediction:
                pass  # there is no room for it; the clicks alone say enough
    return await ask(clicks, None)


async def _made_again(ask: _Ask, snapshot: Snapshot) -> str | None:
    """The prediction that the snapshot refines, and all that it refines itself, from the first on."""
    made: str | None = None
    for count, prediction_id in snapshot.answers:
        answer = await ask(count, made)
        if answer.prediction_id != prediction_id and made is not None:
            # Either another model answered it, or its clicks came before there was anything to refine.
            alone = await ask(count, None)
            if alone.prediction_id == prediction_id:
                answer = alone
        made = answer.prediction_id
    return made
