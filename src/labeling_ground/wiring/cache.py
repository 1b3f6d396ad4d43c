"""Builds the tiers of the cache, and what else stands on them: sessions that outlive the process, leases."""

import sys
from functools import partial

from labeling_ground.breaker import Breaker
from labeling_ground.cache.choose import PolicyChoice, choose
from labeling_ground.cache.disk import DiskStore
from labeling_ground.cache.disk.folder import refusal
from labeling_ground.cache.disk.state_store import DiskStateStore
from labeling_ground.cache.lease import Leases
from labeling_ground.cache.memory import MemoryStore
from labeling_ground.cache.purges import Purges
from labeling_ground.cache.redis.connect import RedisConnection, Tls, connect
from labeling_ground.cache.redis.lease import RedisLeases
from labeling_ground.cache.redis.notices import PurgeNotices
from labeling_ground.cache.redis.state_store import RedisStateStore
from labeling_ground.cache.redis.store import RedisStore
from labeling_ground.cache.shadow import ShadowCaches
from labeling_ground.cache.store import Store
from labeling_ground.cache.tier import TierLimits
from labeling_ground.cache.tier_calls import TierCalls, TierHealth
from labeling_ground.cache.tiered import TieredStore
from labeling_ground.errors import BadSettings
from labeling_ground.service.leases import SharedFlights
from labeling_ground.service.stored_sessions import SessionStore
from labeling_ground.settings import Settings
from labeling_ground.supervisor import Supervisor
from labeling_ground.types import Kind


def chosen_policy(settings: Settings) -> PolicyChoice:
    """The eviction policy of all tiers.

    Raises:
        BadSettings: its name is wrong.
    """
    return choose(
        settings.policy,
        done_weight=settings.done_weight,
        frequency_exponent=settings.frequency_exponent,
        tenant_share=settings.share_of_each,
    )


def build_disk(
    settings: Settings, supervisor: Supervisor | None = None, policy: PolicyChoice | None = None
) -> DiskStore | None:
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
        ranking=(policy or chosen_policy(settings)).ranking,
        tenant_share=settings.share_of_each,
        heard_s=settings.purge_heard_s,
        lock_s=settings.disk_lock_s,
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
        notices=PurgeNotices(connection, log_s=max(7200.0, 2 * settings.idle_s), supervisor=supervisor),
    )


def build_store(settings: Settings, supervisor: Supervisor | None = None) -> TieredStore:
    """Memory; the disk behind it; and behind that Redis, which is last because image files live in the last tier only
    and must be found by every server.

    Raises:
        BadSettings: the policy's name is wrong, or the URL of Redis.
    """
    supervisor = supervisor or Supervisor()
    budget = int(settings.memory_bytes)
    policy = chosen_policy(settings)

    def memory(budget_bytes: int) -> MemoryStore:
        return MemoryStore(
            budget_bytes=budget_bytes,
            idle_s=settings.idle_s,
            max_age_s=settings.max_age_s,
            policy=policy.make(),
            high_watermark=settings.memory_high_watermark,
            low_watermark=settings.memory_low_watermark,
        )

    disk, redis = build_disk(settings, supervisor, policy), build_redis(settings, supervisor)
    lower: list[Store] = [tier for tier in (disk, redis) if tier is not None]
    store = TieredStore(
        memory(budget),
        lower,
        shadows=ShadowCaches(
            memory, budget_bytes=budget, idle_s=settings.idle_s, purges=Purges(), metrics=supervisor.metrics
        ),
        idle_s=settings.idle_s,
        deadline_s=settings.lookup_deadline_ms / 1e3,
        file_deadline_s=settings.file_deadline_ms / 1e3,
        limits=TierLimits(
            queue_bytes=int(settings.write_queue_bytes),
            answer_s=settings.tier_answer_s,
            change_s=settings.purge_timeout_s,
            close_s=settings.shutdown_write_s,
        ),
        breaker_failures=settings.breaker_failures,
        breaker_reset_s=settings.breaker_reset_s,
        check_threads=settings.value_workers,
        supervisor=supervisor,
    )
    if disk is not None:
        # The process that purged did so in every tier that others see.
        disk.on_purge = partial(store.delete, deadline_s=None, works={tier.name: _nothing_left for tier in lower})
    if redis is not None and redis.notices is not None:
        # Each process hears of it from Redis, so none tells the others on its disk.
        works = {redis.name: redis.delete_recent} | ({disk.name: disk.delete_untold} if disk is not None else {})
        redis.notices.on_purge = partial(store.delete, deadline_s=None, works=works)
    return store


async def _nothing_left(pattern: str) -> int:
    """What is left to do where the tier was purged already."""
    return 0


def build_shared_flights(settings: Settings, store: TieredStore, supervisor: Supervisor) -> SharedFlights | None:
    """What makes flights common to all servers that share a Redis, or a disk without one; ``None`` where neither is.

    Leases on a disk need Linux.
    """
    if settings.leases == "none":
        return None
    kinds = frozenset(Kind) if settings.leases == "all" else frozenset({Kind.EMBEDDING, Kind.TRUNK})
    for tier in reversed(store.lower):  # Redis, which more servers see, is the last
        leases: Leases
        if isinstance(tier.store, RedisStore):
            leases = RedisLeases(tier.store.connection, supervisor=supervisor)
        elif isinstance(tier.store, DiskStore) and sys.platform == "linux":
            from labeling_ground.cache.disk.lease import DiskLeases

            leases = DiskLeases(tier.store, settings.folder("cache_dir"), supervisor=supervisor)
        else:
            continue
        return SharedFlights(
            leases,
            tier,
            kinds=kinds,
            lease_s=settings.lease_s,
            patience_s=settings.lease_patience_ms / 1e3,
            supervisor=supervisor,
        )
    return None


def build_session_store(settings: Settings, store: TieredStore) -> SessionStore | None:
    """Where sessions outlive the process: in Redis, which all servers share; else by the disk tier; else nowhere."""
    lower = {tier.store.name: tier for tier in store.lower}
    redis, disk = lower.get(RedisStore.name), lower.get(DiskStore.name)
    others = "some" if settings.workers > 1 else settings.other_servers
    if redis is not None and isinstance(redis.store, RedisStore):
        return SessionStore(
            RedisStateStore(redis.store.connection),
            redis.calls,
            others=others,
            present_s=max(30.0, 6 * settings.probe_s),
            meet_s=settings.tier_answer_s,
        )
    if disk is not None:
        # A file of sessions that cannot be used is no reason to leave the cache alone.
        breaker = Breaker(settings.breaker_failures, settings.breaker_reset_s)
        health = TierHealth(disk.store, breaker, disk.health.metrics)
        return SessionStore(
            DiskStateStore(
                settings.folder("cache_dir"),
                most=settings.max_sessions,
                tenant_share=settings.share_of_each,
                lock_s=settings.disk_lock_s,
            ),
            TierCalls(health, deadline_s=disk.calls.deadline_s, at_once=1),
            # Other processes that share the file are not seen in it: a worker's are known, other servers' are told.
            others="none" if others == "auto" else others,
        )
    return None
