"""Decoded images share a budget of memory."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest
from tests.doubles import ToyBackend, image_bytes, serving

from labeling_ground import key as keys
from labeling_ground.service.images import PixelBudget
from labeling_ground.types import Embedding, Image

pytestmark = pytest.mark.anyio


class Asker:
    """Somebody who asks for room, has it when ``has`` is set, and keeps it until told to leave."""

    def __init__(self, budget: PixelBudget, pixels: int) -> None:
        self.has = asyncio.Event()
        self._leave = asyncio.Event()
        self.task = asyncio.create_task(self._ask(budget, pixels))

    async def _ask(self, budget: PixelBudget, pixels: int) -> None:
        async with budget.room(pixels):
            self.has.set()
            await self._leave.wait()

    async def leave(self) -> None:
        self._leave.set()
        await self.task


async def settled() -> None:
    """Everything that can go on has gone on."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_who_finds_no_room_waits_and_nobody_overtakes() -> None:
    budget = PixelBudget(100)
    askers = [Asker(budget, pixels) for pixels in (60, 30, 50, 10)]
    await settled()
    assert [asker.has.is_set() for asker in askers] == [True, True, False, False], "the last would fit, but is behind"
    await askers[0].leave()
    await settled()
    assert [asker.has.is_set() for asker in askers[1:]] == [True, True, True]
    assert budget.taken == 90
    for asker in askers[1:]:
        await asker.leave()
    assert budget.taken == 0


async def test_an_image_larger_than_all_of_it_has_it_alone() -> None:
    budget = PixelBudget(100)
    small, huge, other = (Asker(budget, pixels) for pixels in (1, 1000, 1))
    await settled()
    assert (huge.has.is_set(), other.has.is_set()) == (False, False)
    await small.leave()
    await settled()
    assert (huge.has.is_set(), other.has.is_set()) == (True, False)
    await huge.leave()
    await other.leave()
    assert budget.taken == 0


async def test_who_leaves_while_waiting_makes_way() -> None:
    budget = PixelBudget(100)
    first, large, small = (Asker(budget, pixels) for pixels in (60, 90, 40))
    await settled()
    large.task.cancel()
    await settled()
    assert small.has.is_set()
    # Called off at the very moment at which its turn comes.
    waiting = Asker(budget, 100)
    await settled()
    await first.leave()
    small._leave.set()
    for _ in range(10):
        if budget.taken == 100:
            break
        await asyncio.sleep(0)
    waiting.task.cancel()
    await settled()
    assert budget.taken == 0
    async with budget.room(100):
        assert budget.taken == 100


class CountingBackend(ToyBackend):
    """Notes the most pixels that it had at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    async def encode(self, images: Sequence[Image]) -> list[Embedding]:
        [image] = images
        self.now += image.width * image.height
        self.most = max(self.most, self.now)
        await settled()
        self.now -= image.width * image.height
        return await super().encode(images)


async def test_images_at_once_keep_to_the_budget_whatever_asks_for_them() -> None:
    """Uploads and previews, though the encoder would take eight at a time."""
    backend = CountingBackend()
    files = [image_bytes(number) for number in range(8)]
    async with serving(backend, slots=8, pixels_at_once=2 * 40 * 30) as predictor, AsyncExitStack() as stack:
        adds = [predictor.open_image("t", file, keys.image_id(file)) for file in files]
        await asyncio.gather(*adds)
        assert backend.most == 2 * 40 * 30
        for file in files[:2]:
            await stack.enter_async_context(predictor.picture("t", keys.image_id(file)))
        assert predictor.files.pixels.taken == 2 * 40 * 30
        more = asyncio.create_task(predictor.open_image("t", image_bytes(99), keys.image_id(image_bytes(99))))
        await settled()
        assert not more.done()
        await stack.aclose()
        assert (await more).outcome == "miss"
    assert predictor.files.pixels.taken == 0
