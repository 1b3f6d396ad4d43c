"""Too much at once, too slow, gone away: nobody else notices."""

import asyncio
import contextlib
import io
import math
import socket
import threading
import time
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
from PIL import Image as Pillow
from tests.doubles import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.api.conftest import RealServer, Start, StartReal

pytestmark = pytest.mark.anyio


def request_head(method: str, path: str, length: int) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()


def read_answer(connection: socket.socket, timeout: float = 60.0) -> bytes:
    connection.settimeout(timeout)
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while b"\r\n\r\n" not in received or b"}" not in received:
            piece = connection.recv(65536)
            if not piece:
                break
            received += piece
    return received


FILES = ("/", "/cache", "/docs", "/redoc", "/openapi.json", "/docs/static/swagger-ui.css", "/web/labeling/main.js")


async def test_one_request_too_many_is_told_to_come_back(start: "Start", make_image: "Callable[..., bytes]") -> None:
    """503 with ``Retry-After``, while health, metrics and files answer; and there is room again afterwards."""
    async with start(max_requests=2) as server:
        server.backend.encode_may_go_on.clear()
        busy = [asyncio.create_task(server.client.post("/v1/images", content=make_image())) for _ in range(2)]
        queue = server.app_state.predictor.encode_queue
        await until(lambda: queue.running + queue.waiting == 2)
        refused = await server.client.get("/v1/cache")
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:labeling-ground:problem:overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        for path in ("/health/live", "/health/ready", "/metrics", *FILES):
            assert (await server.client.get(path)).status_code == 200
        server.backend.encode_may_go_on.set()
        assert [(await post).status_code for post in busy] == [200, 200]
        assert (await server.client.get("/v1/cache")).status_code == 200


async def test_large_bodies_share_a_bound_and_one_alone_is_always_taken(
    start: "Start", make_image: "Callable[..., bytes]"
) -> None:
    """A PNG of noise is about as large as its pixels: 64 × 48 are 9 KB, 100 × 100 are 30 KB."""
    async with start(max_bytes_in_flight=20_000) as server:
        server.backend.encode_may_go_on.clear()
        large = asyncio.create_task(server.client.post("/v1/images", content=make_image(100, 100)))
        await until(lambda: server.backend.encodes == 1)
        refused = await server.client.post("/v1/images", content=make_image())
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:labeling-ground:problem:overloaded")
        assert (await server.client.get("/v1/models")).status_code == 200
        server.backend.encode_may_go_on.set()
        assert (await large).status_code == 200
        assert (await server.client.post("/v1/images", content=make_image())).status_code == 200


async def test_a_full_queue_is_told_to_come_back(start: "Start", make_image: "Callable[..., bytes]") -> None:
    """So many images may wait for the encoder; clicks on known images go on meanwhile."""
    async with start(encode_workers=1, encode_queue=1) as server:
        known = await server.send_image(make_image())
        server.backend.encode_may_go_on.clear()
        posts = [asyncio.create_task(server.client.post("/v1/images", content=make_image()))]
        await until(lambda: server.backend.encodes == 2)
        posts.append(asyncio.create_task(server.client.post("/v1/images", content=make_image())))
        await until(lambda: server.app_state.predictor.encode_queue.waiting == 1)
        ahead = await server.client.post("/v1/images?wait=false", content=make_image())
        assert ahead.status_code == 202, "prefetches have a place of their own"
        for query in ("", "?wait=false"):
            refused = await server.client.post(f"/v1/images{query}", content=make_image())
            assert (refused.status_code, refused.json()["type"]) == (503, "urn:labeling-ground:problem:overloaded")
            assert int(refused.headers["retry-after"]) >= 1
        assert (await server.click(known, 5, 5)).status_code == 200
        server.backend.encode_may_go_on.set()
        assert [(await post).status_code for post in posts] == [200, 200]


def test_a_body_that_stops_coming_is_408(start_real: "StartReal") -> None:
    """After the silence that the operator allows, not later; the connection is closed."""
    with start_real(receive_timeout_s=0.3) as server:
        for head in (
            request_head("POST", "/v1/images", 1000) + b"some",
            request_head("POST", "/api/sam/click", 100) + b"{",
            b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n",
        ):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                started = time.monotonic()
                connection.sendall(head)
                received = read_answer(connection)
                assert received.startswith(b"HTTP/1.1 408 ")
                assert b"problem:request-timeout" in received
                assert b"connection: close" in received.lower()
                assert 0.2 < time.monotonic() - started < 15, "which is less than the default"


