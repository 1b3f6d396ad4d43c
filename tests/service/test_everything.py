"""«Segment everything»: one grid for all who ask, followed step by step, called off when nobody is left."""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.doubles import (
    TENANT,
    TOY,
    DamagingStore,
    DictStore,
    ToyBackend,
    click,
    counted,
    forget,
    image_bytes,
    keys_of,
    mask,
    memory_store,
    send,
    serving,
    until,
)

from labeling_ground import key as keys
from labeling_ground.cache.store import Store
from labeling_ground.codec.mask import bbox, from_rle
from labeling_ground.errors import BackendFailed, Overloaded, UnknownImage
from labeling_ground.inference.backend import BatchSizes, DecodeAsk
from labeling_ground.inference.sketch import Sketch
from labeling_ground.service.everything import Begun, Everything, EverythingAnswer, Progress
from labeling_ground.service.predictor import Predictor
from labeling_ground.service.queues import FairQueue
from labeling_ground.types import (
    EverythingOptions,
    Kind,
    Outcome,
    Prediction,
    Prompt,
)

pytestmark = pytest.mark.anyio

FILE = image_bytes(1)
ID = keys.image_id(FILE)
GRID = EverythingOptions(4, 0.5, 0.5, 0.1, 0.7)
KEY = keys_of(FILE).everything(ToyBackend().version, GRID)


@asynccontextmanager
async def searching(
    backend: ToyBackend, *lower: Store, grids: int = 1, queue: int = 8, workers: int = 1, **options: Any
) -> AsyncIterator[tuple[Everything, Predictor]]:
    async with serving(backend, *lower, **options) as predictor:
        await send(predictor, FILE)
        yield Everything(predictor, jobs=FairQueue("grids", grids, queue), workers=workers), predictor


async def all_steps(path: Everything, options: EverythingOptions = GRID) -> list[Begun | Progress | EverythingAnswer]:
    return [step async for step in path.follow(TENANT, ID, options)]


# --- what comes out ----------------------------------------------------------------------------------------------


async def test_the_second_ask_is_a_hit_with_the_same_masks_from_any_tier() -> None:
    backend = ToyBackend()
    lower = DictStore()
    async with searching(backend, lower) as (path, predictor):
        first = await path.ask(TENANT, ID, GRID)
        asked = backend.decodes
        again = await path.ask(TENANT, ID, GRID)
        await forget(predictor, Kind.EVERYTHING)
        below = await path.ask(TENANT, ID, GRID)
        figures = counted(predictor, Kind.EVERYTHING)
    assert [first.outcome, again.outcome, below.outcome] == [Outcome.MISS, Outcome.HIT, Outcome.HIT]
    assert first.found == again.found == below.found
    assert backend.decodes == asked == 16
    assert (figures.misses, figures.hits, figures.failed) == (1, 2, 0)
    assert lower.entries[KEY].cost > 0
    assert figures.seconds_computed == pytest.approx(lower.entries[KEY].cost, abs=1e-6)
    assert figures.seconds_saved == pytest.approx(2 * lower.entries[KEY].cost, abs=1e-6)
    assert (first.found.width, first.found.height, first.found.points) == (40, 30, 16)
    scores = [one.mask.score for one in first.found.masks]
    assert 3 <= len(scores) <= 48
    assert scores == sorted(scores, reverse=True)
    for one in first.found.masks:
        pixels = from_rle((30, 40), one.mask.counts)
        assert bbox(pixels) == one.mask.bbox
        assert pixels.sum() == one.mask.area
        assert pixels[int(one.point[1]), int(one.point[0])]


async def test_other_options_are_another_question() -> None:
    others = [
        dataclasses.replace(GRID, points_per_side=3),
        dataclasses.replace(GRID, pred_iou_thresh=0.65),
        dataclasses.replace(GRID, stability_score_thresh=0.6),
        dataclasses.replace(GRID, stability_score_offset=0.2),
        dataclasses.replace(GRID, box_nms_thresh=0.2),
        dataclasses.replace(GRID, min_mask_region_area=3),
    ]
    async with searching(ToyBackend()) as (path, _):
        answers = [await path.ask(TENANT, ID, options) for options in [GRID, *others, GRID]]
    assert [answer.outcome for answer in answers] == [Outcome.MISS] * 7 + [Outcome.HIT]
    assert len(answers[5].found.masks) < len(answers[0].found.masks)
    assert all(one.mask.score > 0.65 for one in answers[2].found.masks)


