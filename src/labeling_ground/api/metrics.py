"""What is held and under way, as Prometheus reads it beside what is counted."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from prometheus_client.core import CounterMetricFamily, GaugeHistogramMetricFamily, GaugeMetricFamily, Metric

from labeling_ground.api.workers import ServerSnapshot, Worker
from labeling_ground.inference.remote_status import EngineCounts
from labeling_ground.service.counters import SPREAD_S, Spread, StateSnapshot, TierState

Rows = Iterable[tuple[Sequence[str], float | None]]
"""A metric's label values, each with its number; what has none is left out."""


def families_of(figures: ServerSnapshot) -> Iterator[Metric]:
    """What is counted, and one moment's state, as the metrics that Prometheus' library writes."""
    now = figures.state
    yield from figures.counted.collect()
    if figures.workers:
        yield from _of_workers(figures.workers)
    yield _gauge(
        "flights", "Computations under way.", "model", [([model], each) for model, each in now.flights.items()]
    )
    yield _gauge("sessions", "Sessions kept.", "", [([], now.sessions)])
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


def _of_workers(workers: Sequence[Worker]) -> Iterator[Metric]:
    def each(value: Callable[[Worker], float]) -> Rows:
        return [([str(worker.worker)], value(worker)) for worker in workers]

    yield _gauge("worker_memory_bytes", "Resident memory.", "worker", each(lambda worker: worker.memory_bytes))
    yield _gauge("worker_uptime_seconds", "Since its start.", "worker", each(lambda worker: worker.uptime_seconds))
    yield _counter("worker_cpu_seconds", "Seconds of computing.", "worker", each(lambda worker: worker.cpu_seconds))
    yield _counter("worker_restarts", "Starts after it had died.", "worker", each(lambda worker: worker.restarts))


def _of_tiers(now: StateSnapshot) -> Iterator[Metric]:
    def each(value: Callable[[TierState], float | None]) -> Rows:
        return [([tier.stats.tier], value(tier)) for tier in now.tiers]

    def by(table: Callable[[TierState], Mapping[str, int]]) -> Rows:
        return [([tier.stats.tier, name], number) for tier in now.tiers for name, number in table(tier).items()]

    def age_of_oldest(tier: TierState) -> float | None:
        oldest = tier.stats.oldest_created
        return None if oldest is None else max(0.0, now.at - oldest)

    yield _gauge("entries", "Entries held.", "tier kind", by(lambda tier: tier.stats.entries_by_kind))
    yield _gauge("bytes", "Bytes held.", "tier kind", by(lambda tier: tier.stats.bytes_by_kind))
    yield _gauge("budget_bytes", "Most bytes held.", "tier", each(lambda tier: tier.stats.budget))
    yield _counter("evictions", "Entries that went.", "tier reason", by(lambda tier: tier.stats.evictions))
    yield _gauge(
        "breaker_open", "1 while a tier is left alone.", "tier", each(lambda tier: float(tier.breaker != "closed"))
    )
    yield _counter(
        "entries_refused", "Entries too large to be admitted.", "tier", each(lambda tier: tier.stats.refused)
    )
    yield _gauge("writes_pending", "Writes that wait for a tier.", "tier", each(lambda tier: tier.pending))
    yield _gauge("oldest_entry_seconds", "Age of the oldest entry held.", "tier", each(age_of_oldest))


def _of_queues(now: StateSnapshot) -> Iterator[Metric]:
    rows = [
        ([model, name, priority.label], waiting, running)
        for (model, name), queue in now.queues.items()
        for priority, (waiting, running) in queue.classes.items()
    ]
    labels = "model queue class"
    yield _gauge("running", "Computations running.", labels, [(values, running) for values, _, running in rows])
    yield _gauge("waiting", "Computations waiting.", labels, [(values, waiting) for values, waiting, _ in rows])


def _of_engines(now: StateSnapshot) -> Iterator[Metric]:
    if not now.engines:
        return

    def each(value: Callable[[EngineCounts], float | None]) -> Rows:
        return [([engine.engine, engine.address], value(engine)) for engine in now.engines]

    labels, sent = "engine address", "Embeddings that it was sent, as it did not have them."
    left_out = [([each.engine, each.address, each.left_out], 1.0) for each in now.engines if each.left_out]
    moved = [
        ([engine.engine, engine.address, way], count)
        for engine in now.engines
        for way, count in (("sent", engine.sent_bytes), ("received", engine.received_bytes))
    ]
    yield _gauge(
        "engine_open",
        "1 while an engine is left alone.",
        labels,
        each(lambda engine: float(engine.breaker != "closed")),
    )
    yield _gauge("engine_left_out", "1 for why an engine is not asked now.", f"{labels} reason", left_out)
    yield _gauge("engine_workers", "Asks it answers at once.", labels, each(lambda engine: engine.workers))
    yield _gauge("engine_queue", "Asks that wait there.", labels, each(lambda engine: engine.queue))
    yield _gauge("engine_running", "Asks that it has from here.", labels, each(lambda engine: engine.running))
    yield _counter("engine_asks", "Asks that it answered.", labels, each(lambda engine: engine.asks))
    yield _counter("engine_embeddings", sent, labels, each(lambda engine: engine.embeddings_sent))
    yield _counter("engine_bytes", "Bytes of bodies to and from it.", f"{labels} direction", moved)


def _of_memory(now: StateSnapshot) -> Iterator[Metric]:
    larger = [([f"{cache.larger_by:g}"], cache) for cache in now.shadow_caches]
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
