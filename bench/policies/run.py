"""The measurements and the tables."""

import asyncio
import gc
import multiprocessing
import random
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import date
from itertools import count
from statistics import mean
from typing import Any

from bench.command import machine
from bench.policies import others
from bench.policies.public import Access, public_style
from labeling_ground.cache.memory import MemoryStore
from labeling_ground.simulate.bound import bound
from labeling_ground.simulate.policies import choose
from labeling_ground.simulate.prepared import prepare
from labeling_ground.simulate.replay import UNBOUNDED, Replay, Setup
from labeling_ground.simulate.synth import Work, synthesise
from labeling_ground.types import Kind, Weight

POLICIES: dict[str, tuple[str, float, float]] = {
    "gds": ("gds", 0.1, 0.0),
    "gds, no hint": ("gds", 1.0, 0.0),
    "gdsf 0.5": ("gdsf", 0.1, 0.5),
    "gdsf 1": ("gdsf", 0.1, 1.0),
    "lru": ("lru", 0.1, 0.0),
    "lfu": ("lfu", 0.1, 0.0),
    "s3fifo": ("s3fifo", 0.1, 0.0),
}
"""Label → name, weight of the done hint, frequency exponent."""
SHARES = (0.10, 0.25, 0.40)
_IDLE_S = 1800.0


@dataclass(frozen=True)
class Plan:
    """How much to do. No policy was tuned on the seeds; those for tuning are 0 to 2."""

    annotators: int
    hours: float
    bulk: int
    seeds: tuple[int, ...]
    accesses: int
    keys: int
    entries: int
    rounds: int
    jobs: int


FULL = Plan(
    annotators=16,
    hours=6.0,
    bulk=800,
    seeds=(3, 4, 5),
    accesses=200_000,
    keys=20_000,
    entries=1_000_000,
    rounds=9,
    jobs=2,
)
TOY = Plan(annotators=3, hours=0.5, bulk=20, seeds=(3,), accesses=4_000, keys=500, entries=5_000, rounds=1, jobs=1)


def run(plan: Plan) -> dict[str, Any]:
    """All figures."""
    return {
        "machine": machine(),
        "date": date.today().isoformat(),
        "plan": asdict(plan),
        "labeling": _labeling(plan),
        "public": _public(plan),
        "compared": _compared(plan) if others.is_here() else None,
        "speed": _speed(plan),
    }


@dataclass(frozen=True)
class _Cell:
    """One made-up trace, under all policies and budgets."""

    name: str
    beside: bool
    seed: int
    work: Work


def _labeling(plan: Plan) -> list[dict[str, Any]]:
    """Seconds computed by seconds computed without a cache, averaged over the seeds."""
    names = (
        ("mixed", "mixed", 0),
        ("gpu", "gpu", 0),
        ("one model", "one", 0),
        ("mixed and a bulk job", "mixed", plan.bulk),
    )
    cells = []
    for beside in (True, False):
        for name, mix, bulk in names:
            work = Work(mix=mix, annotators=plan.annotators, hours=plan.hours, bulk=bulk)
            if not beside:
                work = replace(work, beside=False, refine=0.0)
            cells += [_Cell(name, beside, seed, work) for seed in plan.seeds]
    if plan.jobs > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(plan.jobs, context, initializer=gc.disable) as pool:
            found = list(pool.map(_measure, cells))
    else:
        found = [_measure(cell) for cell in cells]
    rows = []
    for cell in (cell for cell in cells if cell.seed == plan.seeds[0]):
        same = [each for each, of in zip(found, cells, strict=True) if (of.name, of.beside) == (cell.name, cell.beside)]
        rows += [
            {"trace": cell.name, "beside": cell.beside, "share": share}
            | {label: mean(each[share][label] for each in same) for label in same[0][share]}
            for share in SHARES
        ]
    return rows


def _measure(cell: _Cell) -> dict[float, dict[str, float]]:
    """Share of the memory → label → seconds computed by seconds computed without a cache."""
    trace = prepare(synthesise(cell.seed, cell.work))
    without = sum(trace.without_cache.values())
    free = Replay(Setup("lru", UNBOUNDED)).run(trace)
    found: dict[float, dict[str, float]] = {}
    for share in SHARES:
        budget = int(free.peak_bytes["memory"] * share)
        found[share] = {
            "bound": bound(trace, budget, idle_s=_IDLE_S).seconds / without,
            "no budget": free.seconds_computed / without,
        }
        for label, (policy, weight, exponent) in POLICIES.items():
            setup = Setup(policy, budget, done_weight=weight, frequency_exponent=exponent)
            found[share][label] = Replay(setup).run(trace).seconds_computed / without
            gc.collect()
    return found


