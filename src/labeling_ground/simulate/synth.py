"""Traces of labeling work, made up: what a team's accesses look like, for deciding before there is a recording.

A model of the work, not a recording of it. People arrive over the first hour, take a break at noon, and work through a
queue of images, each for one to thirty clicks over minutes; the next images are sent ahead; some images are left in the
middle and come back to, some are seen again at once; a part is reviewed by somebody else hours later, a part labeled by
two; everybody opens the same few demo images. Projects differ in their model, and so in what an embedding weighs and
costs. The numbers are those of a study of the same design, and each can be set.
"""

import heapq
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

import numpy as np

from labeling_ground.trace.events import EVENT, KINDS, OUTCOMES, Events, What, digest
from labeling_ground.types import Kind, Outcome

_EMBEDDING = KINDS.index(Kind.EMBEDDING)
_MASK = KINDS.index(Kind.MASK)
_HOUR = 3600.0
_FIRST_MORNING = 1_767_600_000.0
"""Monday, 5 January 2026, 8:00 UTC: any morning would do."""


@dataclass(frozen=True, slots=True)
class ModelClass:
    """What a model's entries weigh (bytes) and cost (seconds), and its share of the projects."""

    name: str
    embedding_bytes: int
    encode_s: float
    share: float
    mask_bytes: int = 6_000
    logits_bytes: int = 394_000
    decode_s: float = 0.02


SMALL = ModelClass("small", 524_700, 0.1, 0.30)
BASE = ModelClass("base", 2_097_600, 0.4, 0.40)
HUGE = ModelClass("huge", 4_194_700, 1.8, 0.22)
SLOW = ModelClass("cpu", 4_194_700, 15.0, 0.08)

MIXES: dict[str, tuple[ModelClass, ...]] = {
    "mixed": (SMALL, BASE, HUGE, SLOW),
    "gpu": (SMALL, BASE, HUGE),
    "one": (BASE,),
    "uniform": (ModelClass("uniform", 1 << 20, 1.0, 1.0, mask_bytes=1 << 20, logits_bytes=0, decode_s=1.0),),
}
"""Which models the projects use. ``uniform`` weighs and costs the same for everything."""


@dataclass(frozen=True, slots=True)
class Work:
    """How a team works. Times in seconds, shares between 0 and 1."""

    mix: str = "mixed"
    annotators: int = 120
    hours: float = 8.0
    projects: int = 12
    prefetch: int = 2
    """Images sent ahead of the one being labeled."""
    clicks: float = 7.0
    """Median number of clicks on an image; between 1 and 30."""
    between_clicks: float = 18.0
    """Mean pause between two clicks."""
    refine: float = 0.5
    """Share of clicks that refine the mask before them."""
    beside: bool = True
    """Whether to count what a server keeps beside: the logits of a mask, which are most of the bytes, and the file of
    an image."""
    undo: float = 0.08
    """Share of clicks that are taken back: the prompt before is asked for again."""
    interrupted: float = 0.03
    """Share of images left in the middle, for a break of five minutes to four hours."""
    revisited: float = 0.10
    """Share of images that the same person opens again later."""
    reviewed: float = 0.15
    """Share of images that somebody else looks at, in the median after 90 minutes."""
    corrected: float = 0.45
    """Share of reviews that correct something."""
    twice: float = 0.075
    """Share of images that a second person labels too."""
    demos: int = 24
    """Images that everybody opens, the first of them most often."""
    demo_rate: float = 0.01
    """Share of opened images that are one of those."""
    bulk: int = 0
    """New images that a script sends within one hour, in the middle of the day."""
    swap: bool = False
    """Whether the projects get a new version of their model at noon."""
    days: int = 1
    """Days, with nights of nothing in between."""


@dataclass(slots=True)
class _Image:
    """An image and what was done to it."""

    name: str
    model: ModelClass
    prompts: list[int] = field(default_factory=list)


class Opened(NamedTuple):
    """An annotator opened an image, or left without opening another one (where ``image`` is 0)."""

    time: float
    who: str
    image: int
    """As ``image`` of the events that follow."""
    embedding: int


