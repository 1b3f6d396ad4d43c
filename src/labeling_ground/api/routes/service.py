"""``/v1/models`` and ``/health``."""

import contextlib
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Request
from fastapi.responses import Response

from labeling_ground.api import responses
from labeling_ground.api.errors import problem_responses
from labeling_ground.api.requests import caller_of, check_admin, model_for, state_of
from labeling_ground.api.routes.decoder import find_decoder
from labeling_ground.api.schemas.common import ADMIN_ONLY
from labeling_ground.api.schemas.models import Health, ModelOut, ModelsOut
from labeling_ground.api.state import AppState
from labeling_ground.api.workers import have_others, health_of_all, models_of_all
from labeling_ground.errors import NotFound
from labeling_ground.service.model_pool import ModelStatus

router = APIRouter()


@router.get(
    "/v1/models",
    summary="The models that are served",
    tags=["models"],
    response_model=ModelsOut,
    responses=problem_responses(401),
)
async def list_models(request: Request) -> Response:
    """The default one first. A version is part of every cache key, so a swap never serves an old prediction.

    Those that are not loaded are loaded by the first request that names them.
    """
    caller_of(request)  # a key is needed where there are some
    app_state = state_of(request)
    listed: dict[str, Any] = {"models": await models_of_all(app_state, await list_own(app_state))}
    for adapter in request.app.state.adapters:
        listed |= adapter.models_fields()
    return responses.as_json(listed)


ModelId = Annotated[str, Path(description="A model id of `/v1/models`.", examples=["mobile-sam"])]


@router.post(
    "/v1/models/{model}/load",
    summary="Load a model",
    tags=["models"],
    response_model=ModelOut,
    responses=problem_responses(401, 403, 404, 422, 503, 507),
    openapi_extra=ADMIN_ONLY,
)
async def load_model(request: Request, model: ModelId) -> Response:
    """Load it before anybody asks for it; only the admin key may. Answers when it is loaded."""
    check_admin(request)
    app_state, served = state_of(request), await model_for(request, model)
    await have_others(app_state, "load", served.facts.name)
    return responses.as_json(await _model(app_state, app_state.models.status(served.facts.name)))


@router.post(
    "/v1/models/{model}/unload",
    summary="Unload a model",
    tags=["models"],
    response_model=ModelOut,
    responses=problem_responses(400, 401, 403, 404, 422, 503),
    openapi_extra=ADMIN_ONLY,
)
async def unload_model(request: Request, model: ModelId) -> Response:
    """Give its memory back; only the admin key may. 503 while it is in use. What the cache has of it stays.

    The default model stays loaded. The next request that names the model loads it again.
    """
    check_admin(request)
    app_state = state_of(request)
    name = app_state.models.name_of(model)
    await app_state.models.unload(name)
    await have_others(app_state, "unload", name)
    return responses.as_json(await _model(app_state, app_state.models.status(name)))


async def list_own(app_state: AppState) -> list[dict[str, Any]]:
    """The models, as this worker has them."""
    return [await _model(app_state, status) for status in app_state.models.statuses()]


async def _model(app_state: AppState, status: ModelStatus) -> dict[str, Any]:
    """One model, as `ModelOut` says it."""
    facts, served = status.facts, status.served
    about: dict[str, Any] = {
        "id": status.id,
        "name": facts.name,
        "default": status.is_default,
        "loaded": served is not None,
        "capabilities": facts.capabilities,
        "licence": facts.licence,
        "embedding_bytes": facts.embedding_bytes,
        "memory_bytes": facts.memory_bytes,
        "verdicts": [asdict(verdict) for verdict in facts.verdicts if not verdict.failed],
    }
    if served is not None:
        backend = served.predictor.backend
        version = backend.info.version
        about |= {
            "version": str(version),
            "engine": served.engine,
            "precision": backend.info.precision,
            "note": backend.info.note,
            "failing": served.failing(),
        }
        with contextlib.suppress(NotFound):
            files = app_state.predictor.pools.files
            found = await files.run(find_decoder, app_state.settings, backend, version)
            about["decoder"] = {"family": found.family, "sha256": found.sha256, "bytes": found.bytes}
    return {name: value for name, value in about.items() if value is False or value}


@router.get("/health/live", summary="Is the process alive?", tags=["health"], response_model=Health)
async def get_liveness(_: Request) -> Response:
    """Always 200; does nothing else, and so is also what `bench/` compares with."""
    return responses.as_json({"status": "ok", "checks": {}})


DIRECT = (get_liveness,)


@router.get(
    "/health/ready",
    summary="Can it answer clicks?",
    tags=["health"],
    response_model=Health,
    responses={503: {"model": Health, "description": "Not yet, or not any more; the checks say why"}},
)
async def get_readiness(request: Request) -> Response:
    """200 with `ok`; 200 with `degraded` while a cache tier fails (answers are right, only slower); else 503."""
    health = await health_of_all(state_of(request), health_of(request.app))
    return responses.as_json(health, status=200 if health["status"] in ("ok", "degraded") else 503)


def health_of(app: FastAPI) -> dict[str, Any]:
    """How the server, or this worker process of it, is, as `Health` says it."""
    app_state: AppState = app.state.app_state
    model, failing = app.state.model_check, app_state.models.default.failing()
    checks = {"model": model, **{part: f"failing: {why}" for part, why in failing.items()}}
    for served in app_state.models.loaded.values():
        for half, why in served.failing().items() if served is not app_state.models.default else ():
            checks[f"{half} of {served.model}"] = f"failing: {why}"
        checks |= served.left_out()
    for tier in app_state.predictor.store.lower:
        state = tier.health.breaker.state
        because = f": {trouble}" if (trouble := tier.health.trouble) else ""
        is_well = state == "closed" and not because
        checks[tier.store.name] = "ok" if is_well else f"failing (breaker {state}){because}"
    if app_state.sessions.trouble:
        checks["sessions"] = f"failing: {app_state.sessions.trouble}"
    if app_state.drain.has_begun:
        return {"status": "draining", "checks": checks}
    if model != "ok" or failing:
        return {"status": "starting" if model == "starting" else "failing", "checks": checks}
    healthy = all(check == "ok" for check in checks.values())
    return {"status": "ok" if healthy else "degraded", "checks": checks}