async def test_the_answer_does_not_depend_on_how_many_work_on_it() -> None:
    found = []
    for workers in (1, 3):
        async with searching(ToyBackend(decode_s=0.001), workers=workers, slots=4) as (path, _):
            found.append((await path.ask(TENANT, ID, GRID)).found)
    assert found[0] == found[1]


async def test_a_grid_on_which_nothing_passes_is_an_answer_and_kept() -> None:
    nothing = dataclasses.replace(GRID, pred_iou_thresh=1.0)
    async with searching(ToyBackend(), DictStore()) as (path, predictor):
        steps = await all_steps(path, nothing)
        await forget(predictor, Kind.EVERYTHING)
        again = await path.ask(TENANT, ID, nothing)
    assert isinstance(steps[-1], EverythingAnswer)
    assert steps[-1].found.masks == again.found.masks == ()
    assert again.outcome is Outcome.HIT


async def test_small_regions_go_in_the_end() -> None:
    """Islands of fewer pixels than asked for are gone from every mask, and who follows is told of the change."""

    def spoil(predictions: list[Prediction]) -> list[Prediction]:
        for prediction in predictions:
            for one in prediction.masks:
                one.pixels[29, 39] = one.pixels[0, 0] = True
        return predictions

    backend = ToyBackend()
    async with searching(backend) as (path, _):
        backend.spoil_predictions = spoil
        spotted = await path.ask(TENANT, ID, GRID)
        steps = await all_steps(path, dataclasses.replace(GRID, min_mask_region_area=3))
    answer = steps[-1]
    assert isinstance(answer, EverythingAnswer)
    assert all(one.mask.bbox == (0, 0, 40, 30) for one in spotted.found.masks)
    assert answer.found.masks
    for one in answer.found.masks:
        pixels = from_rle((30, 40), one.mask.counts)
        assert pixels.sum() == one.mask.area
        assert bbox(pixels) == one.mask.bbox != (0, 0, 40, 30)
    assert set(answer.news) == set(answer.found.masks)


# --- step by step ------------------------------------------------------------------------------------------------


async def test_who_follows_is_told_of_each_mask_once_and_of_what_stands() -> None:
    async with searching(ToyBackend(decode_s=0.001)) as (path, _):
        begun, *progress, answer = await all_steps(path)
        hit = await all_steps(path)
    assert begun == Begun(40, 30, 16, TOY, "A toy.") == hit[0]
    assert isinstance(answer, EverythingAnswer)
    assert isinstance(hit[1], EverythingAnswer)
    assert len(hit) == 2
    assert hit[1].news == hit[1].found.masks == answer.found.masks
    known: dict[int, Any] = {}
    done = []
    for step in progress:
        assert isinstance(step, Progress)
        assert not known.keys() & {one.id for one in step.masks}
        known |= {one.id: one for one in step.masks}
        assert set(step.standing) <= known.keys()
        done.append(step.done)
    assert done == sorted(set(done))
    assert done[-1] in (12, 16)  # what the last row gave may come with the answer
    assert len(done) >= 2
    known |= {one.id: one for one in answer.news}
    assert [known[one.id] for one in answer.found.masks] == list(answer.found.masks)


