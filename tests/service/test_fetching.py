"""Files are fetched from the hosts that the operator named, from public addresses, within limits, and nothing else."""

import asyncio
import contextlib
import hashlib
import importlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from tests.doubles import LONG_S
from tests.file_hosts import file_host, gives, redirects
from tests.needs import needs

from labeling_ground.errors import BadSettings, Overloaded, SourceFailed, SourceRefused, TooLarge
from labeling_ground.service import fetching
from labeling_ground.service.fetching import Fetcher, is_public

pytestmark = pytest.mark.anyio
FILE = b"not looked into here"


@contextlib.asynccontextmanager
async def fetching_from(*sources: str, **limits: Any) -> AsyncIterator[Fetcher]:
    fetcher = Fetcher(sources, **({"max_bytes": 1000, "timeout_s": LONG_S} | limits))
    try:
        yield fetcher
    finally:
        await fetcher.aclose()


def leads_to(monkeypatch: pytest.MonkeyPatch, *rounds: list[str]) -> list[str]:
    """Names are resolved to these addresses, the last round for ever; gives the names that were asked for."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        addresses = rounds[min(len(asked), len(rounds) - 1)]
        asked.append(str(host))
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (each, port, 0, 0))
            if ":" in each
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


async def test_a_file_is_fetched_with_its_digest_and_what_it_can_be_asked_for_again_with() -> None:
    answer = gives(FILE, ETag='"1"', Last_Modified="Mon, 30 Nov 2026 00:00:00 GMT")
    async with file_host(answer) as host, fetching_from(host.source) as fetcher:
        got = await fetcher.get(host.url())
        assert (got.file, got.digest) == (FILE, hashlib.sha256(FILE).hexdigest())
        again = await fetcher.get(host.url(), validators=got.validators)
        assert (again.file, again.validators) == (None, got.validators)
    assert [request.headers.get("If-None-Match") for request in host.requests] == [None, '"1"']


@pytest.mark.parametrize(
    ("sources", "url"),
    [
        ([], "https://images.example.org/a.png"),
        (["images.example.org"], "https://images.example.org.evil.test/a.png"),
        (["images.example.org"], "https://other.example.org/a.png"),
        (["images.example.org"], "https://images.example.org:8443/a.png"),
        (["images.example.org:8443"], "https://images.example.org/a.png"),
        (["*.example.org"], "https://example.org/a.png"),
        (["*.example.org"], "https://badexample.org/a.png"),
        (["*.example.org"], "https://evil.test/#.example.org"),
        (["*.example.org"], "https://evil.test\\.example.org/"),
        (["s3://photos/2026"], "s3://photos/2025/a.png"),
        (["s3://photos"], "s3://photos-of-others/a.png"),
        (["images.example.org"], "gs://images.example.org/a.png"),
    ],
)
async def test_what_is_not_named_is_refused_and_the_sentence_says_by_which_setting(
    sources: list[str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("fsspec")
    monkeypatch.setattr(fetching, "_store", lambda _: None)
    asked = leads_to(monkeypatch, ["127.0.0.1"])
    async with fetching_from(*sources) as fetcher:
        with pytest.raises(SourceRefused, match=r"LABELING_GROUND_SOURCES|none that images"):
            await fetcher.get(url)
    assert asked == []


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://a/b", "http://", "a.png", "", "http://[::1", "//a/b", "http://a:99999/", "data:,a"],
)
async def test_what_is_no_web_address_is_refused(url: str) -> None:
    async with fetching_from("*") as fetcher:
        with pytest.raises(SourceRefused, match="none that images are fetched from"):
            await fetcher.get(url)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "[::1]",
        "[fe80::1]",
        "[fd00::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "localhost",
    ],
)
async def test_an_address_that_is_not_public_is_refused_however_it_is_written(host: str) -> None:
    async with fetching_from("*") as fetcher:
        with pytest.raises(SourceRefused, match=r"not a public address|no host name"):
            await fetcher.get(f"http://{host}/a.png")


@pytest.mark.parametrize(
    ("address", "public"), [("8.8.8.8", True), ("2606:4700::1111", True), ("64:ff9b::808:808", True)]
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


async def test_a_name_is_judged_by_the_addresses_that_it_leads_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for addresses in (["127.0.0.1"], ["::1"], ["10.0.0.1", "fd00::2"]):
        leads_to(monkeypatch, addresses)
        async with fetching_from("*.example.org") as fetcher:
            with pytest.raises(SourceRefused, match=rf"leads to {addresses[0]}.*'private:' before it"):
                await fetcher.get("http://images.example.org/a.png")


async def test_a_name_that_leads_elsewhere_a_moment_later_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is resolved once, and the connection goes to the address that was checked then."""
    async with file_host(gives(FILE)) as host:
        # 192.0.2.0/24 leads nowhere; it stands for a public address here
        monkeypatch.setattr(fetching, "is_public", lambda address: address == "192.0.2.1")
        asked = leads_to(monkeypatch, ["192.0.2.1", "127.0.0.1"], ["127.0.0.1"])
        async with fetching_from(f"images.example.org:{host.port}", timeout_s=0.5) as fetcher:
            with pytest.raises(SourceFailed):
                await fetcher.get(host.url(host="images.example.org"))
    assert asked == ["images.example.org"]
    assert host.requests == []


