"""The synthetic day, played on decoders that keep so many embeddings each, with the choice that serves."""

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.serving.run import where
from labeling_ground.inference.remote.pool import Load, decode_order, encode_order
from labeling_ground.simulate.synth import Work, synthesise
from labeling_ground.trace.events import KINDS, What
from labeling_ground.types import Kind

_BOUND = 1.25
"""The default of ``engine_load_bound``."""
_MASK = KINDS.index(Kind.MASK)
_FIRST_S = 60.0


@dataclass(frozen=True)
class Plan:
    """How much to do.

    Attributes:
        annotators: people, for a day of eight hours.
        decoders: how many.
        workers: asks that each answers at the same time.
        stored_embeddings: embeddings that a decoder keeps; one of several numbers.
        seed: of the day.
    """

    annotators: int
    decoders: int
    workers: int
    kept: tuple[int, ...]
    seed: int


FULL = Plan(annotators=200, decoders=6, workers=2, kept=(128, 256, 1000), seed=0)
TOY = Plan(annotators=12, decoders=3, workers=2, kept=(8,), seed=0)


@dataclass(frozen=True, slots=True)
class Click:
    """One ask that reaches a decoder: nobody had asked for its mask before."""

    time: float
    image: int
    seconds: float


@dataclass
class Decoder:
    """One decoder, as its memory and its load are."""

    kept: OrderedDict[int, None] = field(default_factory=OrderedDict)
    running: int = 0
    turn: int = 0
    given: int = 0


Order = Callable[[Click, Mapping[str, Decoder]], list[str]]
"""The decoders for a click, best first."""


def clicks(plan: Plan) -> list[Click]:
    """The clicks of the day that reach a decoder: each mask is computed once."""
    events = synthesise(plan.seed, Work(mix="one", annotators=plan.annotators))
    seen: set[int] = set()
    found = []
    for event in events:
        if event["kind"] == _MASK and event["what"] == What.ASKED and event["key"] not in seen:
            seen.add(int(event["key"]))
            found.append(Click(float(event["time"]), int(event["embedding"]), float(event["cost"])))
    return found


def choices(workers: int) -> dict[str, Order]:
    """The ways to choose that are compared; the last one serves."""

    def loads(decoders: Mapping[str, Decoder]) -> dict[str, Load]:
        return {name: Load(workers, decoder.running, engine_s=0.02) for name, decoder in decoders.items()}

    def in_turn(_: Click, decoders: Mapping[str, Decoder]) -> list[str]:
        return sorted(decoders, key=lambda name: decoders[name].turn)

    def free_first(_: Click, decoders: Mapping[str, Decoder]) -> list[str]:
        return encode_order(loads(decoders), {name: decoder.turn for name, decoder in decoders.items()})

    def by_image(click: Click, decoders: Mapping[str, Decoder]) -> list[str]:
        return decode_order(f"{click.image:016x}", loads(decoders), _BOUND)

    return {"round robin": in_turn, "least loaded, ties in turn": free_first, "rendezvous, bound 1.25": by_image}


def play(day: list[Click], order: Order, plan: Plan, kept: int, killed_at: float | None = None) -> dict[str, Any]:
    """What share of the clicks finds its embedding absent; with ``killed_at``, one decoder is gone from then on."""
    decoders = {f"http://decoder-{number}:7080": Decoder() for number in range(plan.decoders)}
    turns, ends = itertools.count(1), list[tuple[float, str]]()
    absent = list[bool]()
    for click in day:
        while ends and ends[0][0] <= click.time:
            _, name = heapq.heappop(ends)
            if name in decoders:
                decoders[name].running -= 1
        if killed_at is not None and click.time >= killed_at and len(decoders) == plan.decoders:
            del decoders[next(iter(decoders))]
        name = order(click, decoders)[0]
        one = decoders[name]
        one.turn = next(turns)
        one.running += 1
        one.given += 1
        heapq.heappush(ends, (click.time + click.seconds, name))
        absent.append(click.image not in one.kept)
        one.kept[click.image] = None
        one.kept.move_to_end(click.image)
        if len(one.kept) > kept:
            one.kept.popitem(last=False)
    given = [decoder.given for decoder in decoders.values()]
    result: dict[str, Any] = {"absent": sum(absent) / len(absent), "skew": max(given) * len(given) / sum(given)}
    if killed_at is not None:
        times = [click.time for click in day]
        for name, start in (("before", killed_at - _FIRST_S), ("after", killed_at)):
            some = [gone for at, gone in zip(times, absent, strict=True) if start <= at < start + _FIRST_S]
            result[f"minute_{name}"] = sum(some) / max(1, len(some))
            result[f"clicks_{name}"] = len(some)
    return result


def run(plan: Plan) -> dict[str, Any]:
    """All ways to choose, with each number of kept embeddings, and with one decoder killed at half time."""
    day = clicks(plan)
    half_time = day[len(day) // 2].time
    rows = []
    for name, order in choices(plan.workers).items():
        for kept in plan.kept:
            undisturbed = play(day, order, plan, kept)
            rows.append(
                {"choice": name, "kept": kept, **undisturbed, "killed": play(day, order, plan, kept, half_time)}
            )
    return {
        **where(),
        "annotators": plan.annotators,
        "decoders": plan.decoders,
        "clicks": len(day),
        "compulsory": len({click.image for click in day}) / len(day),
        "rows": rows,
    }


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown."""
    lines = [
        f"{result['date']}, after commit {result['commit']}, {result['machine']}. A simulation: the same anywhere.",
        "",
        f"The project's synthetic day (seed 0), {result['annotators']} annotators, one model: {result['clicks']} "
        f"clicks reach {result['decoders']} decoders, each of which keeps so many embeddings. "
        f"{result['compulsory']:.1%} are the first click on their image, whose embedding is at no decoder. «Killed»: "
        "one decoder is gone after half of the clicks; shares of the minute before and of the first minute after.",
        "",
        "| choice | kept each | absent | most loaded / mean | killed: absent | minute before | first minute after |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        killed = row["killed"]
        lines.append(
            f"| {row['choice']} | {row['kept']} | {row['absent']:.1%} | {row['skew']:.2f} | {killed['absent']:.1%} | "
            f"{killed['minute_before']:.1%} of {killed['clicks_before']} | {killed['minute_after']:.1%} of "
            f"{killed['clicks_after']} |"
        )
    return "\n".join(lines)
