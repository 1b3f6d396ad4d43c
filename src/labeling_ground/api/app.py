"""Puts the routes, the middleware and the documentation together into one ASGI app."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from functools import partial
from typing import Any

import numpy as np
from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema
from starlette.types import ASGIApp

from labeling_ground import __version__
from labeling_ground.api import errors
from labeling_ground.api.adapter import Adapter, install_endpoints
from labeling_ground.api.edge import DirectRoute, Edge
from labeling_ground.api.limits import ALWAYS, Limits
from labeling_ground.api.requests import check_query, tenant_by
from labeling_ground.api.routes import (
    cache,
    concepts,
    decoder,
    docs,
    everything,
    history,
    images,
    service,
    session,
    upcoming,
)
from labeling_ground.api.schemas.common import IMAGE_ID, REFERRED
from labeling_ground.api.state import AppState
from labeling_ground.api.web_security import ANY, OriginCheck
from labeling_ground.api.workers import answer_peers, take_over_settings
from labeling_ground.cache.tasks import stop
from labeling_ground.errors import LabelingGroundError
from labeling_ground.service.model_pool import LoadedModel
from labeling_ground.settings import Settings
from labeling_ground.types import Image, Point, Prompt
from labeling_ground.web import browser_runtime, pages

log = logging.getLogger(__name__)

_AGAIN_S = 2.0
"""Pause, in seconds, between trials of a model that fails. No limit: a pace of the server's own."""

_DESCRIPTION = """\
Turns clicks and boxes on images into masks. What anybody still uses is in the cache, and is not computed twice.

**Stateless, for machines** – send an image once (`POST /v1/images`), then ask for masks by its id. The id is the
SHA-256 of the file's bytes; compute it yourself and an image that is known already need not be sent at all.

**Session style, for simple clients** – `/api/sam`: open an image under a session name, then click.

Every answer says where it came from (`outcome`: `hit`, `joined`, `recomputed`, `miss`) and which model made it. Errors
are problem bodies (RFC 9457) with a stable `type` and a sentence that says what to do. A 503 says in `Retry-After` when
to try again; a 404 on an image says: send it again, and repeat the request. What is misspelt is refused (422), a field
of a body under `/v1` and a query parameter of a `POST`, `PUT` or `DELETE` there alike.

Coordinates are pixels of the upright original image, (0, 0) at its top left. An `X-Client-Id` header says who works
(a tool, an annotator); it helps the cache to keep what is being worked on, and changes no answer. `X-Priority: job`
says that nobody waits at a screen: people go first, then prefetches, then jobs. `Server-Timing` shows where the time
went, `X-Request-Id` is the request's name in the server's log.

The examples belong together and can be tried in order: the image of the first one is 64 × 48 pixels and has the id that
the others use.
"""

_TAGS = [
    {
        "name": "images and masks",
        "description": "Stateless: an image id and a prompt say everything.",
    },
    {
        "name": "sessions",
        "description": "A thin layer above, which remembers an image and its clicks.",
    },
    {"name": "models", "description": "What is served."},
    {"name": "cache", "description": "What is held, what it saved, and how to purge it."},
    {"name": "health", "description": "For supervisors and monitoring."},
]

EXPOSED = (
    "Allow",
    "ETag",
    "Retry-After",
    "Server-Timing",
    "WWW-Authenticate",
    "X-Model-Version",
    "X-Outcome",
    "X-Request-Id",
)
"""Headers of answers that a page of another origin may read."""

_KEYS = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, where the operator has set some; or the admin key.",
    },
    "header": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same, as a plain header.",
    },
}


