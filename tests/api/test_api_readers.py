"""Presence that do not take their answers hold nobody's place, and not their connection for long."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import uvicorn
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from tests.api.conftest import LONG_S, soon

from labeling_ground.api.edge import Edge
from labeling_ground.api.limits import Limits
from labeling_ground.api.web_security import OriginCheck
from labeling_ground.cli.running import configuration, listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.api.conftest import StartReal

    from labeling_ground.settings import Settings

BUNDLE = "/docs/static/swagger-ui-bundle.js"
"""1.4 MB, for which no key is needed."""


def ask_and_never_read(port: int, path: str, method: str = "GET", body: bytes = b"") -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.sendall(
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )
    return connection


@pytest.mark.parametrize("path", [BUNDLE, "/docs/static/redoc.standalone.js", "/web/labeling/main.js", "/openapi.json"])
def test_many_that_never_read_leave_the_places_to_others(start_real: "StartReal", path: str) -> None:
    """Two places, sixty clients one after the other, and a normal client in between."""
    with (
        start_real(max_requests=2, send_timeout_s=LONG_S) as server,
        httpx.Client(base_url=server.url, timeout=LONG_S) as client,
        contextlib.ExitStack() as held,
    ):
        for _ in range(60):
            held.enter_context(ask_and_never_read(server.port, path))
            assert client.get("/v1/models").status_code == 200


def test_many_that_never_read_an_embedding_leave_the_places_to_others(
    start_real: "StartReal", make_image: "Callable[..., bytes]"
) -> None:
    """What is computed for them is computed; waiting for them takes no place."""
    with (
        start_real(max_requests=2, send_timeout_s=LONG_S) as server,
        httpx.Client(base_url=server.url, timeout=LONG_S) as client,
        contextlib.ExitStack() as held,
    ):
        image_id = client.post("/v1/images", content=make_image()).json()["image_id"]
        click = b'{"points":[{"x":5,"y":5}]}'
        for _ in range(30):
            held.enter_context(ask_and_never_read(server.port, f"/v1/images/{image_id}/embedding"))
            held.enter_context(ask_and_never_read(server.port, f"/v1/images/{image_id}/everything", "POST", b"{}"))
            held.enter_context(ask_and_never_read(server.port, f"/v1/images/{image_id}/masks", "POST", click))
            # While they are worked on, they have their places.
            soon(lambda: client.post(f"/v1/images/{image_id}/masks", content=click).status_code == 200)


class Endless:
    """An app whose answers have no end; it counts those that are being given."""

    def __init__(self) -> None:
        self.streams = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await StreamingResponse(self._zeros())(scope, receive, send)

    async def _zeros(self) -> "AsyncIterator[bytes]":
        self.streams += 1
        try:
            while True:
                yield bytes(65536)
                await asyncio.sleep(0)  # or it would not see that its reader is gone
        finally:
            self.streams -= 1


@contextlib.contextmanager
def serve(app: ASGIApp, settings: "Settings", *, most_requests: int) -> Iterator[int]:
    limits = Limits(most_requests=most_requests, most_bytes=1000, most_held=1000, silence_s=LONG_S)
    limited = Edge(app, limits=limits, origins=OriginCheck(hosts=(), origins=()))
    server = uvicorn.Server(configuration(limited, settings))
    server.config.lifespan = "off"
    listener = listen("127.0.0.1", 0, hint="")
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.force_exit = server.should_exit = True
        thread.join(LONG_S)


def test_a_stream_waits_for_its_reader_outside_of_the_places_and_not_for_long(
    make_settings: "Callable[..., Settings]",
) -> None:
    """Six streams that nobody reads, with one place; then all of them are cut off, and their work with them."""
    endless = Endless()
    with (
        serve(endless, make_settings(send_timeout_s=5), most_requests=1) as port,
        contextlib.ExitStack() as held,
    ):

        def one_more() -> bool:  # at once, or when those before it wait for their readers
            connection = held.enter_context(ask_and_never_read(port, "/"))
            return connection.recv(15, socket.MSG_WAITALL) == b"HTTP/1.1 200 OK"

        for _ in range(6):
            soon(one_more)
        soon(lambda: endless.streams == 6)
        soon(lambda: endless.streams == 0)
        soon(lambda: unsent(port) == 0)


@pytest.mark.parametrize("size", [300_000, 16_000_000], ids=["in the system's buffers", "in ours"])
@pytest.mark.parametrize("closing", [False, True], ids=["keep-alive", "close"])
def test_an_answer_that_is_written_at_once_does_not_wait_for_ever_either(
    make_settings: "Callable[..., Settings]", size: int, *, closing: bool
) -> None:
    """Nothing is at work on it any more, but memory holds it; also where the connection was to be closed after it."""
    app = Response(bytes(size), headers={"Connection": "close"} if closing else {})
    with (
        serve(app, make_settings(send_timeout_s=2), most_requests=2) as port,
        ask_and_never_read(port, "/") as connection,
    ):
        assert connection.recv(15, socket.MSG_WAITALL) == b"HTTP/1.1 200 OK"
        soon(lambda: unsent(port) > 0)
        soon(lambda: unsent(port) == 0)


def unsent(port: int) -> int:
    """Bytes that the system holds for the clients of a server, as Linux tells."""
    table = Path("/proc/net/tcp")
    if not table.exists():
        pytest.skip("only Linux tells what it holds")
    rows = [line.split() for line in table.read_text().splitlines()[1:]]
    return sum(int(row[4].partition(":")[0], 16) for row in rows if int(row[1].partition(":")[2], 16) == port)


def test_a_slow_reader_gets_all_of_it(start_real: "StartReal") -> None:
    """It is the pace that counts, and it need not be high."""
    with start_real(send_timeout_s=0.5) as server:
        expected = httpx.get(server.url + BUNDLE, headers={"Accept-Encoding": "identity"}, timeout=LONG_S).content
        with ask_and_never_read(server.port, BUNDLE) as connection:
            connection.settimeout(LONG_S)
            received = b""
            end = time.monotonic() + 4
            while time.monotonic() < end:
                received += connection.recv(2048)
                time.sleep(0.05)
            while len(received.partition(b"\r\n\r\n")[2]) < len(expected):
                piece = connection.recv(65536)
                assert piece, "cut off"
                received += piece
        assert received.endswith(expected)
