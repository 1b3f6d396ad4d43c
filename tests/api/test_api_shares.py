"""Places and bytes of bodies run short: whoever has little of them is answered all the same."""

import asyncio
import contextlib
import json
import select
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tests.api.conftest import LONG_S, RealServer, Start, StartReal, soon

from labeling_ground.api.limits import InFlight, Limits, Usage, network_of
from labeling_ground.errors import Overloaded
from labeling_ground.types import Priority

pytestmark = pytest.mark.anyio

A, B = "key-of-tenant-a", "key-of-tenant-b"
PIECE = 30_000


def begin_upload(server: RealServer, stack: contextlib.ExitStack, key: str, host: str) -> socket.socket:
    """A connection on which a piece of an image was sent."""
    made = socket.create_connection(("127.0.0.1", server.port), LONG_S, (host, 0))
    connection = stack.enter_context(made)
    head = f"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nContent-Length: {100 * PIECE}\r\n\r\n"
    connection.sendall(head.encode() + bytes(PIECE))
    return connection


def readable(connections: list[socket.socket], seconds: float) -> list[socket.socket]:
    """Those on which an answer is there, once there is one, or after that time."""
    return select.select(connections, [], [], seconds)[0]


def problem_on(connection: socket.socket) -> Any:
    """The problem body of an answer."""
    received = b""
    while not received.endswith(b"}") and (piece := connection.recv(65536)):
        received += piece
    return json.loads(received.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("by", ["key", "address"])
def test_slow_uploads_of_one_do_not_shut_out_another_one(
    start_real: StartReal, make_image: Callable[..., bytes], by: str
) -> None:
    """The other one's upload and clicks are answered; what goes on for the first one's is refused at its next piece."""
    settings: dict[str, Any] = {"api_keys": (A, B)} if by == "key" else {}
    other = {"X-API-Key": B} if by == "key" else {}
    with (
        start_real(max_bytes_in_flight=6 * PIECE, receive_timeout_s=LONG_S, **settings) as server,
        contextlib.ExitStack() as stack,
        httpx.Client(base_url=server.url, timeout=LONG_S, headers=other) as client,
    ):
        begun = [begin_upload(server, stack, A, "127.0.0.1" if by == "key" else "127.0.0.2") for _ in range(7)]
        [refused] = readable(begun, LONG_S)  # alone, one may have all, and no more
        assert problem_on(refused)["detail"] == "Too many large requests are in flight. Try again in a moment."
        sent = client.post("/v1/images", content=make_image())
        assert sent.status_code == 200, sent.text
        click = {"points": [{"x": 5, "y": 5}]}
        assert client.post(f"/v1/images/{sent.json()['image_id']}/masks", json=click).status_code == 200
        server.backend.encode_may_go_on.clear()
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(client.post, "/v1/images", content=make_image())
            soon(lambda: server.backend.encodes == 2)
            first, second = [each for each in begun if each not in readable(begun, 0)][:2]
            first.sendall(b"x")
            problem = problem_on(first)
            second.sendall(b"x")
            server.backend.encode_may_go_on.set()
            assert sending.result(LONG_S).status_code == 200
        assert (problem["status"], problem["type"]) == (503, "urn:labeling-ground:problem:overloaded")
        assert "of them are of this API key or address, while 2 have equal parts" in problem["detail"]
        assert not readable([second], 0.2), "there is room again: it goes on"


async def test_long_waits_of_one_do_not_shut_out_another_one(start: Start, make_image: Callable[..., bytes]) -> None:
    async with start(max_requests=4, api_keys=(A, B)) as server:

        async def ask(key: str, **more: str) -> httpx.Response:
            return await server.client.get("/v1/cache", headers={"X-API-Key": key, **more})

        def send(key: str) -> "asyncio.Task[httpx.Response]":
            sending = server.client.post("/v1/images", content=make_image(), headers={"X-API-Key": key})
            return asyncio.create_task(sending)

        queue = server.app_state.predictor.encode_queue
        server.backend.encode_may_go_on.clear()
        busy = [send(A) for _ in range(4)]
        await server.until(lambda: queue.running + queue.waiting == 4)
        refused = await ask(A)
        assert (refused.status_code, "4 requests are in flight" in refused.text) == (503, True)
        for key in (B, B):
            assert (await ask(key)).status_code == 200
        assert (await ask(B, **{"X-Priority": "job"})).status_code == 200
        assert (await ask("no-key-of-anybody")).status_code == 401, "not known: it counts by its address"
        busy.append(send(B))
        await server.until(lambda: queue.running + queue.waiting == 5)
        refused = await ask(A)
        assert "and 5 of them are of this API key or address, while 2 have equal parts" in refused.json()["detail"]
        busy.append(send(B))
        await server.until(lambda: queue.running + queue.waiting == 6)
        assert (await ask(B)).status_code == 503, "it has its part by now"
        server.backend.encode_may_go_on.set()
        assert [(await task).status_code for task in busy] == [200] * 6
        assert (await ask(A)).status_code == 200


def of(host: str) -> dict[str, Any]:
    return {"type": "http", "client": (host, 1)}


def test_equal_parts_follow_those_who_have_some() -> None:
    """Many tenants with little leave the rest to the one that wants more; there are never more than half as many again
    as the limit says."""
    flight = InFlight(Limits(most_requests=10, most_bytes=1, most_held=1000, silence_s=1))
    for number in range(4):
        flight.enter(of(f"tenant {number}"))
    for _ in range(6):
        flight.check_places(large := flight.enter(of("large")), Priority.INTERACTIVE)
    with pytest.raises(Overloaded, match="7 of them are of this API key or address, while 5 have equal parts"):
        flight.check_places(flight.enter(of("large")), Priority.INTERACTIVE)
    flight.leave(large, 0)
    flight.check_places(flight.enter(of("new")), Priority.INTERACTIVE)
    for number in range(5):
        flight.enter(of(f"tenant {number}"))
    with pytest.raises(Overloaded, match="1 of them are of this"):
        flight.check_places(flight.enter(of("one too many")), Priority.INTERACTIVE)


def hold(flight: InFlight, usage: Usage, size: int) -> None:
    for each in (usage, flight.total):
        each.held += size


def test_what_others_hold_beside_leaves_less_for_all() -> None:
    beside = 0
    flight = InFlight(Limits(most_requests=10, most_bytes=1, most_held=1000, silence_s=1, held_beside=lambda: beside))
    lone = flight.enter(of("lone"))
    hold(flight, lone, 700)
    flight.check_bytes(lone, 700)
    beside = 500
    with pytest.raises(Overloaded):
        flight.check_bytes(lone, 700)
    other = flight.enter(of("other"))
    hold(flight, other, 200)
    flight.check_bytes(other, 200)
    hold(flight, other, 100)
    with pytest.raises(Overloaded, match="300 bytes of them are of this"):
        flight.check_bytes(other, 300)


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("testclient", "testclient"),
    ],
)
def test_an_address_counts_by_what_one_machine_has(host: str, network: str) -> None:
    assert network_of(host) == network
