"""What one server counts of its look-ups, and how its parts stand: what they hold, and what is under way.

Plain numbers, one truth for ``/v1/cache`` and ``/metrics``. What users ask for can be written down, too.
"""

import time
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from labeling_ground.cache.tiered import TieredStore
from labeling_ground.inference.backend import Backend
from labeling_ground.inference.remote_status import EngineCounts, RemoteStatus
from labeling_ground.key import INT8
from labeling_ground.metrics import Figures, Metrics
from labeling_ground.service.asks import Ask
from labeling_ground.service.once import HedgeOutcome, Made
from labeling_ground.service.queues import FairQueue
from labeling_ground.trace.events import What
from labeling_ground.trace.recorder import Recorder
from labeling_ground.types import COMPUTED, Entry, Kind, Outcome, Priority, StoreStats

SPREAD_S = (10.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 14_400.0, 86_400.0)
"""Seconds by which ages and idle times are told apart."""


class _OfKind:
    """The counters of one model's look-ups of one kind."""

    def __init__(self, metrics: Metrics, model: str, kind: Kind) -> None:
        self.lookups = {outcome: metrics.lookups.labels(model, kind, outcome) for outcome in Outcome}
        self.asked = {outcome: metrics.asked.labels(model, kind, outcome) for outcome in Outcome}
        self.saved = metrics.seconds_saved.labels(model, kind)
        self.computed = metrics.seconds_computed.labels(model, kind)
        self.from_int8 = metrics.answers_from_int8.labels(model, kind)
        self.failed = metrics.failed.labels(model, kind)


class Counters:
    """Counts the outcomes of one model's look-ups.

    Args:
        metrics: where its server counts; new ones if left out.
        model: the model's id, under which they stay when it is unloaded.
    """

    def __init__(self, metrics: Metrics | None = None, model: str = "") -> None:
        self.metrics, self.model = metrics or Metrics(), model
        self.kinds = {kind: _OfKind(self.metrics, model, kind) for kind in COMPUTED}

    def outcome(self, kind: Kind, outcome: Outcome, cost: float) -> None:
        """Count one look-up. ``cost``: the seconds that computing the entry took, or takes again."""
        of_kind = self.kinds[kind]
        of_kind.lookups[outcome].inc()
        is_saved = outcome is Outcome.HIT or outcome is Outcome.JOINED
        (of_kind.saved if is_saved else of_kind.computed).inc(max(0.0, cost))  # entries come from elsewhere, too

    def failure(self, kind: Kind) -> None:
        """Count an ask that ended in an error."""
        self.kinds[kind].failed.inc()

    def hedge(self, kind: Kind, outcome: HedgeOutcome) -> None:
        """Count what became of a queued prediction."""
        self.metrics.predictions.labels(kind, outcome).inc()


def lookups_of(counted: Figures, **labels: str) -> dict[str, Any]:
    """Look-ups as ``/v1/cache`` tells them, of these labels (``model``, ``kind``), or of all where none is given."""
    found, asked = (
        {outcome.value: 0.0 for outcome in Outcome} | counted.by("outcome", name, **labels)
        for name in ("lookups", "asked")
    )
    answers = sum(asked.values())
    return {
        "lookups": sum(found.values()),
        "hits": found["hit"],
        "misses": found["miss"] + found["recomputed"],
        "joined": found["joined"],
        "recomputed": found["recomputed"],
        "failed": counted.sum("failed", **labels),
        "asked": asked,
        "hit_ratio": round(asked["hit"] / answers, 4) if answers else None,
        "from_int8": counted.sum("answers_from_int8", **labels),
        "seconds_saved": round(counted.sum("seconds_saved", **labels), 6),
        "seconds_computed": round(counted.sum("seconds_computed", **labels), 6),
    }


@dataclass(frozen=True, slots=True)
class TierState:
    """One tier: what it holds and has evicted, how its breaker is, and how many writes wait for it."""

    stats: StoreStats
    breaker: str
    pending: int


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue in front of the model."""

    typical_s: float | None
    classes: Mapping[Priority, tuple[int, int]]
    """Of each class: how many wait, and how many places are taken."""
    tenants: Mapping[str, int] = field(default_factory=dict)
    """By tenant, how many wait."""


@dataclass(frozen=True, slots=True)
class ShadowCacheCounts:
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
class StateSnapshot:
    """What is held and under way at one moment; and what only its owner can count: tiers, engines, shadow caches."""

    at: float
    tiers: tuple[TierState, ...]
    queues: Mapping[tuple[str, str], QueueState]
    """By the id of a loaded model and the queue's name; that of the grids is common to all, under an empty id."""
    flights: Mapping[str, int]
    """By the id of a loaded model."""
    sessions: int
    engines: tuple[EngineCounts, ...]
    """Those in other processes."""
    shadow_caches: tuple[ShadowCacheCounts, ...]
    sampled: float
    """The share of the images that the shadow caches see."""
    ages: Spread
    idle: Spread