def test_a_body_that_trickles_is_408_too(start_real: "StartReal") -> None:
    """A byte now and then does not hold a place for as long as the sender likes."""
    with (
        start_real(receive_timeout_s=0.4) as server,
        socket.create_connection(("127.0.0.1", server.port)) as connection,
    ):
        connection.sendall(request_head("POST", "/v1/images", 100_000))
        started = time.monotonic()
        connection.settimeout(0.1)
        received = b""
        while not received and time.monotonic() - started < 60:
            with contextlib.suppress(TimeoutError):
                received = connection.recv(65536)
            with contextlib.suppress(OSError):
                connection.sendall(b"x")
        assert received.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - started < 15


def test_a_large_body_at_a_fair_pace_is_not_slow(start_real: "StartReal") -> None:
    """The time allowed grows with what came: it is the pace that counts."""
    with (
        start_real(receive_timeout_s=3.0) as server,
        socket.create_connection(("127.0.0.1", server.port)) as connection,
    ):
        connection.sendall(request_head("POST", "/v1/images", 12 * 4096))
        for _ in range(12):
            connection.sendall(bytes(4096))
            time.sleep(0.3)
        assert read_answer(connection).startswith(b"HTTP/1.1 415 ")


def test_slow_clients_do_not_delay_others(start_real: "StartReal", make_image: "Callable[..., bytes]") -> None:
    """Fifty half-sent requests, and a click is answered as ever."""
    with (
        start_real() as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
        contextlib.ExitStack() as open_ones,
    ):
        image_id = client.post("/v1/images", content=make_image()).json()["image_id"]
        for _ in range(50):
            slow = open_ones.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            slow.sendall(request_head("POST", "/v1/images", 1000) + b"x")
        started = time.monotonic()
        assert client.post(f"/v1/images/{image_id}/masks", json={"points": [{"x": 5, "y": 5}]}).status_code == 200
        assert time.monotonic() - started < 10, "before the first of them is given up"


def test_an_oversize_body_is_answered_and_the_rest_of_it_not_awaited(start_real: "StartReal") -> None:
    """413 as soon as it is known, declared or not, though the client has not sent it all; then the line is cut."""
    with start_real(max_image_bytes=100_000) as server:
        declared = request_head("POST", "/v1/images", 10**12)
        pieces = b"".join(b"10000\r\n" + bytes(0x10000) + b"\r\n" for _ in range(4))
        chunked = b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces
        for sent in (declared, chunked):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(sent)
                received = read_answer(connection)
                assert received.startswith(b"HTTP/1.1 413 ")
                assert b"connection: close" in received.lower()
        answer = httpx.post(f"{server.url}/v1/images", content=bytes(5_000_000), timeout=60)
        assert answer.status_code == 413


def test_a_huge_encode_delays_nobody(start_real: "StartReal", make_image: "Callable[..., bytes]") -> None:
    """While an image of 12 megapixels is read and encoded, health and cache hits answer in a fraction of a second.

    Once in a few images: a busy machine delays now and then, a server that blocks every time.
    """
    with start_real() as server, httpx.Client(base_url=server.url, timeout=60) as client:
        image_id = client.post("/v1/images", content=make_image()).json()["image_id"]
        click = {"points": [{"x": 5, "y": 5}]}
        client.post(f"/v1/images/{image_id}/masks", json=click)

        def slowest_beside(huge: bytes) -> float:
            answers: list[httpx.Response] = []
            sending = threading.Thread(
                target=lambda: answers.append(httpx.post(f"{server.url}/v1/images", content=huge, timeout=120))
            )
            sending.start()
            slowest = 0.0
            asks = 0
            while sending.is_alive():
                started = time.monotonic()
                assert client.get("/health/live").status_code == 200
                assert client.post(f"/v1/images/{image_id}/masks", json=click).json()["outcome"] == "hit"
                slowest = max(slowest, time.monotonic() - started)
                asks += 1
            sending.join()
            assert answers[0].status_code == 200
            return slowest if asks > 1 else math.inf

        assert any(slowest_beside(huge_image(seed)) < 1.0 for seed in range(6))


def huge_image(seed: int) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (300, 400, 3), np.uint8)
    Pillow.fromarray(noise).resize((4000, 3000)).save(file, "PNG", compress_level=1)
    return file.getvalue()


async def _post_and_leave(server: "RealServer", file: bytes, holds: "Callable[[], bool]") -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request_head("POST", "/v1/images", len(file)) + file)
    await until(holds)
    writer.close()
    await writer.wait_closed()
    del reader


