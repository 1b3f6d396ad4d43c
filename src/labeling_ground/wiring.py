"""The composition root: from settings to parts, handed over as plain arguments.

Nothing connects, loads or reads the environment at import; it happens here, once.
"""

import logging
from functools import partial

from labeling_ground.adapters.choose import choose_adapters
from labeling_ground.api.app import create_app
from labeling_ground.api.state import AppState
from labeling_ground.breaker import Breaker
from labeling_ground.cache.budgets import check_budgets, remark_on_files
from labeling_ground.cache.choose import choose_policy, choose_ranking
from labeling_ground.cache.disk import DiskStore
from labeling_ground.cache.disk.folder import refusal
from labeling_ground.cache.disk.state_store import DiskStateStore
from labeling_ground.cache.memory import MemoryStore
from labeling_ground.cache.purges import Purges
from labeling_ground.cache.redis.connect import RedisConnection, Tls, connect
from labeling_ground.cache.redis.lease import RedisLeases
from labeling_ground.cache.redis.notices import PurgeNotices
from labeling_ground.cache.redis.state_store import RedisStateStore
from labeling_ground.cache.redis.store import RedisStore
from labeling_ground.cache.shadow import ShadowCaches
from labeling_ground.cache.store import Store
from labeling_ground.cache.tier_calls import TierCalls
from labeling_ground.cache.tier_health import TierHealth
from labeling_ground.cache.tiered import TieredStore
from labeling_ground.engine_server.app import ModelEndpoint
from labeling_ground.errors import BadSettings
from labeling_ground.inference.auto import ENGINES, Halves
from labeling_ground.inference.auto import choose as choose_engine
from labeling_ground.inference.backend import Backend
from labeling_ground.inference.choose import BACKENDS, choose_backend
from labeling_ground.inference.graphs import version_from
from labeling_ground.inference.remote.backend import RemoteBackend
from labeling_ground.inference.remote.backend import connect as connect_engines
from labeling_ground.inference.remote.client import Address, EngineClient, Limits
from labeling_ground.inference.remote.embedding_store import EmbeddingStore, default_folder
from labeling_ground.inference.remote.handler import InferenceHandler
from labeling_ground.inference.remote.wire import Description
from labeling_ground.inference.remote.wire import Role as EngineRole
from labeling_ground.inference.sam import SamBackend
from labeling_ground.models.catalogue import Format, Role
from labeling_ground.models.store import ModelStore, StoredFile
from labeling_ground.observe import RequestMetrics
from labeling_ground.pools import Pools
from labeling_ground.service.engine_health import EngineHealth
from labeling_ground.service.everything import Everything
from labeling_ground.service.fetching import Fetcher
from labeling_ground.service.leases import SharedFlights
from labeling_ground.service.predictor import Predictor
from labeling_ground.service.queues import FairQueue
from labeling_ground.service.runtime_settings import CacheSettings, RuntimeSettings
from labeling_ground.service.session_store import SessionStore
from labeling_ground.service.sessions import Sessions
from labeling_ground.service.sources import Sources
from labeling_ground.settings import Settings, cores_of_this_machine, memory_of_this_machine, read_settings
from labeling_ground.supervisor import Supervisor
from labeling_ground.trace.files import TraceWriter
from labeling_ground.trace.recorder import Recorder
from labeling_ground.types import Kind

log = logging.getLogger(__name__)

_SEAL_BYTES = 4096
"""More than what stands beside an entry's tensors: names, shapes, key, checksum."""

__all__ = ["build_app", "build_backend", "build_disk", "build_parts", "build_predictor", "build_store"]


def build_disk(settings: Settings, supervisor: Supervisor | None = None) -> DiskStore | None:
    """The disk tier, or ``None`` where it is switched off.

    Raises:
        BadSettings: the policy's name is wrong, there is no folder to have it in, or the folder holds something else.
    """
    if settings.disk_bytes == 0:
        return None
    folder = settings.folder("cache_dir")
    if why := refusal(folder):
        raise BadSettings(why)
    return DiskStore(
        folder,
        budget_bytes=int(settings.disk_bytes),
        idle_s=settings.idle_s,
        max_age_s=settings.max_age_s,
        ranking=choose_ranking(settings.policy, done_weight=settings.done_weight),
        tenant_share=settings.share_of_each,
        supervisor=supervisor,
    )


