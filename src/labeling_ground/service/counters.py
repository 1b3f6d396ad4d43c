"""What one server counts: what was asked, what it cost, what the cache saved, and how its parts behave.

Plain numbers, one truth for ``/v1/cache`` and ``/metrics``. What users ask for can be written down, too.
"""

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from labeling_ground.cache.shadow import Recomputed
from labeling_ground.cache.tiered import TieredStore
from labeling_ground.inference.backend import Backend
from labeling_ground.inference.remote_status import EngineCounts, RemoteStatus
from labeling_ground.key import INT8
from labeling_ground.service.asks import Ask
from labeling_ground.service.once import HedgeOutcome, Made
from labeling_ground.service.queues import ClassCounters, FairQueue
from labeling_ground.service.sessions import Sessions
from labeling_ground.supervisor import Supervisor
from labeling_ground.trace.events import What
from labeling_ground.trace.recorder import Recorder
from labeling_ground.types import Entry, Kind, Outcome, Priority, StoreStats

SPREAD_S = (10.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 14_400.0, 86_400.0)
"""Seconds by which ages and idle times are told apart."""


@dataclass
class KindCounts:
    """Look-ups of one kind. ``recomputed`` are those of the ``misses`` that were evicted before."""

    hits: int = 0
    misses: int = 0
    joined: int = 0
    recomputed: int = 0
    failed: int = 0
    """Asks that ended in an error; they are no look-ups."""
    seconds_saved: float = 0.0
    seconds_computed: float = 0.0
    asked: Counter[Outcome] = field(default_factory=Counter)
    """Those of the look-ups whose answer somebody waited for: not those behind a miss, and no prefetches."""
    from_int8: int = 0
    """Those of ``asked`` that were answered from an embedding in int8."""

    @property
    def hit_ratio(self) -> float | None:
        """Hits of ``asked``, from 0 to 1; ``None`` before the first."""
        asked = self.asked.total()
        return self.asked[Outcome.HIT] / asked if asked else None

    @property
    def lookups(self) -> int:
        """Hits, misses and joined."""
        return self.hits + self.misses + self.joined


COMPUTED = (
    Kind.EMBEDDING,
    Kind.MASK,
    Kind.EVERYTHING,
    Kind.TRUNK,
    Kind.TEXT,
    Kind.EXEMPLARS,
    Kind.DETECTIONS,
)
"""What is computed, each counted for itself. Logits come with a mask, and an image file from a client."""


@dataclass
class Counters:
    """Counts outcomes. Only the event loop writes to it."""

    kinds: dict[Kind, KindCounts] = field(default_factory=lambda: {kind: KindCounts() for kind in COMPUTED})
    hedges: Counter[tuple[Kind, HedgeOutcome]] = field(default_factory=Counter)

    def outcome(self, kind: Kind, outcome: Outcome, cost: float) -> None:
        """Count one look-up. ``cost``: the seconds that computing the entry took, or takes again."""
        counts = self.kinds[kind]
        if outcome is Outcome.HIT:
            counts.hits += 1
            counts.seconds_saved += cost
        elif outcome is Outcome.JOINED:
            counts.joined += 1
            counts.seconds_saved += cost
        else:
            counts.misses += 1
            counts.recomputed += outcome is Outcome.RECOMPUTED
            counts.seconds_computed += cost

    def failure(self, kind: Kind) -> None:
        """Count an ask that ended in an error."""
        self.kinds[kind].failed += 1

    def hedge(self, kind: Kind, outcome: HedgeOutcome) -> None:
        """Count what became of a queued prediction."""
        self.hedges[kind, outcome] += 1


def together(each: Iterable[KindCounts]) -> KindCounts:
    """All of them added up."""
    total = KindCounts()
    for counts in each:
        for name, value in vars(counts).items():
            setattr(total, name, getattr(total, name) + value)
    return total


