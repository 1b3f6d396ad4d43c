"""Servers as they run, each a process of its own, on one Redis or one disk: what one computes, none does again."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from bench.serving.server import Server, running
from tests.doubles import image_bytes, until
from tests.noting_engine import ENCODE_S, ENCODED_AT, HELD_WHILE, MOST_S, masks_of, undisturbed
from tests.redis_servers import Server as Redis

from labeling_ground import key as keys
from labeling_ground.types import Outcome

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LEASE_S = 6.0
"""So long that no server on this machine, busy as it may be with other things, stands still in between."""


def held_while(notes: Path) -> Path:
    return notes.with_name("held")


class Farm:
    """Some servers and their clients."""

    def __init__(self, servers: list[Server], notes: Path, http: aiohttp.ClientSession) -> None:
        self.servers = servers
        self._held_while = held_while(notes)
        self._notes = notes
        self._http = http

    def noted(self, what: str) -> list[int]:
        """The processes that did this, once for each time."""
        lines = self._notes.read_text(encoding="ascii").split("\n") if self._notes.exists() else []
        return [int(line.split()[1]) for line in lines if line.startswith(f"{what} ")]

    async def upload(self, server: Server, file: bytes) -> dict[str, Any]:
        """What the server answers, which must be a success."""
        headers = {"Content-Type": "image/png"}
        return await self._post(f"http://127.0.0.1:{server.port}/v1/images", data=file, headers=headers)

    async def click(self, server: Server, file: bytes, x: float = 20.0) -> dict[str, Any]:
        """The one mask."""
        prompt = {"points": [{"x": x, "y": 15, "label": 1}]}
        path = f"/v1/images/{keys.image_id(file)}/masks"
        return await self._post(f"http://127.0.0.1:{server.port}{path}", json=prompt)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The model gives nothing meanwhile."""
        self._held_while.touch()
        try:
            yield
        finally:
            self._held_while.unlink()

    async def until_asked(self, servers: Sequence[Server], flights: int) -> None:
        """Wait until so many computations are under way at each server, and for a while more: each has many askers."""
        async with asyncio.timeout(MOST_S):
            for server in servers:
                while (await asyncio.to_thread(server.get, "/v1/cache"))["flights"] < flights:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        await asyncio.sleep(1.0)

    async def figures(self, kind: str) -> Counter[str]:
        """What all servers have counted, in sum."""
        sums: Counter[str] = Counter()
        for server in self.servers:
            found = (await asyncio.to_thread(server.get, "/v1/cache"))["kinds"][kind]
            assert found["lookups"] == found["hits"] + found["misses"] + found["joined"]
            sums.update({name: found[name] for name in ("hits", "misses", "joined")})
        return sums

    async def errors(self) -> list[dict[str, int]]:
        """What went wrong between each server and the tier that it shares."""
        found = [await asyncio.to_thread(server.get, "/v1/cache") for server in self.servers]
        return [tier["errors"] for figures in found for tier in figures["tiers"][1:]]

    async def _post(self, url: str, **body: Any) -> dict[str, Any]:
        async with self._http.post(url, **body) as answer:
            assert answer.status == 200, await answer.text()
            found: dict[str, Any] = await answer.json()
            return found


@contextmanager
def started(count: int, shared: dict[str, str], notes: Path) -> Iterator[list[Server]]:
    """So many servers, which start side by side."""
    given = {
        "model": "tests.noting_engine:create",
        **shared,
        "lease_s": str(LEASE_S),
        # What is tested is not how fast this machine is today.
        "lookup_deadline_ms": str(1e3 * MOST_S),
        "lease_patience_ms": str(1e3 * MOST_S),
        "redis_timeout_s": str(MOST_S),
    }
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack, ThreadPoolExecutor(count) as pool:
        patch.setenv(ENCODED_AT, str(notes))
        patch.setenv(HELD_WHILE, str(held_while(notes)))
        contexts = [running(**given) for _ in range(count)]
        servers = list(pool.map(lambda context: context.__enter__(), contexts))
        for context in contexts:
            stack.push(context.__exit__)
        yield servers


