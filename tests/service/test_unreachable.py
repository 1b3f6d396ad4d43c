"""An image, or a prediction, is unknown only where the tier that would have it has said so."""

import asyncio
import json
from collections.abc import Callable
from functools import partial

import pytest
from tests.doubles import (
    TENANT,
    BrokenStore,
    DamagingStore,
    DictStore,
    HangingStore,
    SlowStore,
    ToyBackend,
    forget,
    image_bytes,
    keys_of,
    mask,
    send,
    serving,
    virtually,
)

from labeling_ground import key as keys
from labeling_ground.api.errors import response_for
from labeling_ground.cache.store import Store
from labeling_ground.errors import UnknownImage, UnknownPrediction, UnreachableImage, UnreachablePrediction
from labeling_ground.service.asks import MaskAnswer, PromptAsk
from labeling_ground.service.predictor import Predictor
from labeling_ground.service.session_masks import SessionMasks
from labeling_ground.service.sessions import Sessions
from labeling_ground.settings import Settings
from labeling_ground.types import Entry, Kind, Outcome, Point
from labeling_ground.wiring import build_store

FILE = image_bytes()
ID = keys.image_id(FILE)
GONE = "0" * 64
"""The id of a prediction that nobody has made."""


async def _file_only() -> dict[str, Entry]:
    """What a tier holds of an image whose embedding and masks are gone."""
    entries: dict[str, Entry] = {}
    async with serving(ToyBackend(), DictStore(entries)) as predictor:
        await send(predictor, FILE)
        await mask(predictor, ID)
        await forget(predictor, Kind.EMBEDDING, everywhere=True)
    return {key: entry for key, entry in entries.items() if key == keys_of(FILE).image}


def test_a_click_waits_for_the_file_in_a_tier_that_is_slower_than_the_look_up_deadline() -> None:
    async def main() -> None:
        entries = await _file_only()
        assert entries
        async with serving(ToyBackend(), SlowStore(0.5, entries)) as predictor:
            assert (await mask(predictor, ID)).outcome is Outcome.RECOMPUTED

    virtually(main)


@pytest.mark.parametrize("make", [HangingStore, BrokenStore])
def test_of_an_image_in_a_tier_that_does_not_answer_it_is_not_said_that_it_is_gone(make: Callable[[], Store]) -> None:
    async def main() -> None:
        store = make()
        async with serving(ToyBackend(), store) as predictor:
            for ask in (lambda: mask(predictor, ID), lambda: predictor.image_state(TENANT, ID)):
                with pytest.raises(UnreachableImage) as caught:
                    await ask()
                answer = response_for(caught.value)
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            await send(predictor, FILE)  # sending it again works nevertheless
            assert (await mask(predictor, ID)).outcome is Outcome.MISS
            if isinstance(store, HangingStore):
                store.release.set()

    virtually(main)


def test_where_the_tier_is_left_alone_nobody_waits_to_hear_that_it_does_not_answer() -> None:
    async def main() -> float:
        async with serving(ToyBackend(), BrokenStore()) as predictor:
            [tier] = predictor.store.lower
            while tier.health.breaker.state != "open":
                tier.health.breaker.failed()
            started = asyncio.get_running_loop().time()
            with pytest.raises(UnreachableImage):
                await predictor.image_state(TENANT, ID)
            return asyncio.get_running_loop().time() - started

    assert virtually(main) == 0


def test_an_image_that_the_last_tier_does_not_have_is_unknown_though_one_above_fails() -> None:
    async def main() -> None:
        for lower in ([DictStore({})], [BrokenStore(), DictStore({})]):
            async with serving(ToyBackend(), *lower) as predictor:
                for ask in (lambda: mask(predictor, ID), lambda: predictor.image_state(TENANT, ID)):
                    with pytest.raises(UnknownImage) as caught:
                        await ask()
                    assert response_for(caught.value).status_code == 404

    virtually(main)


def test_an_image_whose_stored_file_is_damaged_is_gone() -> None:
    async def main() -> None:
        async with serving(ToyBackend(), DamagingStore(await _file_only())) as predictor:
            with pytest.raises(UnknownImage) as caught:
                await mask(predictor, ID)
            assert response_for(caught.value).status_code == 404

    virtually(main)


