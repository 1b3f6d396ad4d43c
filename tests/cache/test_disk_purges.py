"""What one process on a disk purged comes back from no other: not from memory, nor from a queue."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.doubles import LONG_S, TOY, failures_of, memory_store, sealed, until

from labeling_ground import key as keys
from labeling_ground.cache.disk import DiskStore
from labeling_ground.cache.disk.files import GRACE_S, ObjectFiles
from labeling_ground.cache.disk.folder import INDEX
from labeling_ground.cache.policies.gds import GreedyDualSize
from labeling_ground.cache.tiered import TieredStore
from labeling_ground.errors import StoreFailed, StoreFull
from labeling_ground.key import ImageKeys
from labeling_ground.settings import Settings
from labeling_ground.supervisor import Supervisor
from labeling_ground.types import Entry
from labeling_ground.wiring import build_store

pytestmark = pytest.mark.anyio

KEYS = ImageKeys("public", "a" * 64)
KEY = KEYS.embedding(TOY)
OTHER = ImageKeys("other", "b" * 64).mask(TOY, "d" * 32)

SCOPES = {
    "image": keys.pattern("public", "a" * 64),
    "image, all tenants": keys.pattern(None, "a" * 64),
    "model": keys.pattern(model="toy"),
    "tenant": keys.pattern("public"),
    "everything": keys.pattern(),
    "key": KEY,
}


class Server:
    """Memory over a disk that others share, as the wiring connects them."""

    def __init__(self, folder: Path, listen_s: float = 0.02, **given: Any) -> None:
        self.disk = DiskStore(
            folder,
            budget_bytes=64 << 20,
            idle_s=None,
            max_age_s=None,
            ranking=GreedyDualSize(),
            listen_s=listen_s,
            **given,
        )
        self.tiers = TieredStore(memory_store(budget=64_000), [self.disk], deadline_s=LONG_S)

        async def nothing_left(pattern: str) -> int:
            return 0

        async def hear(pattern: str) -> None:
            await self.tiers.delete(pattern, {"disk": nothing_left})

        self.disk.on_purge = hear

    def fill(self) -> None:
        """So much that what is in memory is demoted."""
        for number in range(20):
            key = ImageKeys("filler", f"{number:064x}").mask(TOY, "d" * 32)
            self.tiers.memory.insert(key, sealed(key, 5_000, cost=1e5))


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Server]]]:
    servers: list[Server] = []

    async def start(**options: Any) -> Server:
        server = Server(tmp_path / "cache", **options)
        await server.tiers.open(deadline_s=LONG_S)
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.tiers.aclose()


Start = Callable[..., Awaitable[Server]]


IMPATIENT_S = 0.05
"""So long a purge waits, where it is for one that does not listen."""


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("scope", SCOPES)
async def test_what_memory_demotes_after_a_purge_by_another_process_is_not_written(
    start: Start, scope: str, restarts: bool
) -> None:
    """Also where the process has not heard of it, since it stood still; and where the other has restarted since."""
    one, two = await start(heard_s=IMPATIENT_S), await start(listen_s=1000.0)
    await two.disk.put(KEY, sealed(KEY))
    assert await two.tiers.look_up(KEY, deadline_s=LONG_S) is not None
    await one.tiers.delete(SCOPES[scope])
    if restarts:
        await one.tiers.aclose()
        one = await start()
    assert KEY in two.tiers.memory
    two.fill()
    assert KEY not in two.tiers.memory
    await two.tiers.drain()
    assert await one.tiers.look_up(KEY, deadline_s=LONG_S) is None
    two.tiers.put(OTHER, sealed(OTHER))
    await two.tiers.drain()
    assert await one.disk.has(OTHER) is (scope not in ("model", "everything")), "only what the purge means"


@pytest.mark.parametrize("scope", SCOPES)
async def test_when_a_purge_is_answered_the_memory_of_all_who_share_the_disk_has_forgotten(
    start: Start, scope: str
) -> None:
    one, two = await start(), await start()
    two.tiers.put(KEY, sealed(KEY))
    begun = two.tiers.purges.count
    await two.tiers.drain()
    await one.tiers.delete(SCOPES[scope])
    assert two.tiers.peek(KEY) is None
    assert not two.tiers.put(KEY, sealed(KEY), begun), "it was computed before the purge"
    assert two.tiers.put(KEY, sealed(KEY), two.tiers.purges.count)
    await two.tiers.drain()
    assert await one.disk.has(KEY), "it was computed after the purge"


async def test_what_waits_to_be_written_when_another_purges_is_not_written(start: Start) -> None:
    one, two = await start(heard_s=IMPATIENT_S), await start(listen_s=1000.0)
    hold = asyncio.Event()
    put = two.disk.put

    async def held_up(key: str, entry: Entry, used: float | None = None) -> None:
        await hold.wait()
        await put(key, entry, used)

    two.disk.put = held_up  # type: ignore[method-assign]
    two.tiers.put(KEY, sealed(KEY))
    two.tiers.put(OTHER, sealed(OTHER))
    await one.tiers.delete(KEYS.group + "*")
    hold.set()
    await two.tiers.drain()
    assert not await one.disk.has(KEY)
    assert await one.disk.has(OTHER)


async def test_a_purge_by_the_command_line_reaches_a_running_server(start: Start, tmp_path: Path) -> None:
    server = await start()
    server.tiers.put(KEY, sealed(KEY))
    await server.tiers.drain()
    command = [
        sys.executable,
        "-m",
        "labeling_ground",
        "cache",
        "purge",
        "--yes",
        "--cache-dir",
        str(tmp_path / "cache"),
    ]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    await until(lambda: server.tiers.peek(KEY) is None)
    assert not await server.disk.has(KEY)


async def test_what_memory_holds_when_the_disk_could_not_be_used_at_the_start_is_reached_too(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_bytes(b"in the way")
    two = await start()
    two.tiers.memory.insert(KEY, sealed(KEY))
    (tmp_path / "cache").unlink()
    one = await start()
    await one.tiers.delete("v1/public/*")
    await until(lambda: KEY not in two.tiers.memory)


async def test_where_the_log_of_purges_is_lost_memory_parts_with_everything(start: Start, tmp_path: Path) -> None:
    """Nobody knows what was in it."""
    one, two = await start(), await start()
    two.tiers.put(KEY, sealed(KEY))
    await two.tiers.drain()
    for path in (tmp_path / "cache").glob(f"{INDEX}*"):
        path.unlink()
    assert await one.disk.get(KEY) is None
    await until(lambda: KEY not in two.tiers.memory)
    await until(lambda: two.tiers.put(KEY, sealed(KEY)))


async def test_where_the_log_is_too_short_memory_parts_with_everything(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labeling_ground.cache.disk.purges._REMEMBERED", 2)
    one, two = await start(heard_s=IMPATIENT_S), await start(listen_s=0.3)
    two.tiers.memory.insert(KEY, sealed(KEY))
    for number in range(5):
        await one.disk.delete(f"v1/nobody/{number}/*")
    await until(lambda: KEY not in two.tiers.memory)


async def test_a_purge_whose_process_was_killed_in_the_middle_is_carried_to_its_end(tmp_path: Path) -> None:
    now = [1_700_000_000.0]
    one, two = Server(tmp_path, clock=lambda: now[0]).disk, Server(tmp_path, clock=lambda: now[0]).disk
    await two.put(KEY, sealed(KEY))
    await asyncio.to_thread(one._index.purging.begin, "v1/*", now[0])  # and no more
    assert await two.sweep() == 0, "it may be under way"
    now[0] += GRACE_S
    await two.put(OTHER, sealed(OTHER))
    assert await two.sweep() == 1
    assert (await two.has(KEY), await two.has(OTHER)) == (False, True)
    assert await two.sweep() == 0
    await one.aclose()
    await two.aclose()


async def test_what_is_kept_while_a_purge_is_under_way_is_not_what_it_means(tmp_path: Path) -> None:
    """A row's number is never given again, so the end of the purge is not among new rows."""
    store = Server(tmp_path).disk
    await store.put(KEY, sealed(KEY))
    purge = await asyncio.to_thread(store._index.purging.begin, "v1/*", 0.0)
    await store.drop_damaged(KEY)
    await store.put(KEY, sealed(KEY))
    await asyncio.to_thread(store._index.purging.go_on, purge)
    assert await store.has(KEY)
    await store.aclose()


