"""The figures of ``/v1/cache``, as Prometheus reads them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from prometheus_client.core import CounterMetricFamily, GaugeHistogramMetricFamily, GaugeMetricFamily, Metric

from labeling_ground.inference.remote_status import EngineCounts
from labeling_ground.service.counters import SPREAD_S, CountersSnapshot, KindCounts, Spread, TierCounts
from labeling_ground.service.queues import ClassCounters

Rows = Iterable[tuple[Sequence[str], float | None]]
"""A metric's label values, each with its number; what has none is left out."""


def families_of(now: CountersSnapshot) -> Iterator[Metric]:
    """One moment's figures, as the metrics that Prometheus' library writes."""
    yield from _of_lookups(now)
    yield from _of_this_server(now)
    yield from _of_tiers(now)
    yield from _of_queues(now)
    yield from _of_engines(now)
    yield from _of_memory(now)


def _family(
    make: type[GaugeMetricFamily] | type[CounterMetricFamily], name: str, text: str, labels: str, rows: Rows
) -> Metric:
    family = make(f"labeling_ground_{name}", text, labels=labels.split())
    for values, number in rows:
        if number is not None:
            family.add_metric(values, number)
    return family


_gauge, _counter = partial(_family, GaugeMetricFamily), partial(_family, CounterMetricFamily)


def _of_lookups(now: CountersSnapshot) -> Iterator[Metric]:
    def each(count: Callable[[KindCounts], float]) -> Rows:
        return [([model, kind.value], count(found)) for (model, kind), found in now.models.items()]

    outcomes: Mapping[str, Callable[[KindCounts], int]] = {
        "hit": lambda found: found.hits,
        "joined": lambda found: found.joined,
        "recomputed": lambda found: found.recomputed,
        "miss": lambda found: found.misses - found.recomputed,
    }
    counts = [
        ([model, kind.value, outcome], count(found))
        for (model, kind), found in now.models.items()
        for outcome, count in outcomes.items()
    ]
    hedges = [([kind.value, outcome.value], count) for (kind, outcome), count in now.hedges.items()]
    saved = "Seconds of computing that hits and joined asks spared."
    yield _counter(
        "lookups", "Look-ups by kind and outcome; recomputed and miss are disjoint here.", "model kind outcome", counts
    )
    yield _counter("seconds_saved", saved, "model kind", each(lambda found: found.seconds_saved))
    yield _counter(
        "seconds_computed",
        "Seconds of computing that was done.",
        "model kind",
        each(lambda found: found.seconds_computed),
    )
    yield _counter(
        "answers_from_int8",
        "Asks that were answered from an embedding in int8.",
        "model kind",
        each(lambda found: found.from_int8),
    )
    yield _counter("failed", "Asks that ended in an error.", "model kind", each(lambda found: found.failed))
    yield _counter("predictions", "Queued predictions by what became of them.", "kind outcome", hedges)


def _of_this_server(now: CountersSnapshot) -> Iterator[Metric]:
    unkept = "Changes of sessions that were answered before they were kept below memory."
    failed = "Failed attempts of background work, which is tried again."
    errors = [([name], count) for name, count in now.background_errors.items()]
    yield _counter("sessions_unkept", unkept, "", [([], now.sessions_unkept)])
    yield _counter("background_errors", failed, "work", errors)
    yield _gauge(
        "flights", "Computations under way.", "model", [([model], each) for model, each in now.flights.items()]
    )
    yield _gauge("sessions", "Sessions kept.", "", [([], now.sessions)])


def _of_tiers(now: CountersSnapshot) -> Iterator[Metric]:
    def each(value: Callable[[TierCounts], float | None]) -> Rows:
        return [([tier.stats.tier], value(tier)) for tier in now.tiers]

    def by(table: Callable[[TierCounts], Mapping[str, int]]) -> Rows:
        return [([tier.stats.tier, name], number) for tier in now.tiers for name, number in table(tier).items()]

    def age_of_oldest(tier: TierCounts) -> float | None:
        oldest = tier.stats.oldest_created
        return None if oldest is None else max(0.0, now.at - oldest)

    again = "Values given to a tier again when memory had no room."
    yield _gauge("entries", "Entries held.", "tier kind", by(lambda tier: tier.stats.entries_by_kind))
    yield _gauge("bytes", "Bytes held.", "tier kind", by(lambda tier: tier.stats.bytes_by_kind))
    yield _gauge("budget_bytes", "Most bytes held.", "tier", each(lambda tier: tier.stats.budget))
    yield _counter("evictions", "Entries that went.", "tier reason", by(lambda tier: tier.stats.evictions))
    yield _counter("store_errors", "What a tier failed at.", "tier reason", by(lambda tier: tier.errors))
    yield _gauge(
        "breaker_open", "1 while a tier is left alone.", "tier", each(lambda tier: float(tier.breaker != "closed"))
    )
    yield _counter(
        "entries_refused", "Entries too large to be admitted.", "tier", each(lambda tier: tier.stats.refused)
    )
    yield _counter(
        "lookups_skipped", "Look-ups that a tier left alone was spared.", "tier", each(lambda tier: tier.skipped)
    )
    yield _gauge("writes_pending", "Writes that wait for a tier.", "tier", each(lambda tier: tier.pending))
    yield _counter("demoted", again, "tier", each(lambda tier: tier.demoted))
    yield _gauge("oldest_entry_seconds", "Age of the oldest entry held.", "tier", each(age_of_oldest))