async def test_a_client_that_leaves_takes_its_encode_off_the_queue(
    start_real: "StartReal", make_image: "Callable[..., bytes]"
) -> None:
    """What waits is called off when nobody waits for it any more. What is running is finished, and its result kept."""
    with start_real(encode_workers=1) as server:
        queue = server.app_state.predictor.encode_queue
        server.backend.encode_may_go_on.clear()
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            first = asyncio.create_task(client.post("/v1/images", content=make_image()))
            await until(lambda: server.backend.encodes == 1)
            await _post_and_leave(server, make_image(), lambda: queue.waiting == 1)
            await until(lambda: queue.waiting == 0)
            queues = (await client.get("/v1/cache")).json()["queues"]["encoder"]
            assert (queues["running"], queues["waiting"]) == (1, 0)
            server.backend.encode_may_go_on.set()
            assert (await first).status_code == 200
            assert server.backend.encodes == 1
            server.backend.encode_may_go_on.clear()
            file = make_image()
            for _ in range(3):  # a client whose time-out is shorter than an encode, which tries again
                # Only what has begun is finished: the asker is there before that.
                await _post_and_leave(server, file, lambda: server.backend.encodes == 2 and _askers(server) == [1])
                await until(lambda: _askers(server) == [0])
            assert (server.backend.encodes, queue.running, queue.waiting) == (2, 1, 0)
            server.backend.encode_may_go_on.set()
            await until(lambda: (queue.running, queue.waiting) == (0, 0))
            assert (await client.post("/v1/images", content=file)).json()["outcome"] == "hit"
            assert (server.backend.encodes, server.backend.cancelled) == (2, 0)
            assert 'status="499"' in (await client.get("/metrics")).text


def _askers(server: "RealServer") -> list[int]:
    """How many wait for each computation."""
    return [flight.askers for flight in list(server.app_state.predictor.flights._flights.values())]


async def test_a_client_that_leaves_does_not_cancel_the_others(
    start_real: "StartReal", make_image: "Callable[..., bytes]"
) -> None:
    """The first asker of an image goes; the second, who joined, gets its answer from the same encode."""
    file = make_image()
    with start_real() as server:
        server.backend.encode_may_go_on.clear()
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            tasks: list[asyncio.Task[httpx.Response]] = []

            def second_has_asked() -> bool:
                if server.backend.encodes == 1 and not tasks:
                    tasks.append(asyncio.create_task(client.post("/v1/images", content=file)))
                flights = list(server.app_state.predictor.flights._flights.values())
                return [flight.askers for flight in flights] == [2]

            await _post_and_leave(server, file, second_has_asked)
            await until(lambda: _left(server) == 1)
            server.backend.encode_may_go_on.set()
            assert (await tasks[0]).json()["outcome"] == "joined"
            assert (server.backend.encodes, server.backend.cancelled) == (1, 0)


def _left(server: "RealServer") -> float:
    """Requests whose client did not wait."""
    labels = {"route": "/v1/images", "status": "499", "outcome": "none"}
    return server.app_state.metrics.registry.get_sample_value("labeling_ground_requests_total", labels) or 0.0


async def test_a_stream_without_end_is_cut(start: "Start") -> None:
    """A chunked body that never ends is refused at the limit; the server holds no more of it than that."""
    sent = 0

    async def endless() -> "AsyncIterator[bytes]":
        nonlocal sent
        while sent < 50_000_000:
            sent += 100_000
            yield bytes(100_000)

    async with start(max_image_bytes=1_000_000) as server:
        assert (await server.client.post("/v1/images", content=endless())).status_code == 413
        assert sent < 2_000_000


async def test_queued_images_count_as_bytes_in_flight_and_clicks_go_on(
    start: "Start", make_image: "Callable[..., bytes]"
) -> None:
    files = [make_image(64, 48) for _ in range(20)]
    room = 8 * len(files[0])
    async with start(max_bytes_in_flight=room, max_image_bytes=room, encode_workers=1) as server:
        image_id = await server.send_image(make_image())
        server.backend.encode_may_go_on.clear()
        statuses = [(await server.client.post("/v1/images?wait=false", content=file)).status_code for file in files]
        assert {202, 503} == set(statuses)
        assert server.app_state.predictor.prefetches.bytes <= room // 2
        taken = statuses.count(202)
        repeats = [await server.client.post("/v1/images?wait=false", content=files[0]) for _ in range(20)]
        assert {answer.status_code for answer in repeats} == {202}
        assert len(server.app_state.predictor.flights) == taken
        assert (await server.click(image_id, 3, 3)).status_code == 200
        whole = b"x" * (room - server.app_state.predictor.prefetches.bytes + 1)
        answer = await server.client.post("/v1/images", content=whole)
        assert (answer.status_code, "in flight" in answer.text) == (503, True)
        server.backend.encode_may_go_on.set()
        await server.until(lambda: server.app_state.predictor.prefetches.bytes == 0)
