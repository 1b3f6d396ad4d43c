"""A backend that changes its model while it is asked: nothing made by one model is kept under the other's name."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.doubles import TENANT, TOY, ToyBackend, click, image_bytes, serving, until

from labeling_ground import key as keys
from labeling_ground.codec import image as image_codec
from labeling_ground.errors import BackendFailed
from labeling_ground.pools import Pools
from labeling_ground.service.lane import Lane
from labeling_ground.service.segmenter import Segmenter
from labeling_ground.types import ModelVersion, Outcome

pytestmark = pytest.mark.anyio

OTHER = ModelVersion("toy", "b" * 64)
FILE = image_bytes(1)
ID = keys.image_id(FILE)


async def test_an_image_is_not_encoded_by_another_model_than_its_key_says(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = ToyBackend(TOY)
    decode = image_codec.decode

    def change(*given: Any, **more: Any) -> Any:
        """Between the key and the model, the file is decoded."""
        backend.version = OTHER
        return decode(*given, **more)

    async with serving(backend) as segmenter:
        with monkeypatch.context() as patch:
            patch.setattr(image_codec, "decode", change)
            with pytest.raises(BackendFailed, match="changed in the middle"):
                await segmenter.add_image(TENANT, FILE, ID)
        assert backend.encodes == 0
        again = await segmenter.add_image(TENANT, FILE, ID)
        assert (again.outcome, again.version) == (Outcome.MISS, OTHER)


async def test_a_prompt_is_not_decoded_by_another_model_than_its_key_says(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = ToyBackend(TOY)
    async with serving(backend) as segmenter:
        await segmenter.add_image(TENANT, FILE, ID)

        @contextlib.asynccontextmanager
        async def change() -> AsyncIterator[None]:
            """Between the key and the model, there is a queue."""
            backend.version = OTHER
            yield

        with monkeypatch.context() as patch:
            patch.setattr(segmenter.decode_lane, "timed", change)
            with pytest.raises(BackendFailed, match="changed in the middle"):
                await segmenter.masks(TENANT, ID, [click()])
        assert backend.decodes == 0
        [answer] = await segmenter.masks(TENANT, ID, [click()])
        assert (answer.outcome, answer.version) == (Outcome.RECOMPUTED, OTHER)
        assert backend.encodes == 2


async def test_two_models_over_one_cache_both_hear_of_a_purge() -> None:
    backends = ToyBackend(TOY), ToyBackend(OTHER)
    hold = backends[0].hold = backends[1].hold = asyncio.Event()
    async with serving(backends[0]) as one:
        two = Segmenter(
            store=one.store,
            backend=backends[1],
            encode_lane=Lane("encoder", 1, 9),
            decode_lane=Lane("decoder", 1, 9),
            pools=Pools.sized(),
        )
        asks = [asyncio.create_task(each.add_image(TENANT, FILE, ID)) for each in (one, two)]
        await until(lambda: len(one.flights) == len(two.flights) == 1)
        await one.purge(TENANT, image_id=ID)
        assert (len(one.flights), len(two.flights)) == (0, 0), "what was begun before the purge is joined no more"
        hold.set()
        await asyncio.gather(*asks)
