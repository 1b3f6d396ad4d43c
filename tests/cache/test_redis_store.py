"""What the Redis tier does beyond the contract of all stores."""

import asyncio
import os
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.doubles import LONG_S, Clock, sealed
from tests.needs import needs_program
from tests.redis_servers import Cluster, Server, program, serving

from labeling_ground import key as keys
from labeling_ground.cache.redis.connect import RedisConnection, Tls, connect
from labeling_ground.cache.redis.lifetime import Lifetimes
from labeling_ground.cache.redis.names import Names
from labeling_ground.cache.redis.notices import PurgeNotices
from labeling_ground.cache.redis.store import RedisStore
from labeling_ground.errors import DamagedEntry, StoreFailed, StoreFull
from labeling_ground.types import Entry, Kind

pytestmark = pytest.mark.anyio

IMAGES = [keys.ImageKeys(keys.PUBLIC, keys.image_id(bytes([number]))) for number in range(20)]
MIB = 1 << 20


@pytest.fixture
async def make(valkey: tuple[Server, str]) -> AsyncIterator[Callable[..., RedisStore]]:
    """Stores on the common server, which is empty at first."""
    server, url = valkey
    server.ask("FLUSHALL")
    made: list[RedisStore] = []

    def make_one(at: str = url, **given: Any) -> RedisStore:
        made.append(RedisStore(connect(at, timeout_s=LONG_S), **({"idle_s": 1800.0} | given)))
        return made[-1]

    yield make_one
    for store in made:
        await store.aclose()


@pytest.fixture
async def reach() -> AsyncIterator[Callable[..., RedisConnection]]:
    """Connections, closed in the end."""
    made: list[RedisConnection] = []

    def one(url: str, **given: Any) -> RedisConnection:
        made.append(connect(url, **({"timeout_s": LONG_S} | given)))
        return made[-1]

    yield one
    for connection in made:
        await connection.aclose()


def left_ms(server: Server, key: str) -> int:
    return int(server.ask("PTTL", Names().redis_key(key)))


# --- how long ---------------------------------------------------------------------------------------------------------


async def test_a_read_sets_the_idle_time_anew_in_the_same_command(
    make: Callable[..., RedisStore], valkey: tuple[Server, str]
) -> None:
    store, server = make(by_cost=False), valkey[0]
    key = IMAGES[0].image
    await store.put(key, sealed(key))
    server.ask("PEXPIRE", store.connection.names.redis_key(key), 5000)
    server.ask("CONFIG", "RESETSTAT")
    assert await store.get(key) is not None
    assert 1_700_000 < left_ms(server, key) <= 1_800_000
    said = {name for name in server.ask("INFO", "commandstats") if name.startswith("cmdstat_")}
    assert said & {"cmdstat_get", "cmdstat_expire", "cmdstat_pexpire"} == set()
    assert "cmdstat_getex" in said


async def test_the_greatest_age_is_not_lengthened_by_reading(
    make: Callable[..., RedisStore], valkey: tuple[Server, str]
) -> None:
    clock = Clock(10_000.0)
    store = make(max_age_s=600.0, clock=clock)
    key = IMAGES[0].image
    await store.put(key, sealed(key, created=clock.now - 300))
    assert await store.get(key) is not None
    assert left_ms(valkey[0], key) <= 300_000
    await store.touch(key)  # says nothing of when it was made: the read will
    clock.now += 300
    assert await store.get(key) is None
    assert valkey[0].ask("EXISTS", store.connection.names.redis_key(key)) == 0
    assert (await store.stats()).evictions["age"] == 1


def test_what_is_dear_by_the_byte_lives_longer_and_nothing_longer_than_the_idle_time() -> None:
    lifetimes = Lifetimes(1800.0, by_cost=True)
    cheap, middle, dear = "v1/t/i/embedding/a@1", "v1/t/i/embedding/b@1", "v1/t/i/mask/a@1/p"
    assert lifetimes.ms(cheap) == 1_800_000, "what is not known yet"
    lifetimes.learn(cheap, Entry(Kind.EMBEDDING, b"x" * 2_000_000, 0.1, 0.0))
    lifetimes.learn(middle, Entry(Kind.EMBEDDING, b"x" * 2_000_000, 2.0, 0.0))
    lifetimes.learn(dear, Entry(Kind.MASK, b"x" * 1000, 1.0, 0.0))
    assert lifetimes.ms(cheap) == 900_000
    assert lifetimes.ms(middle) == 1_350_000
    assert lifetimes.ms(dear) == 1_800_000
    assert lifetimes.ms("v1/t/other/mask/a@1/q") == 1_800_000, "the class is meant, not the key"


