"""``/v1/cache`` and ``/metrics``: what the cache holds, did and saved; and purging it."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from labeling_ground.api import answers
from labeling_ground.api.errors import responses
from labeling_ground.api.schemas import CacheOut, Purged
from labeling_ground.api.state import caller_of, parts_of
from labeling_ground.errors import NotAllowed
from labeling_ground.inference.elsewhere import EngineFigures
from labeling_ground.service.figures import Figures, TierFigures, figures
from labeling_ground.service.ledger import KindFigures

router = APIRouter(tags=["cache"])


@router.get(
    "/v1/cache", summary="What the cache holds, did and saved", response_model=CacheOut, responses=responses(401)
)
async def cache_figures(request: Request) -> dict[str, Any]:
    """Figures since the server started. `lookups = hits + misses + joined`; `recomputed` are part of the misses."""
    parts = parts_of(request)
    caller_of(request)  # a key is needed where there are some
    now = await figures(parts.segmenter, parts.sessions, parts.everything.jobs)
    settings = parts.settings
    return {
        **_kind(now.total),
        "kinds": {kind.value: _kind(found) for kind, found in now.kinds.items()},
        "predictions": _fates(now),
        "tiers": [_tier(tier, now.at) for tier in now.tiers],
        "queues": {
            name: {
                "running": lane.running,
                "waiting": lane.waiting,
                "turned_away": lane.turned_away,
                "typical_seconds": lane.typical_s,
            }
            for name, lane in now.lanes.items()
        },
        "engines": [_engine(engine) for engine in now.engines],
        "flights": now.flights,
        "sessions": now.sessions,
        "settings": {
            "mode": settings.cache_mode,
            "policy": settings.policy,
            "idle_seconds": settings.idle_s,
            "max_age_seconds": settings.max_age_s,
            "precision": settings.precision,
        },
        **answers.origin(parts.segmenter.backend),
    }


@router.delete(
    "/v1/cache",
    summary="Purge everything, or one model",
    response_model=Purged,
    responses=responses(401, 422, 503),
)
async def purge(
    request: Request,
    model: Annotated[
        str | None,
        Query(
            pattern="^[a-z0-9._-]{1,64}$",
            description="Only this model's embeddings and masks, in all its versions.",
        ),
    ] = None,
) -> Response:
    """In the namespace of the API key that asks; the admin key purges all namespaces.

    Where an admin key is set and no API keys are, only the admin key purges.
    """
    parts, caller = parts_of(request), caller_of(request)
    if parts.settings.admin_key is not None and not parts.settings.api_keys and not caller.is_admin:
        raise NotAllowed("Only the admin key may purge here. Send it as 'Authorization: Bearer <key>' or 'X-API-Key'.")
    tenant = None if caller.is_admin else caller.tenant
    return answers.as_json({"deleted": await parts.segmenter.purge(tenant, model=model)})


@router.get("/metrics", summary="Figures for Prometheus", response_class=Response, tags=["health"])
async def metrics(request: Request) -> Response:
    """Prometheus text format."""
    parts = parts_of(request)
    snapshot = _Snapshot(await figures(parts.segmenter, parts.sessions, parts.everything.jobs))
    content = generate_latest(parts.metrics.registry) + generate_latest(snapshot)
    return Response(content, media_type=CONTENT_TYPE_LATEST)


def _kind(found: KindFigures) -> dict[str, Any]:
    return {
        "lookups": found.lookups,
        "hits": found.hits,
        "misses": found.misses,
        "joined": found.joined,
        "recomputed": found.recomputed,
        "failed": found.failed,
        "hit_ratio": round(found.hits / found.lookups, 4) if found.lookups else None,
        "seconds_saved": round(found.seconds_saved, 6),
        "seconds_computed": round(found.seconds_computed, 6),
    }


def _fates(now: Figures) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for (kind, fate), count in sorted(now.fates.items()):
        table.setdefault(kind.value, {})[fate.value] = count
    return table


def _tier(tier: TierFigures, at: float) -> dict[str, Any]:
    stats = tier.stats
    return {
        "tier": stats.tier,
        "answers": stats.answers,
        "entries": stats.entries,
        "bytes": stats.bytes,
        "budget": stats.budget,
        "entries_by_kind": dict(stats.entries_by_kind),
        "bytes_by_kind": dict(stats.bytes_by_kind),
        "evictions": dict(stats.evictions),
        "refused": stats.refused,
        "oldest_entry_seconds": None if stats.oldest_created is None else round(max(0.0, at - stats.oldest_created), 3),
        "breaker": tier.breaker,
        "errors": dict(tier.errors),
        "lookups_skipped": tier.skipped,
        "writes_pending": tier.pending,
    }


def _engine(engine: EngineFigures) -> dict[str, Any]:
    return {
        "engine": engine.half,
        "model_version": engine.version,
        "breaker": engine.state,
        "workers": engine.workers,
        "queue": engine.queue,
        "engine_seconds": engine.engine_s,
        "round_trip_seconds": engine.round_trip_s,
        "asks": engine.asks,
        "sent_bytes": engine.sent_bytes,
        "received_bytes": engine.received_bytes,
    }


class _Snapshot:
    """Prometheus' view of the figures, in the shape that its library collects from."""

    def __init__(self, now: Figures) -> None:
        self._now = now

    def collect(self) -> list[Metric]:
        now = self._now
        lookups = CounterMetricFamily(
            "labeling_ground_lookups",
            "Look-ups by kind and outcome; recomputed and miss are disjoint here.",
            labels=["kind", "outcome"],
        )
        saved = CounterMetricFamily(
            "labeling_ground_seconds_saved",
            "Seconds of computing that hits and joined asks spared.",
            labels=["kind"],
        )
        computed = CounterMetricFamily(
            "labeling_ground_seconds_computed",
            "Seconds of computing that was done.",
            labels=["kind"],
        )
        failed = CounterMetricFamily("labeling_ground_failed", "Asks that ended in an error.", labels=["kind"])
        for kind, found in now.kinds.items():
            counts = {
                "hit": found.hits,
                "joined": found.joined,
                "recomputed": found.recomputed,
                "miss": found.misses - found.recomputed,
            }
            for outcome, count in counts.items():
                lookups.add_metric([kind.value, outcome], count)
            saved.add_metric([kind.value], found.seconds_saved)
            computed.add_metric([kind.value], found.seconds_computed)
            failed.add_metric([kind.value], found.failed)
        predictions = CounterMetricFamily(
            "labeling_ground_predictions",
            "Queued predictions by what became of them.",
            labels=["kind", "fate"],
        )
        for (kind, fate), count in now.fates.items():
            predictions.add_metric([kind.value, fate.value], count)
        gauges = [
            GaugeMetricFamily("labeling_ground_flights", "Computations under way.", value=now.flights),
            GaugeMetricFamily("labeling_ground_sessions", "Sessions kept.", value=now.sessions),
        ]
        return [
            lookups,
            saved,
            computed,
            failed,
            predictions,
            *gauges,
            *self._tiers(),
            *self._queues(),
            *self._engines(),
        ]

    def _tiers(self) -> list[Metric]:
        entries = GaugeMetricFamily("labeling_ground_entries", "Entries held.", labels=["tier", "kind"])
        held = GaugeMetricFamily("labeling_ground_bytes", "Bytes held.", labels=["tier", "kind"])
        budget = GaugeMetricFamily("labeling_ground_budget_bytes", "Most bytes held.", labels=["tier"])
        evictions = CounterMetricFamily("labeling_ground_evictions", "Entries that went.", labels=["tier", "reason"])
        errors = CounterMetricFamily(
            "labeling_ground_store_errors", "What a tier failed at.", labels=["tier", "reason"]
        )
        is_open = GaugeMetricFamily("labeling_ground_breaker_open", "1 while a tier is left alone.", labels=["tier"])
        refused = CounterMetricFamily(
            "labeling_ground_entries_refused", "Entries too large to be admitted.", labels=["tier"]
        )
        skipped = CounterMetricFamily(
            "labeling_ground_lookups_skipped", "Look-ups that a tier left alone was spared.", labels=["tier"]
        )
        pending = GaugeMetricFamily("labeling_ground_writes_pending", "Writes that wait for a tier.", labels=["tier"])
        oldest = GaugeMetricFamily(
            "labeling_ground_oldest_entry_seconds", "Age of the oldest entry held.", labels=["tier"]
        )
        for tier in self._now.tiers:
            stats = tier.stats
            for kind, count in stats.entries_by_kind.items():
                entries.add_metric([stats.tier, kind], count)
            for kind, count in stats.bytes_by_kind.items():
                held.add_metric([stats.tier, kind], count)
            budget.add_metric([stats.tier], stats.budget)
            for reason, count in stats.evictions.items():
                evictions.add_metric([stats.tier, reason], count)
            for reason, count in tier.errors.items():
                errors.add_metric([stats.tier, reason], count)
            is_open.add_metric([stats.tier], float(tier.breaker != "closed"))
            refused.add_metric([stats.tier], stats.refused)
            skipped.add_metric([stats.tier], tier.skipped)
            pending.add_metric([stats.tier], tier.pending)
            if stats.oldest_created is not None:
                oldest.add_metric([stats.tier], max(0.0, self._now.at - stats.oldest_created))
        return [entries, held, budget, evictions, errors, is_open, refused, skipped, pending, oldest]

    def _queues(self) -> list[Metric]:
        running = GaugeMetricFamily("labeling_ground_running", "Computations running.", labels=["queue"])
        waiting = GaugeMetricFamily("labeling_ground_waiting", "Computations waiting.", labels=["queue"])
        refused = CounterMetricFamily("labeling_ground_turned_away", "Asks that found a queue full.", labels=["queue"])
        for name, lane in self._now.lanes.items():
            running.add_metric([name], lane.running)
            waiting.add_metric([name], lane.waiting)
            refused.add_metric([name], lane.turned_away)
        return [running, waiting, refused]

    def _engines(self) -> list[Metric]:
        is_open = GaugeMetricFamily(
            "labeling_ground_engine_open", "1 while an engine is left alone.", labels=["engine"]
        )
        workers = GaugeMetricFamily("labeling_ground_engine_workers", "Asks it answers at once.", labels=["engine"])
        queue = GaugeMetricFamily("labeling_ground_engine_queue", "Asks that wait there.", labels=["engine"])
        asks = CounterMetricFamily("labeling_ground_engine_asks", "Asks that it answered.", labels=["engine"])
        moved = CounterMetricFamily(
            "labeling_ground_engine_bytes", "Bytes of bodies to and from it.", labels=["engine", "direction"]
        )
        for engine in self._now.engines:
            is_open.add_metric([engine.half], float(engine.state != "closed"))
            asks.add_metric([engine.half], engine.asks)
            moved.add_metric([engine.half, "sent"], engine.sent_bytes)
            moved.add_metric([engine.half, "received"], engine.received_bytes)
            for family, value in ((workers, engine.workers), (queue, engine.queue)):
                if value is not None:
                    family.add_metric([engine.half], value)
        return [is_open, workers, queue, asks, moved] if self._now.engines else []