def _of_queues(now: CountersSnapshot) -> Iterator[Metric]:
    def each(value: Callable[[int, ClassCounters], float]) -> Rows:
        return [
            ([model, name, priority.label], value(waiting, of_class))
            for (model, name), queue in now.queues.items()
            for priority, (waiting, of_class) in queue.classes.items()
        ]

    labels, busy = "model queue class", "Seconds for which computations had the engine."
    yield _gauge("running", "Computations running.", labels, each(lambda _, of_class: of_class.running))
    yield _gauge("waiting", "Computations waiting.", labels, each(lambda waiting, _: waiting))
    yield _counter(
        "turned_away", "Asks that found a queue full.", labels, each(lambda _, of_class: of_class.turned_away)
    )
    yield _counter("queue_busy_seconds", busy, labels, each(lambda _, of_class: of_class.busy_s))
    yield _counter(
        "queue_waited_seconds",
        "Seconds for which they waited before.",
        labels,
        each(lambda _, of_class: of_class.waited_s),
    )


def _of_engines(now: CountersSnapshot) -> Iterator[Metric]:
    if not now.engines:
        return

    def each(value: Callable[[EngineCounts], float | None]) -> Rows:
        return [([engine.half, engine.address], value(engine)) for engine in now.engines]

    labels, sent = "engine address", "Embeddings that it was sent, as it did not have them."
    left_out = [([each.half, each.address, each.left_out], 1.0) for each in now.engines if each.left_out]
    moved = [
        ([engine.half, engine.address, way], count)
        for engine in now.engines
        for way, count in (("sent", engine.sent_bytes), ("received", engine.received_bytes))
    ]
    yield _gauge(
        "engine_open", "1 while an engine is left alone.", labels, each(lambda engine: float(engine.state != "closed"))
    )
    yield _gauge("engine_left_out", "1 for why an engine is not asked now.", f"{labels} reason", left_out)
    yield _gauge("engine_workers", "Asks it answers at once.", labels, each(lambda engine: engine.workers))
    yield _gauge("engine_queue", "Asks that wait there.", labels, each(lambda engine: engine.queue))
    yield _gauge("engine_running", "Asks that it has from here.", labels, each(lambda engine: engine.running))
    yield _counter("engine_asks", "Asks that it answered.", labels, each(lambda engine: engine.asks))
    yield _counter("engine_embeddings", sent, labels, each(lambda engine: engine.embeddings))
    yield _counter("engine_bytes", "Bytes of bodies to and from it.", f"{labels} direction", moved)


def _of_memory(now: CountersSnapshot) -> Iterator[Metric]:
    again = now.recomputed_after_eviction.items()
    larger = [([f"{cache.larger_by:g}"], cache) for cache in now.shadow_caches]
    yield _counter(
        "recomputed_after_eviction_entries",
        "Recomputed after memory's budget had evicted it.",
        "kind",
        [([kind.value], found.entries) for kind, found in again],
    )
    yield _counter(
        "recomputed_after_eviction_seconds",
        "The seconds which that took.",
        "kind",
        [([kind.value], found.seconds) for kind, found in again],
    )
    # Gauges: a larger budget can lose at times what it had gained.
    yield _gauge(
        "shadow_cache_hits",
        "What a larger memory tier would have had.",
        "larger_by",
        [(labels, cache.hits) for labels, cache in larger],
    )
    yield _gauge(
        "shadow_cache_seconds_saved",
        "Seconds that it would have spared.",
        "larger_by",
        [(labels, cache.seconds_saved) for labels, cache in larger],
    )
    yield _gauge(
        "shadow_cache_sampled_share", "Share of the images that this is estimated from.", "", [([], now.sampled)]
    )
    yield _spread("age", "Seconds since entries in memory were computed.", now.ages)
    yield _spread("idle", "Seconds since entries in memory were used.", now.idle)


def _spread(name: str, text: str, spread: Spread) -> Metric:
    family = GaugeHistogramMetricFamily(f"labeling_ground_entry_{name}_seconds", text)
    buckets = [(f"{most:g}", float(count)) for most, count in zip(SPREAD_S, spread.counts, strict=True)]
    family.add_metric([], [*buckets, ("+Inf", float(spread.total))], spread.seconds)
    return family