def connect_redis(settings: Settings) -> RedisConnection | None:
    """The way to Redis, or ``None`` where there is none. Nothing connects yet.

    Raises:
        BadSettings: the URL cannot be used.
    """
    if settings.redis_url is None:
        return None
    return connect(
        settings.redis_url.get_secret_value(),
        prefix=settings.redis_prefix,
        timeout_s=settings.redis_timeout_s,
        connections=settings.redis_connections,
        tls=Tls(settings.redis_ca_file, settings.redis_cert_file, settings.redis_key_file),
    )


def build_redis(settings: Settings, supervisor: Supervisor | None = None) -> RedisStore | None:
    """The Redis tier, or ``None`` where there is none.

    Raises:
        BadSettings: the URL cannot be used.
    """
    connection = connect_redis(settings)
    if connection is None:
        return None
    return RedisStore(
        connection,
        idle_s=settings.idle_s,
        max_age_s=settings.max_age_s,
        by_cost=settings.redis_ttl == "cost",
        budget_bytes=None if settings.redis_bytes is None else int(settings.redis_bytes),
        notices=PurgeNotices(connection, keep_s=max(7200.0, 2 * settings.idle_s), supervisor=supervisor),
    )


def build_store(settings: Settings, supervisor: Supervisor | None = None) -> TieredStore:
    """Memory; the disk behind it; and behind that Redis, which is last because image files live in the last tier only
    and must be found by every server.

    Raises:
        BadSettings: the policy's name is wrong, or the URL of Redis.
    """
    budget = int(settings.memory_bytes)

    def memory(budget_bytes: int) -> MemoryStore:
        return MemoryStore(
            budget_bytes=budget_bytes,
            idle_s=settings.idle_s,
            max_age_s=settings.max_age_s,
            policy=choose_policy(
                settings.policy,
                done_weight=settings.done_weight,
                frequency_exponent=settings.frequency_exponent,
                tenant_share=settings.share_of_each,
            ),
            high_watermark=settings.memory_high_watermark,
            low_watermark=settings.memory_low_watermark,
        )

    disk, redis = build_disk(settings, supervisor), build_redis(settings, supervisor)
    lower: list[Store] = [tier for tier in (disk, redis) if tier is not None]
    store = TieredStore(
        memory(budget),
        lower,
        shadows=ShadowCaches(memory, budget_bytes=budget, idle_s=settings.idle_s, purges=Purges()),
        idle_s=settings.idle_s,
        deadline_s=settings.lookup_deadline_ms / 1e3,
        breaker_failures=settings.breaker_failures,
        breaker_reset_s=settings.breaker_reset_s,
        check_threads=settings.value_workers,
        supervisor=supervisor,
    )
    if disk is not None:
        # The process that purged did so in every tier that others see.
        disk.on_purge = partial(store.purged_elsewhere, works={tier.name: _nothing_left for tier in lower})
    if redis is not None and redis.notices is not None:
        # Each process hears of it from Redis, so none tells the others on its disk.
        works = {redis.name: redis.delete_recent} | ({disk.name: disk.delete_untold} if disk is not None else {})
        redis.notices.on_purge = partial(store.purged_elsewhere, works=works)
    return store


async def _nothing_left(pattern: str) -> int:
    """What is left to do where the tier was purged already."""
    return 0


def build_shared_flights(settings: Settings, store: TieredStore, supervisor: Supervisor) -> SharedFlights | None:
    """What makes flights common to all servers that share a Redis, or ``None`` where there is none."""
    kinds = {"all": frozenset(Kind), "embeddings": frozenset({Kind.EMBEDDING}), "none": frozenset[Kind]()}
    for tier in store.lower:
        if isinstance(tier.store, RedisStore) and settings.leases != "none":
            leases = RedisLeases(tier.store.connection, supervisor=supervisor)
            patience_s = settings.lease_patience_ms / 1e3
            covered = kinds[settings.leases]
            return SharedFlights(
                leases,
                tier,
                kinds=covered,
                lease_s=settings.lease_s,
                patience_s=patience_s,
                supervisor=supervisor,
            )
    return None