def test_one_odd_cost_does_not_turn_a_class_over() -> None:
    lifetimes = Lifetimes(1800.0, by_cost=True)
    for _ in range(50):
        lifetimes.learn("v1/t/i/mask/a@1/p", Entry(Kind.MASK, b"x" * 1000, 0.01, 0.0))
    before = lifetimes.ms("v1/t/i/mask/a@1/p")
    lifetimes.learn("v1/t/i/mask/a@1/p", Entry(Kind.MASK, b"x" * 1000, 0.0, 0.0))
    assert 900_000 < lifetimes.ms("v1/t/i/mask/a@1/p") < before


def test_costs_make_no_difference_where_all_shall_be_equal() -> None:
    lifetimes = Lifetimes(60.0, by_cost=False)
    lifetimes.learn("v1/t/i/mask/a@1/p", Entry(Kind.MASK, b"x" * 1000, 0.0, 0.0))
    assert lifetimes.ms("v1/t/i/mask/a@1/p") == 60_000


# --- what comes back ------------------------------------------------------------------------------------------------


async def test_bytes_that_are_no_frame_are_damaged_and_can_be_replaced(
    make: Callable[..., RedisStore], valkey: tuple[Server, str]
) -> None:
    store = make()
    key = IMAGES[0].image
    for wrong in (b"", b"not ours", sealed(IMAGES[1].image).value, sealed(key).value[:40]):
        valkey[0].ask("SET", store.connection.names.redis_key(key), wrong)
        with pytest.raises(DamagedEntry):
            await store.get(key)
        await store.drop_damaged(key)
        await store.put(key, sealed(key))
        assert await store.get(key) == sealed(key)
    assert (await store.stats()).evictions["damaged"] == 4
    for images in (IMAGES, IMAGES):
        await asyncio.gather(*(store.put(one.image, sealed(one.image)) for one in images))
    await asyncio.gather(*(store.drop_damaged(one.image) for one in IMAGES))
    assert (await store.stats()).evictions["damaged"] == 4 + len(IMAGES), "also where many are dropped at once"


async def test_a_value_lies_there_as_it_was_sealed(make: Callable[..., RedisStore], valkey: tuple[Server, str]) -> None:
    store = make()
    key = IMAGES[0].image
    await store.put(key, sealed(key, 3 * MIB))
    assert valkey[0].ask("GET", store.connection.names.redis_key(key)) == sealed(key, 3 * MIB).value


async def test_others_on_the_same_server_are_let_alone(
    make: Callable[..., RedisStore], valkey: tuple[Server, str]
) -> None:
    store = make()
    others = ["v1/public/x/image", "other:1", "lg2:v1/public/x/image", "lg.lease:v1/public/{x}/image", b"\xff*?"]
    for name in others:
        valkey[0].ask("SET", name, "theirs")
    for of in IMAGES:
        await store.put(of.image, sealed(of.image))
    assert await store.delete(keys.pattern()) == len(IMAGES)
    assert valkey[0].ask("DBSIZE") == len(others)


async def test_a_purge_goes_through_more_keys_than_one_step_takes(
    make: Callable[..., RedisStore], valkey: tuple[Server, str]
) -> None:
    store, server = make(), valkey[0]
    names = store.connection.names
    with server.client() as client, client.pipeline(transaction=False) as pipe:
        for number in range(5000):
            pipe.set(names.redis_key(f"v1/public/{number % 50}/mask/m@1/{number}"), b"x")
        pipe.execute()
    assert await store.delete(keys.pattern("public", "7")) == 100
    assert await store.delete(keys.pattern()) == 4900
    assert (await store.stats()).evictions["purge"] == 5000