async def test_a_private_host_is_asked_where_it_is_named_with_the_word_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with file_host(gives(FILE)) as host:
        leads_to(monkeypatch, ["127.0.0.1"])
        async with fetching_from(f"private:nas.lan:{host.port}", "*") as fetcher:
            assert (await fetcher.get(host.url(host="NAS.lan."))).file == FILE
            with pytest.raises(SourceRefused):
                await fetcher.get(host.url(host="other.lan"))


async def test_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with (
        file_host(gives(FILE), address="::1") as host,
        fetching_from(f"private:[::1]:{host.port}") as fetcher,
    ):
        assert (await fetcher.get(host.url(host="[::1]"))).file == FILE


async def test_a_redirect_is_checked_like_a_first_address(monkeypatch: pytest.MonkeyPatch) -> None:
    async with file_host(gives(FILE)) as inner, file_host(redirects(inner.url())) as outer:
        async with fetching_from(outer.source) as fetcher:
            with pytest.raises(SourceRefused, match="LABELING_GROUND_SOURCES"):
                await fetcher.get(outer.url())
        assert inner.requests == []
        async with fetching_from(outer.source, f"127.0.0.1:{inner.port}") as fetcher:
            with pytest.raises(SourceRefused, match="not a public address"):
                await fetcher.get(outer.url())
        assert inner.requests == []
        async with fetching_from(outer.source, inner.source) as fetcher:
            assert (await fetcher.get(outer.url())).file == FILE


@pytest.mark.parametrize("to", ["file:///etc/passwd", "", "//", "http://[", "s3://photos/a.png"])
async def test_a_redirect_out_of_the_web_is_not_followed(to: str) -> None:
    async with file_host(redirects(to)) as host, fetching_from(host.source) as fetcher:
        with pytest.raises((SourceRefused, SourceFailed)):
            await fetcher.get(host.url())


async def test_redirects_have_an_end() -> None:
    async with file_host(redirects("/again")) as host, fetching_from(host.source, redirects=3) as fetcher:
        with pytest.raises(SourceFailed, match="more than 3 times"):
            await fetcher.get(host.url())
    assert len(host.requests) == 4


async def test_credentials_go_to_the_address_s_own_host_only() -> None:
    """Another port is another host; and they are gone for good once a redirect led away."""
    secret = {"Authorization": "Token s3cret"}
    async with (
        file_host(gives(FILE)) as inner,
        file_host(redirects(inner.url())) as outer,
        fetching_from(outer.source, inner.source) as fetcher,
    ):
        await fetcher.get(outer.url(), headers=secret)
    assert outer.requests[0].headers["Authorization"] == "Token s3cret"
    assert "Authorization" not in inner.requests[0].headers

    async def there_and_back(request: web.Request) -> web.Response:
        if request.path == "/home":
            return web.Response(body=FILE)
        return web.Response(status=302, headers={"Location": away.url()})

    async with contextlib.AsyncExitStack() as stack:
        home = await stack.enter_async_context(file_host(there_and_back))
        away = await stack.enter_async_context(file_host(redirects(home.url("/home"))))
        fetcher = await stack.enter_async_context(fetching_from(home.source, away.source))
        assert (await fetcher.get(home.url("/first"), headers=secret)).file == FILE
    assert ["Authorization" in request.headers for request in home.requests] == [True, False]


