"""Builds one server: everything that answers requests, as plain arguments of the parts."""

import contextlib
import dataclasses
import logging
import shutil
from functools import partial
from typing import Any

from labeling_ground.adapters.choose import choose_adapters
from labeling_ground.api.app import create_app
from labeling_ground.api.state import AppState
from labeling_ground.cache.budgets import check_budgets, remark_on_disk, remark_on_files
from labeling_ground.cache.disk.folder import nearest
from labeling_ground.cache.disk.store import look
from labeling_ground.cache.tiered import TieredStore
from labeling_ground.errors import PullFailed, StoreFailed
from labeling_ground.inference.backend import Backend
from labeling_ground.inference.memory import collect_garbage, give_back_free_memory
from labeling_ground.inference.remote.backend import RemoteBackend
from labeling_ground.inference.sam import SamBackend
from labeling_ground.metrics import Metrics
from labeling_ground.models.store import ModelStore
from labeling_ground.peers import Peers
from labeling_ground.pools import Pools
from labeling_ground.service.everything import Everything
from labeling_ground.service.fetching import Fetcher
from labeling_ground.service.history import History
from labeling_ground.service.known_texts import KnownTexts
from labeling_ground.service.model_pool import LoadedModel, ModelFacts, ModelPool
from labeling_ground.service.models import EngineHealth
from labeling_ground.service.predictor import Predictor, PredictorOptions
from labeling_ground.service.queues import FairQueue
from labeling_ground.service.runtime_settings import CacheSettings, RuntimeSettings
from labeling_ground.service.sessions import Sessions
from labeling_ground.service.sources import Sources
from labeling_ground.service.upcoming import ServedImages, Upcoming
from labeling_ground.settings import Settings, read_settings
from labeling_ground.settings.machine import memory_of_this_machine, resident_bytes
from labeling_ground.supervisor import Supervisor
from labeling_ground.trace.files import TraceWriter
from labeling_ground.trace.recorder import Recorder
from labeling_ground.wiring.cache import (
    build_session_store,
    build_shared_flights,
    build_store,
)
from labeling_ground.wiring.models import (
    build_backend,
    list_models,
    rounds_embeddings,
    settings_of_model,
    verdicts_of,
)

log = logging.getLogger(__name__)

_SEAL_BYTES = 4096
"""More than what stands beside an entry's tensors: names, shapes, key, checksum."""


def build_recorder(settings: Settings, metrics: Metrics | None = None) -> Recorder | None:
    """What records accesses, or ``None`` where that is not wanted.

    Raises:
        BadTrace: the file cannot be written, or is something else.
    """
    if settings.trace_file is None:
        return None
    size = int(settings.trace_bytes)
    return Recorder(TraceWriter(settings.trace_file, max_bytes=size, files=settings.trace_files, metrics=metrics))


def build_predictor(
    settings: Settings,
    *,
    store: TieredStore | None = None,
    backend: Backend | None = None,
    supervisor: Supervisor | None = None,
    sibling: Predictor | None = None,
) -> Predictor:
    """The main path. ``store`` and ``backend`` take the place of those that the settings name.

    With ``sibling``, the predictor of another model of this server, its tiers, threads and all else that models share
    are this one's too.

    Raises:
        BadSettings: a name is wrong, or what it needs is not installed.
    """
    supervisor = sibling.supervisor if sibling else supervisor or Supervisor()
    chosen = backend or build_backend(settings, supervisor)[0]
    if store is None and (remark := check_room(settings, chosen)):
        log.warning("%s", remark)
    tiers = sibling.store if sibling else store or build_store(settings, supervisor)

    model = chosen.info.version.model
    if settings.int8_embeddings != "off":
        log.info("%s", remark_on_int8(settings, tiers, model))
    if not tiers.lower and rounds_embeddings(settings, model):
        tiers.int8.models.add(model)
    encoder, decoder, detector = _queues(settings, chosen, supervisor.metrics)
    return Predictor(
        store=tiers,
        backend=chosen,
        encode_queue=encoder,
        decode_queue=decoder,
        detect_queue=detector,
        pools=sibling.pools if sibling else _pools(settings, chosen),
        shared=sibling.once.shared if sibling else build_shared_flights(settings, tiers, supervisor),
        options=_options(settings),
        recorder=sibling.recorder if sibling else build_recorder(settings, supervisor.metrics),
        supervisor=supervisor,
        engine_health=EngineHealth(settings.engine_failures),
        sibling=sibling,
    )


