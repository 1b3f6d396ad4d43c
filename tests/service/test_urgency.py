"""Who is computed for first: people before prefetches before jobs, and what is lifted when somebody waits for it."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest
from tests.doubles import TENANT, ToyBackend, click, image_bytes, mask, send, serving, until

from labeling_ground import key as keys
from labeling_ground.errors import Overloaded
from labeling_ground.service.everything import Everything
from labeling_ground.service.once import Flights
from labeling_ground.service.predictor import Predictor
from labeling_ground.service.queues import FairQueue
from labeling_ground.types import Embedding, EverythingOptions, Image, Prediction, Priority, Prompt
from labeling_ground.urgency import Urgency, asked_as, asked_at_best, current_urgency

pytestmark = pytest.mark.anyio


class Listed(ToyBackend):
    """Writes down which images were encoded, and how many clicks came before each prompt of a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []

    async def encode(self, images: Sequence[Image]) -> list[Embedding]:
        self.order += [image.id for image in images]
        return await super().encode(images)


def names(backend: Listed, files: dict[str, bytes]) -> list[str]:
    """What was encoded, by name."""
    found = {keys.image_id(file): name for name, file in files.items()}
    return [found[image_id] for image_id in backend.order]


async def prefetch(predictor: Predictor, file: bytes, tenant: str = TENANT) -> None:
    await predictor.prefetch(tenant, file, keys.image_id(file))