# --- how much -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small() -> Any:
    """Starts a server with little memory and some policy."""
    running = []

    def start(policy: str, megabytes: int = 24) -> Server:
        context = serving(program(), "--maxmemory", f"{megabytes}mb", "--maxmemory-policy", policy)
        running.append(context)
        return context.__enter__()

    yield start
    for context in running:
        context.__exit__(None, None, None)


async def test_above_an_eighth_of_the_servers_memory_is_refused(make: Callable[..., RedisStore], small: Any) -> None:
    store = make(small("volatile-ttl", 32).url)
    fits, large = IMAGES[0].image, IMAGES[1].image
    await store.put(fits, sealed(fits, 4 * MIB - 1000))
    await store.put(large, sealed(large, 4 * MIB))
    assert await store.get(fits) is not None
    assert await store.get(large) is None
    stats = await store.stats()
    assert (stats.refused, stats.budget) == (1, 32 * MIB)


async def test_the_setting_says_what_the_server_does_not(make: Callable[..., RedisStore]) -> None:
    store = make(budget_bytes=8 * MIB)
    key = IMAGES[0].image
    await store.put(key, sealed(key, MIB))
    assert await store.get(key) is None
    stats = await store.stats()
    assert (stats.refused, stats.budget) == (1, 8 * MIB)


async def test_a_full_server_evicts_what_would_expire_first(make: Callable[..., RedisStore], small: Any) -> None:
    server = small("volatile-ttl")
    server.ask("CONFIG", "SET", "maxmemory-samples", 64)  # it looks at all of them: its choice is no chance
    store = make(server.url, by_cost=False)
    for of in IMAGES:  # some 40 MB for 24
        await store.put(of.image, sealed(of.image, 2 * MIB))
        await asyncio.sleep(0.002)  # times to live that differ
    here = [await store.touch(of.image) for of in IMAGES]
    stats = await store.stats()
    assert here == sorted(here), "the longest unused go"
    assert here[-1]
    assert stats.evictions["budget"] == here.count(False)
    assert stats.entries == here.count(True)
    assert 0 < stats.bytes <= 24 * MIB
    assert stats.refused == 0