def _queues(settings: Settings, backend: Backend, metrics: Metrics) -> tuple[FairQueue, FairQueue, FairQueue]:
    """The queues of a model's encoder, decoder and detector. How large their batches are changes with its engines."""
    common: dict[str, Any] = {
        "window_s": settings.batch_window_ms / 1e3,
        "tenant_share": settings.share_of_each,
        "model": backend.info.version.model,
        "metrics": metrics,
    }
    encode_s: float | None = settings.encode_deadline_s
    decode_s: float | None = settings.decode_deadline_s
    if isinstance(backend, RemoteBackend):
        encode_s = decode_s = None  # its connections have these deadlines
    return (
        FairQueue(
            "encoder",
            partial(_encodes, settings, backend),
            settings.encode_queue,
            deadline_s=encode_s,
            batch=lambda: backend.info.encode_batch.at_most(settings.encode_batch, settings.encode_batch_background),
            **common,
        ),
        FairQueue(
            "decoder",
            lambda: backend.info.decodes_at_once or settings.decode_workers,
            settings.decode_queue,
            deadline_s=decode_s,
            batch=lambda: backend.info.decode_batch.at_most(settings.decode_batch, settings.decode_batch),
            **common,
        ),
        FairQueue(
            "detector",
            settings.detect_workers,
            settings.detect_queue,
            deadline_s=encode_s,
            batch=lambda: backend.info.detect_batch.at_most(settings.detect_batch, settings.detect_batch),
            **common,
        ),
    )


def _encodes(settings: Settings, backend: Backend) -> int:
    """How many images are encoded at the same time.

    An engine that encodes one at a time, with all threads, must not be sent a second one: it would wait inside, where
    the wait looks like work.
    """
    return backend.info.encodes_at_once or settings.encode_workers


def _pools(settings: Settings, backend: Backend) -> Pools:
    """The threads of one server. Of a batch's image files several are read at a time."""
    readers = _encodes(settings, backend)
    if min(backend.info.encode_batch.background, settings.encode_batch_background) > 1:
        readers = max(readers, settings.encode_workers)
    return Pools.sized(
        images=readers, values=settings.value_workers, drawing=settings.draw_workers, grids=settings.grid_workers
    )


def _options(settings: Settings) -> PredictorOptions:
    return PredictorOptions(
        precision=settings.precision,
        max_pixels=settings.max_image_pixels,
        max_side=settings.max_image_side,
        pixels_at_once=settings.max_pixels_at_once,
        mode=settings.cache_mode,
        mask_window_s=settings.mask_window_ms / 1e3,
        answers_bytes=int(settings.answers_bytes),
        embedding_window_s=settings.embedding_window_ms / 1e3,
        prefetch_per_client=settings.prefetch_per_client,
        most_bytes_ahead=int(settings.max_bytes_in_flight) // 2,
        tenant_share=settings.share_of_each,
    )


