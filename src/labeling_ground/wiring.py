"""The composition root: from settings to parts, handed over as plain arguments.

Nothing connects, loads or reads the environment at import; it happens here, once.
"""

from labeling_ground.api.app import create_app
from labeling_ground.api.state import Parts
from labeling_ground.cache.choose import choose_ranking
from labeling_ground.cache.disk import DiskStore
from labeling_ground.cache.memory import MemoryStore
from labeling_ground.cache.policy.ranked import RankedPolicy
from labeling_ground.cache.store import Store
from labeling_ground.cache.tiered import TieredStore
from labeling_ground.errors import BadSettings
from labeling_ground.inference.auto import ENGINES
from labeling_ground.inference.auto import choose as choose_engine
from labeling_ground.inference.backend import Backend
from labeling_ground.inference.choose import BACKENDS, choose_backend
from labeling_ground.inference.sam import SamBackend
from labeling_ground.models.catalogue import Format, Role
from labeling_ground.models.store import ModelStore
from labeling_ground.observe import RequestMetrics
from labeling_ground.sam.family import Family
from labeling_ground.service.lane import Lane
from labeling_ground.service.segmenter import Segmenter
from labeling_ground.service.sessions import Sessions
from labeling_ground.settings import Settings

__all__ = ["build_app", "build_backend", "build_disk", "build_parts", "build_segmenter", "build_store"]


def build_disk(settings: Settings) -> DiskStore | None:
    """The disk tier, or ``None`` where it is switched off.

    Raises:
        BadSettings: the policy's name is wrong.
    """
    if settings.disk_bytes == 0:
        return None
    return DiskStore(
        settings.cache_dir,
        budget_bytes=int(settings.disk_bytes),
        idle_s=settings.idle_s,
        max_age_s=settings.max_age_s,
        ranking=choose_ranking(settings.policy, done_weight=settings.done_weight),
    )


def build_store(settings: Settings) -> TieredStore:
    """Memory, and the disk behind it.

    Raises:
        BadSettings: the policy's name is wrong.
    """
    ranking = choose_ranking(settings.policy, done_weight=settings.done_weight)
    memory = MemoryStore(
        budget_bytes=int(settings.memory_bytes),
        idle_s=settings.idle_s,
        max_age_s=settings.max_age_s,
        policy=RankedPolicy(ranking),
    )
    disk = build_disk(settings)
    lower: list[Store] = [] if disk is None else [disk]
    return TieredStore(
        memory,
        lower,
        idle_s=settings.idle_s,
        deadline_s=settings.lookup_deadline_ms / 1e3,
        breaker_failures=settings.breaker_failures,
        breaker_reset_s=settings.breaker_reset_s,
    )


def build_backend(settings: Settings) -> tuple[Backend, str]:
    """The model, and a sentence on what computes it and why (empty where there is no choice).

    Raises:
        BadSettings: a name is wrong, or what it needs is not installed.
        UnknownModel: the weights are not here; the sentence says how to get them.
    """
    encode_threads, decode_threads = settings.encode_workers, settings.decode_workers
    weights = ModelStore(settings.models_dir)
    name = _first_installed(weights) if settings.model == "auto" else settings.model
    if name in BACKENDS or ":" in name:
        return choose_backend(name, encode_threads=encode_threads, decode_threads=decode_threads), ""
    installed = weights.get(name)
    family = weights.known.model(name).family if name in weights.known else installed.family if installed else None
    if family not in (None, Family.SAM):
        raise BadSettings(f"{name} can be pulled but not served yet: this version serves models of the family 'sam'.")
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
    )
    stored = installed.files[Role.ENCODER].precision if installed is not None else None
    if stored not in (None, "fp32"):
        choice.backend.note = (
            f"The weights of these ready-made files are rounded to {stored}. {choice.backend.note}".strip()
        )
    return choice.backend, choice.why


def _first_installed(weights: ModelStore) -> str:
    here = weights.installed()
    for known in weights.known.models:
        if known.family == Family.SAM and known.name in here and Format.ONNX in here[known.name].formats:
            return known.name
    return "classical"


def build_segmenter(
    settings: Settings, *, store: TieredStore | None = None, backend: Backend | None = None
) -> Segmenter:
    """The main path. ``store`` and ``backend`` take the place of those that the settings name.

    Raises:
        BadSettings: a name is wrong, or what it needs is not installed.
    """
    chosen = backend or build_backend(settings)[0]
    # An engine that encodes one image at a time, with all threads, must not be sent a second one: it would wait inside,
    # where the wait looks like work.
    at_once = 1 if isinstance(chosen, SamBackend) else settings.encode_workers
    return Segmenter(
        store=store or build_store(settings),
        backend=chosen,
        encode_lane=Lane("encoder", at_once, settings.encode_queue),
        decode_lane=Lane("decoder", settings.decode_workers, settings.decode_queue),
        precision=settings.precision,
        max_pixels=settings.max_image_pixels,
        mode=settings.cache_mode,
        mask_window_s=settings.mask_window_ms / 1e3,
        embedding_window_s=settings.embedding_window_ms / 1e3,
        prefetch_per_client=settings.prefetch_per_client,
    )


def build_parts(settings: Settings, *, store: TieredStore | None = None, backend: Backend | None = None) -> Parts:
    """Everything that one server is made of.

    Raises:
        BadSettings: a name is wrong, or what it needs is not installed.
    """
    sessions = Sessions(most=settings.max_sessions, idle_s=settings.idle_s, most_clicks=settings.max_points)
    chosen, why = (backend, "") if backend is not None else build_backend(settings)
    segmenter = build_segmenter(settings, store=store, backend=chosen)
    return Parts(settings, segmenter, sessions, RequestMetrics(), why)


def build_app(settings: Settings | None = None) -> object:
    """The ASGI app, for servers that are told ``labeling_ground.wiring:build_app`` (as a factory).

    Raises:
        BadSettings: a name is wrong, or what it needs is not installed.
    """
    return create_app(build_parts(settings or Settings()))
