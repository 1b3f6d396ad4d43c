"""An image at an address is fetched once, and known by its digest after that."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from tests.doubles import LONG_S, TENANT, Clock, ToyBackend, image_bytes, mask, serving
from tests.file_hosts import FileHost, Handler, file_host, gives

from labeling_ground import key as keys
from labeling_ground.errors import BadImage, Overloaded, SourceFailed, SourceRefused
from labeling_ground.service.asks import ImageAnswer
from labeling_ground.service.fetching import Fetcher
from labeling_ground.service.predictor import Predictor
from labeling_ground.service.sources import Link, Sources
from labeling_ground.types import Outcome, Stretch

pytestmark = pytest.mark.anyio
FILE = image_bytes(1)
ID = keys.image_id(FILE)


class World:
    """Sources over a predictor with a toy model, and the one host that is named."""

    def __init__(
        self, sources: Sources, predictor: Predictor, backend: ToyBackend, clock: Clock, host: FileHost
    ) -> None:
        self.sources, self.predictor, self.backend, self.clock, self.host = sources, predictor, backend, clock, host

    def link(self, url: str, *, tenant: str = TENANT, **more: Any) -> Link:
        """The image there, as it is asked for."""
        return Link(self.predictor, tenant, url, **more)


@contextlib.asynccontextmanager
async def world(answer: Handler, **options: Any) -> AsyncIterator[World]:
    backend, clock = ToyBackend(), Clock(1000.0)
    async with file_host(answer) as host, serving(backend) as predictor:
        fetcher = Fetcher([host.source], max_bytes=1 << 20, timeout_s=LONG_S)
        sources = Sources(fetcher, clock=clock, **options)
        try:
            yield World(sources, predictor, backend, clock, host)
        finally:
            await sources.aclose()


async def test_an_image_is_fetched_once_for_many_clicks() -> None:
    async with world(gives(FILE)) as here:
        first = await here.sources.locate(here.link(here.host.url()))
        again = await here.sources.locate(here.link(here.host.url()))
        assert isinstance(first, ImageAnswer)
        assert (first.image_id, first.outcome, first.width, first.height) == (ID, Outcome.MISS, 40, 30)
        assert (again.image_id, again.width, again.height) == (ID, 40, 30)
        assert (await mask(here.predictor, ID)).outcome is Outcome.MISS
        opened = await here.sources.open_image(here.link(here.host.url()))
        assert (opened.image_id, opened.outcome) == (ID, Outcome.HIT)
        assert (len(here.host.requests), here.backend.encodes) == (1, 1)


async def test_after_a_minute_its_host_is_asked_whether_it_has_changed() -> None:
    async with world(gives(FILE, ETag='"1"')) as here:
        for after_s, asked in ((0, 1), (59, 1), (60, 2), (59, 2), (60, 3)):
            here.clock.now = (1000.0 if asked == 1 else here.clock.now) + after_s
            assert (await here.sources.locate(here.link(here.host.url()))).image_id == ID
            assert len(here.host.requests) == asked
        assert here.backend.encodes == 1


async def test_without_etag_and_date_it_is_sent_anew_after_a_minute_and_a_change_is_seen() -> None:
    files = [FILE, image_bytes(2)]

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=files[0])

    async with world(answer) as here:
        assert (await here.sources.locate(here.link(here.host.url()))).image_id == ID
        files.pop(0)
        here.clock.now += 59
        assert (await here.sources.locate(here.link(here.host.url()))).image_id == ID
        here.clock.now += 2
        assert (await here.sources.locate(here.link(here.host.url()))).image_id == keys.image_id(files[0])


async def test_an_image_that_the_cache_has_lost_is_fetched_again() -> None:
    """Unconditionally: an answer that it has not changed would be no use."""
    async with world(gives(FILE, ETag='"1"')) as here:
        for _ in range(2):
            found = await here.sources.locate(here.link(here.host.url()))
            assert isinstance(found, ImageAnswer)
            await here.predictor.purge(TENANT)
        assert ["If-None-Match" in request.headers for request in here.host.requests] == [False, False]


async def test_tenants_do_not_share_what_is_remembered() -> None:
    """One that may not fetch an address does not learn from another one's fetch what is there."""

    async def answer(request: web.Request) -> web.Response:
        is_known = request.headers.get("Authorization") == "Bearer good"
        return web.Response(body=FILE) if is_known else web.Response(status=401)

    async with world(answer) as here:
        await here.sources.locate(here.link(here.host.url(), tenant="a", headers={"Authorization": "Bearer good"}))
        with pytest.raises(SourceFailed, match="401"):
            await here.sources.locate(here.link(here.host.url(), tenant="b"))