async def test_a_process_that_listens_no_more_is_not_waited_for(start: Start) -> None:
    one, two = await start(heard_s=1e9), await start(listen_s=1000.0)
    await two.tiers.aclose()
    async with asyncio.timeout(LONG_S):
        await one.tiers.delete("v1/*")


async def test_a_failure_to_hear_is_made_up_for(start: Start) -> None:
    one, two = await start(), await start()
    two.tiers.put(KEY, sealed(KEY))
    await two.tiers.drain()
    hear, failures = two.disk.on_purge, 0
    assert hear is not None
    await two.tiers.aclose()
    two = await start()
    two.tiers.put(KEY, sealed(KEY))
    delete = two.tiers.memory.delete

    async def fail(pattern: str) -> int:
        nonlocal failures
        failures += 1
        if failures < 3:
            raise StoreFailed("not now")
        return await delete(pattern)

    two.tiers.memory.delete = fail  # type: ignore[method-assign]
    await one.tiers.delete("v1/*")
    assert failures == 3
    assert two.tiers.peek(KEY) is None


async def test_what_was_heard_is_carried_out_once_also_where_that_cannot_be_said(start: Start) -> None:
    """On a full disk nothing can be written: what is computed after the purge must not go with each look at the log."""
    one, two = await start(heard_s=IMPATIENT_S), await start()
    told: list[str] = []
    looks = 0
    say = two.disk._index.purges.say

    def full(position: object) -> None:
        nonlocal looks
        looks += 1
        raise StoreFull("no room")

    two.disk._index.purges.say = full  # type: ignore[method-assign]
    delete = two.tiers.memory.delete

    async def tell(pattern: str) -> int:
        told.append(pattern)
        return await delete(pattern)

    two.tiers.memory.delete = tell  # type: ignore[method-assign]
    await one.tiers.delete("v1/*")
    await until(lambda: looks > 3)
    assert told == ["v1/*"]
    two.disk._index.purges.say = say  # type: ignore[method-assign]