def build_session_store(settings: Settings, store: TieredStore) -> SessionStore | None:
    """Where sessions outlive the process: in Redis, which all servers share; else by the disk tier; else nowhere."""
    lower = {tier.store.name: tier for tier in store.lower}
    redis, disk = lower.get(RedisStore.name), lower.get(DiskStore.name)
    if redis is not None and isinstance(redis.store, RedisStore):
        return SessionStore(
            RedisStateStore(redis.store.connection),
            redis.calls,
            others=settings.other_servers,
            present_s=max(30.0, 6 * settings.probe_s),
        )
    if disk is not None:
        # A file of sessions that cannot be used is no reason to leave the cache alone.
        breaker = Breaker(settings.breaker_failures, settings.breaker_reset_s)
        health = TierHealth(disk.store, breaker, disk.health.counters)
        return SessionStore(
            DiskStateStore(
                settings.folder("cache_dir"), most=settings.max_sessions, tenant_share=settings.share_of_each
            ),
            TierCalls(health, deadline_s=disk.calls.deadline_s, at_once=1),
        )
    return None


def build_backend(settings: Settings, supervisor: Supervisor | None = None) -> tuple[Backend, str]:
    """The model, and a sentence on what computes it and why (empty where there is no choice).

    Raises:
        BadSettings: a name is wrong, or what it needs is not installed.
        UnknownModel: the weights are not here; the sentence says how to get them.
    """
    if settings.encoder_url or settings.decoder_url:
        return build_remote(settings, supervisor)
    encode_threads, decode_threads = settings.encode_workers, settings.decode_workers
    weights = ModelStore(settings.models_dir)
    name = _first_installed(weights) if settings.model == "auto" else settings.model
    if name in BACKENDS or ":" in name:
        return choose_backend(name, encode_threads=encode_threads, decode_threads=decode_threads), ""
    installed = weights.get(name)
    family = weights.known.model(name).family if name in weights.known else installed.family if installed else None
    has_fast = installed is not None and Role.FAST_DECODER in installed.files
    choice = choose_engine(
        encode_threads,
        decode_threads,
        encoder_path=weights.path_of(name, Role.ENCODER),
        decoder_path=weights.path_of(name, Role.DECODER),
        fast_decoder_path=weights.path_of(name, Role.FAST_DECODER) if has_fast else None,
        model=name,
        precision=settings.engine_precision,
        engines=ENGINES if settings.engine == "auto" else {settings.engine: ENGINES[settings.engine]},
        options={"onnx-cuda": {"gpu_bytes": int(settings.engine_gpu_bytes)}},
    )
    served = choice.backend.engine.family
    if family is not None and served != family:
        raise BadSettings(
            f"{name} is of the family {family}, but its files have the tensors of {served}. Make files from the "
            f"authors' checkpoint: labeling-ground models export {name}."
        )
    if installed is not None:
        choice.backend.note = f"{_rounded(installed.files[Role.ENCODER])} {choice.backend.note}".strip()
    return choice.backend, choice.why


def build_remote(settings: Settings, supervisor: Supervisor | None = None) -> tuple[RemoteBackend, str]:
    """The model whose halves are computed in other processes. Waits until they are ready.

    Raises:
        BadSettings: an address is missing or wrong, or the engines are not ready in time, or not halves of one model.
    """
    if not settings.encoder_url or not settings.decoder_url:
        raise BadSettings("Set both encoder_url and decoder_url, or neither: the halves of a model belong together.")
    model = "" if settings.model == "auto" else settings.model

    def client(address: Address, deadline_s: float) -> EngineClient:
        most_bytes = int(settings.max_engine_bytes)
        return EngineClient(address, Limits(settings.engine_connect_s, deadline_s, most_bytes, settings.engine_reset_s))

    encoder = client(
        Address("encoder", settings.encoder_url, settings.encoder_name, settings.encoder_management_url or ""),
        settings.encode_deadline_s,
    )
    decoder = client(
        Address("decoder", settings.decoder_url, settings.decoder_name, settings.decoder_management_url or ""),
        settings.decode_deadline_s,
    )
    connect_engines(encoder, decoder, model=model, wait_s=settings.engine_wait_s)
    backend = RemoteBackend(
        encoder,
        decoder,
        model=model,
        encode_workers=settings.encode_workers,
        decode_workers=settings.decode_workers,
        poll_s=settings.engine_poll_s,
        reset_s=settings.engine_reset_s,
        supervisor=supervisor,
    )
    many = f"{backend.encodes_at_once} encoder and {backend.decodes_at_once - 1} decoder workers"
    return backend, f"in other processes: {many}"