async def test_a_full_server_that_evicts_nothing_refuses_and_still_serves(
    make: Callable[..., RedisStore], small: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = make(small("noeviction").url)
    for of in IMAGES:
        await store.put(of.image, sealed(of.image, 2 * MIB))
    here = [await store.get(of.image) is not None for of in IMAGES]
    assert 5 < here.count(True) < len(IMAGES)
    assert (await store.stats()).refused == here.count(False)
    said = [record.getMessage() for record in caplog.records if "not kept" in record.getMessage()]
    assert len(said) == 1, "once a minute is enough"
    assert "volatile-ttl" in said[0]
    assert await store.delete(keys.pattern()) == here.count(True)
    await store.put(IMAGES[0].image, sealed(IMAGES[0].image))
    assert await store.get(IMAGES[0].image) is not None


async def test_expired_and_evicted_are_counted_since_the_first_look_and_over_a_restart(
    make: Callable[..., RedisStore], small: Any
) -> None:
    server = small("volatile-ttl")
    names = connect(server.url).names
    for number in range(3):
        server.ask("SET", names.redis_key(str(number)), "x", "PX", 1)
    await asyncio.sleep(0.005)
    server.ask("KEYS", "*")
    store = make(server.url)
    assert (await store.stats()).evictions["idle"] == 0, "before our time"
    server.kill()
    with pytest.raises(StoreFailed):
        await store.stats()
    await asyncio.sleep(1.1)  # a server's age is told in whole seconds
    server.start()
    server.ask("SET", names.redis_key("a"), "x", "PX", 1)
    await asyncio.sleep(0.005)
    server.ask("GET", names.redis_key("a"))
    assert (await store.stats()).evictions["idle"] == 1
    server.ask("CONFIG", "RESETSTAT")
    assert (await store.stats()).evictions["idle"] == 1, "its own count began anew"


async def test_another_idle_time_counts_from_the_next_use_on(
    make: Callable[..., RedisStore], valkey: tuple[Server, str]
) -> None:
    """Nothing goes by the change itself; the log of purges reaches back as far as an entry now can."""
    store, server = make(idle_s=60.0, notices=PurgeNotices(connect(valkey[1]), log_s=120.0)), valkey[0]
    key = IMAGES[0].image
    await store.put(key, sealed(key))
    await store.reconfigure(idle_s=600.0, budget_bytes=1)
    assert 30_000 < left_ms(server, key) <= 60_000
    assert await store.touch(key)
    assert 300_000 < left_ms(server, key) <= 600_000
    assert store.notices is not None
    assert store.notices.log_s == 1200.0
    await store.reconfigure(idle_s=6.0)
    assert left_ms(server, key) > 300_000
    assert await store.get(key) == sealed(key)
    assert left_ms(server, key) <= 6_000
    assert store.notices.log_s == 1200.0


# --- the connection -------------------------------------------------------------------------------------------------


async def test_a_cluster_keeps_images_apart_and_what_is_about_one_together(
    redis_cluster: tuple[Cluster, str],
) -> None:
    cluster, url = redis_cluster
    for server in cluster.servers:
        server.ask("FLUSHALL")
    connection = connect(url, timeout_s=LONG_S)
    store = RedisStore(connection, idle_s=600.0, budget_bytes=64 * MIB)
    try:
        for of in IMAGES:
            await store.put(of.image, sealed(of.image))
        held = [server.ask("DBSIZE") for server in cluster.primaries]
        assert sum(held) == len(IMAGES)
        assert all(held), "each has some"
        one = connection.names.redis_key(IMAGES[0].image)
        lease = connection.names.name_for(IMAGES[0].image, "lease")
        both = await connection.execute("EVAL", "return redis.call('exists', KEYS[1], KEYS[2])", 2, one, lease)
        assert both == 1
        assert (await store.stats()).entries == len(IMAGES)
        assert await store.delete(keys.pattern(None, IMAGES[3].image_id)) == 1
        assert await store.delete(keys.pattern()) == len(IMAGES) - 1
    finally:
        await store.aclose()


async def test_a_wrong_password_is_said_and_not_repeated(reach: Callable[..., RedisConnection]) -> None:
    with serving(program(), "--requirepass", "geheim") as server:
        right, wrong = (reach(f"redis://:{word}@127.0.0.1:{server.port}") for word in ("geheim", "falsch"))
        none = reach(server.url)
        assert await right.execute("PING")
        for connection in (wrong, none):
            with pytest.raises(StoreFailed, match="does not accept the user or the password") as refusal:
                await connection.execute("GET", "x")
            assert "falsch" not in str(refusal.value)
            assert "geheim" not in str(refusal.value)


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1", "unix:///nowhere", "redis+cluster://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/lg"]
)
async def test_nobody_there_is_told_at_once(url: str, reach: Callable[..., RedisConnection]) -> None:
    connection = reach(url, timeout_s=4 * LONG_S)
    async with asyncio.timeout(LONG_S):
        with pytest.raises(StoreFailed, match="Redis at "):
            await connection.execute("GET", "x")
        with pytest.raises(StoreFailed, match="Redis at "):
            await connection.each("INFO")
        with pytest.raises(StoreFailed, match="Redis at "):
            await connection.together([("UNLINK", "x")])


async def test_no_more_commands_than_allowed_are_under_way_and_none_waits_without_end(
    reach: Callable[..., RedisConnection],
) -> None:
    with serving(program()) as server:
        connection = reach(server.url, connections=4, timeout_s=20.0)
        await asyncio.gather(*(connection.execute("SET", f"k{n}", "v") for n in range(100)))
        assert server.ask("INFO", "clients")["connected_clients"] <= 4 + 1
        connection = reach(server.url, connections=4, timeout_s=0.3)
        server.freeze()
        async with asyncio.timeout(LONG_S):
            failed = await asyncio.gather(*(connection.execute("GET", "k1") for _ in range(30)), return_exceptions=True)
        assert all(isinstance(error, StoreFailed) for error in failed)
        assert any("are busy" in str(error) for error in failed)
        server.thaw()
        assert await reach(server.url).execute("GET", "k1") == b"v"