# --- what a mask_input refers to -----------------------------------------------------------------------------------


async def refined(predictor: Predictor, prediction_id: str) -> MaskAnswer:
    return await mask(predictor, ID, PromptAsk([Point(20.0, 15.0, 1)], mask_input=(prediction_id, 0)))


@pytest.mark.parametrize("make", [HangingStore, BrokenStore])
def test_of_a_prediction_in_a_tier_that_does_not_answer_it_is_not_said_that_it_is_gone(
    make: Callable[[], Store],
) -> None:
    async def main() -> None:
        store = make()
        async with serving(ToyBackend(), store) as predictor:
            await send(predictor, FILE)
            with pytest.raises(UnreachablePrediction) as caught:
                await refined(predictor, GONE)
            answer = response_for(caught.value)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            assert json.loads(bytes(answer.body))["type"].endswith(":unreachable-prediction")
            first = await mask(predictor, ID)  # what the sentence says
            assert (await refined(predictor, first.prediction_id)).outcome is Outcome.MISS
            if isinstance(store, HangingStore):
                store.release.set()

    virtually(main)


def test_a_prediction_that_the_last_tier_does_not_have_is_unknown_though_one_above_fails() -> None:
    async def main() -> None:
        for lower in ([], [DictStore({})], [BrokenStore(), DictStore({})]):
            async with serving(ToyBackend(), *lower) as predictor:
                await send(predictor, FILE)
                with pytest.raises(UnknownPrediction) as caught:
                    await refined(predictor, GONE)
                assert response_for(caught.value).status_code == 404

    virtually(main)


def test_a_prediction_that_a_slow_tier_has_is_there_at_the_second_try() -> None:
    async def main() -> None:
        entries: dict[str, Entry] = {}
        async with serving(ToyBackend(), DictStore(entries)) as predictor:
            await send(predictor, FILE)
            first = await mask(predictor, ID)
            await predictor.store.drain()
        async with serving(ToyBackend(), SlowStore(0.5, entries)) as predictor:
            await send(predictor, FILE)
            with pytest.raises(UnreachablePrediction):
                await refined(predictor, first.prediction_id)
            await asyncio.sleep(1)  # Retry-After
            assert (await refined(predictor, first.prediction_id)).outcome is Outcome.MISS

    virtually(main)


def test_a_sessions_click_is_answered_though_what_it_refines_cannot_be_reached() -> None:
    """It names no prediction: what its clicks were refined from is computed again."""

    async def main() -> list[MaskAnswer | None]:
        answers = []
        for lower in (DictStore({}), BrokenStore()):
            async with serving(ToyBackend(), lower) as predictor:
                sessions = Sessions(most=9, idle_s=60.0, most_clicks=9)
                await send(predictor, FILE)
                await sessions.open(TENANT, "s", ID, 40, 30, sessions.turn())
                masks = SessionMasks(sessions, refine=True)
                await masks.click(predictor, TENANT, "s", [Point(20.0, 15.0, 1)])
                for kind in (Kind.MASK, Kind.LOGITS):
                    await forget(predictor, kind, everywhere=not isinstance(lower, BrokenStore))
                answers.append((await masks.click(predictor, TENANT, "s", [Point(9.0, 9.0, 0)])).answer)
        return answers

    there, away = virtually(main)
    assert there is not None
    assert away is not None
    assert there.prediction_id == away.prediction_id


def test_how_long_an_image_file_is_waited_for_is_a_setting() -> None:
    async def main(file_deadline_s: float) -> Outcome:
        async with serving(ToyBackend(), SlowStore(0.5, await _file_only())) as predictor:
            predictor.store.file_deadline_s = file_deadline_s
            return (await mask(predictor, ID)).outcome

    with pytest.raises(UnreachableImage):
        virtually(partial(main, 0.2))
    assert virtually(partial(main, 0.7)) is Outcome.RECOMPUTED
    assert build_store(Settings(file_deadline_ms=250)).file_deadline_s == 0.25
