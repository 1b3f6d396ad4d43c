"""«Segment everything»: the main path for a whole grid of clicks at once."""

import asyncio
import dataclasses
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from labeling_ground.codec import records
from labeling_ground.codec.mask import area, bbox, from_rle, to_rle
from labeling_ground.codec.records import CachedEverything, CachedMask, FoundMask
from labeling_ground.errors import BackendFailed
from labeling_ground.inference.sketch import Sketch
from labeling_ground.key import tenant_in
from labeling_ground.sam.everything import CANDIDATES, SECOND_NMS, grid, keep_best, without_small_regions
from labeling_ground.service.asks import Ask, Timing
from labeling_ground.service.predictor import Predictor
from labeling_ground.service.queues import FairQueue
from labeling_ground.types import (
    Embedding,
    Entry,
    EverythingOptions,
    Kind,
    ModelVersion,
    Outcome,
    Point,
    Priority,
    Prompt,
)
from labeling_ground.urgency import asked_at_best


@dataclass(frozen=True, slots=True)
class Begun:
    """The image is encoded, and the grid is being worked on (or was already)."""

    width: int
    height: int
    points: int
    version: ModelVersion
    model_note: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the grid is.

    Attributes:
        done: points that were looked at.
        points: points of the grid.
        masks: those of the standing masks that this follower was not told of before.
        standing: ids of the masks that would be the answer if the grid ended here, best first. One that stands now may
            be displaced by a better one, and stand again when that one is displaced.
    """

    done: int
    points: int
    masks: tuple[FoundMask, ...]
    standing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EverythingAnswer:
    """What it came to. ``news`` are those of the masks that this follower was not told of, or that changed since."""

    found: CachedEverything
    news: tuple[FoundMask, ...]
    outcome: Outcome
    version: ModelVersion
    timing: Timing
    model_note: str = ""


@dataclass(slots=True, eq=False)
class _Search:
    """One grid being worked on: what was found so far."""

    tenant: str
    version: ModelVersion
    embedding: Embedding
    options: EverythingOptions
    points: Sequence[Point]
    done: int = 0
    found: dict[int, FoundMask] = field(default_factory=dict)
    standing: tuple[int, ...] = ()
    drawn: dict[bytes, FoundMask | None] = field(default_factory=dict)
    """By likeness: what came of drawing a sketch; ``None`` where it was not stable or empty."""

    def judge(self, number: int, sketches: Sequence[Sketch]) -> list[FoundMask]:
        """Those of one point's candidates that pass the filters. Blocking.

        Raises:
            BackendFailed: a candidate is none.
        """
        point = self.points[number]
        passed = []
        for index, sketch in enumerate(sketches[:CANDIDATES]):
            if not math.isfinite(sketch.score):
                raise BackendFailed("The decoder's answer holds values that are no numbers.")
            if self.options.pred_iou_thresh > 0 and not sketch.score > self.options.pred_iou_thresh:
                continue
            if sketch.likeness in self.drawn:
                drawn = self.drawn[sketch.likeness]
            else:
                drawn = self._draw(sketch)
                if sketch.likeness is not None:
                    self.drawn[sketch.likeness] = drawn
            if drawn is not None:
                mask = dataclasses.replace(drawn.mask, score=sketch.score)
                passed.append(FoundMask(number * CANDIDATES + index, (point.x, point.y), drawn.stability, mask))
        return passed

    def add(self, count: int, passed: Sequence[FoundMask]) -> None:
        """Take in what ``count`` more points gave, and see which masks stand now. Blocking."""
        self.found.update((one.id, one) for one in passed)
        everyone = [self.found[number] for number in sorted(self.found)]
        kept = _keep_best(everyone, [one.mask.score for one in everyone], self.options.box_nms_thresh)
        self.standing = tuple(one.id for one in kept)
        self.done += count

    def result(self) -> CachedEverything:
        """The final answer. Blocking."""
        masks = [self.found[number] for number in self.standing]
        least = self.options.min_mask_region_area
        if least > 0:
            cleaned = [self._without_small_regions(one, least) for one in masks]
            # What had nothing to be mended goes first, whatever its score: the reference's rule.
            ranks = [0.0 if mended else 1.0 for _, mended in cleaned]
            masks = _keep_best([one for one, _ in cleaned], ranks, max(self.options.box_nms_thresh, SECOND_NMS))
        return CachedEverything(self.embedding.height, self.embedding.width, len(self.points), tuple(masks))

    def _draw(self, sketch: Sketch) -> FoundMask | None:
        pixels, stability = sketch.draw(self.options.stability_score_offset)
        size = (self.embedding.height, self.embedding.width)
        if pixels.shape != size or pixels.dtype != np.bool_ or not math.isfinite(stability):
            raise BackendFailed("The decoder's mask does not have the image's size, or is none.")
        if self.options.stability_score_thresh > 0 and stability < self.options.stability_score_thresh:
            return None
        box = bbox(pixels)
        if box[2] == 0:
            return None
        left, top, width, height = box
        covered = area(pixels[top : top + height, left : left + width])
        mask = CachedMask(to_rle(pixels, box)["counts"], sketch.score, covered, box)
        return FoundMask(0, (0.0, 0.0), stability, mask)

    def _without_small_regions(self, one: FoundMask, least: int) -> tuple[FoundMask, bool]:
        pixels = from_rle((self.embedding.height, self.embedding.width), one.mask.counts)
        pixels, mended = without_small_regions(pixels, one.mask.bbox, least)
        if not mended:
            return one, False
        box = bbox(pixels)
        mask = CachedMask(to_rle(pixels, box)["counts"], one.mask.score, area(pixels), box)
        return dataclasses.replace(one, mask=mask), True


def _keep_best(masks: Sequence[FoundMask], scores: Sequence[float], threshold: float) -> list[FoundMask]:
    return [masks[index] for index in keep_best([one.mask.bbox for one in masks], scores, threshold)]


class Everything:
    """Answers asks for all masks of an image.

    What comes out is an entry like any other: the same look-up, the same flights, the same purges. Asks for the same
    options on the same image share one grid, whenever they come; the last one that leaves calls it off. The result of
    a grid does not depend on who follows it or on how many work on it.

    Grids are kept out of the clicks' way: so many at a time, and of all of them together no more than ``workers`` calls
    are with the decoder or wait for it. They queue there as prefetches do, behind clicks, though somebody waits for the
    grid: it is hundreds of calls, and a click is one.

    Args:
        predictor: the main path.
        jobs: queue of grids.
        workers: calls to the decoder, and masks being painted, at the same time; fewer than the decoder's places
            where it has several.
        wall_clock: seconds since 1970.
    """

    def __init__(
        self, predictor: Predictor, *, jobs: FairQueue, workers: int, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self.jobs = jobs
        self._wall_clock = wall_clock
        self._predictor = predictor
        self._pool = predictor.pools.grids
        self._workers = FairQueue("grids' calls", workers, 0)
        self._searches: dict[str, _Search] = {}
        self._news = asyncio.Event()

    @property
    def usual(self) -> EverythingOptions:
        """The options where the caller does not say."""
        return self._predictor.model.sketcher.usual

    async def ask(
        self, tenant: str, image_id: str, options: EverythingOptions, *, client: str | None = None
    ) -> EverythingAnswer:
        """All masks of a known image.

        Raises:
            UnknownImage: send it again.
            Overloaded, BackendFailed: as in ``Predictor.open_image``.
        """
        return await self._ask(self._predictor.model.bind(tenant, image_id), options, client)

    async def _ask(self, ask: Ask, options: EverythingOptions, client: str | None) -> EverythingAnswer:
        key = ask.everything(options)
        started = time.perf_counter()
        made = await self._predictor.embeddings.derive(
            Kind.EVERYTHING, ask, key, lambda embedding, _: self._make(key, ask.version, embedding, options)
        )
        self._predictor.accesses.note(Kind.EVERYTHING, ask, key, made)
        timing = made.timing.within(time.perf_counter() - started)
        found = await self._pool.run(records.open_everything, made.entry, key)
        if client is not None:
            self._predictor.presence.opened(f"{ask.keys.tenant}/{client}", ask.keys.group)
        return EverythingAnswer(found, found.masks, made.outcome, ask.version, timing, ask.model_note)

    async def follow(
        self, tenant: str, image_id: str, options: EverythingOptions, *, client: str | None = None
    ) -> AsyncGenerator[Begun | Progress | EverythingAnswer, None]:
        """The same, step by step: ``Begun``, then ``Progress`` as it comes, then the answer.

        Who joins late is told first of all that stands by then. Who listens slowly is told less often, and misses
        nothing. Close the generator to leave.

        Raises:
            UnknownImage, Overloaded, BackendFailed: as in ``ask``; also after the first steps.
        """
        ask = self._predictor.model.bind(tenant, image_id)
        key = ask.everything(options)
        asking = asyncio.ensure_future(self._ask(ask, options, client))

        def begin(width: int, height: int, points: int) -> Begun:
            return Begun(width, height, points, ask.version, ask.model_note)

        told: dict[int, FoundMask] = {}
        begun, done = False, -1
        try:
            while not asking.done():
                news = asyncio.ensure_future(self._news.wait())
                search = self._searches.get(key)
                if search is not None and search.done > done:
                    if not begun:
                        begun = True
                        yield begin(search.embedding.width, search.embedding.height, len(search.points))
                    if search.done:
                        standing = search.standing
                        fresh = [search.found[number] for number in standing if number not in told]
                        told |= {one.id: one for one in fresh}
                        yield Progress(search.done, len(search.points), tuple(fresh), standing)
                    done = search.done
                    news.cancel()
                    continue  # the follower may have taken its time
                await asyncio.wait({asking, news}, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
            answer = await asking
            if not begun:
                yield begin(answer.found.width, answer.found.height, answer.found.points)
            fresh = [one for one in answer.found.masks if told.get(one.id) != one]
            yield dataclasses.replace(answer, news=tuple(fresh))
        finally:
            asking.cancel()
            await asyncio.wait({asking})
            if not asking.cancelled():
                asking.exception()  # seen: who has left is told nothing

    async def _make(self, key: str, version: ModelVersion, embedding: Embedding, options: EverythingOptions) -> Entry:
        self._predictor.model.check(version)  # whose embedding this is: it was opened just now
        async with self.jobs.slot(tenant_in(key)), self.jobs.timed():
            started = time.perf_counter()
            points = grid(options.points_per_side, embedding.height, embedding.width)
            search = _Search(tenant_in(key), version, embedding, options, points)
            self._searches[key] = search
            self._tell()
            try:
                for start in range(0, len(points), options.points_per_side):
                    await self._row(search, range(start, start + options.points_per_side))
                    self._tell()
                found = await self._pool.run(search.result)
            finally:
                if self._searches.get(key) is search:
                    del self._searches[key]
            cost = time.perf_counter() - started
        facts = {"cost": cost, "created": self._wall_clock()}
        return await self._pool.run(partial(records.seal_everything, key, found, **facts))

    async def _row(self, search: _Search, numbers: range) -> None:
        at_once = self._predictor.decode_queue.batch.background
        tasks = [
            asyncio.ensure_future(self._some(search, numbers[start : start + at_once]))
            for start in range(0, len(numbers), at_once)
        ]
        try:
            passed = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        await self._pool.run(search.add, len(numbers), [one for some in passed for one in some])

    async def _some(self, search: _Search, numbers: range) -> list[FoundMask]:
        asks = [(search.embedding, Prompt((search.points[number],))) for number in numbers]
        queue, model = self._predictor.decode_queue, self._predictor.model

        def judge() -> list[FoundMask]:
            return [one for number, some in zip(numbers, made, strict=True) for one in search.judge(number, some)]

        async with self._workers.slot(search.tenant, patient=True) as worker:
            # After clicks, even where a person waits for the grid: it is many calls, and a click is one.
            with asked_at_best(Priority.PREFETCH):
                async with queue.slot(search.tenant, size=len(asks), patient=True) as place:
                    made = await place.call(partial(model.sketch, place, search.version, asks), also=worker)
            return await self._pool.run(judge)

    def _tell(self) -> None:
        """Wake all followers of grids."""
        self._news.set()
        self._news = asyncio.Event()
