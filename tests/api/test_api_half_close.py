"""Clients that end their sending side after a request (``nc -N``, some proxies' checks), and those that have left."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from labeling_ground.cli.running import DrainingServer, configuration, listen
from labeling_ground.draining import Drain
from labeling_ground.settings import Settings

LONG_S = 60.0
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
SLOW = b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


class Served:
    """A server in a thread, whose ``/slow`` answers when it is let, or notes that its client has left."""

    def __init__(self, loop: str, **settings: Any) -> None:
        listener = listen("127.0.0.1", 0, hint="")
        self.port = listener.getsockname()[1]
        self.let_go, self.left = threading.Event(), threading.Event()
        drain = Drain()
        config = configuration(self._answer, Settings(**settings), drain)
        config.loop, config.lifespan, config.interface = loop, "off", "asgi3"
        self._server = DrainingServer(config, drain, 0, None)
        self._thread = threading.Thread(target=self._server.run, args=([listener],))
        self._thread.start()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body", False):
            pass
        if scope["path"] == "/slow":
            leaving = asyncio.ensure_future(receive())
            while not self.let_go.is_set():
                if leaving.done():
                    self.left.set()
                    return
                await asyncio.sleep(0.005)
            leaving.cancel()
        await PlainTextResponse("served")(scope, receive, send)

    def connect(self, *sent: bytes) -> socket.socket:
        """A connection over which all of that was sent, and the end of sending."""
        client = socket.create_connection(("127.0.0.1", self.port), timeout=LONG_S)
        for each in sent:
            client.sendall(each)
        client.shutdown(socket.SHUT_WR)
        return client

    def close(self) -> None:
        self.let_go.set()
        self._server.should_exit = True
        self._thread.join(LONG_S)


@pytest.fixture(params=["asyncio", "auto"])
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def serve(**settings: Any) -> Served:
        made.append(Served(request.param, **settings))
        return made[-1]

    yield serve
    for served in made:
        served.close()


def rest(client: socket.socket) -> bytes:
    """What comes until the server closes the connection; one that is reset raises."""
    with client:
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


@pytest.mark.parametrize(
    ("sent", "count"),
    [([GET], 1), ([POST], 1), ([GET, POST, GET], 3), ([GET * 8000], 8000), ([POST, GET[:12]], 1)],
    ids=["get", "post", "three", "more than is taken apart at once", "one, and the beginning of another"],
)
def test_a_client_that_sends_no_more_gets_the_answers_to_what_it_sent(
    serve: Callable[..., Served], sent: list[bytes], count: int
) -> None:
    assert rest(serve(half_close_s=LONG_S).connect(*sent)).count(b"served") == count


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 50000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nc350\r\n"],
    ids=["length", "chunks"],
)
@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "broken off"])
def test_a_body_that_waits_for_its_turn_does_not_count_as_broken_off(
    serve: Callable[..., Served], head: bytes, is_whole: bool
) -> None:
    """It is here, but not taken apart before that request is answered. No larger: the end would not be read, either."""
    served = serve(half_close_s=0.02)
    end = b"\r\n0\r\n\r\n" if b"chunked" in head else b""
    body = bytes(50_000) + end + GET if is_whole else bytes(40_000)
    client = served.connect(SLOW, b"POST / HTTP/1.1\r\nHost: localhost\r\n" + head + body)
    client.settimeout(0.3)
    with contextlib.suppress(TimeoutError):  # while it reads no further, the server does not see the end
        client.recv(len(INTERIM), socket.MSG_PEEK)
    client.settimeout(LONG_S)
    served.let_go.set()
    assert rest(client).count(b"served") == (3 if is_whole else 1)


def test_what_cannot_be_read_is_refused_to_a_client_that_sends_no_more(serve: Callable[..., Served]) -> None:
    answers = rest(serve(half_close_s=LONG_S).connect(GET, b"nonsense\r\n\r\n"))
    assert answers.count(b"served") == 1
    assert b"HTTP/1.1 400 " in answers


def test_a_request_that_broke_off_is_none(serve: Callable[..., Served]) -> None:
    assert rest(serve(half_close_s=LONG_S).connect(POST[:-1])) == b""


def test_an_answer_that_takes_its_time_comes_after_interim_ones(serve: Callable[..., Served]) -> None:
    """By these the server knows that somebody is there."""
    served = serve(half_close_s=0.02)
    client = served.connect(SLOW)
    assert client.recv(len(INTERIM), socket.MSG_WAITALL) == INTERIM
    assert client.recv(len(INTERIM), socket.MSG_WAITALL) == INTERIM
    served.let_go.set()
    answer = rest(client).replace(INTERIM, b"")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"served")
    assert not served.left.is_set()


def test_what_a_client_asked_for_that_has_left_is_stopped(serve: Callable[..., Served]) -> None:
    served = serve(half_close_s=0.02)
    served.connect(SLOW).close()
    assert served.left.wait(LONG_S)


def test_a_client_that_leaves_while_it_waits_for_its_answer_is_found_out(serve: Callable[..., Served]) -> None:
    served = serve(half_close_s=0.02)
    client = served.connect(SLOW)
    assert client.recv(len(INTERIM), socket.MSG_WAITALL) == INTERIM
    client.close()
    assert served.left.wait(LONG_S)


@pytest.mark.parametrize(
    ("request_", "settings"),
    [
        (SLOW.replace(b"1.1", b"1.0"), {"half_close_s": 0.02}),  # there are no interim answers
        (SLOW, {"half_close_s": 0}),
    ],
    ids=["HTTP/1.0", "switched off"],
)
def test_where_nobody_can_be_asked_the_client_has_left(
    serve: Callable[..., Served], request_: bytes, settings: dict[str, float]
) -> None:
    served = serve(**settings)
    assert rest(served.connect(request_)) == b""
    assert served.left.wait(LONG_S)


def test_a_quick_answer_reaches_a_client_of_http_1_0(serve: Callable[..., Served]) -> None:
    assert rest(serve(half_close_s=LONG_S).connect(GET.replace(b"1.1", b"1.0"))).endswith(b"served")
