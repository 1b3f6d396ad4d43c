"""With Redis slow, full, gone or damaged the service goes on: misses and counters, never an error or a wrong mask."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from tests.doubles import TOY, ToyBackend, click, counted_of, errors_of, forget, image_bytes, keys_of, mask, send, until
from tests.ports import free_port
from tests.redis_servers import Server, clustered, program, serving, watched

from labeling_ground import key as keys
from labeling_ground.cache.lease import Claim
from labeling_ground.cache.redis.connect import connect
from labeling_ground.cache.redis.lease import RedisLeases
from labeling_ground.cache.redis.state_store import RedisStateStore
from labeling_ground.cache.redis.store import RedisStore
from labeling_ground.errors import LabelingGroundError, StoreFailed
from labeling_ground.service.predictor import Predictor
from labeling_ground.settings import Settings
from labeling_ground.types import Kind, Outcome
from labeling_ground.wiring import build_predictor

pytestmark = pytest.mark.anyio

MOST_S = 60.0
"""No ask takes longer, whatever happens. On an idle machine none takes a second; this one may be busy."""
PATIENT: dict[str, Any] = {
    "redis_timeout_s": MOST_S,
    "lookup_deadline_ms": 1e3 * MOST_S,
    "lease_patience_ms": 1e3 * MOST_S,
    "cache_mode": "first",
}
"""Where nothing goes wrong but in the server, nothing shall go wrong because this machine is busy."""


@asynccontextmanager
async def service(url: str, folder: Path, **given: Any) -> AsyncIterator[Predictor]:
    chosen: dict[str, Any] = {"redis_timeout_s": 0.5, "breaker_reset_s": 0.2, "lookup_deadline_ms": 250.0} | given
    predictor = build_predictor(Settings(redis_url=SecretStr(url), cache_dir=folder, **chosen), backend=ToyBackend())
    try:
        yield predictor
    finally:
        await predictor.aclose()


@pytest.fixture
def server() -> Any:
    with serving(program()) as started:
        yield started


def redis_of(predictor: Predictor) -> Any:
    return predictor.store.lower[-1]


async def ask(predictor: Predictor, image_id: str, x: float) -> str:
    """One click, within its limit; what the masks are, whoever computed them."""
    async with asyncio.timeout(MOST_S):
        answer = await mask(predictor, image_id, click(x, 10.0))
    return answer.prediction.masks[0].counts


async def works_again(predictor: Predictor) -> None:
    """The tier takes values and gives them back."""
    number = 1000

    async def trip() -> bool:
        nonlocal number
        number += 1
        await send(predictor, image_bytes(number))
        await predictor.store.drain()
        key = keys_of(image_bytes(number)).embedding(TOY)
        return await predictor.store.look_up(key) is not None

    async with asyncio.timeout(MOST_S):
        while not await trip():  # noqa: ASYNC110 -- what is waited for sets no event
            await asyncio.sleep(0.05)


async def under_load(predictor: Predictor, trouble: Callable[[], Awaitable[None]]) -> None:
    """Eight clients click while something happens; every mask is the one that an undisturbed service gives."""
    images = [await send(predictor, image_bytes(number)) for number in range(4)]
    async with service("redis://127.0.0.1:1", Path("unused"), breaker_reset_s=60.0) as undisturbed:
        for number in range(4):
            await send(undisturbed, image_bytes(number))
        right = {(image, x): await ask(undisturbed, image, x) for image in images for x in range(1, 20)}
    stop = False
    asked = 0

    async def client(number: int) -> None:
        nonlocal asked
        while not stop:
            for x in range(1, 20):
                image = images[(number + x) % 4]
                assert await ask(predictor, image, x) == right[image, x]
                asked += 1
                await asyncio.sleep(0.001)
            await predictor.store.memory.delete("v1/*/mask/*")  # cold: Redis is asked

    clients = [asyncio.create_task(client(number)) for number in range(8)]
    try:
        await until(lambda: asked > 50)
        await trouble()
        at = asked
        await until(lambda: asked > at + 50)
    finally:
        stop = True
    await asyncio.gather(*clients)


async def test_killed_and_started_again_under_load(server: Server, tmp_path: Path) -> None:
    async with service(server.url, tmp_path) as predictor:

        async def trouble() -> None:
            tier = redis_of(predictor)
            before = errors_of(tier)["failed"]
            server.kill()
            await asyncio.sleep(0.5)
            await until(lambda: errors_of(tier)["failed"] > before)
            await asyncio.to_thread(server.start)

        await under_load(predictor, trouble)
        await works_again(predictor)


async def test_frozen_for_a_while_under_load(server: Server, tmp_path: Path) -> None:
    async with service(server.url, tmp_path) as predictor:

        async def trouble() -> None:
            tier = redis_of(predictor)
            before = errors_of(tier)["deadline"], counted_of(tier, "lookups_skipped")
            server.freeze()
            await asyncio.sleep(1.5)
            await until(lambda: errors_of(tier)["deadline"] > before[0])
            # The breaker spares most asks the wait.
            await until(lambda: counted_of(tier, "lookups_skipped") > before[1])
            server.thaw()

        await under_load(predictor, trouble)
        await works_again(predictor)


async def test_gone_from_the_start_everything_still_works(tmp_path: Path) -> None:
    async with service("redis://127.0.0.1:1", tmp_path) as predictor:
        image_id = await send(predictor, image_bytes(1))
        assert (await mask(predictor, image_id)).outcome is Outcome.MISS
        assert (await mask(predictor, image_id)).outcome is Outcome.HIT, "memory has it"
        [_, redis] = await predictor.store.stats()
        assert not redis.answers
        with pytest.raises(StoreFailed):
            await predictor.purge(None)
        assert errors_of(redis_of(predictor))["failed"] > 0


async def test_one_that_never_answers_costs_each_ask_no_more_than_its_deadline(server: Server, tmp_path: Path) -> None:
    async with service(server.url, tmp_path, breaker_failures=1000, cache_mode="first") as predictor:
        await predictor.store.stats(deadline_s=MOST_S)
        server.freeze()
        started = time.monotonic()
        image_id = await send(predictor, image_bytes(1))
        await ask(predictor, image_id, 5.0)
        assert time.monotonic() - started < MOST_S
        assert errors_of(redis_of(predictor))["deadline"] >= 2
        server.thaw()
        await works_again(predictor)


@pytest.mark.parametrize("policy", ["volatile-ttl", "noeviction"])
async def test_full(policy: str, tmp_path: Path) -> None:
    with serving(program(), "--maxmemory", "3mb", "--maxmemory-policy", policy) as server:
        async with service(server.url, tmp_path, **PATIENT) as predictor:
            for number in range(100):  # some 25 KB each; a server alone takes 2 MB
                await send(predictor, image_bytes(number, width=90, height=90, form="BMP"))
            if policy == "noeviction":  # no room for a lease either
                server.ask("CONFIG", "SET", "maxmemory", 1)
                for number in range(100, 110):
                    await send(predictor, image_bytes(number))
            await predictor.store.drain()
            [_, stats] = await predictor.store.stats(deadline_s=MOST_S)
            tier = redis_of(predictor)
            assert tier.health.breaker.state == "closed", "a server that is full is not one that is down"
            assert dict(errors_of(tier)) == {}
            if policy == "volatile-ttl":
                assert stats.evictions["budget"] > 10
                assert stats.refused == 0
            else:
                assert stats.refused > 10
                assert stats.evictions["budget"] == 0
            assert (await mask(predictor, await send(predictor, image_bytes(5)))).prediction.masks


async def test_damaged_values_are_thrown_away_and_computed_again(server: Server, tmp_path: Path) -> None:
    async with service(server.url, tmp_path, **PATIENT) as predictor:
        image_id = await send(predictor, image_bytes(1))
        right = await ask(predictor, image_id, 5.0)
        await predictor.store.drain()
        with server.client() as client:
            for name in client.keys(b"lg:*"):
                value = bytearray(client.get(name))
                value[len(value) // 2] ^= 1
                client.set(name, bytes(value), keepttl=True)
        await forget(predictor, Kind.MASK)
        await forget(predictor, Kind.EMBEDDING)
        await send(predictor, image_bytes(1))  # the file is damaged as well
        assert await ask(predictor, image_id, 5.0) == right
        await predictor.store.drain()
        assert errors_of(redis_of(predictor))["damaged"] >= 2
        [_, stats] = await predictor.store.stats(deadline_s=MOST_S)
        assert stats.evictions["damaged"] == errors_of(redis_of(predictor))["damaged"]
        key = keys_of(image_bytes(1)).embedding(TOY)
        assert await predictor.store.look_up(key) is not None, "it was replaced"


@asynccontextmanager
async def address(port: Callable[[], int]) -> AsyncIterator[str]:
    """An address behind which another server can come to stand, as a managed Redis has it; old connections stay."""
    tasks: set[asyncio.Task[None]] = set()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # one of the ends has closed
        finally:
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", port())
        for ends in ((reader, there[1]), (there[0], writer)):
            tasks.add(asyncio.create_task(pass_on(*ends)))

    listening = await asyncio.start_server(connected, "127.0.0.1", free_port())
    try:
        yield f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0"
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def test_another_primary_behind_the_same_address_is_found(server: Server, tmp_path: Path) -> None:
    """The old one goes on as its replica, and says no to every write."""
    with serving(program()) as other:
        standing = server.port
        async with address(lambda: standing) as url, service(url, tmp_path) as predictor:
            await asyncio.gather(*(send(predictor, image_bytes(number)) for number in range(8)))
            await predictor.store.drain()
            standing = other.port
            server.ask("REPLICAOF", "127.0.0.1", other.port)
            await works_again(predictor)
            assert other.ask("DBSIZE") > 0


async def test_a_wrong_password_is_a_tier_that_fails(tmp_path: Path) -> None:
    with serving(program(), "--requirepass", "geheim") as server:
        async with service(f"redis://:falsch@127.0.0.1:{server.port}", tmp_path) as predictor:
            image_id = await send(predictor, image_bytes(1))
            assert await ask(predictor, image_id, 5.0)
            await until(lambda: errors_of(redis_of(predictor))["failed"] > 0)


@pytest.mark.slow
async def test_a_lost_primary_takes_its_third_and_no_more_until_its_replica_takes_over(tmp_path: Path) -> None:
    with clustered(program(), replicas=True) as cluster:
        connection = connect(cluster.url, timeout_s=10.0)
        store = RedisStore(connection, idle_s=600.0, budget_bytes=1 << 30)
        images = [keys.ImageKeys(keys.PUBLIC, keys.image_id(bytes([number]))) for number in range(30)]
        for of in images:
            await connection.execute("SET", connection.names.redis_key(of.image), b"x")
        assert 0 < cluster.primaries[0].ask("DBSIZE") < len(images)

        async def found() -> set[Any]:
            here = set()
            for of in images:
                started = time.monotonic()
                try:
                    if await connection.execute("EXISTS", connection.names.redis_key(of.image)):
                        here.add(of)
                except StoreFailed:
                    pass
                assert time.monotonic() - started < MOST_S
            return here

        cluster.primaries[0].kill()
        limit = time.monotonic() + 2 * MOST_S
        best: set[Any] = set()
        while len(best) < len(images) and time.monotonic() < limit:
            best = await found()
            await asyncio.sleep(0.1)
        assert best == set(images), "the replica has them"
        assert await store.delete(keys.pattern()) == len(images)
        async with service(cluster.url, tmp_path) as predictor:
            await works_again(predictor)
        await store.aclose()


@pytest.mark.slow
async def test_the_sentinels_choice_is_followed() -> None:
    with watched(program()) as (url, primary, replica):
        connection = connect(url, timeout_s=10.0)
        await connection.execute("SET", "k", b"v")
        await until(lambda: bool(replica.ask("GET", "k") == b"v"))
        primary.kill()
        async with asyncio.timeout(2 * MOST_S):
            while True:
                try:
                    await connection.execute("SET", "k", b"w")
                    break
                except LabelingGroundError:
                    await asyncio.sleep(0.1)
        assert replica.ask("GET", "k") == b"w"
        assert await connection.each("DBSIZE") == [1]
        await connection.aclose()


@pytest.mark.slow
async def test_sessions_and_leases_follow_the_sentinels_choice() -> None:
    """What was saved before the fail-over is known after it, and both are taken and replaced there as before."""
    name, key = "5" * 64, keys_of(image_bytes(1)).embedding(TOY)
    with watched(program()) as (url, primary, replica):
        connection = connect(url, timeout_s=10.0)
        state_store, leases = RedisStateStore(connection), RedisLeases(connection)
        assert await state_store.write(name, b"", b"first", 600.0, anew=True) == (True, b"first")
        assert await leases.take(key, "a", 600.0) is Claim.GRANTED
        await until(lambda: bool(replica.ask("DBSIZE") == 2))
        primary.kill()
        saved = None
        async with asyncio.timeout(2 * MOST_S):
            while saved is None:
                try:
                    saved = await state_store.write(name, b"first", b"second", 600.0, anew=True)
                except StoreFailed:
                    await asyncio.sleep(0.1)
        assert saved == (True, b"second"), "the log of before was there"
        assert await leases.take(key, "b", 600.0) is Claim.TAKEN, "the lease was there"
        assert await leases.release(key, "a")
        assert await leases.take(key, "b", 600.0) is Claim.GRANTED
        assert replica.ask("DBSIZE") == 2
        await leases.aclose()
        await connection.aclose()
