"""An image is unknown only where the tier that would have its file has said so."""

import asyncio
from collections.abc import Callable

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
from labeling_ground.errors import UnknownImage, UnreachableImage
from labeling_ground.types import Entry, Kind, Outcome

FILE = image_bytes()
ID = keys.image_id(FILE)


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