async def take_snapshot(
    *,
    store: TieredStore,
    backends: Iterable[Backend],
    queues: Iterable[FairQueue],
    flights: Mapping[str, int],
    sessions: int,
) -> StateSnapshot:
    """How these parts stand at this moment.

    Args:
        store: the tiers.
        backends: of the loaded models.
        queues: of the loaded models, and of the grids.
        flights: as in the snapshot.
        sessions: how many there are.
    """
    lower = {tier.store.name: tier for tier in store.lower}
    tiers = []
    for stats in await store.stats():
        tier = lower.get(stats.tier)
        tiers.append(
            TierState(stats, "closed", 0)
            if tier is None
            else TierState(stats, tier.health.breaker.state, len(tier.queue))
        )
    shadows, memory = store.shadows, store.memory
    sample = [] if shadows is None else shadows.spread(memory)
    return StateSnapshot(
        at=time.time(),
        tiers=tuple(tiers),
        queues={
            (queue.model, queue.name): QueueState(queue.typical_s, queue.classes(), queue.tenants()) for queue in queues
        },
        flights=dict(flights),
        sessions=sessions,
        engines=tuple(
            engine for backend in backends if isinstance(backend, RemoteStatus) for engine in backend.engines()
        ),
        shadow_caches=tuple(
            ShadowCacheCounts(cache.larger_by, cache.hits, cache.seconds_saved)
            for cache in (shadows.estimates() if shadows else ())
        ),
        sampled=1.0 if shadows is None else shadows.sampled,
        ages=_spread([age for age, _ in sample], memory.entries),
        idle=_spread([idle for _, idle in sample], memory.entries),
    )


def _spread(sample: Sequence[float], entries: int) -> Spread:
    """Of a sample, for all entries."""
    ordered = sorted(sample)
    scale = entries / len(ordered) if ordered else 0.0
    counts = tuple(round(bisect_right(ordered, most) * scale) for most in SPREAD_S)
    return Spread(counts, entries, sum(ordered) * scale)


class Accesses:
    """Notes each look-up whose answer somebody waits for, and each prefetch.

    Args:
        counters: where they are counted.
        recorder: writes down what is asked for, so that it can be replayed.
        has_trunks: whether the model's embeddings are made from trunks.
    """

    def __init__(self, counters: Counters, recorder: Recorder | None, *, has_trunks: bool = False) -> None:
        self.recorder = recorder
        self._has_trunks = has_trunks
        self._counters = counters

    def note(
        self,
        kind: Kind,
        ask: Ask,
        key: str,
        made: Made,
        *,
        parent: tuple[str, int] | None = None,
        ahead: bool = False,
    ) -> None:
        """Note an access.

        Args:
            kind: what was asked for.
            ask: on which image.
            key: under which key.
            made: what came of it.
            parent: the prediction that a mask refines, and which of its candidates.
            ahead: whether it is a prefetch, which nobody waits for.
        """
        entry = made.entry
        if not ahead:
            of_kind = self._counters.kinds[kind]
            of_kind.asked[made.outcome].inc()
            if key.endswith(INT8) or entry.kind is Kind.EMBEDDING_INT8:
                of_kind.from_int8.inc()
        if self.recorder is None:
            return
        # A replay decides itself what memory had no room for: it is told what was asked for. What the full embedding
        # weighs is not known here.
        if entry.kind is Kind.EMBEDDING_INT8:
            entry = Entry(kind, b"", entry.cost, entry.created)
        needs = None if parent is None else ask.mask(parent[0].removesuffix(INT8))
        self.recorder.asked(
            kind,
            key.removesuffix(INT8),
            entry,
            made.outcome,
            embedding=ask.trunk if kind is Kind.DETECTIONS else ask.embedding,
            parent=ask.trunk if kind is Kind.EMBEDDING and self._has_trunks else needs,
            beside=made.companion_bytes,
            what=What.PREFETCHED if ahead else What.ASKED,
        )

    def computed(self, ask: Ask, made: Made) -> None:
        """Note a trunk that was computed."""
        if self.recorder is not None:
            facts: dict[str, Any] = {"embedding": ask.trunk, "beside": made.companion_bytes, "what": What.COMPUTED}
            self.recorder.asked(Kind.TRUNK, ask.trunk, made.entry, made.outcome, **facts)
