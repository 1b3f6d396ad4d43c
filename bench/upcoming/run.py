"""A made-up day, replayed with the server's own lists, presence and tiers, and queued for an encoder.

Each person announces the images of the day in the order in which they will be opened. So many of them, drawn at random,
are replaced by images that nobody opens. The lists decide what is fetched ahead and what is spared; the tiers say which
embeddings are missing when they are asked for; the queue says how long people wait for those.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from statistics import mean
from typing import Any

from bench.command import machine
from labeling_ground.service.presence import Presence
from labeling_ground.service.upcoming import Reader, Upcoming
from labeling_ground.simulate.prepared import Prepared, Step, prepare
from labeling_ground.simulate.queueing import Engines, Need
from labeling_ground.simulate.replay import SWEEP_EVERY_S, UNBOUNDED, Replay, Setup
from labeling_ground.simulate.synth import BASE, Opened, TeamSimulation, Work
from labeling_ground.trace.events import What
from labeling_ground.types import Priority

AHEAD, SPARED = 4, 32
"""The defaults of ``prefetch_per_client`` and ``upcoming_spared``."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated.

    Attributes:
        annotators: people.
        hours: of the day.
        seeds: one day for each.
        budgets: shares of the memory that idle time alone would need.
        truths: shares of the lists' images that will be opened.
        encode_s: seconds of the one encoder for an image.
    """

    annotators: int
    hours: float
    seeds: Sequence[int]
    budgets: Sequence[float] = (0.1, 0.25, 1.0)
    truths: Sequence[float] = (0.0, 0.5, 1.0)
    encode_s: float = 2.0


FULL = Plan(24, 6.0, (1, 2, 3))
TOY = Plan(4, 1.0, (1,), budgets=(0.25,))


class Day(Replay):
    """One day, replayed as it is worked: lists decide what is fetched, and the tiers what that was worth."""

    def __init__(self, budget: int) -> None:
        super().__init__(Setup("gds", budget))
        self.needs: list[Need] = []
        """Embeddings as they were needed, and whether they were there."""
        self.presence = Presence(self._mark, AHEAD)
        self.upcoming = Upcoming(self.presence, self, most_ahead=AHEAD, spared=SPARED)
        self._steps: dict[str, Step] = {}
        self._hit = False

    def work(self, team: TeamSimulation, trace: Prepared, truth: float | None, seed: int) -> None:
        """Play the team's day, with lists of which so many images are true; ``None``: without lists."""
        for step in reversed(trace.steps):
            if not step.is_derived:
                self._steps[step.group] = step
        if truth is not None:
            self._announce(team, truth, random.Random(seed))
        opened = iter([*team.opened, Opened(float("inf"), "", 0, 0)])
        following, sweep_at = next(opened), 0.0
        for step in trace.steps:
            if step.time >= sweep_at:
                self._now = step.time
                self._sweep()
                sweep_at = step.time + SWEEP_EVERY_S
            while following.time < step.time:  # somebody left
                self.presence.forget(following.who)
                following = next(opened)
            self.play(step)
            if following.time == step.time and following.image and not step.is_derived:
                self.presence.opened(f"day/{following.who}", step.group, encoded=not self._hit)
                following = next(opened)

    def play(self, step: Step) -> None:
        """One step."""
        self.run(Prepared([step], 0.0, {}))

    def group(self, reader: Reader, image: str) -> str:
        """Images are known by their group."""
        return image

    def fetch(self, reader: Reader, image: str) -> None:
        """The image is sent ahead; one that nobody opens takes as much as any."""
        like = self._steps.get(image) or next(iter(self._steps.values()))
        names = {name: getattr(like, name).replace(like.group, image) for name in ("key", "embedding", "image")}
        self.play(replace(like, time=self._now, what=What.PREFETCHED, group=image, **names))

    def _announce(self, team: TeamSimulation, truth: float, rng: random.Random) -> None:
        plans: defaultdict[str, list[str]] = defaultdict(list)
        tenant = next(iter(self._steps)).rsplit("/", 2)[0]
        for opened in team.opened:
            if opened.image and opened.who.startswith("person"):
                image = opened.image if rng.random() < truth else rng.getrandbits(64)
                plans[opened.who].append(f"{tenant}/{image:x}/")
        for who, plan in plans.items():
            self.upcoming.announce(Reader("day", who), plan)

    def _embedding(self, step: Step) -> bool:
        self._hit = super()._embedding(step)
        priority = Priority.PREFETCH if step.what is What.PREFETCHED else Priority.INTERACTIVE
        self.needs.append(Need(self._now, hash(step.embedding), priority, not self._hit))
        return self._hit


def day(seed: int, plan: Plan, truth: float | None, budget: int) -> dict[str, float]:
    """What one day came to."""
    team = TeamSimulation(seed, Work(mix="one", annotators=plan.annotators, hours=plan.hours, prefetch=0))
    events = team.play()
    replay = Day(budget)
    replay.work(team, prepare(events[events["what"] == What.ASKED]), truth, seed)
    waited = Engines(1, plan.encode_s).run(replay.needs).waited[Priority.INTERACTIVE]
    people = [need for need in replay.needs if need.priority is Priority.INTERACTIVE]
    return {
        "missing": sum(need.is_missing for need in people) / len(people),
        "waited_s": sum(waited) / sum(each.image > 0 for each in team.opened),
        "encodes": sum(need.is_missing for need in replay.needs) / len(people),
        "fetched": sum(need.priority is Priority.PREFETCH for need in replay.needs),
        "peak_bytes": max(replay.finish().peak_bytes.values()),
    }


def run(plan: Plan) -> dict[str, Any]:
    """All days, and what they came to, averaged over the seeds."""
    ample = {seed: int(day(seed, plan, None, UNBOUNDED)["peak_bytes"]) for seed in plan.seeds}
    rows = []
    for share in plan.budgets:
        for truth in (None, *plan.truths):
            days = [day(seed, plan, truth, int(share * ample[seed])) for seed in plan.seeds]
            rows.append(
                {"budget": share, "truth": truth, **{name: mean(each[name] for each in days) for name in days[0]}}
            )
    return {"plan": asdict(plan), "machine": machine(), "date": date.today().isoformat(), "rows": rows}


def table(result: dict[str, Any]) -> str:
    """As Markdown."""
    plan = result["plan"]
    lines = [
        f"{result['date']}, {result['machine']}. Made up: {plan['annotators']} people over {plan['hours']:g} hours, "
        f"{len(plan['seeds'])} days, one encoder, {plan['encode_s']:g} s for an image, embeddings of "
        f"{BASE.embedding_bytes / 1e6:.1f} MB; without lists nothing is sent ahead.",
        "",
        "| memory (share of what idle time alone would need) | list | embeddings missing when a person needs one | "
        "a person waits for an image (mean) | encodes for each need | fetched ahead |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        name = "none" if row["truth"] is None else f"{row['truth']:.0%} true"
        lines.append(
            f"| {row['budget']:.0%} | {name} | {row['missing']:.3f} | {row['waited_s']:.2f} s | {row['encodes']:.3f} | "
            f"{row['fetched']:.0f} |"
        )
    return "\n".join(lines)