def create_app(app_state: AppState, adapters: Sequence[Adapter] = ()) -> FastAPI:
    """The app of one server. Its parts and adapters are closed when it shuts down.

    Args:
        app_state: the server's parts.
        adapters: ways in for other tools, besides our own API.
    """
    app = FastAPI(
        title="Labeling Ground",
        version=__version__,
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        docs_url=None,
        redoc_url=None,
        lifespan=partial(_lifespan, app_state, adapters),
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.app_state = app_state
    app.state.model_check = "starting"
    app.state.adapters = adapters
    app.include_router(session.router)  # existing pages send it more than it reads
    for module in (images, concepts, everything, upcoming, service, decoder, cache, history):
        app.include_router(module.router, dependencies=[Depends(check_query)])
    docs.install(app)
    runtime = browser_runtime.find(app_state.settings.browser_runtime_dir)
    decoder.install_runtime(app, runtime)
    pages.install(app, runs_wasm=runtime is not None)
    endpoints = install_endpoints(app, adapters)
    errors.install(app)
    settings = app_state.settings
    app.add_middleware(
        Edge,
        limits=_limits(app_state),
        origins=OriginCheck(hosts=_hosts(settings), origins=settings.cors_origins),
        metrics=app_state.metrics,
        endpoints=endpoints,
        routes=_direct_routes(),
        cors=_cors(settings) if settings.cors_origins else None,
        root_path=settings.root_path,
    )
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


@contextlib.asynccontextmanager
async def _lifespan(app_state: AppState, adapters: Sequence[Adapter], app: FastAPI) -> AsyncIterator[None]:
    """The server's work behind the requests, until it stops; then its parts are closed."""
    supervisor, sessions, peers = app_state.supervisor, app_state.sessions, app_state.peers
    async with contextlib.AsyncExitStack() as closing:  # closes each, in reverse, also where another one fails to
        closing.push_async_callback(app_state.predictor.aclose)
        closing.callback(app_state.history.close)
        closing.push_async_callback(app_state.models.aclose)
        closing.push_async_callback(app_state.sources.aclose)
        for adapter in adapters:
            closing.push_async_callback(adapter.aclose)
        # Before the tiers: that is where sessions are kept.
        closing.push_async_callback(sessions.aclose, app_state.settings.shutdown_write_s / 2)
        await app_state.predictor.store.open()  # the first look-up shall not wait for that
        await supervisor.attempt("sweep sessions", sessions.sweep)  # nor the first click for their file
        await supervisor.attempt("meet servers", sessions.meet)
        if peers is not None:
            closing.push_async_callback(peers.aclose)
            own = partial(service.health_of, app), partial(service.list_own, app_state)
            await answer_peers(app_state, peers, *own)
        take_over = partial(take_over_settings, app_state)
        # A tier that does not take them is no reason not to start.
        later = [] if await supervisor.attempt("take over settings", take_over) else [("take over settings", take_over)]
        for name, work in (
            *later,
            ("model", partial(_watch_model, app, app_state)),
            ("probe tiers", partial(_probe, app_state)),
            ("sweep", partial(_sweep, app_state)),
            ("history", partial(history.note_history, app_state)),
        ):
            task = asyncio.create_task(supervisor.persist(name, work))
            closing.push_async_callback(stop, task)
        yield
        await _finish(app_state)


def _direct_routes() -> list[DirectRoute]:
    """The routes whose answers take less time than the framework's way to them."""
    return [
        DirectRoute(method, route.path, route.endpoint, image_id=IMAGE_ID)
        for module in (images, service, session)
        for route in module.router.routes
        if isinstance(route, APIRoute) and route.endpoint in module.DIRECT
        for method in route.methods or ()
    ]


def _hosts(settings: Settings) -> Collection[str]:
    """The names that the server answers to. A key does what this is for, so with keys any name will do by default."""
    if settings.api_keys and not settings.allowed_hosts:
        return (ANY,)
    return (*settings.allowed_hosts, settings.host.lower())


def _cors(settings: Settings) -> Callable[[ASGIApp], ASGIApp]:
    """Lets the pages of other origins that the operator names read answers."""
    if ANY in settings.cors_origins:
        use = "call it with a key" if settings.api_keys else "use it, and purge its cache: set LABELING_GROUND_API_KEYS"
        log.warning("LABELING_GROUND_CORS_ORIGINS is *: pages of every web site may %s", use)
    return partial(
        CORSMiddleware,
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "If-None-Match", "X-API-Key", "X-Client-Id", "X-Priority"],
        expose_headers=EXPOSED,
    )


def _limits(app_state: AppState) -> Limits:
    """What is too much. Base64 makes four bytes of three; a form adds its own lines."""
    settings = app_state.settings
    image = int(settings.max_image_bytes)
    more = 64 * 1024
    base64 = image // 3 * 4 + image // 12  # a line break after each 76 is a sixteenth more
    return Limits(
        most_requests=settings.max_requests,
        most_bytes=int(settings.max_body_bytes),
        bodies={"/v1/images": image + more, "/api/sam/image": base64 + more},
        most_held=int(settings.max_bytes_in_flight),
        held_beside=lambda: app_state.predictor.prefetches.bytes + app_state.sources.bytes_fetched,
        beyond=settings.tenant_share,
        tenant_of=tenant_by(settings),
        silence_s=settings.receive_timeout_s,
        least_bytes_s=int(settings.min_bytes_per_s),
        takes_no_place=_takes_no_place,
    )


_NO_WORK = frozenset({*ALWAYS, "/", "/cache", "/docs", "/redoc", "/openapi.json"})


def _takes_no_place(path: str) -> bool:
    """Whether a path is a file, or as quickly answered as one."""
    return path in _NO_WORK or path.startswith(("/web/", "/docs/static/"))


