"""What is Redis' own about the leases there; what holds for all is in ``contracts``."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import pytest
from redis.crc import key_slot
from tests.doubles import TENANT, TOY, ToyBackend, counted, image_bytes, keys_of, mask, serving, until
from tests.redis_servers import Cluster, Server, program, system_program
from tests.redis_servers import serving as redis_serving

from labeling_ground import key as keys
from labeling_ground.cache.lease import Claim
from labeling_ground.cache.redis.connect import RedisConnection, connect
from labeling_ground.cache.redis.lease import RedisLeases
from labeling_ground.cache.redis.names import Names
from labeling_ground.cache.redis.store import RedisStore
from labeling_ground.errors import StoreFailed
from labeling_ground.service.leases import SharedFlights
from labeling_ground.service.predictor import Predictor
from labeling_ground.types import Kind, Outcome, Priority

pytestmark = pytest.mark.anyio

T = TypeVar("T")

FILE = image_bytes(1)
ID = keys.image_id(FILE)
KEY = keys_of(FILE).embedding(TOY)
OTHER_KEY = keys_of(image_bytes(2)).embedding(TOY)
LEASE = Names().name_for(KEY, "lease")
LONG_S = 60.0


@asynccontextmanager
async def leases_at(url: str, *, timeout_s: float = LONG_S, silence_s: float = 5.0) -> AsyncIterator[RedisLeases]:
    connection = connect(url, timeout_s=timeout_s)
    leases = RedisLeases(connection, silence_s=silence_s)
    try:
        yield leases
    finally:
        await leases.aclose()
        await connection.aclose()


@pytest.fixture
async def server(valkey: tuple[Server, str]) -> Server:
    """An empty server, to which nobody listens any more."""
    valkey[0].ask("FLUSHALL")
    await until(lambda: subscribers(valkey[0]) == 0)
    return valkey[0]


async def heard_again(leases: RedisLeases, teller: RedisLeases) -> None:
    """See release after release through, until one is heard of."""
    async with asyncio.timeout(LONG_S), leases.listen(KEY) as news:
        while not news.is_set():
            assert await teller.take(KEY, "a", LONG_S) is Claim.GRANTED
            assert await teller.take(KEY, "b", LONG_S) is Claim.TAKEN  # said by who waits, over whichever connection
            assert await teller.release(KEY, "a")
            await asyncio.sleep(0.05)


async def test_a_lease_lies_in_the_slot_of_its_value_under_a_name_that_is_no_values(server: Server) -> None:
    names = Names("some")
    assert key_slot(names.name_for(KEY, "lease")) == key_slot(names.redis_key(KEY))
    assert names.key_of(names.name_for(KEY, "lease")) is None


async def test_it_expires_in_the_server_and_leaves_nothing_behind(server: Server) -> None:
    async with leases_at(server.url) as one, leases_at(server.url) as other:
        await one.take(KEY, "a", 30.0)
        await other.take(KEY, "b", LONG_S)
        assert 20_000 < server.ask("PTTL", LEASE) <= 30_000
        await one.renew(KEY, "a", LONG_S)
        assert 50_000 < server.ask("PTTL", LEASE) <= 60_000
        await one.release(KEY, "a")
        assert server.ask("DBSIZE") == 0


async def test_a_server_that_forgot_the_scripts_is_sent_them_again(server: Server) -> None:
    async with leases_at(server.url) as leases:
        for _ in range(2):
            server.ask("SCRIPT", "FLUSH")
            assert await leases.take(KEY, "a", LONG_S) is Claim.GRANTED
            assert await leases.renew(KEY, "a", LONG_S)
            server.ask("SCRIPT", "FLUSH")
            assert await leases.release(KEY, "a")


async def test_of_a_lease_that_nobody_waits_for_nobody_is_told(server: Server) -> None:
    async with leases_at(server.url) as one, leases_at(server.url) as other:
        server.ask("CONFIG", "RESETSTAT")
        await one.take(KEY, "a", LONG_S)
        await one.release(KEY, "a")
        assert "cmdstat_publish" not in server.ask("INFO", "commandstats")
        await one.take(KEY, "a", LONG_S)
        await other.take(KEY, "b", LONG_S)
        await one.release(KEY, "a")
        assert "cmdstat_publish" in server.ask("INFO", "commandstats")


@pytest.mark.parametrize("which", [program, system_program])
async def test_a_server_that_is_full_gives_no_lease_and_that_is_no_failure(which: Callable[[], str]) -> None:
    with redis_serving(which()) as server:
        async with leases_at(server.url) as one, leases_at(server.url) as other:
            assert await one.take(KEY, "a", LONG_S) is Claim.GRANTED
            server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", 1)
            assert await other.take(OTHER_KEY, "b", LONG_S) is Claim.FULL
            assert await other.take(KEY, "b", LONG_S) is Claim.TAKEN
            assert await one.renew(KEY, "a", LONG_S)
            assert await one.release(KEY, "a")
            assert server.ask("DBSIZE") == 0
            assert await one.take(KEY, "a", LONG_S) is Claim.FULL
            server.ask("CONFIG", "SET", "maxmemory", 0)
            assert await one.take(KEY, "a", LONG_S) is Claim.GRANTED


async def test_a_purge_leaves_leases_alone(server: Server) -> None:
    async with leases_at(server.url) as leases:
        await leases.take(KEY, "a", LONG_S)
        store = RedisStore(connect(server.url), idle_s=60.0)
        assert await store.delete("v1/*") == 0
        await store.aclose()
        assert await leases.renew(KEY, "a", LONG_S)


# --- notices -------------------------------------------------------------------------------------------------------


def subscribers(server: Server) -> int:
    counted = server.ask("PUBSUB", "NUMSUB", Names().ours("released"))
    return int(counted[1] if isinstance(counted, list) else next(iter(counted.values())))


async def test_one_subscription_serves_all_who_listen_and_ends_when_nobody_does(server: Server) -> None:
    async with leases_at(server.url, silence_s=0.5) as leases, leases_at(server.url) as teller:
        assert subscribers(server) == 0
        async with leases.listen(KEY), leases.listen(KEY), leases.listen(KEY + "0"):
            await until(lambda: subscribers(server) == 1)
            await asyncio.sleep(1.5)  # silence is no end while somebody listens
            await until(lambda: subscribers(server) == 1)
            await heard_again(leases, teller)
        await until(lambda: subscribers(server) == 0)
        await heard_again(leases, teller)


async def test_a_subscription_that_breaks_is_taken_up_again(server: Server) -> None:
    async with leases_at(server.url) as leases, leases_at(server.url) as teller, leases.listen(KEY):
        for _ in range(2):
            await until(lambda: subscribers(server) == 1)
            assert server.ask("CLIENT", "KILL", "TYPE", "pubsub") == 1
            await heard_again(leases, teller)


async def test_a_server_that_falls_silent_keeps_nobody_who_wants_to_listen(server: Server) -> None:
    async with leases_at(server.url, timeout_s=0.2, silence_s=0.1) as leases:
        server.freeze()
        try:
            started = time.monotonic()
            async with leases.listen(KEY) as news:
                assert not news.is_set()
            assert time.monotonic() - started < LONG_S / 2
            with pytest.raises(StoreFailed):
                await leases.take(KEY, "a", LONG_S)
        finally:
            server.thaw()
        async with leases_at(server.url) as teller:
            await teller.release(KEY, "a")  # the server may have read what it did not answer
            await heard_again(leases, teller)


# --- all together -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def processes(count: int, url: str) -> AsyncIterator[list[Predictor]]:
    """As many Segmenters, each with its own way to Redis, as processes have it. Patient: this machine may be busy."""
    async with AsyncExitStack() as stack:
        segmenters = []
        for _ in range(count):
            connection = connect(url, timeout_s=LONG_S)
            await connection.each("PING")
            store = RedisStore(connection, idle_s=600.0)
            predictor = await stack.enter_async_context(serving(ToyBackend(), store))
            predictor.once.shared = SharedFlights(NotingLeases(connection), predictor.store.lower[0], lease_s=LONG_S)
            segmenters.append(predictor)
        yield segmenters


class NotingLeases(RedisLeases):
    """Keep in mind what was answered."""

    def __init__(self, redis: RedisConnection) -> None:
        super().__init__(redis)
        self.claims: list[Claim] = []

    async def take(self, key: str, token: str, seconds: float, priority: Priority = Priority.INTERACTIVE) -> Claim:
        self.claims.append(await super().take(key, token, seconds, priority))
        return self.claims[-1]


def backends(segmenters: list[Predictor]) -> list[ToyBackend]:
    found = [predictor.backend for predictor in segmenters]
    return [backend for backend in found if isinstance(backend, ToyBackend)]


def computed(segmenters: list[Predictor]) -> tuple[int, int]:
    return sum(b.encodes for b in backends(segmenters)), sum(b.decodes for b in backends(segmenters))


async def once_all_have_asked(segmenters: list[Predictor], asks: list[Coroutine[Any, Any, T]]) -> list[T]:
    """Answers to asks that are all under way before the model gives anything."""
    hold = asyncio.Event()
    leases = [predictor.once.shared._leases for predictor in segmenters if predictor.once.shared is not None]
    noting = [each for each in leases if isinstance(each, NotingLeases)]
    assert len(noting) == len(segmenters)
    for backend, each in zip(backends(segmenters), noting, strict=True):
        backend.hold = hold
        each.claims.clear()
    tasks = [asyncio.create_task(ask) for ask in asks]
    await until(lambda: all(each.claims for each in noting))
    hold.set()
    return list(await asyncio.gather(*tasks))


@pytest.mark.parametrize("shape", ["valkey", "redis_cluster"])
async def test_one_encode_and_one_decode_for_all_who_share_a_redis(shape: str, request: pytest.FixtureRequest) -> None:
    place: tuple[Server | Cluster, str] = request.getfixturevalue(shape)
    servers = place[0].primaries if isinstance(place[0], Cluster) else [place[0]]
    for each in servers:
        each.ask("FLUSHALL")
    async with processes(3, place[1]) as three:
        sent = await once_all_have_asked(three, [one.open_image(TENANT, FILE, ID) for one in three for _ in range(5)])
        assert Counter(answer.outcome for answer in sent) == {Outcome.MISS: 1, Outcome.JOINED: 14}
        answers = await once_all_have_asked(three, [mask(one, ID) for one in three for _ in range(5)])
        assert Counter(answer.outcome for answer in answers) == {Outcome.MISS: 1, Outcome.JOINED: 14}
        assert len({answer.prediction.png for answer in answers}) == 1
        assert computed(three) == (1, 1)
        for kind in (Kind.EMBEDDING, Kind.MASK):
            figures = [counted(one, kind) for one in three]
            assert sum(f.misses for f in figures) == 1
            assert all(f.lookups == f.hits + f.misses + f.joined for f in figures)
        await until(lambda: all(not each.ask("KEYS", "*lease*") for each in servers))


async def test_a_server_that_goes_under_way_keeps_nobody_from_an_answer() -> None:
    with redis_serving(program()) as own:
        async with processes(3, own.url) as three:
            hold = asyncio.Event()
            for backend in backends(three):
                backend.hold = hold
            asks = [asyncio.create_task(one.open_image(TENANT, FILE, ID)) for one in three]
            await until(lambda: computed(three)[0] == 1)
            own.kill()
            hold.set()
            outcomes = Counter(answer.outcome for answer in await asyncio.wait_for(asyncio.gather(*asks), LONG_S))
        assert outcomes == {Outcome.MISS: 3}
