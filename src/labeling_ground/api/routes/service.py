"""``/v1/models`` and ``/health``."""

import contextlib
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from labeling_ground.api import responses
from labeling_ground.api.errors import problem_responses
from labeling_ground.api.routes.decoder import find_decoder
from labeling_ground.api.schemas import Health, ModelsOut
from labeling_ground.api.state import caller_of, pools_of, state_of
from labeling_ground.errors import NotFound
from labeling_ground.inference.remote_status import RemoteStatus

router = APIRouter()


@router.get(
    "/v1/models",
    operation_id="list_models",
    summary="The models that are served",
    tags=["models"],
    response_model=ModelsOut,
    responses=problem_responses(401),
)
async def models(request: Request) -> Response:
    """One, for now; its version is part of every cache key, so a swap never serves an old prediction."""
    caller_of(request)  # a key is needed where there are some
    app_state = state_of(request)
    version, note = app_state.predictor.backend.version, app_state.predictor.backend.note
    model = {"id": version.model, "version": str(version), "default": True, "engine": app_state.engine, "note": note}
    with contextlib.suppress(NotFound):
        found = await pools_of(request).files.run(find_decoder, app_state, version)
        model["decoder"] = {"family": found.family, "sha256": found.sha256, "bytes": found.bytes}
    listed = {"models": [{name: value for name, value in model.items() if value != ""}]}
    for adapter in request.app.state.adapters:
        listed |= adapter.models_fields()
    return responses.as_json(listed)


@router.get(
    "/health/live", operation_id="get_liveness", summary="Is the process alive?", tags=["health"], response_model=Health
)
async def live() -> Response:
    """Always 200; does nothing else, and so is also what `bench/` compares with."""
    return responses.as_json({"status": "ok", "checks": {}})


@router.get(
    "/health/ready",
    operation_id="get_readiness",
    summary="Can it answer clicks?",
    tags=["health"],
    response_model=Health,
    responses={503: {"model": Health, "description": "Not yet, or not any more; the checks say why"}},
)
async def ready(request: Request) -> Response:
    """200 with `ok`; 200 with `degraded` while a cache tier fails (answers are right, only slower); else 503."""
    health = health_of(request)
    return responses.as_json(health, status=200 if health["status"] in ("ok", "degraded") else 503)


def health_of(request: Request) -> dict[str, Any]:
    """How the server that this request came to is, as `Health` says it."""
    app_state = state_of(request)
    model, backend = request.app.state.model_check, app_state.predictor.backend
    failing = dict(app_state.predictor.engine_health.failing())
    if isinstance(backend, RemoteStatus):
        failing |= backend.failing()
    checks = {"model": model, **{part: f"failing: {why}" for part, why in failing.items()}}
    for tier in app_state.predictor.store.lower:
        state = tier.health.breaker.state
        because = f": {trouble}" if (trouble := tier.health.trouble) else ""
        is_well = state == "closed" and not because
        checks[tier.store.name] = "ok" if is_well else f"failing (breaker {state}){because}"
    if app_state.sessions.trouble:
        checks["sessions"] = f"failing: {app_state.sessions.trouble}"
    if model != "ok" or failing:
        return {"status": "starting" if model == "starting" else "failing", "checks": checks}
    healthy = all(check == "ok" for check in checks.values())
    return {"status": "ok" if healthy else "degraded", "checks": checks}