def build_endpoints(settings: Settings, halves: Halves) -> tuple[list[ModelEndpoint], str]:
    """What an engine server serves, and a sentence on what computes it.

    The version is that of the whole model, also where only one half's files are here: the manifest has all digests.

    Raises:
        BadSettings: a name is wrong, or what it needs is not installed.
        UnknownModel: the weights are not here; the sentence says how to get them.
    """
    weights = ModelStore(settings.models_dir)
    name = _first_installed(weights) if settings.model == "auto" else settings.model
    if name in BACKENDS or ":" in name:
        raise BadSettings(
            f"An engine server serves Segment Anything models, not {name!r}. Get weights with 'labeling-ground models "
            "pull', and name the model with --model."
        )
    encoder_path = weights.path_of(name, Role.ENCODER) if halves.encoder else None
    decoder_path = weights.path_of(name, Role.DECODER) if halves.decoder else None
    noted = weights.noted(name)
    files = noted.files if noted is not None else {}
    counted = [files[role].sha256 for role in (Role.ENCODER, Role.DECODER, Role.FAST_DECODER) if role in files]
    if Role.ENCODER not in files or Role.DECODER not in files:
        raise BadSettings(f"The files of {name} are not complete in the manifest: its version cannot be told.")
    has_fast = halves.decoder and Role.FAST_DECODER in files
    # Without a decoder beside it, an encoder takes all cores unless it was told otherwise.
    is_told = halves.decoder or "encode_workers" in settings.model_fields_set
    choice = choose_engine(
        settings.encode_workers if is_told else cores_of_this_machine(),
        settings.decode_workers,
        encoder_path=encoder_path,
        decoder_path=decoder_path,
        fast_decoder_path=weights.path_of(name, Role.FAST_DECODER) if has_fast else None,
        model=name,
        precision=settings.engine_precision,
        engines=ENGINES if settings.engine == "auto" else {settings.engine: ENGINES[settings.engine]},
        options={"onnx-cuda": {"gpu_bytes": int(settings.engine_gpu_bytes)}},
    )
    engine = choice.backend.engine
    version = version_from(name, counted, settings.engine_precision)

    def handler(role: EngineRole, stored: StoredFile, kept: EmbeddingStore | None) -> InferenceHandler:
        note = f"{_rounded(stored)} {choice.backend.note}".strip()
        return InferenceHandler(
            engine, Description(version, engine.family, settings.engine_precision, role, note), kept
        )

    endpoints = []
    if halves.encoder:
        encoder = handler(EngineRole.ENCODER, files[Role.ENCODER], None)
        endpoints.append(ModelEndpoint(settings.encoder_name, encoder, workers=1, queue=settings.encode_queue))
    if halves.decoder:
        kept = EmbeddingStore(settings.embedding_store_dir or default_folder(), int(settings.embedding_store_bytes))
        decoder = handler(EngineRole.DECODER, files[Role.DECODER], kept)
        workers = settings.decode_workers
        endpoints.append(ModelEndpoint(settings.decoder_name, decoder, workers=workers, queue=settings.decode_queue))
    return endpoints, choice.why


def _rounded(stored: StoredFile) -> str:
    if stored.precision in (None, "fp32"):
        return ""
    return f"The weights of these ready-made files are rounded to {stored.precision}."


def _first_installed(weights: ModelStore) -> str:
    here = weights.installed()
    for known in weights.known.models:
        if known.name in here and Format.ONNX in here[known.name].formats:
            return known.name
    return "classical"


def build_recorder(settings: Settings) -> Recorder | None:
    """What records accesses, or ``None`` where that is not wanted.

    Raises:
        BadTrace: the file cannot be written, or is something else.
    """
    if settings.trace_file is None:
        return None
    return Recorder(TraceWriter(settings.trace_file, max_bytes=int(settings.trace_bytes), files=settings.trace_files))


def build_pools(settings: Settings, encodes: int) -> Pools:
    """The threads of one server that encodes so many images at the same time."""
    return Pools.sized(
        images=encodes, values=settings.value_workers, drawing=settings.draw_workers, grids=settings.grid_workers
    )


