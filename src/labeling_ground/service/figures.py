"""One snapshot of everything that is counted, for ``/v1/cache`` and ``/metrics`` alike."""

import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from labeling_ground.cache.ghost import Regret
from labeling_ground.inference.remote_status import EngineFigures, RemoteStatus
from labeling_ground.service.lane import Lane
from labeling_ground.service.ledger import Fate, KindFigures
from labeling_ground.service.predictor import Predictor
from labeling_ground.service.sessions import Sessions
from labeling_ground.types import Kind, StoreStats

SPREAD_S = (10.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 14_400.0, 86_400.0)
"""Seconds by which ages and idle times are told apart."""


@dataclass(frozen=True, slots=True)
class TierFigures:
    """One tier: what it holds, and how it behaves."""

    stats: StoreStats
    breaker: str
    errors: Mapping[str, int]
    skipped: int
    pending: int
    demoted: int


@dataclass(frozen=True, slots=True)
class LaneFigures:
    """One queue in front of the model."""

    running: int
    waiting: int
    turned_away: int
    typical_s: float | None


@dataclass(frozen=True, slots=True)
class Regretted:
    """What was computed again after memory's budget had evicted it."""

    entries: int
    seconds: float


@dataclass(frozen=True, slots=True)
class GhostFigures:
    """What a larger memory tier would have spared; estimates from a sample of the images."""

    larger_by: float
    hits: float
    seconds_saved: float


@dataclass(frozen=True, slots=True)
class Spread:
    """How seconds are spread over the entries in memory, by a sample of them.

    Attributes:
        counts: how many entries have at most ``SPREAD_S[i]`` seconds.
        total: how many there are.
        seconds: of all of them together.
    """

    counts: tuple[int, ...]
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that is counted, at one moment."""

    at: float
    total: KindFigures
    kinds: Mapping[Kind, KindFigures]
    fates: Mapping[tuple[Kind, Fate], int]
    tiers: tuple[TierFigures, ...]
    lanes: Mapping[str, LaneFigures]
    flights: int
    sessions: int
    sessions_unkept: int
    """Changes of sessions that were answered before they were kept below memory."""
    background_errors: Mapping[str, int]
    """Failed attempts of background work, by its name."""
    engines: tuple[EngineFigures, ...]
    """Those in other processes."""
    regret: Mapping[Kind, Regretted]
    ghosts: tuple[GhostFigures, ...]
    sampled: float
    """The share of the images that the ghosts see."""
    ages: Spread
    idle: Spread


async def figures(predictor: Predictor, sessions: Sessions, grids: Lane) -> Figures:
    """Take the snapshot. ``grids`` is the queue of «segment everything»."""
    guards = {guard.store.name: guard for guard in predictor.store.guards}
    tiers = []
    for stats in await predictor.store.stats():
        guard = guards.get(stats.tier)
        if guard is None:
            tiers.append(TierFigures(stats, "closed", {}, 0, 0, 0))
        else:
            seen = guard.figures
            tiers.append(
                TierFigures(stats, guard.breaker.state, dict(seen.errors), seen.skipped, guard.pending, seen.demoted)
            )
    backend, watch, memory = predictor.backend, predictor.store.watch, predictor.store.memory
    sample = [] if watch is None else watch.spread(memory)
    regret = Regret() if watch is None else watch.regret
    return Figures(
        at=time.time(),
        total=predictor.ledger.total(),
        kinds=dict(predictor.ledger.kinds),
        fates=dict(predictor.ledger.fates),
        tiers=tuple(tiers),
        lanes={
            lane.name: LaneFigures(lane.running, lane.waiting, lane.turned_away, lane.typical_s)
            for lane in (predictor.encode_lane, predictor.decode_lane, grids)
        },
        flights=len(predictor.flights),
        sessions=len(sessions),
        sessions_unkept=sessions.unkept,
        background_errors=dict(predictor.supervisor.errors),
        engines=tuple(backend.engines()) if isinstance(backend, RemoteStatus) else (),
        regret={
            kind: Regretted(regret.entries[kind], regret.seconds.get(kind, 0.0)) for kind in predictor.ledger.kinds
        },
        ghosts=tuple(
            GhostFigures(ghost.larger_by, ghost.hits, ghost.seconds_saved) for ghost in (watch.ghosts if watch else ())
        ),
        sampled=1.0 if watch is None else watch.sampled,
        ages=_spread([age for age, _ in sample], memory.entries),
        idle=_spread([idle for _, idle in sample], memory.entries),
    )


def _spread(sample: Sequence[float], entries: int) -> Spread:
    """Of a sample, for all entries."""
    ordered = sorted(sample)
    scale = entries / len(ordered) if ordered else 0.0
    counts = tuple(round(bisect_right(ordered, most) * scale) for most in SPREAD_S)
    return Spread(counts, entries, sum(ordered) * scale)