async def test_servers_are_wired_to_hear(tmp_path: Path) -> None:
    settings = Settings(cache_dir=tmp_path)
    one, two = build_store(settings), build_store(settings)
    for store in (one, two):
        await store.open(deadline_s=LONG_S)
    two.put(KEY, sealed(KEY))
    await two.drain()
    await one.delete("v1/*")
    assert two.peek(KEY) is None
    for store in (one, two):
        await store.aclose()


async def test_a_file_that_is_being_written_when_another_process_purges_does_not_appear(start: Start) -> None:
    one, two = await start(), await start(listen_s=1000.0)
    large = sealed(KEY, 100_000)

    class Purging(ObjectFiles):
        def write(self, name: str, value: bytes) -> None:
            one.disk._index.purging.go_on(one.disk._index.purging.begin("v1/public/*", 0.0))
            super().write(name, value)

    two.disk._index.files = Purging(two.disk._index.files.folder)
    await two.disk.put(KEY, large)
    assert not await one.disk.has(KEY)


async def test_a_purge_that_cannot_be_carried_out_here_is_counted_and_tried_again(start: Start, tmp_path: Path) -> None:
    """Whatever the tier above raises."""
    supervisor, failures = Supervisor(), [KeyError("a policy of the operator's own"), asyncio.CancelledError()]
    one = await start()
    store = DiskStore(
        tmp_path / "cache",
        budget_bytes=64 << 20,
        idle_s=None,
        max_age_s=None,
        ranking=GreedyDualSize(),
        listen_s=0.01,
        supervisor=supervisor,
    )
    told = []

    async def tell(pattern: str) -> None:
        if failures:
            raise failures.pop()
        told.append(pattern)

    store.on_purge = tell
    await store.open()
    await one.disk.delete("v1/t/*")
    await until(lambda: told == ["v1/t/*"])
    assert failures_of(supervisor) == {"purges on disk": 2}
    await store.aclose()