async def test_who_joins_late_is_told_what_stands_and_then_the_rest() -> None:
    backend = ToyBackend()
    async with searching(backend) as (path, _):
        backend.hold = asyncio.Event()
        first = asyncio.create_task(all_steps(path))
        await until(lambda: backend.decodes == 1)
        for _ in range(9):
            before = backend.decodes
            backend.hold.set()  # for the one that waits, and for no other
            backend.hold.clear()
            await until(lambda before=before: backend.decodes > before)  # type: ignore[misc]
        async with aclosing(path.follow(TENANT, ID, GRID)) as late:
            assert await anext(late) == Begun(40, 30, 16, TOY, "A toy.")
            step = await anext(late)
            assert isinstance(step, Progress)
            assert step.done >= 4
            assert {one.id for one in step.masks} == set(step.standing)
            backend.hold.set()
            rest = [step async for step in late]
        steps = await first
        one, other = steps[-1], rest[-1]
    assert isinstance(one, EverythingAnswer)
    assert isinstance(other, EverythingAnswer)
    assert (one.outcome, other.outcome) == (Outcome.MISS, Outcome.JOINED)
    assert one.found == other.found
    assert backend.decodes == 16


async def test_twenty_askers_are_one_grid() -> None:
    backend = ToyBackend()
    async with searching(backend, DictStore()) as (path, _):
        asks = [path.ask(TENANT, ID, GRID) for _ in range(10)]
        follows = [all_steps(path) for _ in range(10)]
        answers, steps = await asyncio.gather(asyncio.gather(*asks), asyncio.gather(*follows))
    outcomes = Counter(answer.outcome for answer in answers)
    outcomes.update(some[-1].outcome for some in steps if isinstance(some[-1], EverythingAnswer))
    assert outcomes == {Outcome.MISS: 1, Outcome.JOINED: 19}
    assert backend.decodes == 16


# --- who leaves --------------------------------------------------------------------------------------------------


async def test_the_first_one_leaving_disturbs_nobody_and_the_last_one_ends_the_work() -> None:
    backend = ToyBackend()
    async with searching(backend, DictStore()) as (path, predictor):
        backend.hold = asyncio.Event()
        first, second = (path.follow(TENANT, ID, GRID) for _ in range(2))
        assert await anext(first) == await anext(second) == Begun(40, 30, 16, TOY, "A toy.")
        await until(lambda: predictor.decode_queue.running == 1)
        await first.aclose()
        await asyncio.sleep(0)
        assert backend.called_off == 0
        assert len(predictor.flights) == 1
        await second.aclose()
        await until(lambda: path.jobs.running == 0)
        assert len(predictor.flights) == 0
        assert predictor.decode_queue.running == 1, "the engine is not stopped, and has its place until it is through"
        decoded = backend.decodes
        backend.hold.set()
        await until(lambda: predictor.decode_queue.running == 0)
        await asyncio.sleep(0.01)
        assert (backend.decodes, backend.called_off) == (decoded, 0)
        assert predictor.store.peek(KEY) is None
        assert (await path.ask(TENANT, ID, GRID)).outcome is Outcome.MISS


async def test_an_asker_who_is_cancelled_leaves_the_grid_to_the_others() -> None:
    backend = ToyBackend()
    async with searching(backend) as (path, _):
        backend.hold = asyncio.Event()
        leaving = asyncio.create_task(path.ask(TENANT, ID, GRID))
        staying = asyncio.create_task(path.ask(TENANT, ID, GRID))
        await until(lambda: backend.decodes == 1)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        backend.hold.set()
        assert (await staying).outcome is Outcome.JOINED
    assert backend.called_off == 0


# --- what goes wrong ---------------------------------------------------------------------------------------------


async def test_a_failure_in_the_middle_reaches_all_who_follow_and_is_not_kept() -> None:
    backend = ToyBackend()
    async with searching(backend, DictStore()) as (path, predictor):
        backend.hold = asyncio.Event()
        follower = path.follow(TENANT, ID, GRID)
        assert isinstance(await anext(follower), Begun)
        asker = asyncio.create_task(path.ask(TENANT, ID, GRID))
        await asyncio.sleep(0)
        backend.error = BackendFailed("It is on holiday.")
        backend.hold.set()
        with pytest.raises(BackendFailed):
            _ = [step async for step in follower]
        with pytest.raises(BackendFailed):
            await asker
        assert counted(predictor, Kind.EVERYTHING).failed == 2
        assert predictor.store.peek(KEY) is None
        assert path.jobs.running == 0
        backend.error = None
        assert (await path.ask(TENANT, ID, GRID)).outcome is Outcome.MISS


