"""Sessions in a Redis that is full, or is another one than before."""

from collections.abc import Callable

import pytest
from tests.doubles import LONG_S
from tests.redis_servers import program, serving, system_program

from labeling_ground.cache.keeper import Kept
from labeling_ground.cache.redis.connect import connect
from labeling_ground.cache.redis.keeper import RedisKeeper

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("find_program", [program, system_program])
async def test_a_server_that_is_full_and_evicts_nothing_keeps_sessions_all_the_same(
    find_program: Callable[[], str],
) -> None:
    """New ones, changed ones and large ones; it also counts who is there."""
    with serving(find_program(), "--maxmemory-policy", "noeviction", "--maxmemory", "1") as server:
        connection = connect(server.url, timeout_s=LONG_S)
        keeper, first, second = RedisKeeper(connection), Kept.new(b"first"), Kept.new(b"second" * 10_000)
        assert await keeper.save("s", first, b"", LONG_S) == first
        assert await keeper.save("s", second, first.version, LONG_S) == second
        assert await keeper.save("s", Kept.new(b"late"), first.version, LONG_S) == second
        assert await keeper.load("s") == second
        assert (await keeper.meet("me", LONG_S))[0] == 0
        assert (await keeper.meet("you", LONG_S))[0] == 1
        await connection.aclose()


async def test_another_server_in_the_same_place_has_another_name() -> None:
    with serving(program()) as server:
        connection = connect(server.url, timeout_s=LONG_S)
        keeper = RedisKeeper(connection)
        _, first = await keeper.meet("me", LONG_S)
        server.kill()
        server.start()
        await connection.client.connection_pool.disconnect()  # type: ignore[union-attr]
        _, second = await keeper.meet("me", LONG_S)
        assert first
        assert second not in ("", first)
        await connection.aclose()