def build_model_pool(
    settings: Settings,
    *,
    store: TieredStore | None = None,
    backend: Backend | None = None,
    supervisor: Supervisor | None = None,
) -> ModelPool:
    """All models, the default one loaded. ``store`` and ``backend`` take the place of those that the settings name.

    Raises:
        BadSettings: a name is wrong, or what it needs is not installed.
        UnknownModel: the weights of one are not here.
    """
    supervisor = supervisor or Supervisor()
    if backend is None:
        first, *others = list_models(settings)
        own = settings_of_model(settings, first.name)
        chosen, why, taken = _load_backend(own, first, supervisor)
    else:
        first, chosen, why, taken, own = ModelFacts(backend.info.version.model), backend, "", 0, settings
        others = list_models(settings) if settings.models else []
    default = build_predictor(own, store=store, backend=chosen, supervisor=supervisor)
    grids = FairQueue(
        "grids",
        settings.grids,
        settings.grid_queue,
        tenant_share=settings.share_of_each,
        metrics=supervisor.metrics,
    )

    def served(predictor: Predictor, facts: ModelFacts, why: str, taken: int) -> LoadedModel:
        everything = Everything(predictor, jobs=grids, workers=settings.grid_workers)
        return LoadedModel(predictor, everything, _measured(settings, facts, predictor.backend, taken), why)

    async def load(facts: ModelFacts) -> LoadedModel:
        of_this = settings_of_model(settings, facts.name)
        made, why, taken = await default.pools.models.run(_load_backend, of_this, facts, supervisor)
        predictor = build_predictor(of_this, backend=made, sibling=default)
        await default.pools.models.run(collect_garbage)  # what it has brought is exempt from now on
        return served(predictor, facts, why, taken)

    return ModelPool(
        served(default, first, why, taken),
        others,
        load,
        budget_bytes=int(settings.models_bytes),
        patience_s=settings.encode_deadline_s,
        load_s=settings.load_deadline_s,
    )


def _load_backend(settings: Settings, facts: ModelFacts, supervisor: Supervisor) -> tuple[Backend, str, int]:
    """The model, what computes it and why, and the bytes by which it made this process grow. Blocking."""
    give_back_free_memory()  # else a model could be loaded into what another one has left, and seem to take nothing
    before = resident_bytes()
    backend, why = build_backend(settings, supervisor)
    told = int(getattr(backend, "memory_bytes", 0))
    taken = told or max(0, resident_bytes() - before)
    weights = ModelStore(settings.models_dir)
    if taken and isinstance(backend, SamBackend) and weights.noted(facts.name) is not None:
        with contextlib.suppress(PullFailed):  # a folder that cannot be written serves as well
            weights.note_memory(facts.name, taken)
    return backend, why, taken


def _measured(settings: Settings, facts: ModelFacts, backend: Backend, taken: int) -> ModelFacts:
    return dataclasses.replace(
        facts,
        model=backend.info.version.model,
        capabilities=backend.info.capabilities,
        embedding_bytes=embedding_bytes(settings, backend) or facts.embedding_bytes,
        memory_bytes=taken or facts.memory_bytes,
        verdicts=verdicts_of(ModelStore(settings.models_dir), facts.name),
    )


def build_sources(settings: Settings) -> Sources:
    """What opens images by their address, from the hosts and buckets that the operator has named.

    Raises:
        BadSettings: a bucket takes a package that is not installed.
    """
    fetcher = Fetcher(
        settings.sources,
        max_bytes=int(settings.max_image_bytes),
        timeout_s=settings.source_timeout_s,
        redirects=settings.source_redirects,
        at_once=settings.source_fetches,
    )
    return Sources(
        fetcher,
        most_addresses=settings.source_addresses,
        fresh_s=settings.source_fresh_s,
        most_bytes=int(settings.max_bytes_in_flight) // 2,
    )


def build_parts(
    settings: Settings,
    *,
    store: TieredStore | None = None,
    backend: Backend | None = None,
    peers: Peers | None = None,
) -> AppState:
    """Everything that one server is made of, or one worker process of it, whose settings are its share.

    Raises:
        BadSettings: a name is wrong, or what it needs is not installed.
    """
    supervisor = Supervisor()
    models = build_model_pool(settings, store=store, backend=backend, supervisor=supervisor)
    predictor = models.default.predictor
    sessions = Sessions(
        most=settings.max_sessions,
        tenant_share=settings.share_of_each,
        idle_s=settings.idle_s,
        most_clicks=settings.max_points,
        state_store=build_session_store(settings, predictor.store),
        deadline_s=settings.lookup_deadline_ms / 1e3,
        patience_s=settings.session_patience_ms / 1e3,
        supervisor=supervisor,
    )
    sources = build_sources(settings)
    upcoming = Upcoming(
        predictor.presence,
        ServedImages(models, sources, predictor.background),
        most_ahead=settings.prefetch_per_client,
        spared=settings.upcoming_spared,
        most_listed=settings.upcoming_total,
    )
    return AppState(
        settings,
        models,
        sessions,
        build_runtime_settings(settings, predictor, sessions),
        sources,
        upcoming,
        build_history(settings, peers),
        KnownTexts(settings.adapter_texts),
        peers,
    )