@pytest.mark.parametrize("what", ["size", "type", "score"])
async def test_nonsense_from_the_decoder_is_a_failure(what: str) -> None:
    def spoil(predictions: list[Prediction]) -> list[Prediction]:
        [prediction] = predictions
        [first, *rest] = prediction.masks
        pixels: Any = first.pixels
        pixels = {"size": pixels[:-1], "type": pixels.astype(np.uint8), "score": pixels}[what]
        score = float("nan") if what == "score" else first.score
        return [Prediction((dataclasses.replace(first, pixels=pixels, score=score), *rest))]

    backend = ToyBackend()
    async with searching(backend) as (path, predictor):
        backend.spoil_predictions = spoil
        with pytest.raises(BackendFailed):
            await path.ask(TENANT, ID, GRID)
        assert predictor.store.peek(KEY) is None
        backend.spoil_predictions = lambda _: []
        with pytest.raises(BackendFailed):
            await path.ask(TENANT, ID, GRID)


async def test_an_unknown_image_is_said_and_a_kept_one_encoded_again() -> None:
    backend = ToyBackend()
    async with searching(backend, DictStore()) as (path, predictor):
        with pytest.raises(UnknownImage):
            await path.ask(TENANT, "0" * 64, GRID)
        with pytest.raises(UnknownImage):
            await anext(path.follow("another-tenant", ID, GRID))
        await forget(predictor, Kind.EMBEDDING, everywhere=True)
        assert (await path.ask(TENANT, ID, GRID)).outcome is Outcome.RECOMPUTED
    assert backend.encodes == 2


async def test_a_damaged_entry_is_a_miss() -> None:
    healthy = DictStore()
    async with searching(ToyBackend(), healthy) as (path, predictor):
        await path.ask(TENANT, ID, GRID)
        await predictor.store.drain()
        entry = healthy.entries[KEY]
    backend = ToyBackend()
    lower = DamagingStore()
    async with searching(backend, lower) as (path, _):
        lower.entries[KEY] = entry
        assert (await path.ask(TENANT, ID, GRID)).outcome is Outcome.MISS
    assert backend.decodes == 16


async def test_a_purge_in_the_middle_means_the_result_too() -> None:
    backend = ToyBackend()
    async with searching(backend, DictStore()) as (path, predictor):
        backend.hold = asyncio.Event()
        before = asyncio.create_task(path.ask(TENANT, ID, GRID))
        await until(lambda: backend.decodes == 1)
        await predictor.purge(TENANT, image_id=ID)
        backend.hold.set()
        assert (await before).outcome is Outcome.MISS
        assert predictor.store.peek(KEY) is None
        with pytest.raises(UnknownImage):
            await path.ask(TENANT, ID, GRID)
        await send(predictor, FILE)
        assert (await path.ask(TENANT, ID, GRID)).outcome is Outcome.MISS
        assert await predictor.purge(None, model="toy") > 0
        assert predictor.store.peek(KEY) is None


# --- beside the clicks -------------------------------------------------------------------------------------------


async def test_one_grid_too_many_is_turned_away() -> None:
    backend = ToyBackend()
    async with searching(backend, queue=1) as (path, _):
        backend.hold = asyncio.Event()
        first, second, third = (dataclasses.replace(GRID, points_per_side=side) for side in (2, 3, 5))
        running = asyncio.create_task(path.ask(TENANT, ID, first))
        await until(lambda: path.jobs.running == 1)
        waiting = asyncio.create_task(path.ask(TENANT, ID, second))
        await until(lambda: path.jobs.waiting == 1)
        with pytest.raises(Overloaded) as refused:
            await path.ask(TENANT, ID, third)
        assert refused.value.retry_after >= 1
        joined = asyncio.create_task(path.ask(TENANT, ID, second))  # what waits already takes more askers on
        await asyncio.sleep(0)
        backend.hold.set()
        await asyncio.gather(running, waiting)
        assert (await joined).outcome is Outcome.JOINED


