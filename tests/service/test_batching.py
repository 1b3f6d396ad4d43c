"""What waits when a place becomes free is computed together, and each ask is answered as if it had been alone."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.doubles import TENANT, ToyBackend, click, image_bytes, mask, now, send, serving, until, virtually

from labeling_ground import key as keys
from labeling_ground.errors import BackendFailed, Overloaded
from labeling_ground.inference.backend import BatchSizes, DecodeAsk
from labeling_ground.service.asks import MaskAnswer
from labeling_ground.service.everything import Everything
from labeling_ground.service.predictor import Predictor
from labeling_ground.service.queues import FairQueue
from labeling_ground.types import EverythingOptions, Prediction, Priority
from labeling_ground.urgency import asked_as

pytestmark = pytest.mark.anyio

FOUR = BatchSizes(4, 16)


def clicks(predictor: Predictor, image_ids: Sequence[str], tenant: str = TENANT) -> list["asyncio.Task[MaskAnswer]"]:
    """A click on each image, the n-th in column n."""
    return [
        asyncio.create_task(mask(predictor, image_id, click(2.0 * column + 1, 15), tenant))
        for column, image_id in enumerate(image_ids)
    ]


def counts(answer: MaskAnswer) -> str:
    return answer.opened.prediction.masks[0].counts


async def test_what_waits_when_a_place_becomes_free_goes_together_and_is_answered_as_it_is_alone() -> None:
    """Clicks on different images; one that finds a free place waits for no other."""
    files = [image_bytes(number) for number in range(7)]
    async with serving(ToyBackend(), slots=1) as predictor:
        expected = [
            counts(await mask(predictor, await send(predictor, file), click(2.0 * column + 1, 15)))
            for column, file in enumerate(files)
        ]
    backend = ToyBackend(batch=FOUR)
    async with serving(backend, slots=1) as predictor:
        image_ids = [await send(predictor, file) for file in files]
        backend.batches.clear()
        backend.begun.clear()
        hold = backend.hold = asyncio.Event()
        tasks = clicks(predictor, image_ids[:1])
        await backend.begun.wait()
        tasks += clicks(predictor, image_ids)[1:]
        await until(lambda: predictor.decode_queue.waiting == 6)
        hold.set()
        answers = await asyncio.gather(*tasks)
    assert backend.batches == [1, 4, 2]
    assert [counts(answer) for answer in answers] == expected


async def test_images_that_wait_are_encoded_together_up_to_what_the_class_allows() -> None:
    backend = ToyBackend(batch=BatchSizes(2, 3))
    files = [image_bytes(number) for number in range(9)]
    async with serving(backend, slots=1) as predictor:
        hold = backend.hold = asyncio.Event()
        tasks = [asyncio.create_task(send(predictor, files[0]))]
        await backend.begun.wait()
        with asked_as(Priority.JOB):
            tasks += [asyncio.create_task(send(predictor, file)) for file in files[1:5]]
        tasks += [asyncio.create_task(send(predictor, file)) for file in files[5:]]
        await until(lambda: predictor.encode_queue.waiting == 8)
        predictor.encode_queue.window_s = 60.0  # what is ready together says nothing here of how fast this machine is
        hold.set()
        image_ids = await asyncio.gather(*tasks)
        assert backend.batches == [1, 2, 2, 3, 1]
        for file, image_id in zip(files, image_ids, strict=True):
            embedding, _ = await predictor.embedding(TENANT, image_id)
            async with serving(ToyBackend()) as alone:
                expected, _ = await alone.embedding(TENANT, await send(alone, file))
            for name, tensor in expected.tensors.items():
                np.testing.assert_array_equal(embedding.tensors[name], tensor)


async def test_a_batch_has_one_class_and_people_go_first() -> None:
    queue = FairQueue("decoder", 1, 64, batch=BatchSizes(8, 8))
    together: list[list[str]] = []

    async def work(values: Sequence[str]) -> list[str]:
        together.append(list(values))
        return list(values)

    async def ask(name: str, priority: Priority) -> None:
        with asked_as(priority):
            async with queue.slot() as place:
                await place.call(lambda: place.compute(work, [name]))

    async with queue.slot():
        tasks = [asyncio.create_task(ask(f"job {number}", Priority.JOB)) for number in range(3)]
        tasks += [asyncio.create_task(ask(f"click {number}", Priority.INTERACTIVE)) for number in range(2)]
        await until(lambda: queue.waiting == 5)
    await asyncio.gather(*tasks)
    assert together == [["click 0", "click 1"], ["job 0", "job 1", "job 2"]]


def test_one_that_is_alone_waits_for_nobody_and_one_that_is_ready_no_longer_than_the_window() -> None:
    async def main() -> None:
        queue = FairQueue("encoder", 1, 8, batch=FOUR, window_s=100.0, clock=now)
        calls: list[tuple[float, list[int]]] = []

        async def work(values: Sequence[int]) -> list[int]:
            calls.append((now(), list(values)))
            return [-value for value in values]

        async def ask(value: int, ready_s: float) -> int:
            async with queue.slot() as place:

                async def compute() -> int:
                    await asyncio.sleep(ready_s)
                    return (await place.compute(work, [value])).value[0]

                return await place.call(compute)

        assert await ask(1, 0.0) == -1
        assert calls == [(0.0, [1])]
        asks = [asyncio.create_task(ask(value, ready_s)) for value, ready_s in ((2, 0.0), (3, 50.0), (4, 200.0))]
        assert await asyncio.gather(*asks) == [-2, -3, -4]
        assert calls[1:] == [(100.0, [2, 3]), (200.0, [4])]
        assert queue.running == 0

    virtually(main)


class Picky(ToyBackend):
    """Fails where a click lies in this column."""

    bad = 5.0
    failure: type[Exception] = BackendFailed

    async def decode(self, asks: Sequence[DecodeAsk]) -> list[Prediction]:
        made = await super().decode(asks)
        if any(prompt.points[0].x == self.bad for _, prompt in asks):
            raise self.failure("This one not.")
        return made


async def waiting_together(predictor: Predictor, backend: ToyBackend, asks: int) -> list["asyncio.Task[MaskAnswer]"]:
    """So many clicks, of which the first is being computed and the others wait."""
    image_id = await send(predictor, image_bytes(0))
    backend.batches.clear()
    backend.begun.clear()
    backend.hold = asyncio.Event()
    first = asyncio.create_task(mask(predictor, image_id, click(1, 25)))
    await backend.begun.wait()
    tasks = clicks(predictor, [image_id] * asks)
    await until(lambda: predictor.decode_queue.waiting == asks)
    return [first, *tasks]


async def test_one_that_fails_spoils_no_other() -> None:
    backend = Picky(batch=FOUR)
    async with serving(backend, slots=1) as predictor:
        first, *tasks = await waiting_together(predictor, backend, 4)
        assert backend.hold is not None
        backend.hold.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        await first
        assert [type(one) for one in done] == [MaskAnswer, MaskAnswer, BackendFailed, MaskAnswer]
        assert str(done[2]) == "This one not."
        assert backend.batches == [1, 4, 1, 1, 1, 1]
        assert predictor.engine_health.failing() == {}
        assert predictor.decode_queue.running == 0


async def test_an_engine_that_has_too_much_to_do_is_not_asked_again_for_each() -> None:
    backend = Picky(batch=FOUR)
    backend.failure = lambda text: Overloaded(text, 1.0)  # type: ignore[assignment]
    async with serving(backend, slots=1) as predictor:
        tasks = await waiting_together(predictor, backend, 4)
        assert backend.hold is not None
        backend.hold.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in done] == [MaskAnswer] + [Overloaded] * 4
    assert backend.batches == [1, 4]


async def test_one_that_leaves_calls_off_no_other_and_is_not_computed() -> None:
    backend = ToyBackend(batch=FOUR)
    async with serving(backend, slots=1) as predictor:
        first, *tasks = await waiting_together(predictor, backend, 5)
        tasks[1].cancel()
        await until(lambda: predictor.decode_queue.waiting == 4)
        assert backend.hold is not None
        hold, backend.hold = backend.hold, asyncio.Event()
        backend.begun.clear()
        hold.set()
        await backend.begun.wait()  # the four are with the engine
        tasks[2].cancel()
        await asyncio.wait({tasks[2]})
        backend.hold.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        await first
        assert [isinstance(one, MaskAnswer) for one in done] == [True, False, False, True, True]
        assert (backend.batches, backend.called_off) == ([1, 4], 0)
        await until(lambda: predictor.decode_queue.running == 0)


async def test_members_of_a_batch_are_charged_their_share_and_an_entry_costs_it() -> None:
    backend = ToyBackend(decode_s=0.05, batch=FOUR)
    async with serving(backend, slots=1) as predictor:
        first, *tasks = await waiting_together(predictor, backend, 4)
        began = time.perf_counter()
        assert backend.hold is not None
        backend.hold.set()
        await asyncio.gather(*tasks)
        elapsed = time.perf_counter() - began
        await first
        digests = [keys.prompt_digest(keys.canonical(click(2.0 * column + 1, 15).points)) for column in range(4)]
        image = keys.ImageKeys(TENANT, keys.image_id(image_bytes(0)))
        entries = [predictor.store.peek(image.mask(backend.version, digest)) for digest in digests]
        costs = {entry.cost for entry in entries if entry is not None}
        assert len(costs) == 1
        assert 4 * costs.pop() <= elapsed


async def test_tenants_share_the_seconds_of_batches() -> None:
    """One floods, the other comes with less: while both wait, a batch has as many of the one as of the other."""
    queue = FairQueue("decoder", 1, 64, batch=FOUR)
    together: list[str] = []

    async def work(values: Sequence[str]) -> Sequence[str]:
        together.append("".join(values))
        return values

    async def ask(tenant: str) -> Any:
        async with queue.slot(tenant) as place:
            return await place.call(lambda: place.compute(work, [tenant]))

    async with queue.slot():
        tasks = [asyncio.create_task(ask("a")) for _ in range(10)]
        tasks += [asyncio.create_task(ask("b")) for _ in range(4)]
        await until(lambda: queue.waiting == 14)
    await asyncio.gather(*tasks)
    assert [sorted(batch) for batch in together[:2]] == [["a", "a", "b", "b"]] * 2
    assert sorted("".join(together)) == ["a"] * 10 + ["b"] * 4


async def test_a_grids_points_go_together_and_give_what_they_give_alone() -> None:
    options = EverythingOptions(4, 0.5, 0.5, 0.1, 0.7)
    found = []
    for backend in (ToyBackend(), ToyBackend(batch=BatchSizes(4, 8))):
        async with serving(backend, slots=1) as predictor:
            image_id = await send(predictor, image_bytes(1))
            backend.batches.clear()
            grid = Everything(predictor, jobs=FairQueue("grids", 1, 8), workers=1)
            found.append((await grid.ask(TENANT, image_id, options)).found)
            assert backend.batches == ([4] * 4 if backend.batch.background > 1 else [1] * 16)
    assert found[0] == found[1]