@dataclass(frozen=True, slots=True)
class TierCounts:
    """One tier: what it holds, and how it behaves."""

    stats: StoreStats
    breaker: str
    errors: Mapping[str, int]
    skipped: int
    pending: int
    demoted: int


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """One queue in front of the model."""

    typical_s: float | None
    classes: Mapping[Priority, tuple[int, ClassCounters]]
    """Of each class: how many wait, and what it did."""
    tenants: Mapping[str, int] = field(default_factory=dict)
    """By tenant, how many wait."""


@dataclass(frozen=True, slots=True)
class RecomputedCounts:
    """What was computed again after memory's budget had evicted it."""

    entries: int
    seconds: float


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
class CountersSnapshot:
    """Everything that is counted, at one moment."""

    at: float
    models: Mapping[tuple[str, Kind], KindCounts]
    """By the model's id and the kind; also of models that are not loaded any more."""
    hedges: Mapping[tuple[Kind, HedgeOutcome], int]
    tiers: tuple[TierCounts, ...]
    queues: Mapping[tuple[str, str], QueueCounts]
    """By the id of a loaded model and the queue's name; that of the grids is common to all, under an empty id."""
    flights: Mapping[str, int]
    """By the id of a loaded model."""
    sessions: int
    sessions_unkept: int
    """Changes of sessions that were answered before they were kept below memory."""
    background_errors: Mapping[str, int]
    """Failed attempts of background work, by its name."""
    engines: tuple[EngineCounts, ...]
    """Those in other processes."""
    recomputed_after_eviction: Mapping[Kind, RecomputedCounts]
    shadow_caches: tuple[ShadowCacheCounts, ...]
    sampled: float
    """The share of the images that the shadow caches see."""
    ages: Spread
    idle: Spread

    @property
    def kinds(self) -> Mapping[Kind, KindCounts]:
        """Of all models together."""
        return {kind: together(found for (_, each), found in self.models.items() if each is kind) for kind in COMPUTED}

    @property
    def total(self) -> KindCounts:
        """Of all models and kinds together."""
        return together(self.models.values())


async def take_snapshot(
    counted: Mapping[str, Counters],
    *,
    store: TieredStore,
    backends: Iterable[Backend],
    queues: Mapping[tuple[str, str], FairQueue],
    flights: Mapping[str, int],
    sessions: Sessions,
    supervisor: Supervisor,
) -> CountersSnapshot:
    """Everything that these parts count, at this moment.

    Args:
        counted: by model id.
        store: the tiers.
        backends: of the loaded models.
        queues: as in the snapshot.
        flights: as in the snapshot.
        sessions: of all models.
        supervisor: of the server's background work.
    """
    lower = {tier.store.name: tier for tier in store.lower}
    tiers = []
    for stats in await store.stats():
        tier = lower.get(stats.tier)
        if tier is None:
            tiers.append(TierCounts(stats, "closed", {}, 0, 0, 0))
        else:
            health, seen = tier.health, tier.health.counters
            tiers.append(
                TierCounts(stats, health.breaker.state, dict(seen.errors), seen.skipped, len(tier.queue), seen.demoted)
            )
    shadows, memory = store.shadows, store.memory
    sample = [] if shadows is None else shadows.spread(memory)
    recomputed = Recomputed() if shadows is None else shadows.recomputed
    return CountersSnapshot(
        at=time.time(),
        models={
            (model, kind): counts for model, counters in counted.items() for kind, counts in counters.kinds.items()
        },
        hedges=sum((counters.hedges for counters in counted.values()), Counter()),
        tiers=tuple(tiers),
        queues={name: QueueCounts(queue.typical_s, queue.classes(), queue.tenants()) for name, queue in queues.items()},
        flights=dict(flights),
        sessions=len(sessions),
        sessions_unkept=sessions.unkept,
        background_errors=dict(supervisor.errors),
        engines=tuple(
            engine for backend in backends if isinstance(backend, RemoteStatus) for engine in backend.engines()
        ),
        recomputed_after_eviction={
            kind: RecomputedCounts(recomputed.entries[kind], recomputed.seconds.get(kind, 0.0)) for kind in COMPUTED
        },
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
            counts = self._counters.kinds[kind]
            counts.asked[made.outcome] += 1
            counts.from_int8 += key.endswith(INT8) or entry.kind is Kind.EMBEDDING_INT8
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