def build_predictor(
    settings: Settings,
    *,
    store: TieredStore | None = None,
    backend: Backend | None = None,
    supervisor: Supervisor | None = None,
) -> Predictor:
    """The main path. ``store`` and ``backend`` take the place of those that the settings name.

    Raises:
        BadSettings: a name is wrong, or what it needs is not installed.
    """
    supervisor = supervisor or Supervisor()
    chosen = backend or build_backend(settings, supervisor)[0]
    if store is None and (remark := check_room(settings, chosen)):
        log.warning("%s", remark)
    tiers = store or build_store(settings, supervisor)
    # An engine that encodes one image at a time, with all threads, must not be sent a second one: it would wait inside,
    # where the wait looks like work.
    encodes = 1 if isinstance(chosen, SamBackend) else settings.encode_workers
    decodes = settings.decode_workers
    share = settings.share_of_each
    encode_deadline_s: float | None = settings.encode_deadline_s
    decode_deadline_s: float | None = settings.decode_deadline_s
    if isinstance(chosen, RemoteBackend):
        encodes, decodes = chosen.encodes_at_once, chosen.decodes_at_once
        encode_deadline_s = decode_deadline_s = None  # its connections have these deadlines
    return Predictor(
        store=tiers,
        backend=chosen,
        encode_lane=FairQueue(
            "encoder", encodes, settings.encode_queue, deadline_s=encode_deadline_s, tenant_share=share
        ),
        decode_lane=FairQueue(
            "decoder", decodes, settings.decode_queue, deadline_s=decode_deadline_s, tenant_share=share
        ),
        pools=build_pools(settings, encodes),
        shared=build_shared_flights(settings, tiers, supervisor),
        precision=settings.precision,
        max_pixels=settings.max_image_pixels,
        max_side=settings.max_image_side,
        pixels_at_once=settings.max_pixels_at_once,
        mode=settings.cache_mode,
        mask_window_s=settings.mask_window_ms / 1e3,
        embedding_window_s=settings.embedding_window_ms / 1e3,
        prefetch_per_client=settings.prefetch_per_client,
        most_bytes_ahead=int(settings.max_bytes_in_flight) // 2,
        tenant_share=share,
        recorder=build_recorder(settings),
        supervisor=supervisor,
        engine_health=EngineHealth(settings.engine_failures),
    )


def build_sources(settings: Settings, predictor: Predictor) -> Sources:
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
        predictor,
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
) -> AppState:
    """Everything that one server is made of.

    Raises:
        BadSettings: a name is wrong, or what it needs is not installed.
    """
    supervisor = Supervisor()
    chosen, why = (backend, "") if backend is not None else build_backend(settings, supervisor)
    predictor = build_predictor(settings, store=store, backend=chosen, supervisor=supervisor)
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
    grids = FairQueue("grids", settings.grids, settings.grid_queue, tenant_share=settings.share_of_each)
    everything = Everything(predictor, jobs=grids, workers=settings.grid_workers)
    return AppState(
        settings,
        predictor,
        sessions,
        RequestMetrics(),
        everything,
        build_runtime_settings(settings, predictor, sessions),
        build_sources(settings, predictor),
        why,
    )


def embedding_bytes(settings: Settings, backend: Backend | None) -> int:
    """What one image's embedding takes in the cache, at most; 0 for an engine of which that is not known."""
    floats = 2 if settings.precision == "fp16" else 4
    if isinstance(backend, RemoteBackend):
        return backend.family.embedding_bytes(floats) + _SEAL_BYTES
    if isinstance(backend, SamBackend):
        return backend.engine.family.embedding_bytes(floats) + _SEAL_BYTES
    return int(getattr(backend, "largest_embedding", 0))


def check_room(settings: Settings, backend: Backend | None) -> str:
    """See that the budgets are large enough for an image, and small enough for this machine.

    Returns:
        What is worth knowing where they do, but not for the largest image files; empty if there is nothing.

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
    return remark_on_files(memory, disk, has_redis=has_redis, file_bytes=int(settings.max_image_bytes))


def build_runtime_settings(settings: Settings, predictor: Predictor, sessions: Sessions) -> RuntimeSettings:
    """What changes settings of the cache while the server runs; at first they are as given."""
    cache_settings = CacheSettings(
        policy=settings.policy,
        done_weight=settings.done_weight,
        frequency_exponent=settings.frequency_exponent,
        memory_bytes=int(settings.memory_bytes),
        disk_bytes=int(settings.disk_bytes),
        idle_s=settings.idle_s,
    )

    def check(new: CacheSettings) -> None:
        budgets = {"memory_bytes": new.memory_bytes, "disk_bytes": new.disk_bytes}
        check_room(settings.model_copy(update=budgets), predictor.backend)

    return RuntimeSettings(predictor.store, sessions, cache_settings, tenant_share=settings.share_of_each, check=check)


def build_app(settings: Settings | None = None) -> object:
    """The ASGI app, for servers that are told ``labeling_ground.wiring:build_app`` (as a factory).

    Raises:
        BadSettings: a name is wrong, or what it needs is not installed.
    """
    app_state = build_parts(settings or read_settings())
    return create_app(app_state, choose_adapters(app_state))
