"""One suite for all kinds of leases: none is ever ended, or prolonged, by anybody but its holder."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.doubles import TOY, DictLeases, DictStore, dice, image_bytes, keys_of, sealed, until

from labeling_ground.cache.choose import choose
from labeling_ground.cache.disk import DiskStore
from labeling_ground.cache.disk.lease import DiskLeases
from labeling_ground.cache.lease import Claim, Leases
from labeling_ground.cache.redis.connect import connect
from labeling_ground.cache.redis.lease import RedisLeases
from labeling_ground.cache.redis.store import RedisStore
from labeling_ground.cache.store import Store
from labeling_ground.types import Priority

pytestmark = pytest.mark.anyio

KEY = keys_of(image_bytes(1)).embedding(TOY)
OTHER = keys_of(image_bytes(2)).embedding(TOY)
LONG_S = 60.0
SPARE = keys_of(image_bytes(3)).embedding(TOY)


@pytest.fixture(params=["dict", "disk", "valkey", "valkey_socket", "system_redis", "redis_cluster", "redis_sentinels"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Leases, Leases, Store]]:
    """Two processes' leases, and the tier that both share."""
    if request.param == "dict":
        store = DictStore()
        leases = DictLeases(store.entries)
        yield leases, leases, store
        return
    if request.param == "disk":
        disk = DiskStore(tmp_path, budget_bytes=1 << 20, idle_s=60.0, max_age_s=None, ranking=choose("gds").ranking)
        two = [DiskLeases(disk, tmp_path) for _ in range(2)]
        yield two[0], two[1], disk
        for leases_of_one in two:
            await leases_of_one.aclose()
        await disk.aclose()
        return
    _, url = request.getfixturevalue(request.param)
    connections = [connect(url, timeout_s=LONG_S) for _ in range(2)]
    for connection in connections:
        await connection.each("FLUSHALL")
    one, other = (RedisLeases(connection) for connection in connections)
    yield one, other, RedisStore(connections[0], idle_s=60.0)
    for leases_there in (one, other):
        await leases_there.aclose()
    for connection in connections:
        await connection.aclose()


Pair = tuple[Leases, Leases, Store]


async def test_one_of_two_is_granted_it_and_the_other_hears_that_it_is_taken(pair: Pair) -> None:
    one, other, _ = pair
    assert await one.take(KEY, "a", LONG_S) is Claim.GRANTED
    assert await other.take(KEY, "b", LONG_S) is Claim.TAKEN
    assert await other.take(OTHER, "b", LONG_S) is Claim.GRANTED
    assert await one.release(KEY, "a")
    assert await other.take(KEY, "b", LONG_S) is Claim.GRANTED


async def test_the_holder_learns_how_urgent_those_are_who_wait(pair: Pair) -> None:
    one, other, _ = pair
    await one.take(KEY, "a", LONG_S, Priority.PREFETCH)
    if isinstance(one, DiskLeases):  # a lock carries no class
        return
    assert await one.awaited_as(KEY) is None
    for token, priority, awaited in (
        ("b", Priority.JOB, Priority.JOB),
        ("c", Priority.INTERACTIVE, Priority.INTERACTIVE),
        ("b", Priority.JOB, Priority.INTERACTIVE),
    ):
        await other.take(KEY, token, LONG_S, priority)
        assert await one.awaited_as(KEY) is awaited
    await one.release(KEY, "a")
    assert await other.take(KEY, "b", LONG_S) is Claim.GRANTED
    assert await other.awaited_as(KEY) is None


async def test_of_many_at_the_same_moment_one_is_granted_it(pair: Pair) -> None:
    both = pair[:2]
    claims = await asyncio.gather(*(both[n % 2].take(KEY, str(n), LONG_S) for n in range(40)))
    assert Counter(claims) == {Claim.GRANTED: 1, Claim.TAKEN: 39}


async def test_what_is_kept_needs_no_lease(pair: Pair) -> None:
    one, other, store = pair
    await store.put(KEY, sealed(KEY))
    assert await one.take(KEY, "a", LONG_S) is Claim.STORED
    assert await one.take(OTHER, "a", LONG_S) is Claim.GRANTED
    await store.put(OTHER, sealed(OTHER))
    assert await other.take(OTHER, "b", LONG_S) is Claim.STORED, "though it is still taken"


async def test_it_ends_by_itself(pair: Pair) -> None:
    one, other, _ = pair
    assert await one.take(KEY, "a", 0.05) is Claim.GRANTED
    await asyncio.sleep(0.1)
    assert not await one.renew(KEY, "a", LONG_S)
    assert not await one.release(KEY, "a")
    assert await other.take(KEY, "b", LONG_S) is Claim.GRANTED


async def test_renewed_it_does_not_end(pair: Pair) -> None:
    one, other, _ = pair
    async with asyncio.timeout(LONG_S):
        renewed = False
        while not renewed:  # a busy machine may come too late
            assert await one.take(KEY, "a", 0.5) is Claim.GRANTED
            renewed = await one.renew(KEY, "a", LONG_S)
    await asyncio.sleep(0.6)
    assert await other.take(KEY, "b", LONG_S) is Claim.TAKEN