async def test_clicks_find_a_place_beside_two_grids() -> None:
    """Of all grids together no more than ``workers`` calls are with the decoder; a full queue does not fail a grid."""
    backend = ToyBackend()
    async with searching(backend, grids=2, workers=2, slots=3, queue=1) as (path, predictor):
        backend.hold = asyncio.Event()
        grids = [
            asyncio.create_task(path.ask(TENANT, ID, dataclasses.replace(GRID, points_per_side=side)))
            for side in (3, 4)
        ]
        await until(lambda: predictor.decode_queue.running == 2)
        await asyncio.sleep(0.01)
        assert (predictor.decode_queue.running, predictor.decode_queue.waiting, backend.decodes) == (2, 0, 2)
        clicks = [asyncio.create_task(mask(predictor, ID, click(x, 10))) for x in (5, 15)]
        await until(lambda: predictor.decode_queue.running == 3 and predictor.decode_queue.waiting == 1)
        backend.hold.set()
        assert [answer.outcome for answer in await asyncio.gather(*grids)] == [Outcome.MISS] * 2
        assert [answer.outcome for answer in await asyncio.gather(*clicks)] == [Outcome.MISS] * 2


# --- engines that sketch -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A half of the image, upper or lower: however often it is meant, it is the same one."""

    owner: "Artist"
    score: float
    upper: bool
    alike: bool

    @property
    def likeness(self) -> bytes | None:
        return bytes([self.upper]) if self.alike else None

    def draw(self, offset: float) -> tuple[NDArray[np.bool_], float]:
        self.owner.drawn.append(self.score)
        pixels = np.zeros((30, 40), np.bool_)
        pixels[:15] = self.upper
        pixels[15:] = not self.upper
        return pixels, 1.0 - offset


class Artist(ToyBackend):
    """Offers sketches, four prompts at once."""

    usual = EverythingOptions(points_per_side=2)

    def __init__(self, *, alike: bool) -> None:
        super().__init__(batch=BatchSizes(4, 4))
        self.alike = alike
        self.drawn: list[float] = []
        self.asked: list[int] = []

    async def sketch(self, asks: Sequence[DecodeAsk]) -> list[list[Sketch]]:
        self.asked.append(len(asks))
        return [self._sketches(prompt) for _, prompt in asks]

    def _sketches(self, prompt: Prompt) -> list[Sketch]:
        x, y = prompt.points[0].x, prompt.points[0].y
        return [
            Drawing(self, 0.8 + x / 1000, y < 15, self.alike),
            Drawing(self, 0.5, y < 15, self.alike),
        ]


@pytest.mark.parametrize("alike", [True, False])
async def test_only_what_may_be_kept_is_drawn_and_what_is_alike_once(alike: bool) -> None:
    backend = Artist(alike=alike)
    options = EverythingOptions(6, 0.6, 0.8, 0.1, 0.7)
    async with searching(backend) as (path, _):
        assert path.usual is Artist.usual
        answer = await path.ask(TENANT, ID, options)
    assert backend.decodes == 0
    assert backend.asked == [4, 2] * 6
    assert len(backend.drawn) == (2 if alike else 36)
    assert 0.5 not in backend.drawn
    best = [one.mask for one in answer.found.masks]
    assert [one.bbox for one in best] == [(0, 0, 40, 15), (0, 15, 40, 15)]
    assert all(one.score == pytest.approx(0.8 + 40 * 5.5 / 6 / 1000) for one in best)
    assert all(one.stability == pytest.approx(0.9) for one in answer.found.masks)


async def test_what_is_too_large_for_memory_is_found_below() -> None:
    async with searching(ToyBackend(), DictStore(), memory=memory_store(8)) as (path, predictor):
        first = await path.ask(TENANT, ID, GRID)
        await predictor.store.drain()
        again = await path.ask(TENANT, ID, GRID)
    assert (first.outcome, again.outcome) == (Outcome.MISS, Outcome.HIT)
    assert first.found == again.found
