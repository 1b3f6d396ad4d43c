"""Sessions in a Redis that is full, or is another one than before."""

from collections.abc import Callable

import pytest
from tests.doubles import LONG_S
from tests.redis_servers import program, serving, system_program

from labeling_ground.cache.redis.connect import connect
from labeling_ground.cache.redis.state_store import RedisStateStore

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("find_program", [program, system_program])
async def test_a_server_that_is_full_and_evicts_nothing_keeps_sessions_all_the_same(
    find_program: Callable[[], str],
) -> None:
    """New ones, changed ones and large ones; it also counts who is there."""
    with serving(find_program(), "--maxmemory-policy", "noeviction", "--maxmemory", "1") as server:
        connection = connect(server.url, timeout_s=LONG_S)
        state_store, first, second = RedisStateStore(connection), b"first", b"second" * 10_000
        assert await state_store.write("s", b"", first, LONG_S, anew=True) == (True, first)
        assert await state_store.write("s", first, second, LONG_S, anew=False) == (True, first + second)
        assert await state_store.write("s", first, b"late", LONG_S, anew=True) == (False, first + second)
        assert await state_store.load("s") == first + second
        assert (await state_store.meet("me", LONG_S))[0] == 0
        assert (await state_store.meet("you", LONG_S))[0] == 1
        await connection.aclose()


async def test_another_server_in_the_same_place_has_another_name() -> None:
    with serving(program()) as server:
        connection = connect(server.url, timeout_s=LONG_S)
        state_store = RedisStateStore(connection)
        _, first = await state_store.meet("me", LONG_S)
        server.kill()
        server.start()
        await connection.client.connection_pool.disconnect()  # type: ignore[union-attr]
        _, second = await state_store.meet("me", LONG_S)
        assert first
        assert second not in ("", first)
        await connection.aclose()
