"""How several worker processes of one server stand, added up. What the registry counts adds up by itself."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from labeling_ground.inference.remote_status import EngineCounts
from labeling_ground.service.counters import QueueState, ShadowCacheCounts, Spread, StateSnapshot, TierState
from labeling_ground.types import StoreStats

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D", EngineCounts, ShadowCacheCounts, StoreStats)

_SHARED = frozenset({"disk", "redis"})
"""Tiers that all workers see: what they hold is not added up."""
_BY_REDIS = frozenset({"idle", "budget"})
"""Evictions that Redis' own figures tell, to each worker that asks: not added up either."""


def go_on(now: StateSnapshot, past: StateSnapshot) -> StateSnapshot:
    """How a worker stands, and what it counts on top of what its predecessor had done."""
    return add_up([now, _as_past(past)], in_turn=True)


def add_up(each: Sequence[StateSnapshot], *, in_turn: bool = False) -> StateSnapshot:
    """All of them together; for what cannot be added up, such as the shared tiers' contents, the first one's word.

    ``sessions`` is that of the first one: a session may be known to several.

    Args:
        each: one of each worker, or of one after the other.
        in_turn: whether these have counted one after the other, and not at the same time.
    """
    told = [one.shadow_caches for one in each if one.shadow_caches]  # none where they tell nothing yet
    return replace(
        each[0],
        tiers=tuple(_tier(same, in_turn=in_turn) for same in _by_name(each).values()),
        queues=_merged([one.queues for one in each], _queue),
        flights=_counted(one.flights for one in each),
        engines=tuple(_merged([_by_address(one.engines) for one in each], _engine).values()),
        shadow_caches=tuple(_summed(same, "hits", "seconds_saved") for same in zip(*told, strict=False)),
        ages=_spread([one.ages for one in each]),
        idle=_spread([one.idle for one in each]),
    )


def _as_past(now: StateSnapshot) -> StateSnapshot:
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
        queues={},
        engines=tuple(replace(engine, breaker="closed", left_out="", running=0) for engine in now.engines),
        flights={},
        ages=idle,
        idle=idle,
    )


def _by_name(each: Iterable[StateSnapshot]) -> dict[str, list[TierState]]:
    found: dict[str, list[TierState]] = {}
    for one in each:
        for tier in one.tiers:
            found.setdefault(tier.stats.tier, []).append(tier)
    return found


def _tier(each: Sequence[TierState], *, in_turn: bool) -> TierState:
    stats = [tier.stats for tier in each]
    first = stats[0]
    evictions = _counted(one.evictions for one in stats)
    if first.tier == "redis" and not in_turn:
        evictions |= {reason: max(one.evictions.get(reason, 0) for one in stats) for reason in _BY_REDIS & {*evictions}}
    held = replace(_summed(stats, "refused"), evictions=evictions)
    if first.tier not in _SHARED:
        oldest = [one.oldest_created for one in stats if one.oldest_created is not None]
        held = replace(
            _summed(stats, "refused", "entries", "bytes", "budget"),
            evictions=evictions,
            oldest_created=min(oldest, default=None),
            entries_by_kind=_counted(one.entries_by_kind for one in stats),
            bytes_by_kind=_counted(one.bytes_by_kind for one in stats),
        )
    return TierState(held, _worst(tier.breaker for tier in each), sum(tier.pending for tier in each))


def _queue(each: Sequence[QueueState]) -> QueueState:
    typical = [queue.typical_s for queue in each if queue.typical_s is not None]

    def of_class(same: Sequence[tuple[int, int]]) -> tuple[int, int]:
        return sum(waiting for waiting, _ in same), sum(running for _, running in same)

    return QueueState(
        typical_s=max(typical, default=None),
        classes=_merged([queue.classes for queue in each], of_class),
        tenants=_counted(queue.tenants for queue in each),
    )


def _by_address(engines: Iterable[EngineCounts]) -> dict[tuple[str, str], EngineCounts]:
    return {(engine.engine, engine.address): engine for engine in engines}


def _engine(each: Sequence[EngineCounts]) -> EngineCounts:
    return replace(
        _summed(each, "running", "embeddings_sent", "sent_bytes", "received_bytes", "asks"),
        breaker=_worst(engine.breaker for engine in each),
        left_out=next((engine.left_out for engine in each if engine.left_out), ""),
    )


def _spread(each: Sequence[Spread]) -> Spread:
    counts = tuple(sum(same) for same in zip(*(one.counts for one in each), strict=True))
    return Spread(counts, sum(one.total for one in each), sum(one.seconds for one in each))


def _summed(each: Sequence[D], *names: str) -> D:
    """The first one, with these of its numbers added up over all."""
    sums: dict[str, Any] = {name: sum(getattr(one, name) for one in each) for name in names}
    return replace(each[0], **sums)


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