async def test_a_renewal_can_shorten_it(pair: Pair) -> None:
    one, other, _ = pair
    await one.take(KEY, "a", LONG_S)
    assert await one.renew(KEY, "a", 0.05)
    await asyncio.sleep(0.1)
    assert await other.take(KEY, "b", LONG_S) is Claim.GRANTED


async def test_who_lost_it_neither_ends_nor_prolongs_the_next_ones(pair: Pair) -> None:
    one, other, _ = pair
    await one.take(KEY, "a", 0.05)
    await asyncio.sleep(0.1)
    assert await other.take(KEY, "b", LONG_S) is Claim.GRANTED
    assert not await one.renew(KEY, "a", 0.05)
    assert not await one.release(KEY, "a")
    await asyncio.sleep(0.1)
    assert await one.take(KEY, "c", LONG_S) is Claim.TAKEN, "it was neither ended nor shortened"
    assert await other.renew(KEY, "b", 0.3)
    assert not await one.renew(KEY, "a", 10 * LONG_S)
    async with asyncio.timeout(LONG_S):
        while await one.take(KEY, "c", LONG_S) is not Claim.GRANTED:  # noqa: ASYNC110 -- it was not prolonged
            await asyncio.sleep(0.05)
    assert not await other.release(KEY, "b")
    assert await other.take(KEY, "d", LONG_S) is Claim.TAKEN


async def test_waiting_for_it_does_not_prolong_it(pair: Pair) -> None:
    one, other, _ = pair
    await one.take(KEY, "a", 0.2)
    for _ in range(20):
        if await other.take(KEY, "b", LONG_S) is Claim.GRANTED:
            break
        await asyncio.sleep(0.05)
    else:
        pytest.fail("it never ended")


async def tuned_in(pair: Pair) -> None:
    """See to it that both hear: who listens does not wait long for that, and a busy machine may take longer."""
    for leases, teller in (pair[:2], pair[1::-1]):
        async with asyncio.timeout(LONG_S), leases.listen(SPARE) as news:
            while not news.is_set():
                assert await teller.take(SPARE, "a", LONG_S) is Claim.GRANTED
                assert await teller.take(SPARE, "b", LONG_S) is Claim.TAKEN
                assert await teller.release(SPARE, "a")
                await asyncio.sleep(0.01)


async def test_a_release_wakes_who_listens_for_this_key_and_nobody_else(pair: Pair) -> None:
    one, other, _ = pair
    await tuned_in(pair)
    await one.take(KEY, "a", LONG_S)
    await one.take(OTHER, "a", LONG_S)
    async with other.listen(KEY) as news, one.listen(KEY) as here, other.listen(OTHER) as elsewhere:
        assert await other.take(KEY, "b", LONG_S) is Claim.TAKEN
        assert await other.take(OTHER, "b", LONG_S) is Claim.TAKEN
        assert not news.is_set()
        assert await one.release(KEY, "a")
        async with asyncio.timeout(LONG_S):
            await news.wait()
            await here.wait()
        assert not elsewhere.is_set()
        news.clear()
        assert await other.take(KEY, "b", LONG_S) is Claim.GRANTED
        assert await one.take(KEY, "a", LONG_S) is Claim.TAKEN
        assert not await one.release(KEY, "a"), "which is no release"
        assert await one.release(OTHER, "a")
        async with asyncio.timeout(LONG_S):
            await elsewhere.wait()
        assert not news.is_set()


async def test_any_token_and_any_key_will_do(pair: Pair) -> None:
    one, _, _ = pair
    random = dice(5)
    for number in range(20):
        key = keys_of(image_bytes(number)).mask(TOY, f"{random.getrandbits(128):032x}")
        token = "".join(chr(random.randrange(32, 0x2FF)) for _ in range(12))
        assert await one.take(key, token, LONG_S) is Claim.GRANTED
        assert await one.renew(key, token, LONG_S)
        assert await one.release(key, token)
        assert not await one.release(key, token)


async def test_a_race_of_many_never_has_two_holders(pair: Pair) -> None:
    """Whoever is granted it says so; nobody else may be granted it before that one has released it."""
    holders: Counter[str] = Counter()
    most = 0
    await tuned_in(pair)

    async def work(number: int) -> None:
        nonlocal most
        leases = pair[:2][number % 2]
        async with leases.listen(KEY) as news:
            while await leases.take(KEY, str(number), LONG_S) is not Claim.GRANTED:
                news.clear()
                if await leases.take(KEY, str(number), LONG_S) is Claim.GRANTED:
                    break
                await asyncio.wait_for(news.wait(), LONG_S)
        holders[KEY] += 1
        most = max(most, holders[KEY])
        await asyncio.sleep(0)
        holders[KEY] -= 1
        assert await leases.release(KEY, str(number))

    async with asyncio.timeout(2 * LONG_S):
        await asyncio.gather(*(work(number) for number in range(30)))
    assert most == 1
    await until(lambda: holders[KEY] == 0)
