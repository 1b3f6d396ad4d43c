"""``/v1/cache`` and ``/metrics``: what the cache holds, did and saved; purging it, and changing its settings."""

import time
from bisect import bisect_left
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from labeling_ground.api import responses
from labeling_ground.api.errors import BadBody, problem_responses
from labeling_ground.api.metrics import families_of
from labeling_ground.api.requests import caller_of, check_admin, read_json, state_of
from labeling_ground.api.routes.service import health_of
from labeling_ground.api.schemas.cache import CacheOut, CacheSettingsIn, CacheSettingsOut
from labeling_ground.api.schemas.common import ADMIN_ONLY, SHA256, Purged, json_body
from labeling_ground.api.state import AppState
from labeling_ground.api.workers import (
    ServerSnapshot,
    change_settings_of_all,
    figures_of,
    health_of_all,
)
from labeling_ground.errors import BadSettings, NotAllowed
from labeling_ground.metrics import BUCKETS_S, Figures
from labeling_ground.service.counters import SPREAD_S, QueueState, TierState, lookups_of
from labeling_ground.settings.machine import memory_of_this_machine, resident_bytes
from labeling_ground.types import COMPUTED, Kind, Outcome

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
    "/v1/images/{image_id}/concepts": Kind.DETECTIONS,
}
"""What each route that answers with an outcome asks for."""


