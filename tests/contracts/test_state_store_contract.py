"""Every store of sessions' states under the one suite."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from labeling_ground.cache.disk.state_store import DiskStateStore
from labeling_ground.cache.redis.connect import connect
from labeling_ground.cache.redis.state_store import RedisStateStore
from labeling_ground.testing.state_store_contract import LONG_S, Pair, StateStoreContract


class TestStateStores(StateStoreContract):
    @pytest.fixture(params=["disk", "valkey", "valkey_socket", "system_redis", "redis_cluster", "redis_sentinels"])
    async def pair(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
        """Two processes' ways to the same states."""
        if request.param == "disk":
            both: Pair = DiskStateStore(tmp_path / "new", most=100), DiskStateStore(tmp_path / "new", most=100)
            yield both
            for state_store in both:
                await state_store.aclose()
            return
        _, url = request.getfixturevalue(request.param)
        connections = [connect(url, timeout_s=LONG_S) for _ in range(2)]
        await connections[0].each("FLUSHALL")
        yield RedisStateStore(connections[0]), RedisStateStore(connections[1])
        for connection in connections:
            await connection.aclose()

    async def test_servers_that_share_a_redis_meet_until_they_leave_or_are_not_seen_any_more(self, pair: Pair) -> None:
        one, other = pair
        if isinstance(one, DiskStateStore):
            others, place = await one.meet("a", LONG_S)
            assert (others, await other.meet("b", LONG_S)) == (0, (0, place))
            assert place
            return
        _, place = await one.meet("a", LONG_S)
        assert place
        assert await one.meet("a", LONG_S) == (0, place)
        assert await other.meet("b", LONG_S) == (1, place)
        assert await one.meet("a", LONG_S) == (1, place)
        await other.leave("b")
        assert await one.meet("a", LONG_S) == (0, place)
        await other.meet("c", LONG_S)
        await asyncio.sleep(0.01)
        assert await one.meet("a", 0.005) == (0, place), "one that was not met for so long is gone"
