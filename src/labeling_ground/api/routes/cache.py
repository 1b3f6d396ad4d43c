"""``/v1/cache`` and ``/metrics``: what the cache holds, did and saved; purging it, and changing its settings."""

import time
from bisect import bisect_left
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeHistogramMetricFamily, GaugeMetricFamily, Metric

from labeling_ground.api import responses
from labeling_ground.api.engine_figures import engine_fields, engine_metrics
from labeling_ground.api.errors import BadBody, problem_responses
from labeling_ground.api.requests import read_json
from labeling_ground.api.routes.service import health_of
from labeling_ground.api.schemas.cache import CacheOut, CacheSettingsIn, CacheSettingsOut
from labeling_ground.api.schemas.common import SHA256, Purged
from labeling_ground.api.state import AppState, caller_of, check_admin, state_of
from labeling_ground.errors import BadSettings, NotAllowed
from labeling_ground.observe import BUCKETS_S, RequestMetrics
from labeling_ground.service.counters import SPREAD_S, CountersSnapshot, KindCounts, TierCounts, take_snapshot
from labeling_ground.types import Kind, Outcome

router = APIRouter()

ASKED_FOR = {
    "/v1/images": Kind.EMBEDDING,
    "/v1/images/{image_id}/embedding": Kind.EMBEDDING,
    "/api/sam/image": Kind.EMBEDDING,
    "/v1/images/{image_id}/masks": Kind.MASK,
    "/api/sam/click": Kind.MASK,
    "/api/sam/rect": Kind.MASK,
    "/api/sam/undo": Kind.MASK,
    "/v1/images/{image_id}/everything": Kind.EVERYTHING,
}
"""What each route that answers with an outcome asks for."""


@router.get(
    "/v1/cache",
    operation_id="get_cache",
    tags=["cache"],
    summary="What the cache holds, did and saved",
    response_model=CacheOut,
    responses=problem_responses(401),
)
async def cache_figures(request: Request) -> dict[str, Any]:
    """Figures since the server started. `lookups = hits + misses + joined`; `recomputed` are part of the misses."""
    app_state = state_of(request)
    caller_of(request)  # a key is needed where there are some
    now = await _snapshot_of(app_state)
    return {
        **_kind(now.total),
        "kinds": {kind.value: _kind(found) for kind, found in now.kinds.items()},
        "predictions": _hedges(now),
        "tiers": [_tier(tier, now.at) for tier in now.tiers],
        "queues": {
            name: {
                "running": lane.running,
                "waiting": lane.waiting,
                "turned_away": lane.turned_away,
                "typical_seconds": lane.typical_s,
                "classes": {
                    priority.label: {
                        "running": of_class.running,
                        "waiting": waiting,
                        "turned_away": of_class.turned_away,
                        "busy_seconds": round(of_class.busy_s, 6),
                        "waited_seconds": round(of_class.waited_s, 6),
                    }
                    for priority, (waiting, of_class) in lane.classes.items()
                },
            }
            for name, lane in now.lanes.items()
        },
        "engines": [engine_fields(engine) for engine in now.engines],
        "flights": now.flights,
        "sessions": now.sessions,
        "sessions_unkept": now.sessions_unkept,
        "background_errors": dict(now.background_errors),
        "recomputed_after_eviction": {
            kind.value: {"entries": found.entries, "seconds": round(found.seconds, 6)}
            for kind, found in now.recomputed_after_eviction.items()
        },
        "shadow_caches": {
            "sampled_share": now.sampled,
            "budgets": [
                {
                    "larger_by": cache.larger_by,
                    "hits": round(cache.hits),
                    "seconds_saved": round(cache.seconds_saved, 6),
                }
                for cache in now.shadow_caches
            ],
        },
        "ages": {"seconds": SPREAD_S, "entries": now.ages.counts},
        "idle": {"seconds": SPREAD_S, "entries": now.idle.counts},
        "latency": _latency(app_state.metrics),
        "health": health_of(request),
        "uptime_seconds": round(time.monotonic() - app_state.started, 3),
        "settings": _settings(app_state),
        "policies": app_state.runtime_settings.policies,
        "has_admin_key": app_state.settings.admin_key is not None,
        **responses.origin(app_state.predictor.backend.info.version, app_state.predictor.backend.info.note),
    }