def _public(plan: Plan) -> list[dict[str, Any]]:
    """Cost paid by cost without a cache, with one tenth of what all keys take."""
    rows = []
    for name, trace in public_style(plan.accesses, plan.keys).items():
        budget = _budget(trace)
        total = sum(access.cost for access in trace)
        row: dict[str, Any] = {"trace": name}
        for label, (policy, weight, exponent) in POLICIES.items():
            if label != "gds, no hint":  # nothing is ever marked here
                row[label] = 1 - _drive(policy, trace, budget, exponent, weight)[1] / total
        rows.append(row)
    return rows


def _compared(plan: Plan) -> list[dict[str, Any]]:
    """Hits, ours and libcachesim's, on the same accesses. Costs are all 1, since theirs knows none."""
    rows = []
    for name, weighted in public_style(plan.accesses, plan.keys).items():
        trace = [Access(access.key, access.size, 1.0) for access in weighted]
        budget = _budget(trace)
        for policy in others.NAMES:
            ours, _ = _drive(policy, trace, budget, 1.0, 1.0)
            rows.append({"trace": name, "policy": policy, "ours": ours, "theirs": others.hits(policy, trace, budget)})
    return rows


def _budget(trace: Sequence[Access]) -> int:
    """A tenth of what all keys take, and enough for each of them to be admitted."""
    sizes = {access.key: access.size for access in trace}
    return max(sum(sizes.values()) // 10, 8 * max(sizes.values()))


def _drive(policy: str, trace: Sequence[Access], budget: int, exponent: float, weight: float) -> tuple[int, float]:
    """Hits, and the cost that they saved."""
    now = 0.0
    store = MemoryStore(
        budget_bytes=budget,
        idle_s=None,
        max_age_s=None,
        policy=choose(policy, done_weight=weight, frequency_exponent=exponent).make(),
        clock=lambda: now,
        wall_clock=lambda: now,
    )
    hits, saved = 0, 0.0
    for access in trace:
        now += 1.0
        key = f"v1/-/{access.key:x}/embedding"
        if store.peek(key) is not None:
            hits += 1
            saved += access.cost
        else:
            store.insert(key, Weight(Kind.EMBEDDING, b"", access.cost, now, access.size))
    return hits, saved


def _speed(plan: Plan) -> dict[str, Any]:
    """CPU time. What else runs on the machine makes a round slower and none faster, so the best one counts too."""
    found: dict[str, Any] = {"empty loop": {"loop_ns": min(_loop_ns() for _ in range(plan.rounds))}}
    trace = prepare(synthesise(0, Work(annotators=min(12, plan.annotators), hours=min(1.0, plan.hours))))
    peak = Replay(Setup("lru", UNBOUNDED)).run(trace).peak_bytes["memory"]
    gc.collect()
    gc.disable()
    try:
        for policy in ("gds", "lru", "s3fifo"):
            rates = []
            for _ in range(plan.rounds):
                started = time.process_time()
                replayed = Replay(Setup(policy, peak // 4)).run(trace)
                rates.append(replayed.accesses / (time.process_time() - started))
                gc.collect()  # as the simulator does between two replays
            found[f"replay, {policy}, 25 %"] = {"best": max(rates), "median": sorted(rates)[len(rates) // 2]}
        for policy in ("gds", "lru", "s3fifo"):
            found[f"{plan.entries} entries, {policy}"] = _at_size(policy, plan.entries)
            gc.collect()
        adopted = 3 * plan.entries // 10
        found[f"{adopted} entries, from lru to gds"] = _migrated(adopted)
    finally:
        gc.enable()
    return found


def _loop_ns() -> float:
    """What one pass of a loop that does nothing takes: how fast the machine was, to compare runs by."""
    started = time.process_time()
    for _ in range(1_000_000):
        pass
    return 1e3 * (time.process_time() - started)


def _at_size(policy: str, entries: int) -> dict[str, float]:
    """Microseconds of CPU for one hit, for one write that evicts, and for one access of a mix, in a full store.

    Of a hundred accesses of the mix 46 hit, 19 miss and 35 are writes that evict, as in a replay of labeling at 25 %.
    """
    store = _filled(policy, entries)
    many = max(1, entries // 10)
    hit = [_key(number * 7 % entries) for number in range(many)]
    fresh = [_key(entries + number) for number in range(many)]
    entry = Weight(Kind.EMBEDDING, b"", 0.1, 0.0, 100)
    store.insert("v1/-/first/embedding", entry)  # the first eviction also gives all who wait their place
    started = time.process_time()
    for key in hit:
        store.peek(key)
    between = time.process_time()
    for key in fresh:
        store.insert(key, entry)
    ended = time.process_time()
    dice = random.Random(1)
    kinds = dice.choices("hmw", (46, 19, 35), k=many)
    mixed = [
        (
            kind == "w",
            _key(dice.randrange(entries) if kind == "h" else 2 * entries + number if kind == "w" else -1 - number),
        )
        for number, kind in enumerate(kinds)
    ]
    begun = time.process_time()
    for writes, key in mixed:
        if writes:
            store.insert(key, entry)
        else:
            store.peek(key)
    mix = time.process_time() - begun
    return {
        "hit_us": 1e6 * (between - started) / many,
        "write_us": 1e6 * (ended - between) / many,
        "mix_us": 1e6 * mix / many,
    }


def _migrated(entries: int) -> dict[str, float]:
    """Milliseconds of CPU that a change of policy takes: the longest of its turns, and all together."""
    store = _filled("lru", entries)

    async def adopt() -> list[float]:
        adopting = asyncio.ensure_future(store.migrate(choose("gds").make()))
        turns = []
        while not adopting.done():
            started = time.process_time()
            await asyncio.sleep(0)
            turns.append(1e3 * (time.process_time() - started))
        await adopting
        return turns

    turns = asyncio.run(adopt())
    return {"longest_ms": max(turns), "all_ms": sum(turns)}


def _filled(policy: str, entries: int) -> MemoryStore:
    """A full store."""
    times = count(0.0, 0.01)
    store = MemoryStore(
        budget_bytes=100 * entries, idle_s=1e9, max_age_s=None, policy=choose(policy).make(), clock=times.__next__
    )
    for number in range(entries):
        cost = 0.02 * (1 + number % 7)
        store.insert(_key(number), Weight(Kind.EMBEDDING, b"", cost, 0.0, 100))
    return store


def _key(number: int) -> str:
    """About as many entries an image as labeling makes."""
    return f"v1/-/{number // 16:x}/mask/{number:x}"


def table(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    labels = list(POLICIES)
    plan = found["plan"]
    seeds = ", ".join(map(str, plan["seeds"]))
    parts = [
        f"{found['date']}, {found['machine']}. Labeling: {plan['annotators']} annotators, {plan['hours']:g} hours, and "
        f"seeds on which nothing was tuned: {seeds}."
    ]
    for beside in (True, False):
        parts.append(
            "Labeling: seconds computed by those without a cache, mean over the seeds. Budgets are shares of what idle "
            "time alone (30 min) would need, which is what «no budget» has. Where «bound / lru» is above 0.75, nobody "
            "can compute a quarter less than `lru` does. "
            + (
                "All that a server with memory alone keeps: logits, which are most of the bytes, and image files too."
                if beside
                else "Embeddings and masks only; no click refines a mask."
            )
        )
        rows = [row for row in found["labeling"] if row["beside"] is beside]
        parts.append(
            _markdown(
                ["trace", "budget", "bound", "no budget", *labels, "gds / bound", "gds / lru", "bound / lru"],
                [
                    [
                        row["trace"],
                        f"{row['share']:.0%}",
                        *(f"{row[label]:.4f}" for label in ("bound", "no budget", *labels)),
                        f"{row['gds'] / row['bound']:.3f}",
                        f"{row['gds'] / row['lru']:.3f}",
                        f"{row['bound'] / row['lru']:.3f}",
                    ]
                    for row in rows
                ],
            )
        )
    shown = [label for label in labels if label != "gds, no hint"]
    parts.append("Not labeling: cost paid by cost without a cache; the budget is a tenth of what all keys take.")
    parts.append(
        _markdown(
            ["trace", *shown, "gds / lru"],
            [
                [row["trace"], *(f"{row[label]:.4f}" for label in shown), f"{row['gds'] / row['lru']:.3f}"]
                for row in found["public"]
            ],
        )
    )
    if found["compared"] is None:
        parts.append("libcachesim is not installed: not compared with it.")
    else:
        parts.append("Hits, ours and libcachesim's, on the same accesses (all costs 1, exponent 1).")
        parts.append(
            _markdown(
                ["trace", "policy", "ours", "theirs", "difference"],
                [
                    [
                        row["trace"],
                        row["policy"],
                        str(row["ours"]),
                        str(row["theirs"]),
                        f"{row['ours'] / max(1, row['theirs']) - 1:+.2%}",
                    ]
                    for row in found["compared"]
                ],
            )
        )
    parts.append(
        "Speed, in CPU time. An access is a key looked for or written; of the mix 46 % hit, 19 % miss "
        "and 35 % are writes that evict."
    )
    parts.append(_markdown(["what", "figure"], [[name, _said(each)] for name, each in found["speed"].items()]))
    return "\n\n".join(parts)


def _said(figures: dict[str, float]) -> str:
    if "loop_ns" in figures:
        return f"{figures['loop_ns']:.0f} ns a pass, in the best round"
    if "best" in figures:
        return f"{figures['best']:,.0f} accesses/s in the best round, {figures['median']:,.0f} in the median"
    if "longest_ms" in figures:
        return f"{figures['longest_ms']:.0f} ms in the longest turn, {figures['all_ms']:.0f} ms in all"
    return (
        f"{figures['hit_us']:.1f} µs a hit, {figures['write_us']:.1f} µs a write that evicts, "
        f"{figures['mix_us']:.1f} µs an access of the mix"
    )


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
