"""The measurements and the tables."""

import gc
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from statistics import mean
from typing import Any

from bench.policies import others
from bench.policies.public import Access, public_style
from labeling_ground.cache.choose import choose_policy
from labeling_ground.cache.memory import MemoryStore
from labeling_ground.cache.trace.bound import bound
from labeling_ground.cache.trace.prepared import Weight, prepare
from labeling_ground.cache.trace.replay import UNBOUNDED, Replay, Setup
from labeling_ground.cache.trace.synth import Work, synthesise
from labeling_ground.types import Kind

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


FULL = Plan(
    annotators=24, hours=8.0, bulk=1200, seeds=(3, 4, 5), accesses=200_000, keys=20_000, entries=1_000_000, rounds=9
)
TOY = Plan(annotators=3, hours=0.5, bulk=20, seeds=(3,), accesses=4_000, keys=500, entries=5_000, rounds=1)


def run(plan: Plan) -> dict[str, Any]:
    """All figures."""
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "date": date.today().isoformat(),
        "plan": asdict(plan),
        "labeling": _labeling(plan),
        "public": _public(plan),
        "compared": _compared(plan) if others.is_here() else None,
        "speed": _speed(plan),
    }


def _labeling(plan: Plan) -> list[dict[str, Any]]:
    """Seconds computed by seconds computed without a cache, averaged over the seeds."""
    rows = []
    for beside in (True, False):
        for name, mix, bulk in (
            ("mixed", "mixed", 0),
            ("gpu", "gpu", 0),
            ("one model", "one", 0),
            ("mixed and a bulk job", "mixed", plan.bulk),
        ):
            found: dict[float, dict[str, list[float]]] = {share: {} for share in SHARES}
            for seed in plan.seeds:
                work = Work(mix=mix, annotators=plan.annotators, hours=plan.hours, bulk=bulk)
                if not beside:
                    work = replace(work, beside=False, refine=0.0)
                trace = prepare(synthesise(seed, work))
                without = sum(trace.without_cache.values())
                peak = Replay(Setup("lru", UNBOUNDED)).run(trace).peak_bytes["memory"]
                for share in SHARES:
                    budget = int(peak * share)
                    lowest = bound(trace, budget, idle_s=_IDLE_S).seconds / without
                    found[share].setdefault("bound", []).append(lowest)
                    for label, (policy, weight, exponent) in POLICIES.items():
                        setup = Setup(policy, budget, done_weight=weight, frequency_exponent=exponent)
                        ratio = Replay(setup).run(trace).seconds_computed / without
                        found[share].setdefault(label, []).append(ratio)
            rows += [
                {"trace": name, "beside": beside, "share": share}
                | {label: mean(values) for label, values in found[share].items()}
                for share in SHARES
            ]
    return rows


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
        policy=choose_policy(policy, done_weight=weight, frequency_exponent=exponent),
        clock=lambda: now,
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
            found[f"replay, {policy}, 25 %"] = {"best": max(rates), "median": sorted(rates)[len(rates) // 2]}
        for policy in ("gds", "lru", "s3fifo"):
            found[f"{plan.entries} entries, {policy}"] = _at_size(policy, plan.entries)
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
    """Microseconds of CPU for one hit, and for one write that evicts, in a full store."""
    now = 0.0
    store = MemoryStore(
        budget_bytes=100 * entries, idle_s=1e9, max_age_s=None, policy=choose_policy(policy), clock=lambda: now
    )
    for number in range(entries):
        now += 0.01
        cost = 0.02 * (1 + number % 7)
        store.insert(_key(number), Weight(Kind.EMBEDDING, b"", cost, now, 100))
    count = max(1, entries // 10)
    hit = [_key(number * 7 % entries) for number in range(count)]
    fresh = [_key(entries + number) for number in range(count)]
    entry = Weight(Kind.EMBEDDING, b"", 0.1, now, 100)
    store.insert("v1/-/first/embedding", entry)  # the first eviction also gives all who wait their place
    started = time.process_time()
    for key in hit:
        now += 0.01
        store.peek(key)
    between = time.process_time()
    for key in fresh:
        now += 0.01
        store.insert(key, entry)
    ended = time.process_time()
    return {"hit_us": 1e6 * (between - started) / count, "write_us": 1e6 * (ended - between) / count}


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
            "time alone (30 min) would need. "
            + (
                "All that a server with memory alone keeps: logits, which are most of the bytes, and image files too."
                if beside
                else "Embeddings and masks only; no click refines a mask."
            )
        )
        rows = [row for row in found["labeling"] if row["beside"] is beside]
        parts.append(
            _markdown(
                ["trace", "budget", "bound", *labels, "gds / bound", "gds / lru"],
                [
                    [
                        row["trace"],
                        f"{row['share']:.0%}",
                        *(f"{row[label]:.4f}" for label in ("bound", *labels)),
                        f"{row['gds'] / row['bound']:.3f}",
                        f"{row['gds'] / row['lru']:.3f}",
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
    parts.append("Speed, in CPU time. An access is a key looked for or written.")
    parts.append(_markdown(["what", "figure"], [[name, _said(each)] for name, each in found["speed"].items()]))
    return "\n\n".join(parts)


def _said(figures: dict[str, float]) -> str:
    if "loop_ns" in figures:
        return f"{figures['loop_ns']:.0f} ns a pass, in the best round"
    if "best" in figures:
        return f"{figures['best']:,.0f} accesses/s in the best round, {figures['median']:,.0f} in the median"
    return f"{figures['hit_us']:.1f} µs a hit, {figures['write_us']:.1f} µs a write that evicts"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
