"""What one server purges, all others that share the Redis forget."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ByteSize, SecretStr
from tests.doubles import (
    LONG_S,
    TENANT,
    TOY,
    Clock,
    ToyBackend,
    click,
    errors_of,
    image_bytes,
    keys_of,
    mask,
    sealed,
    send,
    unkept,
    until,
)
from tests.redis_servers import Cluster, Server, program, serving, system_program

from labeling_ground import key as keys
from labeling_ground.cache.redis.connect import connect
from labeling_ground.cache.redis.names import Names
from labeling_ground.cache.redis.notices import PurgeNotices
from labeling_ground.cache.redis.store import RedisStore
from labeling_ground.errors import StoreFailed, UnknownImage
from labeling_ground.service.predictor import Predictor
from labeling_ground.service.sessions import Sessions
from labeling_ground.settings import Settings
from labeling_ground.types import Outcome
from labeling_ground.wiring import build_predictor, build_session_store

pytestmark = pytest.mark.anyio

KEY, OTHER = (keys_of(image_bytes(number)).embedding(TOY) for number in (1, 2))
PATIENT: dict[str, Any] = {
    "redis_timeout_s": LONG_S,
    "lookup_deadline_ms": 1e3 * LONG_S,
    "lease_patience_ms": 1e3 * LONG_S,
    "cache_mode": "first",
}
"""What is a hit and what a miss says nothing here of how fast this machine is today."""


class Listener:
    """One process's end of the log, and what it was told."""

    def __init__(self, url: str, *, timeout_s: float = LONG_S, **given: Any) -> None:
        self.connection = connect(url, timeout_s=timeout_s)
        self.notices = PurgeNotices(self.connection, **({"wait_s": 0.5, "retry_s": 0.02} | given))
        self.told: list[str] = []
        self.fails = 0
        self.notices.on_purge = self.hear

    async def hear(self, pattern: str) -> None:
        if self.fails:
            self.fails -= 1
            raise StoreFailed("the disk is full")
        self.told.append(pattern)

    async def aclose(self) -> None:
        await self.notices.aclose()
        await self.connection.aclose()


@pytest.fixture
async def listen() -> AsyncIterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def one(url: str, **given: Any) -> Listener:
        made.append(Listener(url, **given))
        return made[-1]

    yield one
    for listener in made:
        await listener.aclose()


@pytest.fixture(params=["valkey", "valkey_socket", "system_redis", "redis_cluster"])
def url(request: pytest.FixtureRequest) -> str:
    server, url = request.getfixturevalue(request.param)
    for each in server.servers if isinstance(server, Cluster) else [server]:
        each.ask("FLUSHALL")
    assert isinstance(url, str)
    return url


async def test_who_listens_is_told_of_others_purges_in_their_order(url: str, listen: Callable[..., Listener]) -> None:
    one, other = listen(url), listen(url)
    one.notices.start()
    other.notices.start()
    for number in range(5):
        await one.notices.announce(f"a{number}*")
    await until(lambda: len(other.told) == 5)
    await other.notices.announce("b*")
    await until(lambda: one.told == ["b*"])
    assert other.told == [f"a{number}*" for number in range(5)]


async def test_who_was_away_reads_on_where_it_stopped(url: str, listen: Callable[..., Listener]) -> None:
    one, other = listen(url), listen(url)
    await one.notices.announce("before*")
    await other.notices.catch_up()
    await one.notices.announce("first*")
    await one.notices.announce("second*")
    await other.notices.catch_up()
    await other.notices.catch_up()
    assert other.told == ["before*", "first*", "second*"]


async def test_a_notice_that_could_not_be_applied_is_applied_later(
    valkey: tuple[Server, str], listen: Callable[..., Listener]
) -> None:
    valkey[0].ask("FLUSHALL")
    one, other = listen(valkey[1]), listen(valkey[1])
    other.fails = 3
    other.notices.start()
    await one.notices.announce("a*")
    await until(lambda: other.told == ["a*"])
    assert other.notices.heard == 1


async def test_a_notice_that_cannot_be_applied_holds_up_no_other(
    valkey: tuple[Server, str], listen: Callable[..., Listener]
) -> None:
    """Nor is one applied again that has been."""
    valkey[0].ask("FLUSHALL")
    one, other = listen(valkey[1]), listen(valkey[1])
    other.fails = 1
    for pattern in ("a*", "b*", "c*"):
        await one.notices.announce(pattern)
    with pytest.raises(StoreFailed):
        await other.notices.catch_up()
    assert other.told == ["b*", "c*"]
    await other.notices.catch_up()
    await other.notices.catch_up()
    assert other.told == ["b*", "c*", "a*"]
    assert other.notices.heard == 3


