"""Every store under the one suite; a new store is one more function in ``MAKERS``, or a server in ``SERVERS``."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from tests.doubles import MemoryAsStore
from tests.redis_servers import Cluster, Server

from labeling_ground.cache.disk import DiskStore
from labeling_ground.cache.memory import MemoryStore
from labeling_ground.cache.policies.gds import GreedyDualSize
from labeling_ground.cache.policies.ranked import RankedPolicy
from labeling_ground.cache.redis.connect import connect
from labeling_ground.cache.redis.store import RedisStore
from labeling_ground.cache.store import Store
from labeling_ground.codec import frame
from labeling_ground.testing.store_contract import EvictingStoreContract, Setup, StoreContract
from labeling_ground.types import Entry, StoreStats


def memory(setup: Setup) -> Store:
    memory = MemoryStore(
        budget_bytes=setup.budget,
        idle_s=setup.idle_s,
        max_age_s=setup.max_age_s,
        policy=RankedPolicy(GreedyDualSize()),
        clock=setup.clock,
        wall_clock=setup.clock,
    )
    return MemoryAsStore(memory)


def disk(setup: Setup) -> Store:
    return DiskStore(
        setup.folder,
        budget_bytes=setup.budget,
        idle_s=setup.idle_s,
        max_age_s=setup.max_age_s,
        ranking=GreedyDualSize(),
        low_watermark=1.0,  # evict one at a time, so that the order shows
        clock=setup.clock,
    )


MAKERS: dict[str, Callable[[Setup], Store]] = {"memory": memory, "disk": disk}


SERVERS = ("valkey", "valkey_socket", "system_redis", "redis_cluster", "redis_sentinels")
"""Fixtures of ``redis_servers``."""


class Framed:
    """A tier that keeps sealed frames only, given any value sealed, as the service does it."""

    def __init__(self, store: RedisStore) -> None:
        self.name = store.name
        self._store = store

    async def open(self) -> None:
        await self._store.open()

    async def get(self, key: str) -> Entry | None:
        found = await self._store.get(key)
        if found is None:
            return None
        frame.verify(found.value, key)
        value = frame.unseal(found.value, key).tensors["value"].tobytes()
        return Entry(found.kind, value, found.cost, found.created)

    async def put(self, key: str, entry: Entry, used: float | None = None) -> None:
        value = {"value": np.frombuffer(entry.value, np.uint8)}
        sealed = frame.seal(key, entry.kind, cost=entry.cost, created=entry.created, tensors=value)
        await self._store.put(key, sealed, used)

    async def touch(self, key: str) -> bool:
        return await self._store.touch(key)

    async def has(self, key: str) -> bool:
        return await self._store.has(key)

    async def mark_done(self, group: str, done: bool) -> None:
        await self._store.mark_done(group, done)

    async def delete(self, pattern: str) -> int:
        return await self._store.delete(pattern)

    async def drop_damaged(self, key: str) -> None:
        await self._store.drop_damaged(key)

    async def sweep(self) -> int:
        return await self._store.sweep()

    async def stats(self) -> StoreStats:
        return await self._store.stats()

    async def aclose(self) -> None:
        await self._store.aclose()


def let_time_pass(servers: Sequence[Server], seconds: float) -> None:
    """Shorten what is left of every key's time: a server's own clock cannot be moved."""
    for server in servers:
        with server.client() as client:
            for name in client.scan_iter():
                # At 0 it would be deleted, which is not what is counted as expired.
                client.pexpire(name, max(1, int(client.pttl(name) - seconds * 1000)))
    time.sleep(0.002)


def redis(server: Server | Cluster, url: str) -> Callable[[Setup], Store]:
    servers = server.servers if isinstance(server, Cluster) else [server]
    for each in servers:
        each.ask("FLUSHALL")

    def make(setup: Setup) -> Store:
        setup.clock.follow = lambda seconds: let_time_pass(servers, seconds)
        assert setup.idle_s is not None
        return Framed(
            RedisStore(
                connect(url, timeout_s=60.0),
                idle_s=setup.idle_s,
                max_age_s=setup.max_age_s,
                by_cost=False,  # else the suite's idle time would not be everybody's
                budget_bytes=64 << 20,
                clock=setup.clock,
            )
        )

    return make


class TestStores(StoreContract):
    @pytest.fixture(params=[*sorted(MAKERS), *SERVERS])
    def make(self, request: pytest.FixtureRequest) -> Callable[[Setup], Store]:
        if request.param in MAKERS:
            return MAKERS[request.param]
        return redis(*request.getfixturevalue(request.param))


class TestStoresThatEvict(EvictingStoreContract):
    @pytest.fixture(params=sorted(MAKERS))
    def make(self, request: pytest.FixtureRequest) -> Callable[[Setup], Store]:
        return MAKERS[request.param]