@router.delete(
    "/v1/cache",
    operation_id="purge_cache",
    tags=["cache"],
    summary="Purge everything, one model, or one image",
    response_model=Purged,
    responses=problem_responses(401, 422, 503),
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
    image_id: Annotated[
        str | None, Query(pattern=SHA256, description="Only this image: its file, embeddings and masks.")
    ] = None,
) -> Response:
    """In the namespace of the API key that asks; the admin key purges all namespaces.

    Where an admin key is set and no API keys are, only the admin key purges.
    """
    app_state, caller = state_of(request), caller_of(request)
    if app_state.settings.admin_key is not None and not app_state.settings.api_keys and not caller.is_admin:
        raise NotAllowed("Only the admin key may purge here. Send it as 'Authorization: Bearer <key>' or 'X-API-Key'.")
    image_id = None if image_id is None else image_id.lower()
    tenant = None if caller.is_admin else caller.tenant
    return responses.as_json({"deleted": await app_state.predictor.purge(tenant, image_id=image_id, model=model)})


@router.put(
    "/v1/cache/settings",
    operation_id="update_cache_settings",
    tags=["cache"],
    summary="Change policy, budgets or idle time while the server runs",
    response_model=CacheSettingsOut,
    responses=problem_responses(400, 401, 403, 413, 415, 422, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/CacheSettingsIn"}}},
        },
        "security": [{"bearer": []}, {"header": []}],
    },
)
async def change_settings(request: Request) -> dict[str, Any]:
    """Takes effect at once, in all tiers of this process, and answers with what is in effect; only the admin key may.

    What is left out stays. Nothing that is held goes but what the new limits force out. The change lasts until the
    server stops: what it is started with counts again then, so put it there too. Other processes keep to theirs, also
    where they share the disk tier. Redis keeps its own budget, and an entry there gets a new idle time at its next use.
    """
    check_admin(request)
    app_state = state_of(request)
    wanted = await read_json(request, CacheSettingsIn)
    changes = wanted.model_dump(exclude_none=True)
    if "idle_seconds" in changes:
        changes["idle_s"] = changes.pop("idle_seconds")
    try:
        await app_state.runtime_settings.change(**changes)
    except BadSettings as error:
        raise BadBody(str(error)) from error
    return _settings(app_state)


@router.get(
    "/metrics", operation_id="get_metrics", summary="Figures for Prometheus", response_class=Response, tags=["health"]
)
async def metrics(request: Request) -> Response:
    """Prometheus text format."""
    app_state = state_of(request)
    snapshot = _Snapshot(await _snapshot_of(app_state))
    content = generate_latest(app_state.metrics.registry) + generate_latest(snapshot)
    return Response(content, media_type=CONTENT_TYPE_LATEST)


async def _snapshot_of(app_state: AppState) -> CountersSnapshot:
    predictor = app_state.predictor
    return await take_snapshot(
        predictor.counters,
        store=predictor.store,
        backend=predictor.backend,
        queues=(predictor.encode_lane, predictor.decode_lane, app_state.everything.jobs),
        flights=len(predictor.flights),
        sessions=app_state.sessions,
        supervisor=app_state.supervisor,
    )


def _settings(app_state: AppState) -> dict[str, Any]:
    settings, now = app_state.settings, app_state.runtime_settings.now
    return {
        "mode": settings.cache_mode,
        "policy": now.policy,
        "done_weight": now.done_weight,
        "frequency_exponent": now.frequency_exponent,
        "memory_bytes": now.memory_bytes,
        "disk_bytes": now.disk_bytes,
        "idle_seconds": now.idle_s,
        "max_age_seconds": settings.max_age_s,
        "precision": settings.precision,
    }


def _kind(found: KindCounts) -> dict[str, Any]:
    return {
        "lookups": found.lookups,
        "hits": found.hits,
        "misses": found.misses,
        "joined": found.joined,
        "recomputed": found.recomputed,
        "failed": found.failed,
        "asked": {outcome.value: found.asked[outcome] for outcome in Outcome},
        "hit_ratio": None if found.hit_ratio is None else round(found.hit_ratio, 4),
        "seconds_saved": round(found.seconds_saved, 6),
        "seconds_computed": round(found.seconds_computed, 6),
    }


def _hedges(now: CountersSnapshot) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for (kind, outcome), count in sorted(now.hedges.items()):
        table.setdefault(kind.value, {})[outcome.value] = count
    return table


def _tier(tier: TierCounts, at: float) -> dict[str, Any]:
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
        "demoted": tier.demoted,
    }


def _latency(metrics: RequestMetrics) -> dict[str, Any]:
    """The histogram of `/metrics`, with all routes that ask for the same thing taken together."""
    answers_by: dict[tuple[Kind, Outcome], list[int]] = {}
    seconds_by: dict[tuple[Kind, Outcome], float] = {}
    for family in metrics.seconds.collect():
        for sample in family.samples:
            kind, outcome = ASKED_FOR.get(sample.labels["route"]), sample.labels["outcome"]
            if kind is None or outcome == "none":
                continue
            row = kind, Outcome(outcome)
            if "le" in sample.labels:
                counts = answers_by.setdefault(row, [0] * (len(BUCKETS_S) + 1))
                counts[bisect_left(BUCKETS_S, float(sample.labels["le"]))] += int(sample.value)
            elif sample.name.endswith("_sum"):
                seconds_by[row] = seconds_by.get(row, 0.0) + sample.value
    return {
        "seconds": BUCKETS_S,
        "rows": [
            {"kind": kind, "outcome": outcome, "answers": counts, "total_seconds": round(seconds_by[kind, outcome], 6)}
            for (kind, outcome), counts in sorted(answers_by.items())
        ],
    }


