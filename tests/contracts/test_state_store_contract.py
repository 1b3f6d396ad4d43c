"""One suite for all stores: a state is replaced only by one who knows it, and ends when it was idle for too long."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from labeling_ground.cache.disk.state_store import DiskStateStore
from labeling_ground.cache.redis.connect import connect
from labeling_ground.cache.redis.state_store import RedisStateStore
from labeling_ground.cache.state_store import StateStore, VersionedState

pytestmark = pytest.mark.anyio

NAME = "5" * 64
LONG_S = 60.0

Pair = tuple[StateStore, StateStore]


@pytest.fixture(params=["disk", "valkey", "valkey_socket", "system_redis", "redis_cluster", "redis_sentinels"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
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


async def test_what_one_saved_another_loads(pair: Pair) -> None:
    one, other = pair
    assert await other.load(NAME) is None
    new = VersionedState.new(bytes(range(256)) * 100)
    assert await one.save(NAME, new, b"", LONG_S) == new
    assert await other.load(NAME) == new
    assert await other.load("6" * 64) is None


async def test_only_who_knows_the_last_version_replaces_it(pair: Pair) -> None:
    one, other = pair
    first, second, third = (VersionedState.new(value) for value in (b"first", b"second", b"third"))
    await one.save(NAME, first, b"", LONG_S)
    assert await other.save(NAME, second, b"", LONG_S) == first
    assert await other.save(NAME, second, b"x" * 8, LONG_S) == first
    assert await other.save(NAME, second, first.version, LONG_S) == second
    assert await one.save(NAME, third, first.version, LONG_S) == second
    assert await one.load(NAME) == second


async def test_a_version_is_new_though_the_value_is_not(pair: Pair) -> None:
    one, other = pair
    first, same = VersionedState.new(b"value"), VersionedState.new(b"value")
    await one.save(NAME, first, b"", LONG_S)
    assert await one.save(NAME, same, first.version, LONG_S) == same
    assert await other.save(NAME, VersionedState.new(b"late"), first.version, LONG_S) == same


async def test_where_nothing_is_kept_any_more_what_is_known_is_saved(pair: Pair) -> None:
    new = VersionedState.new(b"value")
    assert await pair[0].save(NAME, new, b"x" * 8, LONG_S) == new
    assert await pair[1].load(NAME) == new


async def test_of_many_at_the_same_moment_one_replaces_it(pair: Pair) -> None:
    first = VersionedState.new(b"first")
    await pair[0].save(NAME, first, b"", LONG_S)
    new = [VersionedState.new(str(number).encode()) for number in range(30)]
    found = await asyncio.gather(*(pair[n % 2].save(NAME, new[n], first.version, LONG_S) for n in range(30)))
    assert len(set(found)) == 1
    assert found[0] in new
    assert await pair[0].load(NAME) == found[0]


async def test_a_state_ends_when_it_was_idle_for_too_long_and_a_save_starts_the_time_anew(pair: Pair) -> None:
    one, other = pair
    first, second, third = (VersionedState.new(value) for value in (b"first", b"second", b"third"))
    await one.save(NAME, first, b"", 0.05)
    await one.save(NAME, second, first.version, LONG_S)
    await asyncio.sleep(0.1)
    assert await other.load(NAME) == second
    await one.save(NAME, third, second.version, 0.05)
    await asyncio.sleep(0.1)
    assert await other.load(NAME) is None
    assert await other.save(NAME, first, b"", LONG_S) == first
    await one.sweep()
    assert await one.load(NAME) == first


async def test_an_asker_that_leaves_breaks_nothing(pair: Pair) -> None:
    one, other = pair
    new, later = VersionedState.new(b"value"), VersionedState.new(b"later")
    task = asyncio.create_task(one.save(NAME, new, b"", LONG_S))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert await other.save(NAME, later, new.version, LONG_S) == later  # whether that one was saved or not
    assert await one.load(NAME) == later


async def test_servers_that_share_a_redis_meet_until_they_leave_or_are_not_seen_any_more(pair: Pair) -> None:
    one, other = pair
    if isinstance(one, DiskStateStore):
        assert await one.meet("a", LONG_S) == await other.meet("b", LONG_S) == (0, "")
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