async def _finish(app_state: AppState) -> None:
    """Let what was taken on and has no request waiting for it end too, in what is left of the time to stop."""
    whole_s = app_state.settings.drain_delay_s + app_state.settings.shutdown_grace_s
    for served in list(app_state.models.loaded.values()):
        await served.predictor.background.finish(app_state.drain.left_s(whole_s))


async def _watch_model(app: FastAPI, app_state: AppState) -> None:
    """Run the model once before anybody is told that it is ready: the first run of an engine is its slowest.

    Later, whenever it fails, try whether it answers again: one that is not ready is sent nothing that would show it.
    """
    models = app_state.models
    trials: dict[LoadedModel, asyncio.Task[None]] = {}

    async def try_out(served: LoadedModel) -> None:
        check = await _try_model(served)
        if served is models.default:
            app.state.model_check = check

    try:
        while True:
            for served in list(models.loaded.values()):
                is_new = served is models.default and app.state.model_check != "ok"
                if served not in trials and (is_new or served.predictor.engine_health.wants_trial):
                    served.users += 1
                    trials[served] = asyncio.create_task(try_out(served))
            if trials:  # each by itself: one that hangs keeps no other from being tried
                await asyncio.wait(trials.values(), timeout=_AGAIN_S)
            for served in [served for served, trial in trials.items() if trial.done()]:
                models.leave(served)
                trials.pop(served).result()
            await models.shrink()
            await asyncio.sleep(_AGAIN_S)
    finally:
        for served, trial in trials.items():
            await stop(trial)
            models.leave(served)


async def _try_model(served: LoadedModel) -> str:
    """``ok``, or why a model does not answer."""
    predictor, backend = served.predictor, served.predictor.backend
    model, version = predictor.model, backend.info.version
    rows = np.linspace(0, 255, 64, dtype=np.uint8)
    pixels = np.repeat(np.repeat(rows[:, None, None], 96, axis=1), 3, axis=2)
    pixels[16:48, 32:64] = (200, 40, 40)
    image, prompt = Image("0" * 64, pixels), Prompt((Point(48.0, 32.0, 1),))
    try:  # in places of the queues: an engine is given no more than it takes, and has its deadline
        async with predictor.encode_queue.slot(patient=True) as place:
            embedding = (await place.call(partial(model.encode, place, version, image))).value
        async with predictor.decode_queue.slot(patient=True) as place:
            await place.call(partial(model.decode, place, version, embedding, prompt))
    except Exception as error:
        if not isinstance(error, LabelingGroundError):
            log.exception("the model %s fails", served.model)
        else:
            log.warning("the model %s does not answer: %s", served.model, error)
        return f"failing: {error}"
    return "ok"


async def _probe(app_state: AppState) -> None:
    """Probe the cache tiers, the session store and the other workers from time to time."""
    while True:
        await app_state.predictor.store.probe()
        await app_state.supervisor.attempt("meet servers", app_state.sessions.meet)
        if app_state.peers is not None:
            await app_state.supervisor.attempt("meet workers", app_state.peers.stay)
        await asyncio.sleep(app_state.settings.probe_s)


async def _sweep(app_state: AppState) -> None:
    """Delete expired entries and sessions from time to time."""
    attempt = app_state.supervisor.attempt
    while True:
        await asyncio.sleep(min(30.0, max(0.25, app_state.runtime_settings.now.idle_s / 60)))
        await attempt("sweep cache", app_state.predictor.store.sweep)
        await attempt("sweep sessions", app_state.sessions.sweep)
        if app_state.predictor.recorder is not None:
            await attempt("flush trace", app_state.predictor.recorder.flush)


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
        )
        _, added = models_json_schema(
            [(model, "validation") for model in REFERRED],
            ref_template="#/components/schemas/{model}",
        )
        components = schema.setdefault("components", {}).setdefault("schemas", {})
        for name, definition in added["$defs"].items():
            components.setdefault(name, definition)
        schema["components"]["securitySchemes"] = _KEYS
        needs: list[dict[str, list[str]]] = [{name: []} for name in _KEYS]
        if not app.state.app_state.settings.api_keys:
            needs.append({})  # a key may be sent, and need not be
        # Readers send an image first, whichever route is tried first.
        schema["paths"] = dict(sorted(schema["paths"].items(), key=lambda path: path[0] != "/v1/images"))
        for path, operations in schema["paths"].items():
            if path.startswith(("/v1/", "/api/")):
                for operation in operations.values():
                    operation["security"] = operation.get("security", needs)
        app.openapi_schema = schema
    return app.openapi_schema