async def test_many_that_ask_at_once_are_one_request() -> None:
    async with world(gives(FILE)) as here:
        asks = [here.sources.locate(here.link(here.host.url())) for _ in range(20)]
        assert {found.image_id for found in await asyncio.gather(*asks)} == {ID}
        assert (len(here.host.requests), here.backend.encodes) == (1, 1)


async def test_what_is_no_image_is_not_remembered_as_one() -> None:
    async with world(gives(b"<html>not found</html>")) as here:
        for _ in range(2):
            with pytest.raises(BadImage):
                await here.sources.locate(here.link(here.host.url()))
        assert here.sources.bytes_fetched == 0


async def test_how_a_file_is_read_is_part_of_the_image_and_not_of_the_address() -> None:
    stretch = Stretch(1, 99)
    async with world(gives(FILE)) as here:
        assert (await here.sources.locate(here.link(here.host.url()))).image_id == ID
        found = await here.sources.open_image(here.link(here.host.url(), stretch=stretch))
        assert found.image_id == keys.image_id(FILE, stretch)


async def test_a_prefetch_is_queued_once() -> None:
    async with world(gives(FILE)) as here:
        image_id, ahead = await here.sources.prefetch(here.link(here.host.url()))
        assert (image_id, ahead.queued) == (ID, True)
        await here.sources.open_image(here.link(here.host.url()))
        image_id, ahead = await here.sources.prefetch(here.link(here.host.url()))
        assert (image_id, ahead.queued) == (ID, False)
        assert (len(here.host.requests), here.backend.encodes) == (1, 1)


async def test_an_address_that_is_forgotten_while_its_image_is_looked_up_is_fetched_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with world(gives(FILE, ETag='"1"')) as here:
        await here.sources.locate(here.link(here.host.url()))
        look_up = here.predictor.image_state

        async def slow_look_up(*asked: Any) -> Any:
            found = await look_up(*asked)
            here.sources._remembered.clear()
            return found

        monkeypatch.setattr(here.predictor, "image_state", slow_look_up)
        assert (await here.sources.locate(here.link(here.host.url()))).image_id == ID
        assert len(here.host.requests) == 2


async def test_more_sources_are_for_whom_they_were_named() -> None:
    """And what is held for them counts with the rest."""
    async with world(gives(FILE)) as here, file_host(gives(image_bytes(2))) as more:
        other = here.sources.also([more.source])
        here.backend.hold = asyncio.Event()
        opening = asyncio.ensure_future(other.locate(here.link(more.url())))
        await here.backend.begun.wait()
        assert here.sources.bytes_fetched == len(image_bytes(2))
        here.backend.hold.set()
        assert (await opening).image_id == keys.image_id(image_bytes(2))
        assert (await other.locate(here.link(here.host.url()))).image_id == ID
        with pytest.raises(SourceRefused):
            await here.sources.locate(here.link(more.url()))
        await other.aclose()


async def test_what_is_remembered_and_what_is_held_has_a_bound() -> None:
    async with world(gives(FILE), most_addresses=3) as here:
        for number in range(10):
            await here.sources.locate(here.link(here.host.url(f"/{number}")))
        assert len(here.sources._remembered) == 3
    async with world(gives(FILE), most_bytes=len(FILE)) as here:
        here.backend.hold = asyncio.Event()
        first = asyncio.ensure_future(here.sources.locate(here.link(here.host.url("/first"))))
        await here.backend.begun.wait()
        with pytest.raises(Overloaded):
            await here.sources.locate(here.link(here.host.url("/second")))
        here.backend.hold.set()
        await first
        assert (await here.sources.locate(here.link(here.host.url("/second")))).image_id == ID