@pytest.mark.parametrize("which", [program, system_program])
async def test_the_user_that_the_docs_describe_may_do_all_that_is_done(
    which: Callable[[], str], tmp_path: Path
) -> None:
    """Images, masks, leases, sessions, purges, figures: nothing is refused."""
    text = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
    rights = text.partition("`ACL SETUSER`")[2].partition("\n\n")[0]
    rules = [rule for span in rights.split("`")[1::2] for rule in span.split() if rule[0] in "~&+"]
    assert len(rules) > 8
    with serving(which()) as server:
        server.ask("ACL", "SETUSER", "lg", "on", ">secret", *rules)
        url = server.url.replace("//", "//lg:secret@")
        settings = Settings(redis_url=SecretStr(url), cache_dir=tmp_path, **PATIENT)
        predictor = build_predictor(settings, backend=ToyBackend())
        state_store = build_session_store(settings, predictor.store)
        sessions = Sessions(most=9, idle_s=60.0, most_clicks=9, state_store=state_store, deadline_s=LONG_S)
        try:
            image_id = await send(predictor, image_bytes(1))
            await mask(predictor, image_id)
            await predictor.store.probe()
            await sessions.meet()
            assert not sessions.is_shared, "it was answered, and no other server is there"
            await sessions.open("t", "s", image_id, 4, 3, 1)
            assert unkept(sessions) == 0
            await predictor.store.drain()
            assert await predictor.purge(TENANT, image_id=image_id) > 0
            assert await predictor.purge(None) == 0
            [_, figures] = await predictor.store.stats(deadline_s=LONG_S)
            assert figures.answers
        finally:
            await sessions.aclose()
            await predictor.aclose()
        assert dict(errors_of(predictor.store.lower[-1])) == {}
        assert server.ask("XLEN", "lg.servers") == 0, "it has left"


@pytest.mark.parametrize("which", [program, system_program])
async def test_a_server_that_is_full_takes_notices_all_the_same(
    which: Callable[[], str], listen: Callable[..., Listener]
) -> None:
    with serving(which()) as server:
        one, other = listen(server.url), listen(server.url)
        server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", 1)
        for pattern in ("a*", "b*"):
            await one.notices.announce(pattern)
        await other.notices.catch_up()
        assert other.told == ["a*", "b*"]
        await one.aclose()
        await other.aclose()


async def test_who_was_away_for_longer_than_the_log_reaches_forgets_everything(
    valkey: tuple[Server, str], listen: Callable[..., Listener]
) -> None:
    valkey[0].ask("FLUSHALL")
    clock = Clock()
    one, other = listen(valkey[1]), listen(valkey[1], log_s=100.0, clock=clock)
    await other.notices.catch_up()
    await one.notices.announce("a*")
    clock.now += 101
    await other.notices.catch_up()
    assert other.told == [keys.pattern()]
    await one.notices.announce("b*")
    await other.notices.catch_up()
    assert other.told == [keys.pattern(), "b*"]


async def test_what_is_older_than_the_log_shall_reach_is_trimmed_and_nobody_mistakes_that(
    valkey: tuple[Server, str], listen: Callable[..., Listener]
) -> None:
    server, url = valkey
    server.ask("FLUSHALL")
    one, other = listen(url, log_s=100.0), listen(url)
    log = one.connection.names.ours("purges")
    for number in range(300):  # a stream is trimmed in lumps of a hundred
        server.ask("XADD", log, f"{number + 1}-0", "notice", f"old{number}", "pattern", "old*")
    await other.notices.catch_up()
    assert len(other.told) == 300
    await one.notices.announce("new*")
    assert server.ask("XLEN", log) < 120
    await other.notices.catch_up()
    assert other.told[300:] == ["new*"]


async def test_what_was_trimmed_is_not_written_again_by_who_wrote_it(
    valkey: tuple[Server, str], listen: Callable[..., Listener]
) -> None:
    server, url = valkey
    server.ask("FLUSHALL")
    clock = Clock()
    one, other = listen(url, log_s=100.0, clock=clock), listen(url)
    await one.notices.announce("old*")
    await one.notices.catch_up()
    clock.now += 95
    await one.notices.catch_up()
    server.ask("XTRIM", one.connection.names.ours("purges"), "MAXLEN", 0)
    await other.notices.announce("new*")
    await one.notices.catch_up()
    assert one.told == ["new*"]
    assert server.ask("XLEN", one.connection.names.ours("purges")) == 1


