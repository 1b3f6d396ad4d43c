"""Logits are sealed behind the answer: who refines a mask meanwhile waits for them, and nothing is decoded twice."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import pytest
from tests.doubles import (
    LONG_S,
    TENANT,
    TOY,
    DictStore,
    ToyBackend,
    counted,
    failures_of,
    image_bytes,
    keys_of,
    mask,
    send,
    serving,
    until,
)

from labeling_ground.codec import records
from labeling_ground.errors import UnknownPrediction
from labeling_ground.pools import Pool, Pools
from labeling_ground.service.asks import MaskAnswer, PromptAsk
from labeling_ground.service.predictor import Predictor
from labeling_ground.types import Kind, Outcome, Point

pytestmark = pytest.mark.anyio

T = TypeVar("T")

FILE = image_bytes(1)


class Values(Pool):
    """Threads that seal masks at once, and logits when they may."""

    def __init__(self) -> None:
        super().__init__("values", 2)
        self.may_seal = asyncio.Event()
        self.error: Exception | None = None

    async def run(self, work: Callable[..., T], *args: Any, background: bool = False) -> T:
        """See ``Pool``."""
        if isinstance(work, partial) and work.func is records.seal_logits:
            await self.may_seal.wait()
            if self.error is not None:
                raise self.error
        return await super().run(work, *args, background=background)


@asynccontextmanager
async def clicked() -> AsyncIterator[tuple[Predictor, ToyBackend, Values, MaskAnswer]]:
    """A predictor that has answered a click whose logits are not sealed yet."""
    backend, values = ToyBackend(), Values()
    pools = dataclasses.replace(Pools.sized(), values=values)
    async with serving(backend, DictStore(), pools=pools) as predictor:
        await send(predictor, FILE)
        async with asyncio.timeout(LONG_S):
            answer = await mask(predictor, keys_of(FILE).image_id)
        yield predictor, backend, values, answer


def refining(answer: MaskAnswer, x: float = 5.0) -> PromptAsk:
    return PromptAsk([Point(x, 5.0, 1)], mask_input=(answer.prediction_id, 0))


async def turns(count: int = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_refinement_waits_for_logits_that_are_being_sealed_and_decodes_nothing_twice() -> None:
    async with clicked() as (predictor, backend, values, answer):
        image_id = keys_of(FILE).image_id
        assert predictor.store.peek(keys_of(FILE).logits(TOY, answer.prediction_id)) is None
        refined = [asyncio.create_task(mask(predictor, image_id, refining(answer, x))) for x in (5.0, 9.0)]
        await turns()
        assert (backend.decodes, [task.done() for task in refined]) == (1, [False, False])
        values.may_seal.set()
        assert [(await task).outcome for task in refined] == [Outcome.MISS, Outcome.MISS]
        assert backend.decodes == 3
        figures = counted(predictor, Kind.MASK)
        assert (figures.lookups, figures.misses) == (3, 3), "waiting for logits is no look-up of a user's"


async def test_whoever_leaves_takes_no_logits_along() -> None:
    async with clicked() as (predictor, backend, values, answer):
        leaving = asyncio.create_task(mask(predictor, keys_of(FILE).image_id, refining(answer)))
        await turns()
        leaving.cancel()
        await asyncio.wait({leaving})
        values.may_seal.set()
        key = keys_of(FILE).logits(TOY, answer.prediction_id)
        await until(lambda: predictor.store.peek(key) is not None)
        assert backend.decodes == 1


async def test_a_purge_means_logits_that_are_being_sealed_too() -> None:
    async with clicked() as (predictor, _, values, answer):
        key = keys_of(FILE).logits(TOY, answer.prediction_id)
        assert key in predictor.once.flights
        await predictor.purge(TENANT, image_id=keys_of(FILE).image_id)
        assert key not in predictor.once.flights
        with pytest.raises(UnknownPrediction):
            await mask(predictor, keys_of(FILE).image_id, refining(answer))
        values.may_seal.set()
        await until(lambda: not predictor.is_working)
        assert predictor.store.peek(key) is None
        await send(predictor, FILE)
        again = await mask(predictor, keys_of(FILE).image_id)
        assert (again.outcome, again.prediction_id) == (Outcome.MISS, answer.prediction_id)
        await until(lambda: predictor.store.peek(key) is not None)


async def test_another_tenant_waits_for_nobodys_logits() -> None:
    async with clicked() as (predictor, _, _, answer):
        with pytest.raises(UnknownPrediction):
            await mask(predictor, keys_of(FILE).image_id, refining(answer), tenant="other")


async def test_a_model_is_at_work_until_its_logits_are_sealed_and_can_be_unloaded_before() -> None:
    async with clicked() as (predictor, _, values, answer):
        before = predictor.is_working
        await predictor.unload()
        assert (before, predictor.is_working) == (True, False)
        values.may_seal.set()
        await turns()
        assert predictor.store.peek(keys_of(FILE).logits(TOY, answer.prediction_id)) is None


async def test_logits_that_cannot_be_sealed_are_counted_and_decoded_again_for_who_refines_them() -> None:
    async with clicked() as (predictor, backend, values, answer):
        values.error = MemoryError()
        values.may_seal.set()
        await until(lambda: not predictor.is_working)
        assert failures_of(predictor.supervisor) == {"after an answer": 1}
        values.error = None
        assert (await mask(predictor, keys_of(FILE).image_id, refining(answer))).outcome is Outcome.MISS
        assert backend.decodes == 3
