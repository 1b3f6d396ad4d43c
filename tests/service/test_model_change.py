"""A backend that changes its model while it is asked: nothing made by one model is kept under the other's name."""

import asyncio
from typing import Any

import pytest
from tests.doubles import A_BOX, TENANT, TOY, DictStore, ToyBackend, click, forget, image_bytes, mask, serving, until

from labeling_ground import key as keys
from labeling_ground.codec import image as image_codec
from labeling_ground.errors import BackendFailed
from labeling_ground.pools import Pools
from labeling_ground.service.everything import Begun, Everything, EverythingAnswer
from labeling_ground.service.predictor import Predictor
from labeling_ground.service.queues import FairQueue
from labeling_ground.types import EverythingOptions, Kind, ModelVersion, Outcome

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

    async with serving(backend) as predictor:
        with monkeypatch.context() as patch:
            patch.setattr(image_codec, "decode", change)
            with pytest.raises(BackendFailed, match="changed in the middle"):
                await predictor.open_image(TENANT, FILE, ID)
        assert backend.encodes == 0
        again = await predictor.open_image(TENANT, FILE, ID)
        assert (again.outcome, again.version) == (Outcome.MISS, OTHER)


async def test_a_prompt_is_not_decoded_by_another_model_than_its_key_says() -> None:
    backend = ToyBackend(TOY)
    async with serving(backend, slots=1) as predictor:
        await predictor.open_image(TENANT, FILE, ID)
        backend.hold = asyncio.Event()
        first = asyncio.create_task(mask(predictor, ID, A_BOX))
        await until(lambda: backend.decodes == 1)
        second = asyncio.create_task(mask(predictor, ID))
        await until(lambda: predictor.decode_queue.waiting == 1)
        backend.version = OTHER
        backend.hold.set()
        assert (await first).version == TOY
        with pytest.raises(BackendFailed, match="changed in the middle"):
            await second
        assert backend.decodes == 1
        answer = await mask(predictor, ID)
        assert (answer.outcome, answer.version) == (Outcome.RECOMPUTED, OTHER)
        assert backend.encodes == 2


async def test_two_models_over_one_cache_both_hear_of_a_purge() -> None:
    backends = ToyBackend(TOY), ToyBackend(OTHER)
    hold = backends[0].hold = backends[1].hold = asyncio.Event()
    async with serving(backends[0]) as one:
        two = Predictor(
            store=one.store,
            backend=backends[1],
            encode_queue=FairQueue("encoder", 1, 9),
            decode_queue=FairQueue("decoder", 1, 9),
            pools=Pools.sized(),
        )
        asks = [asyncio.create_task(each.open_image(TENANT, FILE, ID)) for each in (one, two)]
        await until(lambda: len(one.flights) == len(two.flights) == 1)
        await one.purge(TENANT, image_id=ID)
        assert (len(one.flights), len(two.flights)) == (0, 0), "what was begun before the purge is joined no more"
        hold.set()
        await asyncio.gather(*asks)


# --- an answer names the version that made it, though another one is served by then ----------------------------------


class Changing(ToyBackend):
    """Serves another model from the last of so many calls on, while that is under way."""

    left = 0

    async def _work(self, seconds: float) -> None:
        await super()._work(seconds)
        self.left -= 1
        if self.left == 0:
            self.version, self.note = OTHER, "Another toy."


async def test_a_mask_and_its_neighbours_in_one_request_name_the_model_that_made_them() -> None:
    backend = Changing()
    async with serving(backend) as predictor:
        await predictor.open_image(TENANT, FILE, ID)
        for prompts in ([A_BOX], [click(), click(9, 9)]):
            backend.left = len(prompts)
            found = await predictor.masks(TENANT, ID, prompts)
            assert backend.version == OTHER
            assert [(answer.version, answer.model_note) for answer in found] == [(TOY, "A toy.")] * len(prompts)
            backend.version, backend.note = TOY, "A toy."
            again = await predictor.masks(TENANT, ID, prompts)
            assert [answer.outcome for answer in again] == [Outcome.HIT] * len(prompts)
            assert [answer.prediction for answer in again] == [answer.prediction for answer in found]


async def test_an_image_and_its_embedding_name_the_model_that_encoded_it() -> None:
    backend = Changing()
    async with serving(backend, DictStore()) as predictor:
        backend.left = 1
        answer = await predictor.open_image(TENANT, FILE, ID)
        assert (answer.version, answer.model_note, backend.version) == (TOY, "A toy.", OTHER)
        backend.version = TOY
        await forget(predictor, Kind.EMBEDDING, everywhere=True)
        backend.left = 1
        _, answer = await predictor.embedding(TENANT, ID)
        assert (answer.version, answer.outcome, backend.version) == (TOY, Outcome.RECOMPUTED, OTHER)
        state = await predictor.image_state(TENANT, ID)
        assert (state.version, state.encoded) == (OTHER, False)


async def test_all_masks_of_an_image_name_the_model_that_made_them() -> None:
    backend = Changing()
    options = EverythingOptions(points_per_side=2)
    async with serving(backend) as predictor:
        path = Everything(predictor, jobs=FairQueue("grids", 1, 8), workers=2)
        await predictor.open_image(TENANT, FILE, ID)
        backend.left = 4
        begun, *_, answer = [step async for step in path.follow(TENANT, ID, options)]
        assert backend.version == OTHER
        assert isinstance(begun, Begun)
        assert isinstance(answer, EverythingAnswer)
        assert (begun.version, answer.version, answer.outcome) == (TOY, TOY, Outcome.MISS)
        backend.version = TOY
        assert (await path.ask(TENANT, ID, options)).outcome is Outcome.HIT


async def test_a_grid_is_not_made_by_two_models() -> None:
    backend = Changing()
    async with serving(backend) as predictor:
        path = Everything(predictor, jobs=FairQueue("grids", 1, 8), workers=2)
        await predictor.open_image(TENANT, FILE, ID)
        backend.left = 1
        with pytest.raises(BackendFailed, match="changed in the middle"):
            await path.ask(TENANT, ID, EverythingOptions(points_per_side=3))
        assert backend.decodes < 9