@pytest.fixture(scope="module", params=["redis", "disk"])
def five(
    request: pytest.FixtureRequest, _valkey: Redis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[Server], Path]]:
    """Servers on one Redis, or on one disk: four, and one that will be killed."""
    _valkey.ask("FLUSHALL")
    folder = tmp_path_factory.mktemp("processes")
    shared = {"redis_url": _valkey.url} if request.param == "redis" else {"cache_dir": str(folder / "cache")}
    with started(5, shared, folder / "notes") as servers:
        yield servers, folder / "notes"


@pytest.fixture
async def farm(five: tuple[list[Server], Path]) -> AsyncIterator[Farm]:
    """The four and their clients."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        yield Farm(five[0][:4], five[1], http)


async def test_four_processes_with_ten_clients_each_make_one_encode_of_a_new_image_and_one_decode_of_a_new_click(
    farm: Farm,
) -> None:
    files = [image_bytes(seed) for seed in range(3)]
    before = len(farm.noted("encode")), len(farm.noted("decode"))
    figures = {kind: await farm.figures(kind) for kind in ("embedding", "mask")}

    with farm.held():
        uploads = [farm.upload(server, file) for file in files for _ in range(10) for server in farm.servers]
        sending = asyncio.gather(*uploads)
        await farm.until_asked(farm.servers, len(files))
    sent = await sending
    assert len(farm.noted("encode")) == before[0] + 3, await farm.errors()
    assert Counter(answer["outcome"] for answer in sent) == {Outcome.MISS: 3, Outcome.JOINED: 117}
    assert await farm.figures("embedding") - figures["embedding"] == {"misses": 3, "joined": 117}

    with farm.held():
        clicks = [farm.click(server, file) for file in files for _ in range(10) for server in farm.servers]
        clicking = asyncio.gather(*clicks)
        await farm.until_asked(farm.servers, len(files))
    answers = await clicking
    assert len(farm.noted("encode")) == before[0] + 3
    assert len(farm.noted("decode")) == before[1] + 3, await farm.errors()
    assert Counter(answer["outcome"] for answer in answers) == {Outcome.MISS: 3, Outcome.JOINED: 117}
    assert await farm.figures("mask") - figures["mask"] == {"misses": 3, "joined": 117}
    for file, same in zip(files, (answers[:40], answers[40:80], answers[80:]), strict=True):
        right = await undisturbed(file)
        assert all(masks_of(answer) == right for answer in same)


async def test_a_server_that_is_killed_in_the_middle_of_an_encode_is_succeeded_when_its_lease_ends(
    farm: Farm, five: tuple[list[Server], Path]
) -> None:
    file, victim, others = image_bytes(9), five[0][4], farm.servers[:2]
    before = farm.noted("encode")
    with farm.held():
        first = asyncio.create_task(farm.upload(victim, file))
        await until(lambda: farm.noted("encode") == [*before, victim.pid])
        waiting = [asyncio.create_task(farm.upload(server, file)) for server in others for _ in range(5)]
        await farm.until_asked(others, 1)
        os.kill(victim.pid, signal.SIGKILL)
    async with asyncio.timeout(LEASE_S + ENCODE_S + MOST_S):
        sent = await asyncio.gather(*waiting)
    with pytest.raises(aiohttp.ClientError):
        await first
    assert Counter(answer["outcome"] for answer in sent) == {Outcome.MISS: 1, Outcome.JOINED: 9}
    encoded = farm.noted("encode")[len(before) + 1 :]
    assert len(encoded) == 1, await farm.errors()
    assert encoded[0] in [server.pid for server in others]
    right = await undisturbed(file)
    for server in others:
        assert masks_of(await farm.click(server, file)) == right
