"""A session's client clicks, and is answered; a change that could not be answered is taken back."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.doubles import TENANT, ToyBackend, image_bytes, serving

from labeling_ground import key as keys
from labeling_ground.errors import BackendFailed, BadPrompt
from labeling_ground.service.asks import MaskAnswer
from labeling_ground.service.predictor import Predictor
from labeling_ground.service.session_masks import SessionMask, SessionMasks
from labeling_ground.service.session_state import Snapshot
from labeling_ground.service.sessions import Sessions
from labeling_ground.types import Box, Outcome, Point

pytestmark = pytest.mark.anyio

FILE = image_bytes(1)
ID = keys.image_id(FILE)
ON, OFF = Point(20.0, 15.0, 1), Point(3.0, 3.0, 0)


@asynccontextmanager
async def labeling(backend: ToyBackend) -> AsyncIterator[tuple[Predictor, Sessions]]:
    """A session «s» with an image of 40 × 30 pixels."""
    sessions = Sessions(most=9, idle_s=60.0, most_clicks=9)
    async with serving(backend) as predictor:
        await predictor.open_image(TENANT, FILE, ID)
        await sessions.open(TENANT, "s", ID, 40, 30, sessions.turn())
        yield predictor, sessions


async def test_clicks_add_up_a_box_replaces_them_and_with_nothing_left_there_is_no_mask() -> None:
    async with labeling(ToyBackend()) as (predictor, sessions):
        masks = SessionMasks(sessions, refine=True)
        await masks.click(predictor, TENANT, "s", [ON])
        found = await masks.click(predictor, TENANT, "s", [OFF])
        assert (found.snapshot.clicks, found.version) == ((ON, OFF), predictor.backend.info.version)
        found = await masks.rect(predictor, TENANT, "s", Box(30, 25, 5, 5))
        assert (found.snapshot.box, found.snapshot.clicks) == (Box(5, 5, 30, 25), ())
        found = await masks.undo(predictor, TENANT, "s")
        assert (found.answer, found.has_left, found.version) == (None, False, predictor.backend.info.version)
        again = await masks.click(predictor, TENANT, "s", [ON])
        assert again.answer is not None
        assert again.answer.outcome is Outcome.HIT


@pytest.mark.parametrize("what", ["click", "rect", "undo"])
async def test_a_change_whose_prediction_fails_is_taken_back(what: str) -> None:
    backend = ToyBackend()
    async with labeling(backend) as (predictor, sessions):
        masks = SessionMasks(sessions, refine=True)
        await masks.click(predictor, TENANT, "s", [ON])
        await masks.click(predictor, TENANT, "s", [OFF])
        before = await sessions.look(TENANT, "s")
        await predictor.purge(TENANT, model=backend.info.version.model)
        backend.error = BackendFailed("not today")
        changes: dict[str, Callable[[], Coroutine[Any, Any, SessionMask]]] = {
            "click": lambda: masks.click(predictor, TENANT, "s", [Point(9.0, 9.0, 1)]),
            "rect": lambda: masks.rect(predictor, TENANT, "s", Box(1, 1, 9, 9)),
            "undo": lambda: masks.undo(predictor, TENANT, "s"),
        }
        with pytest.raises(BackendFailed):
            await changes[what]()
        assert await sessions.look(TENANT, "s") == before


async def test_a_click_counts_though_its_asker_has_left_and_what_was_pointed_at_is_told_before() -> None:
    told: list[Snapshot] = []

    async def leave(snapshot: Snapshot, prediction: Coroutine[Any, Any, MaskAnswer]) -> None:
        told.append(snapshot)
        prediction.close()

    async with labeling(ToyBackend()) as (predictor, sessions):
        found = await SessionMasks(sessions, refine=True, attend=leave).click(predictor, TENANT, "s", [ON])
        assert (found.has_left, found.answer) == (True, None)
        assert (await sessions.look(TENANT, "s")).clicks == (ON,)
        assert [one.clicks for one in told] == [(ON,)]


def answer_of(found: SessionMask) -> MaskAnswer:
    assert found.answer is not None
    return found.answer


async def test_what_is_at_hand_is_waited_for_by_nobody_and_can_be_refined() -> None:
    async def attend(*_: Any) -> None:
        raise AssertionError("there is nothing to wait for")

    backend = ToyBackend()
    async with labeling(backend) as (predictor, sessions):
        masks, at_hand = SessionMasks(sessions, refine=True), SessionMasks(sessions, refine=True, attend=attend)
        first = answer_of(await masks.click(predictor, TENANT, "s", [ON]))
        box = answer_of(await masks.rect(predictor, TENANT, "s", Box(5, 5, 30, 25)))
        await sessions.finish(TENANT, "s")
        again = answer_of(await at_hand.click(predictor, TENANT, "s", [ON]))
        assert (again.prediction_id, again.outcome) == (first.prediction_id, Outcome.HIT)
        refined = await masks.click(predictor, TENANT, "s", [OFF])
        assert refined.snapshot.parent == again.prediction_id
        drawn = answer_of(await at_hand.rect(predictor, TENANT, "s", Box(5, 5, 30, 25)))
        assert drawn.prediction_id == box.prediction_id
        await sessions.click(TENANT, "s", [ON])
        assert answer_of(await at_hand.undo(predictor, TENANT, "s")).prediction_id == box.prediction_id


async def test_a_bad_click_or_box_changes_nothing() -> None:
    async with labeling(ToyBackend()) as (predictor, sessions):
        masks = SessionMasks(sessions, refine=True)
        for change in (
            masks.click(predictor, TENANT, "s", [Point(40.0, 3.0, 1)]),
            masks.rect(predictor, TENANT, "s", Box(5, 5, 5, 9)),
            masks.rect(predictor, TENANT, "s", Box(50, 50, 60, 60)),
        ):
            with pytest.raises(BadPrompt):
                await change
        assert (await sessions.look(TENANT, "s")).is_empty
