"""The composition root: from settings to parts, handed over as plain arguments.

Nothing connects, loads or reads the environment at import; it happens here, once.
"""

import logging

from labeling_ground.api.app import create_app
from labeling_ground.api.state import Parts
from labeling_ground.cache.choose import choose_ranking
from labeling_ground.cache.disk import DiskStore
from labeling_ground.cache.memory import MemoryStore
from labeling_ground.cache.policy.ranked import RankedPolicy
from labeling_ground.cache.store import Store
from labeling_ground.cache.tiered import TieredStore
from labeling_ground.inference.backend import Backend
from labeling_ground.inference.choose import choose_backend
from labeling_ground.observe import RequestMetrics
from labeling_ground.service.lane import Lane
from labeling_ground.service.segmenter import Segmenter
from labeling_ground.service.sessions import Sessions
from labeling_ground.settings import Settings

__all__ = ["build_app", "build_disk", "build_parts", "build_segmenter", "build_store"]

log = logging.getLogger(__name__)


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


def build_segmenter(
    settings: Settings, *, store: TieredStore | None = None, backend: Backend | None = None
) -> Segmenter:
    """The main path. ``store`` and ``backend`` take the place of those that the settings name.

    Raises:
        BadSettings: a name is wrong, or what it needs is not installed.
    """
    chosen = backend or choose_backend(
        settings.model,
        encode_threads=settings.encode_workers,
        decode_threads=settings.decode_workers,
    )
    return Segmenter(
        store=store or build_store(settings),
        backend=chosen,
        encode_lane=Lane("encoder", settings.encode_workers, settings.encode_queue),
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
    segmenter = build_segmenter(settings, store=store, backend=backend)
    return Parts(settings, segmenter, sessions, RequestMetrics())


def build_app(settings: Settings | None = None) -> object:
    """The ASGI app, for servers that are told ``labeling_ground.wiring:build_app`` (as a factory).

    Raises:
        BadSettings: a name is wrong, or what it needs is not installed.
    """
    return create_app(build_parts(settings or Settings()))