def embedding_bytes(settings: Settings, backend: Backend | None) -> int:
    """What one image's embedding takes in the cache, at most; 0 for an engine of which that is not known."""
    floats = 2 if settings.precision == "fp16" else 4
    if isinstance(backend, RemoteBackend | SamBackend):
        return backend.family.embedding_bytes(floats) + _SEAL_BYTES
    return 0 if backend is None else backend.info.embedding_bytes


def check_room(settings: Settings, backend: Backend | None) -> str:
    """See that the budgets are large enough for an image, and small enough for this machine.

    Returns:
        What is worth knowing where they do, but not for the largest image files, or not on this disk; empty if there
        is nothing.

    Raises:
        BadSettings: they cannot work.
    """
    memory, disk, has_redis = int(settings.memory_bytes), int(settings.disk_bytes), settings.redis_url is not None
    check_budgets(
        memory,
        disk,
        has_redis=has_redis,
        value_bytes=embedding_bytes(settings, backend),
        machine_bytes=memory_of_this_machine(),
    )
    on_files = remark_on_files(memory, disk, has_redis=has_redis, file_bytes=int(settings.max_image_bytes))
    return " ".join(filter(None, (on_files, remark_on_disk_room(settings))))


def remark_on_int8(settings: Settings, tiers: TieredStore, model: str) -> str:
    """What comes of ``int8_embeddings`` for a model, in a sentence."""
    if tiers.lower:
        return f"int8_embeddings: without effect, since {tiers.lower[-1].store.name} has the full embeddings."
    if not rounds_embeddings(settings, model):
        return f"int8_embeddings: not for {model}, until its masks agree: labeling-ground models check {model}."
    return f"int8_embeddings: what memory has no room for of {model} is kept in int8."


def remark_on_disk_room(settings: Settings) -> str:
    """What comes of a disk budget for which there is no room on the disk, in a sentence; empty where there is."""
    folder, budget = settings.cache_dir, int(settings.disk_bytes)
    try:
        free = shutil.disk_usage(nearest(folder)).free
        held = look(folder, budget).bytes if budget > free else 0
    except (OSError, StoreFailed):  # opening the tier says what is wrong with its folder
        return ""
    return remark_on_disk(budget, free_bytes=free, held_bytes=held, folder=folder)


def build_runtime_settings(settings: Settings, predictor: Predictor, sessions: Sessions) -> RuntimeSettings:
    """What changes settings of the cache while the server runs; at first they are as given."""
    cache_settings = CacheSettings(
        policy=settings.policy,
        done_weight=settings.done_weight,
        frequency_exponent=settings.frequency_exponent,
        memory_bytes=int(settings.memory_bytes) * settings.workers,
        disk_bytes=int(settings.disk_bytes),
        idle_s=settings.idle_s,
    )

    def check(new: CacheSettings) -> None:
        budgets = {"memory_bytes": new.memory_bytes // settings.workers, "disk_bytes": new.disk_bytes}
        if remark := check_room(settings.model_copy(update=budgets), predictor.backend):
            log.warning("%s", remark)

    return RuntimeSettings(
        predictor.store,
        sessions,
        cache_settings,
        tenant_share=settings.share_of_each,
        processes=settings.workers,
        check=check,
    )


def build_history(settings: Settings, peers: Peers | None) -> History:
    """The ring of the last day: beside the disk tier where there is one. Of several workers the first one has it."""
    has_file = settings.disk_bytes > 0 and (peers is None or peers.number == 0)
    steps = max(1, round(settings.history_s / settings.history_every_s))
    path = settings.cache_dir / "labeling-ground-history-1.ring" if has_file else None
    return History(path, steps=steps, every_s=settings.history_every_s)


def build_app(settings: Settings | None = None) -> object:
    """The ASGI app, for servers that are told ``labeling_ground.wiring:build_app`` (as a factory).

    Raises:
        BadSettings: a name is wrong, or what it needs is not installed.
    """
    app_state = build_parts(settings or read_settings())
    return create_app(app_state, choose_adapters(app_state))