class TeamSimulation:
    """Plays one team's work; everything random comes from one generator, in one order."""

    def __init__(self, seed: int, work: Work) -> None:
        self.random = random.Random(seed)  # noqa: S311 -- nothing here is secret
        self.work = work
        self.rows: list[tuple[object, ...]] = []
        self.opened: list[Opened] = []
        """Who opened what, in the order of time once the work was played."""
        self.queue: list[tuple[float, int, Callable[[float], None]]] = []
        self.serial = count()
        self.version = 0
        self.names: dict[str, int] = {}
        self.known: set[int] = set()
        mix = MIXES[work.mix]
        self.projects = self.random.choices(mix, [model.share for model in mix], k=work.projects)
        self.demo = [_Image(f"demo {i}", self.random.choice(self.projects)) for i in range(work.demos)]

    def play(self) -> Events:
        """All events, in the order of time."""
        work = self.work
        for day in range(work.days):
            start = _FIRST_MORNING + day * 24 * _HOUR
            for person in range(work.annotators):
                arrives = self.random.uniform(0, min(1.0, work.hours / 8) * _HOUR)
                self._live(start + arrives, self._person(person, start))
            if work.swap:
                self._at(start + work.hours / 2 * _HOUR, self._swap)
            for number in range(work.bulk):
                image = _Image(f"bulk {day} {number}", self.projects[number % len(self.projects)])
                self._at(
                    start + work.hours / 2 * _HOUR + number * _HOUR / work.bulk,
                    lambda now, image=image: self._ask_embedding(now, image),  # type: ignore[misc]
                )
        while self.queue:
            now, _, action = heapq.heappop(self.queue)
            action(now)
        self.opened.sort()
        events = np.array(self.rows, EVENT)
        return events[np.argsort(events["time"], kind="stable")]

    def _at(self, time: float, action: Callable[[float], None]) -> None:
        heapq.heappush(self.queue, (time, next(self.serial), action))

    def _live(self, time: float, steps: Generator[float, float, None]) -> None:
        """Run an actor from ``time`` on: it yields pauses, and is sent the time at the end of each."""
        next(steps)

        def go_on(now: float) -> None:
            try:
                pause = steps.send(now)
            except StopIteration:
                return
            self._at(now + pause, go_on)

        self._at(time, go_on)

    def _swap(self, _: float) -> None:
        self.version += 1

    def _person(self, person: int, start: float) -> Generator[float, float, None]:
        work, rng = self.work, self.random
        end = start + work.hours * _HOUR - rng.uniform(0, min(0.5, work.hours / 16) * _HOUR)
        lunch = start + rng.uniform(3.5, 4.5) * _HOUR
        project = self.projects[person % len(self.projects)]
        ahead: list[_Image] = []
        back: list[tuple[float, _Image]] = []
        now = yield 0.0
        current: _Image | None = None
        for number in count():
            if now >= end:
                break
            if now >= lunch:
                lunch = end + 1
                now = yield rng.uniform(0.5, 1.0) * _HOUR
            if back and back[0][0] <= now:
                image = heapq.heappop(back)[1]
            elif work.demos and rng.random() < work.demo_rate:
                image = self.demo[min(work.demos - 1, int(rng.paretovariate(1.0)) - 1)]
            else:
                while len(ahead) <= work.prefetch:
                    ahead.append(_Image(f"{person} {start:.0f} {number} {len(ahead)} {rng.random():.9f}", project))
                    if len(ahead) > 1:
                        self._ask_embedding(now, ahead[-1], What.PREFETCHED)
                image = ahead.pop(0)
            if current is not None and current is not image:
                self._hint(now, current, What.DONE)
            current = image
            self._open(now, f"person {person}", image)
            clicks = max(1, min(30, round(rng.lognormvariate(np.log(work.clicks), 0.6))))
            stop = rng.randrange(clicks) if rng.random() < work.interrupted else -1
            for click in range(clicks):
                now = yield rng.expovariate(1 / work.between_clicks) + 0.5
                if click == stop:
                    heapq.heappush(back, (now + min(4 * _HOUR, 300 * rng.paretovariate(0.8)), image))
                    break
                self._click(now, image, first=click == 0)
            else:
                self._afterwards(now, image, back, person)
            now = yield rng.uniform(2, 8)
        if current is not None:
            self._leave(now, f"person {person}", current)

    def _afterwards(self, now: float, image: _Image, back: list[tuple[float, _Image]], person: int) -> None:
        """Later visits to a finished image: reopened, or reviewed."""
        work, rng = self.work, self.random
        if rng.random() < work.revisited:
            heapq.heappush(back, (now + 60 * rng.paretovariate(0.7), image))
        if rng.random() < work.reviewed:
            self._at(now + rng.lognormvariate(np.log(1.5 * _HOUR), 0.8), self._visit(image, work.corrected))
        if rng.random() < work.twice:
            self._at(now + rng.lognormvariate(np.log(1.0 * _HOUR), 1.0), self._visit(image, 1.0))

    def _visit(self, image: _Image, clicks_on: float) -> Callable[[float], None]:
        rng = self.random

        def visit(now: float) -> None:
            visitor = f"visitor {next(self.serial)}"
            self._open(now, visitor, image)
            for prompt in image.prompts[-3:]:  # what is on the screen is asked for again
                self._ask_mask(now + 1, image, prompt, 0)
            later = now + 20
            if rng.random() < clicks_on:
                for _ in range(rng.randint(1, 6)):
                    later += rng.expovariate(1 / self.work.between_clicks) + 0.5
                    self._at(later, lambda at: self._click(at, image, first=True))
            self._at(later + 10, lambda at: self._leave(at, visitor, image))

        return visit

    def _click(self, now: float, image: _Image, *, first: bool) -> None:
        rng = self.random
        if len(image.prompts) > 1 and rng.random() < self.work.undo:
            self._ask_mask(now, image, image.prompts[-2], 0)
            return
        demo = image.name.startswith("demo")
        parent = image.prompts[-1] if image.prompts and not first and rng.random() < self.work.refine else 0
        # Everybody clicks on the same things of a demo image.
        named = f"{int(rng.paretovariate(0.9))}" if demo else f"{rng.random():.12f}"
        prompt = digest(f"{image.name} {named} {parent} {self.version}")
        image.prompts.append(prompt)
        self._ask_mask(now, image, prompt, parent)

    def _open(self, now: float, who: str, image: _Image) -> None:
        embedding = self._digest(f"{image.name} e {image.model.name} {self.version}")
        self.opened.append(Opened(now, who, self._digest(image.name), embedding))
        self._ask_embedding(now, image)

    def _leave(self, now: float, who: str, image: _Image) -> None:
        self.opened.append(Opened(now, who, 0, 0))
        self._hint(now, image, What.DONE)

    def _ask_embedding(self, now: float, image: _Image, what: What = What.ASKED) -> None:
        key = self._digest(f"{image.name} e {image.model.name} {self.version}")
        self._row(now, key, image, what, _EMBEDDING, 0)

    def _ask_mask(self, now: float, image: _Image, key: int, parent: int) -> None:
        self._row(now, key, image, What.ASKED, _MASK, parent)

    def _hint(self, now: float, image: _Image, what: What) -> None:
        group = self._digest(image.name)
        self.rows.append((now, 0, group, 0, 0, 0.0, 0, 0, 0, 1, what, 0, 0, 0))

    def _row(self, now: float, key: int, image: _Image, what: What, kind: int, parent: int) -> None:
        model = image.model
        is_mask = kind == _MASK
        outcome = OUTCOMES.index(Outcome.HIT if key in self.known else Outcome.MISS)
        self.known.add(key)
        cost = model.decode_s if is_mask else model.encode_s
        size, beside = model.embedding_bytes, model.embedding_bytes // 6
        if is_mask:
            size, beside = model.mask_bytes, model.logits_bytes
        if not self.work.beside:
            beside = 0
        self.rows.append(
            (
                now,
                key,
                self._digest(image.name),
                self._digest(f"{image.name} e {model.name} {self.version}"),
                parent,
                cost,
                size,
                beside,
                self._digest(f"{model.name} {self.version}") & 0xFFFFFFFF,
                1,
                what,
                kind,
                outcome,
                0,
            )
        )

    def _digest(self, name: str) -> int:
        found = self.names.get(name)
        if found is None:
            found = self.names[name] = digest(name)
        return found


def synthesise(seed: int, work: Work | None = None) -> Events:
    """A team's accesses over a day or more; the same seed and the same numbers give the same trace to the bit."""
    return TeamSimulation(seed, work or Work()).play()