@router.get(
    "/v1/cache",
    tags=["cache"],
    summary="What the cache holds, did and saved",
    response_model=CacheOut,
    responses=problem_responses(401),
)
async def get_cache(request: Request) -> dict[str, Any]:
    """Figures since the server started. `lookups = hits + misses + joined`; `recomputed` are part of the misses."""
    app_state = state_of(request)
    caller = caller_of(request)  # a key is needed where there are some
    figures = await figures_of(app_state)
    counted, now = figures.counted, figures.state
    names = {served.predictor.counters.model: served.model for served in app_state.models.loaded.values()}
    return {
        **lookups_of(counted),
        "kinds": {kind.value: lookups_of(counted, kind=kind) for kind in COMPUTED},
        "models": {
            names.get(model, model): {
                **lookups_of(counted, model=model),
                "flights": now.flights.get(model, 0),
                "queues": _queues(figures, model, of_tenants=caller.is_admin),
            }
            for model in counted.by("model", "lookups")
        },
        "predictions": {
            kind: counted.by("outcome", "predictions", kind=kind) for kind in counted.by("kind", "predictions")
        },
        "tiers": [_tier(counted, tier, now.at) for tier in now.tiers],
        "queues": _queues(figures, app_state.predictor.counters.model, "", of_tenants=caller.is_admin),
        "engines": now.engines,
        "flights": sum(now.flights.values()),
        "sessions": now.sessions,
        "sessions_unkept": counted.sum("sessions_unkept"),
        "background_errors": counted.by("work", "background_errors"),
        "recomputed_after_eviction": {
            kind.value: {
                "entries": counted.sum("recomputed_after_eviction_entries", kind=kind),
                "seconds": round(counted.sum("recomputed_after_eviction_seconds", kind=kind), 6),
            }
            for kind in COMPUTED
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
        "latency": _latency(counted),
        "health": await health_of_all(app_state, health_of(request.app)),
        "workers": figures.workers,
        "machine": {
            "memory_bytes": memory_of_this_machine(),
            "resident_bytes": sum(worker.memory_bytes for worker in figures.workers) or resident_bytes(),
        },
        "uptime_seconds": round(
            max([time.monotonic() - app_state.started, *(worker.uptime_seconds for worker in figures.workers)]), 3
        ),
        "settings": _settings(app_state),
        "policies": app_state.runtime_settings.policies,
        "has_admin_key": app_state.settings.admin_key is not None,
        **responses.origin(app_state.predictor.backend.info.version, app_state.predictor.backend.info.note),
    }


@router.delete(
    "/v1/cache",
    tags=["cache"],
    summary="Purge everything, one model, or one image",
    response_model=Purged,
    responses=problem_responses(401, 422, 503),
)
async def purge_cache(
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
    tags=["cache"],
    summary="Change policy, budgets or idle time while the server runs",
    response_model=CacheSettingsOut,
    responses=problem_responses(400, 401, 403, 413, 415, 422, 503),
    openapi_extra={**json_body(CacheSettingsIn), **ADMIN_ONLY},
)
async def update_cache_settings(request: Request) -> dict[str, Any]:
    """Takes effect at once, in all tiers of this server, and answers with what is in effect; only the admin key may.

    What is left out stays. Nothing that is held goes but what the new limits force out. The change lasts until the
    server stops: what it is started with counts again then, so put it there too. Other servers keep to theirs, also
    where they share the disk tier. Redis keeps its own budget, and an entry there gets a new idle time at its next use.
    """
    check_admin(request)
    app_state = state_of(request)
    wanted = await read_json(request, CacheSettingsIn.model_validate_json)
    changes = wanted.model_dump(exclude_none=True)
    if "idle_seconds" in changes:
        changes["idle_s"] = changes.pop("idle_seconds")
    try:
        await change_settings_of_all(app_state, changes)
    except BadSettings as error:
        raise BadBody(str(error)) from error
    return _settings(app_state)


@router.get("/metrics", summary="Figures for Prometheus", response_class=Response, tags=["health"])
async def get_metrics(request: Request) -> Response:
    """Prometheus text format."""
    figures = await figures_of(state_of(request))
    return Response(generate_latest(Figures(families_of(figures))), media_type=CONTENT_TYPE_LATEST)


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


def _queues(figures: ServerSnapshot, *models: str, of_tenants: bool) -> dict[str, Any]:
    """The queues of these models, by their own names; what waits in them by tenant is for the operator alone."""
    return {
        name: _queue(figures.counted, model, name, queue, of_tenants=of_tenants)
        for (model, name), queue in figures.state.queues.items()
        if model in models
    }


def _queue(counted: Figures, model: str, name: str, queue: QueueState, *, of_tenants: bool) -> dict[str, Any]:
    turned_away, busy, waited = (
        counted.by("class", counter, model=model, queue=name)
        for counter in ("turned_away", "queue_busy_seconds", "queue_waited_seconds")
    )
    classes = {
        priority.label: {
            "running": running,
            "waiting": waiting,
            "turned_away": turned_away[priority.label],
            "busy_seconds": round(busy[priority.label], 6),
            "waited_seconds": round(waited[priority.label], 6),
        }
        for priority, (waiting, running) in queue.classes.items()
    }
    return {
        **{name: sum(each[name] for each in classes.values()) for name in ("running", "waiting", "turned_away")},
        "typical_seconds": queue.typical_s,
        "classes": classes,
        "tenants": dict(queue.tenants) if of_tenants else {},
    }


def _tier(counted: Figures, tier: TierState, at: float) -> dict[str, Any]:
    stats = tier.stats
    return {
        **asdict(stats),
        "oldest_entry_seconds": None if stats.oldest_created is None else round(max(0.0, at - stats.oldest_created), 3),
        "breaker": tier.breaker,
        "errors": counted.by("reason", "store_errors", tier=stats.tier),
        "lookups_skipped": counted.sum("lookups_skipped", tier=stats.tier),
        "writes_pending": tier.pending,
        "demoted": counted.sum("demoted", tier=stats.tier),
    }


def _latency(counted: Figures) -> dict[str, Any]:
    """The histogram of `/metrics`, with all routes that ask for the same thing taken together."""
    answers_by: dict[tuple[Kind, Outcome], list[int]] = {}
    seconds_by: dict[tuple[Kind, Outcome], float] = {}
    for sample in counted.samples("request_seconds"):
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
