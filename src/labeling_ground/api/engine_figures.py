"""What ``/v1/cache`` and ``/metrics`` tell of engines in other processes."""

from collections.abc import Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from labeling_ground.inference.remote_status import EngineFigures


def engine_fields(engine: EngineFigures) -> dict[str, Any]:
    """One engine, as ``EngineOut`` says it."""
    return {
        "engine": engine.half,
        "address": engine.address,
        "model_version": engine.version,
        "breaker": engine.state,
        "left_out": engine.left_out,
        "workers": engine.workers,
        "queue": engine.queue,
        "running": engine.running,
        "engine_seconds": engine.engine_s,
        "round_trip_seconds": engine.round_trip_s,
        "asks": engine.asks,
        "embeddings_sent": engine.embeddings,
        "sent_bytes": engine.sent_bytes,
        "received_bytes": engine.received_bytes,
    }


def engine_metrics(engines: Sequence[EngineFigures]) -> list[Metric]:
    """The same for Prometheus; none where there are no engines in other processes."""
    if not engines:
        return []
    labels = ["engine", "address"]
    is_open = GaugeMetricFamily("labeling_ground_engine_open", "1 while an engine is left alone.", labels=labels)
    left_out = GaugeMetricFamily(
        "labeling_ground_engine_left_out", "1 for why an engine is not asked now.", labels=[*labels, "reason"]
    )
    workers = GaugeMetricFamily("labeling_ground_engine_workers", "Asks it answers at once.", labels=labels)
    queue = GaugeMetricFamily("labeling_ground_engine_queue", "Asks that wait there.", labels=labels)
    running = GaugeMetricFamily("labeling_ground_engine_running", "Asks that it has from here.", labels=labels)
    asks = CounterMetricFamily("labeling_ground_engine_asks", "Asks that it answered.", labels=labels)
    embeddings = CounterMetricFamily(
        "labeling_ground_engine_embeddings", "Embeddings that it was sent, as it did not have them.", labels=labels
    )
    moved = CounterMetricFamily(
        "labeling_ground_engine_bytes", "Bytes of bodies to and from it.", labels=[*labels, "direction"]
    )
    for engine in engines:
        one = [engine.half, engine.address]
        is_open.add_metric(one, float(engine.state != "closed"))
        if engine.left_out:
            left_out.add_metric([*one, engine.left_out], 1.0)
        running.add_metric(one, engine.running)
        asks.add_metric(one, engine.asks)
        embeddings.add_metric(one, engine.embeddings)
        moved.add_metric([*one, "sent"], engine.sent_bytes)
        moved.add_metric([*one, "received"], engine.received_bytes)
        for family, value in ((workers, engine.workers), (queue, engine.queue)):
            if value is not None:
                family.add_metric(one, value)
    return [is_open, left_out, workers, queue, running, asks, embeddings, moved]
