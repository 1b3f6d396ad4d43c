"""What several worker processes of one server count, added up."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TypeVar

from labeling_ground.inference.remote_status import EngineCounts
from labeling_ground.service.counters import (
    CountersSnapshot,
    QueueCounts,
    RecomputedCounts,
    ShadowCacheCounts,
    Spread,
    TierCounts,
    together,
)
from labeling_ground.service.queues import ClassCounters
from labeling_ground.types import StoreStats

K = TypeVar("K")
V = TypeVar("V")

_SHARED = frozenset({"disk", "redis"})
"""Tiers that all workers see: what they hold is not added up."""
_BY_REDIS = frozenset({"idle", "budget"})
"""Evictions that Redis' own figures tell, to each worker that asks: not added up either."""


def go_on(now: CountersSnapshot, past: CountersSnapshot) -> CountersSnapshot:
    """What a worker counts on top of what its predecessor had done; of what was held and under way, ``now``'s word."""
    return add_up([now, _as_past(past)], in_turn=True)


def add_up(each: Sequence[CountersSnapshot], *, in_turn: bool = False) -> CountersSnapshot:
    """All of them together; for what cannot be added up, such as the shared tiers' contents, the first one's word.

    ``sessions`` is that of the first one: a session may be known to several.

    Args:
        each: one of each worker, or of one after the other.
        in_turn: whether these have counted one after the other, and not at the same time.
    """
    first = each[0]
    return replace(
        first,
        models=_merged([one.models for one in each], together),
        hedges=_counted(one.hedges for one in each),
        tiers=tuple(_tier(same, in_turn=in_turn) for same in _by_name(each).values()),
        queues=_merged([one.queues for one in each], _queue),
        flights=_counted(one.flights for one in each),
        sessions_unkept=sum(one.sessions_unkept for one in each),
        background_errors=_counted(one.background_errors for one in each),
        engines=tuple(_merged([_by_address(one.engines) for one in each], _engine).values()),
        recomputed_after_eviction=_merged([one.recomputed_after_eviction for one in each], _recomputed),
        shadow_caches=tuple(_shadows(same) for same in zip(*_told(one.shadow_caches for one in each), strict=False)),
        ages=_spread([one.ages for one in each]),
        idle=_spread([one.idle for one in each]),
    )


def _as_past(now: CountersSnapshot) -> CountersSnapshot:
    idle = Spread(tuple(0 for _ in now.idle.counts), 0, 0.0)
    return replace(
        now,
        tiers=tuple(
            replace(
                tier,
                stats=StoreStats(tier.stats.tier, 0, 0, 0, evictions=tier.stats.evictions, refused=tier.stats.refused),
                breaker="closed",
                pending=0,
            )
            for tier in now.tiers
        ),
        queues={name: _past_queue(queue) for name, queue in now.queues.items()},
        engines=tuple(replace(engine, state="closed", left_out="", running=0) for engine in now.engines),
        flights={},
        ages=idle,
        idle=idle,
    )


def _past_queue(queue: QueueCounts) -> QueueCounts:
    classes = {label: (0, replace(figures, running=0)) for label, (_, figures) in queue.classes.items()}
    return QueueCounts(None, classes)


def _by_name(each: Iterable[CountersSnapshot]) -> dict[str, list[TierCounts]]:
    found: dict[str, list[TierCounts]] = {}
    for one in each:
        for tier in one.tiers:
            found.setdefault(tier.stats.tier, []).append(tier)
    return found


def _tier(each: Sequence[TierCounts], *, in_turn: bool) -> TierCounts:
    stats = [tier.stats for tier in each]
    first = stats[0]
    evictions = _counted(one.evictions for one in stats)
    if first.tier == "redis" and not in_turn:
        evictions |= {reason: max(one.evictions.get(reason, 0) for one in stats) for reason in _BY_REDIS & {*evictions}}
    held = replace(first, evictions=evictions, refused=sum(one.refused for one in stats))
    if first.tier not in _SHARED:
        oldest = [one.oldest_created for one in stats if one.oldest_created is not None]
        held = replace(
            held,
            entries=sum(one.entries for one in stats),
            bytes=sum(one.bytes for one in stats),
            budget=sum(one.budget for one in stats),
            oldest_created=min(oldest, default=None),
            entries_by_kind=_counted(one.entries_by_kind for one in stats),
            bytes_by_kind=_counted(one.bytes_by_kind for one in stats),
        )
    return TierCounts(
        held,
        _worst(tier.breaker for tier in each),
        _counted(tier.errors for tier in each),
        skipped=sum(tier.skipped for tier in each),
        pending=sum(tier.pending for tier in each),
        demoted=sum(tier.demoted for tier in each),
    )


def _queue(each: Sequence[QueueCounts]) -> QueueCounts:
    typical = [queue.typical_s for queue in each if queue.typical_s is not None]

    def of_class(same: Sequence[tuple[int, ClassCounters]]) -> tuple[int, ClassCounters]:
        sums = {field.name: sum(getattr(figures, field.name) for _, figures in same) for field in fields(ClassCounters)}
        return sum(waiting for waiting, _ in same), ClassCounters(**sums)

    return QueueCounts(
        typical_s=max(typical, default=None),
        classes=_merged([queue.classes for queue in each], of_class),
        tenants=_counted(queue.tenants for queue in each),
    )


def _by_address(engines: Iterable[EngineCounts]) -> dict[tuple[str, str], EngineCounts]:
    return {(engine.half, engine.address): engine for engine in engines}


def _engine(each: Sequence[EngineCounts]) -> EngineCounts:
    return replace(
        each[0],
        state=_worst(engine.state for engine in each),
        left_out=next((engine.left_out for engine in each if engine.left_out), ""),
        running=sum(engine.running for engine in each),
        embeddings=sum(engine.embeddings for engine in each),
        sent_bytes=sum(engine.sent_bytes for engine in each),
        received_bytes=sum(engine.received_bytes for engine in each),
        asks=sum(engine.asks for engine in each),
    )


def _recomputed(each: Sequence[RecomputedCounts]) -> RecomputedCounts:
    return RecomputedCounts(sum(one.entries for one in each), sum(one.seconds for one in each))


def _shadows(each: Sequence[ShadowCacheCounts]) -> ShadowCacheCounts:
    return replace(each[0], hits=sum(one.hits for one in each), seconds_saved=sum(one.seconds_saved for one in each))


def _spread(each: Sequence[Spread]) -> Spread:
    counts = tuple(sum(same) for same in zip(*(one.counts for one in each), strict=True))
    return Spread(counts, sum(one.total for one in each), sum(one.seconds for one in each))


def _worst(states: Iterable[str]) -> str:
    return max(states, key=("closed", "half-open", "open").index)


def _counted(each: Iterable[Mapping[K, int]]) -> dict[K, int]:
    total: Counter[K] = Counter()
    for counts in each:
        total.update(counts)
    return dict(total)


def _merged(each: Sequence[Mapping[K, V]], add: Callable[[Sequence[V]], V]) -> dict[K, V]:
    """By the keys of all of them, their values added up."""
    keys = dict.fromkeys(key for one in each for key in one)
    return {key: add([one[key] for one in each if key in one]) for key in keys}


def _told(each: Iterable[tuple[V, ...]]) -> list[tuple[V, ...]]:
    """Those that are not empty."""
    return [one for one in each if one]