def as_job(work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    with asked_as(Priority.JOB):
        return asyncio.create_task(work)


async def all_done(predictor: Predictor) -> None:
    await until(lambda: not predictor.flights and predictor.prefetches.bytes == 0)


# --- the urgency of a task -------------------------------------------------------------------------------------------


async def test_a_route_may_ask_for_less_and_never_for_more() -> None:
    assert current_urgency().priority is Priority.INTERACTIVE
    with asked_at_best(Priority.PREFETCH):
        assert current_urgency().priority is Priority.PREFETCH
    with asked_as(Priority.JOB), asked_at_best(Priority.PREFETCH):
        assert current_urgency().priority is Priority.JOB
    assert current_urgency().priority is Priority.INTERACTIVE


async def test_a_flight_and_those_that_it_waits_for_are_as_urgent_as_its_most_urgent_asker() -> None:
    flights: Flights[str] = Flights()
    over = asyncio.Event()
    seen: dict[str, Urgency] = {}

    async def inner(_: object) -> str:
        seen["inner"] = current_urgency()
        await over.wait()
        return "made"

    async def outer(_: object) -> str:
        seen["outer"] = current_urgency()
        return (await flights.join("inner", inner))[0]

    asking = [as_job(flights.join("outer", outer))]
    await until(lambda: len(seen) == 2)
    assert {urgency.priority for urgency in seen.values()} == {Priority.JOB}
    with asked_as(Priority.PREFETCH):
        asking.append(asyncio.create_task(flights.join("outer", outer)))
    await until(lambda: seen["inner"].priority is Priority.PREFETCH)
    asking.append(asyncio.create_task(flights.join("outer", outer)))
    await until(lambda: {urgency.priority for urgency in seen.values()} == {Priority.INTERACTIVE})
    over.set()
    assert [made for made, _ in await asyncio.gather(*asking)] == ["made"] * 3


async def test_who_joins_somebody_less_urgent_is_not_turned_away_with_them() -> None:
    flights: Flights[str] = Flights()
    refused = asyncio.Event()
    seen: list[Priority] = []

    async def work(_: object) -> str:
        seen.append(current_urgency().priority)
        if len(seen) == 1:
            await refused.wait()
            raise Overloaded("Jobs have no room.", retry_after=1.0)
        return "made"

    jobs = [as_job(flights.join("key", work)) for _ in range(2)]
    await until(lambda: len(seen) == 1)
    opening = asyncio.create_task(flights.join("key", work))
    await asyncio.sleep(0)
    refused.set()
    assert await opening == ("made", False)
    for job in jobs:
        with pytest.raises(Overloaded):
            await job
    assert seen == [Priority.JOB, Priority.INTERACTIVE]


# --- images ----------------------------------------------------------------------------------------------------------


async def test_somebody_elses_image_goes_before_a_flood_of_prefetches_and_jobs() -> None:
    backend = Listed()
    files = {name: image_bytes(seed) for seed, name in enumerate(["first", "p1", "p2", "p3", "j1", "j2", "b"])}
    async with serving(backend, slots=1) as predictor:
        hold = backend.hold = asyncio.Event()
        asking = [asyncio.create_task(send(predictor, files["first"], "a"))]
        await until(lambda: backend.encodes == 1)
        asking += [as_job(send(predictor, files[name], "a")) for name in ("j1", "j2")]
        await until(lambda: predictor.encode_queue.waiting == 2)
        for name in ("p1", "p2", "p3"):
            await prefetch(predictor, files[name], "a")
        asking.append(asyncio.create_task(send(predictor, files["b"], "b")))
        await until(lambda: predictor.encode_queue.waiting == 6)
        hold.set()
        await asyncio.gather(*asking)
        await all_done(predictor)
    assert names(backend, files) == ["first", "b", "p1", "p2", "p3", "j1", "j2"]


async def test_nobody_who_waits_is_turned_away_because_prefetches_or_jobs_fill_the_queue() -> None:
    backend = Listed()
    async with serving(backend, slots=1, queue=2) as predictor:
        hold = backend.hold = asyncio.Event()
        await prefetch(predictor, image_bytes(0))
        await until(lambda: backend.encodes == 1)
        jobs = [as_job(send(predictor, image_bytes(seed))) for seed in (1, 2)]
        await until(lambda: predictor.encode_queue.waiting == 2)
        for seed in (3, 4):
            await prefetch(predictor, image_bytes(seed))
        opening = asyncio.create_task(send(predictor, image_bytes(5), "b"))
        await until(lambda: predictor.encode_queue.waiting == 5)
        hold.set()
        await opening
        await asyncio.gather(*jobs)
        await all_done(predictor)
    assert backend.order[1] == keys.image_id(image_bytes(5))


@pytest.mark.parametrize("how", ["opened", "clicked", "asked for its embedding"])
async def test_a_prefetch_that_somebody_waits_for_by_now_goes_first(how: str) -> None:
    backend = Listed()
    files = {name: image_bytes(seed) for seed, name in enumerate(["first", "p1", "p2", "wanted"])}
    async with serving(backend, slots=1) as predictor:
        hold = backend.hold = asyncio.Event()
        for file in files.values():
            await prefetch(predictor, file)
        await until(lambda: predictor.encode_queue.waiting == 3)
        image_id = keys.image_id(files["wanted"])
        work: dict[str, Coroutine[Any, Any, Any]] = {
            "opened": predictor.open_image(TENANT, files["wanted"], image_id),
            "clicked": mask(predictor, image_id),
            "asked for its embedding": predictor.embedding(TENANT, image_id),
        }
        asking = asyncio.create_task(work.pop(how))
        for other in work.values():
            other.close()
        await until(lambda: predictor.encode_queue.classes()[Priority.INTERACTIVE][0] == 1)
        hold.set()
        await asking
        await all_done(predictor)
    assert names(backend, files) == ["first", "wanted", "p1", "p2"]


async def test_a_job_that_is_fetched_ahead_too_is_a_prefetch_and_a_person_who_asks_as_a_job_waits() -> None:
    backend = Listed()
    files = {name: image_bytes(seed) for seed, name in enumerate(["first", "job", "both"])}
    async with serving(backend, slots=1) as predictor:
        hold = backend.hold = asyncio.Event()
        await prefetch(predictor, files["first"])
        await until(lambda: backend.encodes == 1)
        asking = [as_job(send(predictor, files[name])) for name in ("job", "both")]
        await until(lambda: predictor.encode_queue.waiting == 2)
        await prefetch(predictor, files["both"])
        await until(lambda: predictor.encode_queue.classes()[Priority.PREFETCH][0] == 1)
        hold.set()
        await asyncio.gather(*asking)
        await all_done(predictor)
    assert names(backend, files) == ["first", "both", "job"]


# --- clicks and grids ------------------------------------------------------------------------------------------------


class Counting(ToyBackend):
    """Writes down of each call of the decoder where its first point lies."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[float, float]] = []

    async def decode(self, asks: Any) -> list[Prediction]:
        prompt: Prompt = asks[0][1]
        self.points.append((prompt.points[0].x, prompt.points[0].y))
        return await super().decode(asks)


async def test_a_click_goes_before_the_clicks_of_a_grid_that_wait() -> None:
    backend = Counting()
    async with serving(backend, slots=1) as predictor:
        image_id = await send(predictor, image_bytes(0))
        everything = Everything(predictor, jobs=FairQueue("grids", 1, 8), workers=3)
        hold = backend.hold = asyncio.Event()
        grid = asyncio.create_task(everything.ask(TENANT, image_id, EverythingOptions(points_per_side=4)))
        await until(lambda: len(backend.points) == 1 and predictor.decode_queue.waiting == 2)
        clicking = asyncio.create_task(mask(predictor, image_id, click(7.0, 9.0)))
        await until(lambda: predictor.decode_queue.waiting == 3)
        hold.set()
        await asyncio.gather(clicking, grid)
    assert backend.points.index((7.0, 9.0)) == 1
    assert len(backend.points) == 17