async def test_a_log_that_was_lost_is_written_again_by_those_who_know(
    valkey: tuple[Server, str], listen: Callable[..., Listener]
) -> None:
    server, url = valkey
    server.ask("FLUSHALL")
    one, other, third = listen(url), listen(url), listen(url)
    await third.notices.announce("known*")
    for listener in (one, other, third):
        await listener.notices.catch_up()
    await one.notices.announce("lost*")
    server.ask("FLUSHALL")
    await other.notices.catch_up()
    assert other.told == ["known*"], "it cannot know"
    await one.notices.catch_up()
    await third.notices.catch_up()
    await other.notices.catch_up()
    assert other.told == ["known*", "lost*"]
    assert one.told == ["known*"]
    assert third.told == ["lost*"]


async def test_who_cannot_tell_the_others_says_so_and_does_not_do_it_later(listen: Callable[..., Listener]) -> None:
    with serving(program()) as server:
        one, other = listen(server.url), listen(server.url)
        await one.notices.announce("first*")
        await one.notices.catch_up()
        server.kill()
        with pytest.raises(StoreFailed):
            await one.notices.announce("failed*")
        server.start()
        for listener in (one, other):
            await listener.notices.catch_up()
        await other.notices.catch_up()
        assert other.told == ["first*"]


async def test_listening_goes_on_when_the_server_comes_back(listen: Callable[..., Listener]) -> None:
    with serving(program()) as server:
        one, other = listen(server.url, timeout_s=0.5), listen(server.url, timeout_s=0.5)
        for listener in (one, other):
            listener.notices.start()
        await insist(one, "a*")
        await until(lambda: other.told == ["a*"])
        server.kill()
        await asyncio.sleep(0.1)
        server.start()
        await insist(one, "b*")
        await until(lambda: "b*" in other.told)
        server.freeze()
        await asyncio.sleep(0.7)
        server.thaw()
        await insist(one, "c*")
        await until(lambda: "c*" in other.told)


async def insist(listener: Listener, pattern: str) -> None:
    """As whoever purges is told to: try again."""
    async with asyncio.timeout(LONG_S):
        while True:
            try:
                return await listener.notices.announce(pattern)
            except StoreFailed:
                await asyncio.sleep(0.02)


# --- the whole of it: two servers on one Redis ------------------------------------------------------------------------


@asynccontextmanager
async def two(url: str, folder: Path, **given: Any) -> AsyncIterator[tuple[Predictor, Predictor]]:
    """Two servers' hearts, each with a memory and perhaps a disk of its own."""
    made = []
    for name in ("a", "b"):
        settings = Settings(redis_url=SecretStr(url), cache_dir=folder / name, **(PATIENT | given))
        made.append(build_predictor(settings, backend=ToyBackend()))
        await made[-1].store.stats(deadline_s=LONG_S)  # as the app does it at start
    try:
        yield made[0], made[1]
    finally:
        for predictor in made:
            await predictor.aclose()


def heard(predictor: Predictor) -> int:
    """How many purges of the other one were applied."""
    [redis] = [tier.store for tier in predictor.store.lower if isinstance(tier.store, RedisStore)]
    assert redis.notices is not None
    return redis.notices.heard


async def test_an_image_purged_at_one_server_is_gone_from_the_others_memory(url: str, tmp_path: Path) -> None:
    async with two(url, tmp_path) as (one, other):
        image_id = await send(one, image_bytes(1))
        kept = await send(one, image_bytes(2))
        await mask(one, image_id)
        await one.store.drain()
        assert (await mask(other, image_id)).outcome is Outcome.HIT
        assert (await mask(other, kept)).outcome is Outcome.MISS
        assert await one.purge(keys.PUBLIC, image_id=image_id) == 6, "3 in Redis, 2 and the logits in memory"
        await until(lambda: heard(other) == 1)
        assert other.store.peek(keys_of(image_bytes(1)).embedding(TOY)) is None
        with pytest.raises(UnknownImage):
            await mask(other, image_id, click(3, 3))
        assert (await mask(other, kept, click(3, 3))).outcome is Outcome.MISS
        assert other.backend.encodes == 0  # type: ignore[attr-defined]


async def test_everything_and_one_model(url: str, tmp_path: Path) -> None:
    async with two(url, tmp_path) as (one, other):
        image_id = await send(one, image_bytes(1))
        await one.store.drain()
        await mask(other, image_id)
        await other.purge(None, model="toy")
        await until(lambda: heard(one) == 1)
        assert (await mask(one, image_id)).outcome is Outcome.RECOMPUTED, "the file is nobody's model's"
        await one.purge(None)
        await until(lambda: heard(other) == 1)
        with pytest.raises(UnknownImage):
            await mask(other, image_id)