async def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    async with fetching_from("*") as fetcher:
        with pytest.raises(SourceRefused, match="password") as caught:
            await fetcher.get("http://ann:s3cret@images.example.org/")
    assert "s3cret" not in str(caught.value)


async def test_a_file_over_the_limit_is_not_read_to_its_end() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(bytes(100_000))
        return response

    for answer in (gives(bytes(1001)), endless):
        async with file_host(answer) as host, fetching_from(host.source) as fetcher:
            with pytest.raises(TooLarge, match="1000 bytes"):
                await fetcher.get(host.url())
    async with file_host(gives(bytes(1000))) as host, fetching_from(host.source) as fetcher:
        assert (await fetcher.get(host.url())).file == bytes(1000)


async def test_what_is_no_file_is_a_failure_of_the_host() -> None:
    async def not_found(_: web.Request) -> web.Response:
        return web.Response(status=404)

    async with file_host(not_found) as host, fetching_from(host.source) as fetcher:
        with pytest.raises(SourceFailed, match="answered 404"):
            await fetcher.get(host.url("/a.png?token=s3cret"))
    async with file_host(gives(FILE, Content_Encoding="gzip")) as host, fetching_from(host.source) as fetcher:
        with pytest.raises(SourceFailed, match="compressed"):
            await fetcher.get(host.url())
    async with fetching_from(host.source) as fetcher:
        with pytest.raises(SourceFailed, match="cannot be fetched"):
            await fetcher.get(host.url())


async def test_a_host_that_does_not_answer_is_given_up_and_who_waits_for_a_turn_is_told_so() -> None:
    may_answer = asyncio.Event()

    async def waits(_: web.Request) -> web.Response:
        await may_answer.wait()
        return web.Response(body=FILE)

    async with file_host(waits) as host, fetching_from(host.source, timeout_s=0.3, at_once=1) as fetcher:
        first = asyncio.ensure_future(fetcher.get(host.url()))
        await asyncio.sleep(0)
        found = await asyncio.gather(first, fetcher.get(host.url("/b.png")), return_exceptions=True)
        may_answer.set()
    assert {type(each) for each in found} <= {SourceFailed, Overloaded}
    assert isinstance(found[0], SourceFailed)
    assert "did not arrive within 0.3 seconds" in str(found[0])


async def test_cookies_are_not_kept() -> None:
    async with file_host(gives(FILE, Set_Cookie="a=b")) as host, fetching_from(host.source) as fetcher:
        await fetcher.get(host.url())
        await fetcher.get(host.url())
    assert "Cookie" not in host.requests[1].headers


async def test_an_object_in_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    store = needs("fsspec").filesystem("memory")  # it keeps to the interface that all of fsspec's storages have
    monkeypatch.setitem(fetching.STORES, "s3", "memory")
    store.pipe("/photos/2026/a.png", FILE)
    store.pipe("/photos/2026/large.png", bytes(1001))
    try:
        async with fetching_from("s3://photos/2026/") as fetcher:
            got = await fetcher.get("s3://photos/2026/a.png")
            assert (got.file, got.digest) == (FILE, hashlib.sha256(FILE).hexdigest())
            assert (await fetcher.get("s3://photos/2026/a.png", validators=got.validators)).file is None
            store.pipe("/photos/2026/a.png", b"another")
            assert (await fetcher.get("s3://photos/2026/a.png", validators=got.validators)).file == b"another"
            with pytest.raises(TooLarge):
                await fetcher.get("s3://photos/2026/large.png")
            with pytest.raises(SourceFailed, match="FileNotFoundError"):
                await fetcher.get("s3://photos/2026/none.png")
    finally:
        store.rm("/photos", recursive=True)


def test_a_bucket_whose_package_is_not_installed_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(BadSettings, match=r"s3fs.*\.\[s3\]"):
        Fetcher(["s3://photos"], max_bytes=1)