class _Snapshot:
    """Prometheus' view of the figures, in the shape that its library collects from."""

    def __init__(self, now: CountersSnapshot) -> None:
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
        for (kind, outcome), count in now.hedges.items():
            predictions.add_metric([kind.value, outcome.value], count)
        unkept = CounterMetricFamily(
            "labeling_ground_sessions_unkept",
            "Changes of sessions that were answered before they were kept below memory.",
            value=now.sessions_unkept,
        )
        background = CounterMetricFamily(
            "labeling_ground_background_errors",
            "Failed attempts of background work, which is tried again.",
            labels=["work"],
        )
        for name, count in now.background_errors.items():
            background.add_metric([name], count)
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
            unkept,
            background,
            *gauges,
            *self._tiers(),
            *self._queues(),
            *engine_metrics(self._now.engines),
            *self._watched(),
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
        demoted = CounterMetricFamily(
            "labeling_ground_demoted", "Values given to a tier again when memory had no room.", labels=["tier"]
        )
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
            demoted.add_metric([stats.tier], tier.demoted)
            if stats.oldest_created is not None:
                oldest.add_metric([stats.tier], max(0.0, self._now.at - stats.oldest_created))
        return [entries, held, budget, evictions, errors, is_open, refused, skipped, pending, demoted, oldest]

    def _queues(self) -> list[Metric]:
        labels = ["queue", "class"]
        running = GaugeMetricFamily("labeling_ground_running", "Computations running.", labels=labels)
        waiting = GaugeMetricFamily("labeling_ground_waiting", "Computations waiting.", labels=labels)
        refused = CounterMetricFamily("labeling_ground_turned_away", "Asks that found a queue full.", labels=labels)
        busy = CounterMetricFamily(
            "labeling_ground_queue_busy_seconds", "Seconds for which computations had the engine.", labels=labels
        )
        waited = CounterMetricFamily(
            "labeling_ground_queue_waited_seconds", "Seconds for which they waited before.", labels=labels
        )
        for name, queue in self._now.lanes.items():
            for priority, (count, of_class) in queue.classes.items():
                running.add_metric([name, priority.label], of_class.running)
                waiting.add_metric([name, priority.label], count)
                refused.add_metric([name, priority.label], of_class.turned_away)
                busy.add_metric([name, priority.label], of_class.busy_s)
                waited.add_metric([name, priority.label], of_class.waited_s)
        return [running, waiting, refused, busy, waited]

    def _watched(self) -> list[Metric]:
        again = CounterMetricFamily(
            "labeling_ground_recomputed_after_eviction_entries",
            "Recomputed after memory's budget had evicted it.",
            labels=["kind"],
        )
        seconds = CounterMetricFamily(
            "labeling_ground_recomputed_after_eviction_seconds", "The seconds which that took.", labels=["kind"]
        )
        for kind, found in self._now.recomputed_after_eviction.items():
            again.add_metric([kind.value], found.entries)
            seconds.add_metric([kind.value], found.seconds)
        # Gauges: a larger budget can lose at times what it had gained.
        hits = GaugeMetricFamily(
            "labeling_ground_shadow_cache_hits", "What a larger memory tier would have had.", labels=["larger_by"]
        )
        spared = GaugeMetricFamily(
            "labeling_ground_shadow_cache_seconds_saved", "Seconds that it would have spared.", labels=["larger_by"]
        )
        for cache in self._now.shadow_caches:
            hits.add_metric([f"{cache.larger_by:g}"], cache.hits)
            spared.add_metric([f"{cache.larger_by:g}"], cache.seconds_saved)
        sampled = GaugeMetricFamily(
            "labeling_ground_shadow_cache_sampled_share",
            "Share of the images that this is estimated from.",
            self._now.sampled,
        )
        spreads = []
        for name, text, spread in (
            ("age", "Seconds since entries in memory were computed.", self._now.ages),
            ("idle", "Seconds since entries in memory were used.", self._now.idle),
        ):
            family = GaugeHistogramMetricFamily(f"labeling_ground_entry_{name}_seconds", text)
            buckets = [(f"{most:g}", float(count)) for most, count in zip(SPREAD_S, spread.counts, strict=True)]
            family.add_metric([], [*buckets, ("+Inf", float(spread.total))], spread.seconds)
            spreads.append(family)
        return [again, seconds, hits, spared, sampled, *spreads]
