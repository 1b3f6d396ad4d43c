"""One snapshot of everything that is counted, for ``/v1/cache`` and ``/metrics`` alike."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from labeling_ground.inference.elsewhere import Elsewhere, EngineFigures
from labeling_ground.service.lane import Lane
from labeling_ground.service.ledger import Fate, KindFigures
from labeling_ground.service.segmenter import Segmenter
from labeling_ground.service.sessions import Sessions
from labeling_ground.types import Kind, StoreStats


@dataclass(frozen=True, slots=True)
class TierFigures:
    """One tier: what it holds, and how it behaves."""

    stats: StoreStats
    breaker: str
    errors: Mapping[str, int]
    skipped: int
    pending: int


@dataclass(frozen=True, slots=True)
class LaneFigures:
    """One queue in front of the model."""

    running: int
    waiting: int
    turned_away: int
    typical_s: float | None


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
    engines: tuple[EngineFigures, ...]
    """Those in other processes."""


async def figures(segmenter: Segmenter, sessions: Sessions, grids: Lane) -> Figures:
    """Take the snapshot. ``grids`` is the queue of «segment everything»."""
    guards = {guard.store.name: guard for guard in segmenter.store.guards}
    tiers = []
    for stats in await segmenter.store.stats():
        guard = guards.get(stats.tier)
        if guard is None:
            tiers.append(TierFigures(stats, "closed", {}, 0, 0))
        else:
            seen = guard.figures
            tiers.append(TierFigures(stats, guard.breaker.state, dict(seen.errors), seen.skipped, guard.pending))
    backend = segmenter.backend
    return Figures(
        at=time.time(),
        total=segmenter.ledger.total(),
        kinds=dict(segmenter.ledger.kinds),
        fates=dict(segmenter.ledger.fates),
        tiers=tuple(tiers),
        lanes={
            lane.name: LaneFigures(lane.running, lane.waiting, lane.turned_away, lane.typical_s)
            for lane in (segmenter.encode_lane, segmenter.decode_lane, grids)
        },
        flights=len(segmenter.flights),
        sessions=len(sessions),
        engines=tuple(backend.engines()) if isinstance(backend, Elsewhere) else (),
    )
