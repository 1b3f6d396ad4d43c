"""``HEAD``: what ``GET`` would answer, without the body."""

import base64
import socket
from typing import TYPE_CHECKING

import pytest

from labeling_ground.api.schemas.common import EXAMPLE_ID, EXAMPLE_IMAGE

if TYPE_CHECKING:
    from tests.api.conftest import Running, Start, StartReal

pytestmark = pytest.mark.anyio

FILE = base64.b64decode(EXAMPLE_IMAGE)
IMAGE = f"/v1/images/{EXAMPLE_ID}"


async def test_head_is_answered_wherever_get_is(server: "Running") -> None:
    """Every route, pages and files too: the same status, type and length, and no body."""
    await server.send_image(FILE)
    paths = [
        path.replace("{image_id}", EXAMPLE_ID).replace("{model}", "toy")
        for path, operations in server.app.openapi()["paths"].items()
        if "get" in operations
    ]
    assert {IMAGE, f"{IMAGE}/embedding", "/v1/models", "/v1/cache", "/metrics"} <= set(paths)
    paths += [
        "/",
        "/cache",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/docs/static/swagger-ui.css",
        "/web/labeling/style.css",
    ]
    paths += ["/web/decoder.json", "/nope", f"/v1/images/{'0' * 64}"]
    for path in paths:
        get, head = await server.client.get(path), await server.client.head(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert head.headers["content-type"] == get.headers["content-type"], path
        if path not in ("/metrics", "/v1/cache"):  # which count the first request
            assert head.headers["content-length"] == get.headers["content-length"], path
    tag = (await server.client.get("/")).headers["etag"]
    assert (await server.client.head("/", headers={"If-None-Match": tag})).status_code == 304


async def test_a_path_without_get_has_no_head_either(server: "Running") -> None:
    for path, allowed in (("/v1/images", "POST"), (f"{IMAGE}/masks", "POST"), (IMAGE, "GET, HEAD, DELETE")):
        answer = await server.client.put(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert (await server.client.head("/v1/images")).status_code == 405


async def test_head_needs_a_key_as_get_does(start: "Start") -> None:
    async with start(api_keys=("one",)) as server:
        assert (await server.client.head("/v1/cache")).status_code == 401


def test_a_connection_goes_on_after_a_head(start_real: "StartReal") -> None:
    """No byte of a body comes, which would be taken for the next answer's beginning."""
    with start_real() as server, socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        for _ in range(2):
            connection.sendall(b"HEAD /docs/static/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = b""
            while b"\r\n\r\n" not in received:
                received += connection.recv(65536)
            head, _, rest = received.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert b"content-length: 15" in head.lower()
            assert rest == b""