async def test_the_others_disk_is_purged_too(valkey: tuple[Server, str], tmp_path: Path) -> None:
    valkey[0].ask("FLUSHALL")
    async with two(valkey[1], tmp_path, disk_bytes=ByteSize(64 << 20)) as (one, other):
        await send(one, image_bytes(1))
        await mask(other, await send(other, image_bytes(2)))
        for predictor in (one, other):
            await predictor.store.drain()
        [_, disk, _] = await other.store.stats(deadline_s=LONG_S)
        assert (disk.tier, disk.entries) == ("disk", 2)
        await one.purge(None)
        await until(lambda: heard(other) == 1)
        assert [(tier.tier, tier.entries) for tier in await other.store.stats(deadline_s=LONG_S)] == [
            ("memory", 0),
            ("disk", 0),
            ("redis", 1),  # the log of purges
        ]


async def test_what_was_being_computed_during_anothers_purge_is_not_kept(
    valkey: tuple[Server, str], tmp_path: Path
) -> None:
    server, url = valkey
    server.ask("FLUSHALL")
    async with two(url, tmp_path) as (one, other):
        backend = other.backend
        assert isinstance(backend, ToyBackend)
        backend.hold = asyncio.Event()
        sending = asyncio.create_task(send(other, image_bytes(1)))
        await backend.begun.wait()
        await one.purge(None)
        await until(lambda: heard(other) == 1)
        backend.hold.set()
        await sending
        await other.store.drain()
        assert other.store.peek(keys_of(image_bytes(1)).embedding(TOY)) is None
        assert server.ask("EXISTS", *(Names().redis_key(key) for key in (keys_of(image_bytes(1)).embedding(TOY),))) == 0


async def test_what_was_written_while_another_purged_is_taken_back(valkey: tuple[Server, str]) -> None:
    server, url = valkey
    server.ask("FLUSHALL")
    store = RedisStore(connect(url), idle_s=60.0)
    for key in (KEY, OTHER):
        await store.put(key, sealed(key))
    assert await store.delete_recent(keys.group_of(KEY) + "*") == 1
    assert await store.get(KEY) is None
    assert await store.get(OTHER) is not None
    assert await store.delete_recent(keys.group_of(KEY) + "*") == 0
    await store.aclose()


async def test_the_command_lines_purge_reaches_running_servers(valkey: tuple[Server, str], tmp_path: Path) -> None:
    server, url = valkey
    server.ask("FLUSHALL")
    async with two(url, tmp_path) as (one, _):
        image_id = await send(one, image_bytes(1))
        await one.store.drain()
        command = [sys.executable, "-m", "labeling_ground", "cache", "purge", "--yes", "--json"]
        environment = {"LABELING_GROUND_REDIS_URL": url, "LABELING_GROUND_REDIS_TIMEOUT_S": str(LONG_S)}
        process = await asyncio.create_subprocess_exec(
            *command, env=os.environ | environment, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(4 * LONG_S):
            out, _ = await process.communicate()
        assert json.loads(out) == {"deleted": 2}
        await until(lambda: heard(one) == 1)
        with pytest.raises(UnknownImage):
            await mask(one, image_id)


async def test_what_a_new_process_keeps_is_not_purged_by_old_notices(url: str, tmp_path: Path) -> None:
    """Its disk may hold what was purged while it was not running; what it is sent from now on stays."""
    settings = Settings(
        redis_url=SecretStr(url), disk_bytes=ByteSize(1 << 24), cache_dir=tmp_path, model="classical", **PATIENT
    )
    file = image_bytes(3)
    first = build_predictor(settings, backend=ToyBackend())
    await first.store.open(deadline_s=LONG_S)
    image_id = await send(first, file)
    await first.store.drain()
    # The purge reaches Redis and its log; that disk was away.
    other = build_predictor(settings.model_copy(update={"cache_dir": tmp_path / "other"}), backend=ToyBackend())
    await first.aclose()
    await other.store.open(deadline_s=LONG_S)
    await other.purge("public", image_id=image_id)
    await other.aclose()

    again = build_predictor(settings, backend=ToyBackend())
    await again.store.open(deadline_s=LONG_S)
    with pytest.raises(UnknownImage):
        await mask(again, image_id)
    assert (await again.open_image("public", file, image_id)).outcome is Outcome.MISS
    await asyncio.sleep(0.3)
    await again.store.drain()
    assert (await mask(again, image_id, click())).outcome is Outcome.MISS
    assert (await again.open_image("public", file, image_id)).outcome is Outcome.HIT
    await again.aclose()