async def test_a_command_that_is_given_up_leaves_nothing_for_the_next(
    valkey: tuple[Server, str], reach: Callable[..., RedisConnection]
) -> None:
    connection = reach(valkey[1], connections=2, timeout_s=20.0)
    large = {f"k{n}": os.urandom(2 * MIB) for n in range(4)}
    for name, value in large.items():
        await connection.execute("SET", name, value)
    for after_s in (0.0, 0.0005, 0.001, 0.002, 0.003) * 4:
        ask = asyncio.ensure_future(connection.execute("GET", "k0"))
        await asyncio.sleep(after_s)
        ask.cancel()
        await asyncio.gather(ask, return_exceptions=True)
        for name, value in large.items():
            assert await connection.execute("GET", name) == value


async def test_out_of_memory_is_told_apart(small: Any, reach: Callable[..., RedisConnection]) -> None:
    connection = reach(small("noeviction", 8).url)
    puts = [connection.execute("SET", f"k{number}", os.urandom(MIB)) for number in range(10)]
    failed = [error for error in await asyncio.gather(*puts, return_exceptions=True) if error is not True]
    assert failed
    assert all(isinstance(error, StoreFull) and "volatile-ttl" in str(error) for error in failed)


async def test_it_waits_at_the_server_only_where_it_has_the_patience(
    valkey: tuple[Server, str], reach: Callable[..., RedisConnection]
) -> None:
    connection = reach(valkey[1], timeout_s=0.2)
    patient = connection.patient(20.0)
    started = time.monotonic()
    assert not await patient.execute("XREAD", "BLOCK", 500, "STREAMS", "nothing-here", "0")
    assert time.monotonic() - started > 0.4  # the server counts in its own milliseconds
    with pytest.raises(StoreFailed, match=r"did not answer within 0\.2 s"):
        await connection.execute("XREAD", "BLOCK", 5000, "STREAMS", "nothing-here", "0")
    await patient.aclose()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a certificate for this machine, which is its own authority, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    command = f"{needs_program('openssl')} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
    command += "-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    subprocess.run(command.split(), check=True, capture_output=True, cwd=folder)
    return folder


@asynccontextmanager
async def encrypted(server: Server, certificate: Path, *, asks: bool) -> AsyncIterator[int]:
    """The server behind TLS; ``asks``: who connects must show the certificate too. The port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    if asks:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificate / "cert.pem")

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        except OSError:
            pass
        finally:
            target.close()

    relays: set[asyncio.Task[Any] | None] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relays.add(asyncio.current_task())
        there, back = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(pump(reader, back), pump(there, writer))

    listening = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        await asyncio.sleep(0.05)  # for connections to end that the test has closed
        async with asyncio.timeout(LONG_S):
            await asyncio.gather(*(task for task in relays if task is not None), return_exceptions=True)


async def test_tls_wants_a_certificate_that_it_can_trust_and_shows_its_own(
    valkey: tuple[Server, str], certificate: Path, reach: Callable[..., RedisConnection]
) -> None:
    cert, key = certificate / "cert.pem", certificate / "key.pem"
    async with encrypted(valkey[0], certificate, asks=True) as port:
        trusted = reach(f"rediss://127.0.0.1:{port}", tls=Tls(cert, cert, key), timeout_s=20.0)
        await trusted.execute("SET", "k", os.urandom(MIB))
        assert len(await trusted.execute("GET", "k")) == MIB
        await trusted.aclose()
        for tls in (None, Tls(ca_file=cert)):
            refused = reach(f"rediss://127.0.0.1:{port}", tls=tls)
            with pytest.raises(StoreFailed, match="Redis at rediss://"):
                await refused.execute("GET", "k")
            await refused.aclose()


async def test_a_cluster_may_be_asked_by_many_before_its_shape_is_known(
    redis_cluster: tuple[Cluster, str], reach: Callable[..., RedisConnection]
) -> None:
    """The driver's own start, entered by many commands at once, loses some of them."""
    for _ in range(3):
        cold = reach(redis_cluster[1])
        answers = await asyncio.gather(*(cold.execute("SET", f"lg:cold:{number}", b"v") for number in range(30)))
        assert answers == [True] * 30
        await cold.aclose()
