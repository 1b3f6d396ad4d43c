"""``POST /v1/images`` with an address in place of the file."""

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from tests.file_hosts import file_host, gives

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.api.conftest import Running, Start

pytestmark = pytest.mark.anyio


async def test_the_server_fetches_the_file_itself(start: "Start", make_image: "Callable[..., bytes]") -> None:
    """The answer is that of an upload, and an upload of the same file is the same image."""
    file = make_image(64, 48)
    async with file_host(gives(file)) as host, start(sources=host.source) as server:
        answer = await server.client.post("/v1/images", json={"url": host.url()})
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["image_id"] == hashlib.sha256(file).hexdigest()
        assert (body["width"], body["height"], body["outcome"]) == (64, 48, "miss")
        assert (await server.client.post("/v1/images", content=file)).json()["outcome"] == "hit"
        again = (await server.client.post("/v1/images", json={"url": host.url()})).json()
        assert (again["image_id"], again["outcome"]) == (body["image_id"], "hit")
        assert (await server.click(body["image_id"], 30, 20)).status_code == 200
        assert (len(host.requests), server.backend.encodes) == (1, 1)


async def test_with_stretch_and_without_waiting(start: "Start", make_image: "Callable[..., bytes]") -> None:
    file = make_image()
    async with file_host(gives(file)) as host, start(sources=host.source) as server:
        answer = await server.client.post("/v1/images?wait=false&stretch=1,99", json={"url": host.url()})
        assert (answer.status_code, answer.json()["queued"]) == (202, True)
        assert answer.json()["image_id"] == f"{hashlib.sha256(file).hexdigest()}~stretch-1-99"


async def test_by_default_nothing_is_fetched_and_the_refusal_says_which_setting(server: "Running") -> None:
    answer = await server.client.post("/v1/images", json={"url": "http://127.0.0.1:1/a.png"})
    assert answer.status_code == 403
    assert answer.json()["type"].endswith(":source-refused")
    assert "LABELING_GROUND_SOURCES" in answer.json()["detail"]


async def test_a_host_that_does_not_give_it_is_a_bad_gateway(start: "Start") -> None:
    async with file_host(gives(b"")) as host:
        pass
    async with start(sources=host.source) as server:
        answer = await server.client.post("/v1/images", json={"url": host.url()})
        assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (502, "source-failed")


async def test_what_was_fetched_is_checked_like_an_upload(start: "Start", make_image: "Callable[..., bytes]") -> None:
    async with file_host(gives(b"no image")) as host, start(sources=host.source) as server:
        assert (await server.client.post("/v1/images", json={"url": host.url()})).status_code == 415
    file = make_image()
    async with file_host(gives(file)) as host, start(sources=host.source, max_image_bytes=len(file) - 1) as server:
        assert (await server.client.post("/v1/images", json={"url": host.url()})).status_code == 413


@pytest.mark.parametrize("body", [{}, {"url": ""}, {"url": 1}, {"url": "http://a", "headers": {}}, {"url": "a" * 9000}])
async def test_a_body_that_names_no_address_is_refused(server: "Running", body: Any) -> None:
    assert (await server.client.post("/v1/images", json=body)).status_code == 422
